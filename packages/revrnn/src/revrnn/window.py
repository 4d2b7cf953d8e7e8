"""One window of text, or one batch of sequences, through a stack of reversible layers, and back.

A window is cut into chunks of time steps. Forward, all layers advance over one chunk after the other, and of each
layer only its last state, its information buffer and the saved slices stay. In reverse, chunk by chunk from the last,
the layers rebuild their states from those, lowest first (a layer needs its inputs), and then the gradient goes through
the chunk, highest first. Both directions cut the window in the same places and compute the same products in the same
shapes: rounding differs otherwise, and a state that differs by one bit cannot be rebuilt.

Shapes: T time steps of the window, K of a chunk, B batch, I inputs, H units of the layer, G = H / 2.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from rnncore.errors import UserError
from torch import Tensor
from torch.nn import functional as F

from revrnn.buffer import InformationBuffer
from revrnn.fixed_point import STATE_LIMIT, to_float
from revrnn.forget import RANGE_MESSAGE
from revrnn.gru_kernel import GRUKernel
from revrnn.lstm_kernel import LSTMKernel
from revrnn.trace import Trace, save_slices

#: Most time steps of a chunk: enough for large products, few enough that a chunk's activations stay small.
CHUNK = 48


class Weights(NamedTuple):
    """A layer's parameters: ``ih [N, I]``, ``hh [N, G]`` and ``bias [N]`` or None; N = 3H (GRU) or 5H (LSTM)."""

    ih: Tensor
    hh: Tensor
    bias: Tensor | None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Weights":
        """``function`` of each that is there."""
        return Weights(function(self.ih), function(self.hh), None if self.bias is None else function(self.bias))

    def dropped(self, mask: Tensor | None) -> "Weights":
        """With a dropout mask on ``hh``."""
        return self if mask is None else self._replace(hh=self.hh * mask)


class Bits(NamedTuple):
    """Memory for the hidden states of one window: stored plainly, as buffered, and the least that would do, in bits."""

    normal: float
    used: float
    optimal: float

    @property
    def saving(self) -> float:
        """How many times less memory than stored states the buffers take."""
        return self.normal / self.used if self.used else math.inf

    @property
    def best_saving(self) -> float:
        """As `saving`, of the least that would do."""
        return self.normal / self.optimal if self.optimal else math.inf


def spans(steps: int, most: int = CHUNK) -> list[tuple[int, int]]:
    """Cuts ``steps`` into the fewest chunks of at most ``most``, all equal but the last: (start, end) of each."""
    count = max(1, -(-steps // most))
    size = -(-steps // count)
    return [(start, min(start + size, steps)) for start in range(0, steps, size)]


class Layer:
    """A layer during one window: packed weights, running state, buffers and what was saved on the way."""

    def __init__(
        self,
        kind: str,
        weights: Weights,
        state: Sequence[Tensor],
        *,
        max_forget: float,
        buffered: bool,
        slices: tuple[int, int] = (0, 0),
        mask: Tensor | None = None,
        dtype: torch.dtype | None = None,
        buffer: InformationBuffer | None = None,
    ) -> None:
        """Begins a window.

        Args:
            kind: ``"gru"`` or ``"lstm"``.
            weights: The layer's.
            state: Its groups, int32 ``[B, G]`` each; copied.
            max_forget: Limit of what a unit forgets at a step.
            buffered: Whether information buffers keep what would be lost, as reversal needs.
            slices: How many first units of the hidden groups 1 and 2 are saved at each step instead.
            mask: ``[1, B, H]``, multiplies the outputs (dropout).
            dtype: What products are computed in (mixed precision); the weights' own when absent.
            buffer: Where the bits of whole groups go, if another window is to share it; a new one when absent.
        """
        self.weights, self.dtype, self.mask, self.slices = weights, dtype, mask, slices
        self.state = [group.clone(memory_format=torch.contiguous_format) for group in state]
        batch, group = self.state[0].shape
        kernel = GRUKernel if kind == "gru" else LSTMKernel
        self.kernel = kernel(weights.hh, batch, max_forget, dtype, slices)
        self.buffers: list[InformationBuffer | None] = [None] * len(self.state)
        self.buffer = buffer
        if buffered:
            new_buffer = partial(InformationBuffer, batch, max_forget=max_forget, device=weights.hh.device)
            self.buffer = buffer or new_buffer(group)
            self.buffer.took()  # what was last looked up was of the rows active then
            self.buffers = [self.buffer] * len(self.state)
            for a, sliced in enumerate(slices):
                if sliced:
                    self.buffers[a] = new_buffer(group - sliced)
        self.saved: list[Tensor] = []
        self.kept: list[tuple[Tensor, Trace]] = []
        self.farthest: list[int | Tensor] = []
        self.workspace: Trace | None = None
        self.projected: int | None = None
        self.projection: Tensor | None = None
        self.grad_state = [weights.hh.new_zeros(batch, group) for _ in state]
        self.grads = weights.map(torch.zeros_like)

    def forward(self, start: int, x: Tensor, active: Tensor | None, keep: bool) -> tuple[Tensor, Trace]:
        """Advances over the chunk that begins at time ``start``: ``x [K, B, I]`` to outputs ``[K, B, H]``."""
        trace = self._trace(x, active, keep)
        for values, group in zip(trace.groups, self.state, strict=True):
            values[0] = to_float(group, x.dtype)
        saved = self.state[0].new_empty(*x.shape[:2], sum(self.slices)) if any(self.slices) else None
        self.farthest += self.kernel.forward(self._project(start, x), self.state, self.buffers, trace, saved)
        if saved is not None and self.buffers[0] is not None:
            self.saved.append(saved)
        if keep:
            self.kept.append((x, trace))
        return self._outputs(trace), trace

    def reverse(self, start: int, x: Tensor, active: Tensor | None) -> Tensor:
        """Goes back over the chunk that `forward` did last, keeps its trace, and returns its outputs again."""
        trace = self._trace(x, active, keep=False)
        for values, group in zip(trace.groups, self.state, strict=True):
            values[-1] = to_float(group, x.dtype)
        saved = self.saved.pop() if any(self.slices) else None
        self.kernel.reverse(self._project(start, x), self.state, self.buffers, trace, saved)  # type: ignore[arg-type]
        self.kept.append((x, trace))
        return self._outputs(trace)

    def backward(self, grad_output: Tensor) -> Tensor:
        """The gradient of the chunk whose trace was kept last: by outputs ``[K, B, H]`` to by inputs ``[K, B, I]``."""
        x, trace = self.kept.pop()
        if self.mask is not None:
            grad_output = grad_output * self.mask
        grad_x = torch.zeros_like(x)
        for rows, gradient, operand in self.kernel.backward(trace, grad_output, self.grad_state):
            flat = gradient.flatten(0, 1)
            add_product(grad_x.flatten(0, 1), flat, self.weights.ih[rows], self.dtype)
            add_product(self.grads.ih[rows], flat.t(), x.flatten(0, 1), self.dtype)
            add_product(self.grads.hh[rows], flat.t(), operand.flatten(0, 1), self.dtype)
            if self.grads.bias is not None:
                self.grads.bias[rows] += flat.sum(0)
        return grad_x

    def slices_after(self) -> Tensor:
        """The saved units after each step so far, int32 ``[T, B, S]``, until `reverse` takes them back."""
        last = torch.empty_like(self.saved[-1][-1:])
        save_slices(last[0], self.state, self.slices)
        return torch.cat([*self.saved, last])[1:]

    @property
    def used_bits(self) -> int:
        """Bits in this layer's buffers and saved slices."""
        held = {id(buffer): buffer.used_bits for buffer in self.buffers if buffer is not None}
        return sum(held.values()) + 32 * sum(saved.numel() for saved in self.saved)

    def _trace(self, x: Tensor, active: Tensor | None, keep: bool) -> Trace:
        """Room for a trace: its own when it is to be kept, else the same for one chunk after the other."""
        if keep:
            return self.kernel.trace(len(x), x, active)
        if self.workspace is None or len(self.workspace.gates[0]) < len(x):
            self.workspace = self.kernel.trace(len(x), x, active)
        groups, gates, _ = self.workspace
        return Trace(tuple(g[: len(x) + 1] for g in groups), tuple(g[: len(x)] for g in gates), active)

    def _project(self, start: int, x: Tensor) -> Tensor:
        """The inputs' part of the gates. The last chunk's is still there when its reversal asks for it."""
        ih, bias, rows = self.weights.ih, self.weights.bias, x.flatten(0, 1)
        if self.projection is None or len(self.projection) < len(rows):
            self.projection = rows.new_empty(len(rows), len(ih))
        projected = self.projection[: len(rows)]
        if self.projected != start:
            self.projected = start
            if self.dtype is not None:
                projected.copy_(F.linear(rows.to(self.dtype), ih.to(self.dtype)))
                projected += 0 if bias is None else bias
            elif bias is None:
                torch.mm(rows, ih.t(), out=projected)
            else:
                torch.addmm(bias, rows, ih.t(), out=projected)
        return projected.view(*x.shape[:2], len(ih))

    def _outputs(self, trace: Trace) -> Tensor:
        outputs = torch.cat([trace.groups[0][1:], trace.groups[1][1:]], dim=2)
        return outputs if self.mask is None else outputs.mul_(self.mask)


class Window:
    """A stack of layers on its way through one window, chunk by chunk; all without autograd."""

    def __init__(self, layers: Sequence[Layer], active: Tensor | None = None, count_bits: bool = False) -> None:
        """``active``, bool ``[T, B]``, is false where a sequence has ended; ``count_bits`` makes `bits` available."""
        self.layers, self.active, self.count_bits = layers, active, count_bits
        self.normal_bits = 0
        self.optimal_bits = layers[0].grad_state[0].new_zeros((), dtype=torch.float64)

    @torch.no_grad()
    def forward(self, span: tuple[int, int], x: Tensor, keep: bool = False) -> Tensor:
        """Advances over the chunk ``span``, ``x [K, B, I]``; ``keep`` stores its trace instead of relying on reversal.

        Returns:
            The last layer's outputs, ``[K, B, H]``.
        """
        for layer in self.layers:
            x, trace = layer.forward(span[0], x, self._active(span), keep)
            if self.count_bits:
                stored = sum(layer.slices) * x.shape[0] * x.shape[1]
                self.normal_bits += 32 * sum(group[1:].numel() for group in trace.groups)
                self.optimal_bits += layer.kernel.forgotten_bits(trace) + 32 * stored
        return x

    @torch.no_grad()
    def reverse(self, span: tuple[int, int], x: Tensor) -> Tensor:
        """Goes back over the chunk ``span``, the last that was not yet undone; returns its outputs again."""
        for layer in self.layers:
            x = layer.reverse(span[0], x, self._active(span))
        return x

    @torch.no_grad()
    def backward(self, grad: Tensor) -> Tensor:
        """The gradient of the chunk kept or reversed last: ``[K, B, H]`` by outputs to ``[K, B, I]`` by inputs."""
        for layer in reversed(self.layers):
            grad = layer.backward(grad)
        return grad

    def add_gradients(self, parameters: Sequence[Weights], masks: Sequence[Tensor | None]) -> None:
        """Adds what `backward` has gathered to the gradients of the layers' parameters, on which these masks were."""
        for weights, layer, mask in zip(parameters, self.layers, masks, strict=True):
            for parameter, grad in zip(weights, layer.grads.dropped(mask), strict=True):
                if parameter is not None and grad is not None:
                    parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)

    def check(self) -> None:
        """Sees whether all units have stayed in the fixed-point range so far; waits for the device.

        Raises:
            UserError: One has not; what was computed since is worthless.
        """
        if self.strayed():
            raise UserError(RANGE_MESSAGE)

    def strayed(self) -> Tensor:
        """Whether a unit has left the fixed-point range since this was asked last: a bool on the device, scalar."""
        reached = [torch.as_tensor(each) for layer in self.layers for each in layer.farthest]
        for layer in self.layers:
            layer.farthest.clear()
        return (torch.stack(reached) >= STATE_LIMIT).any()

    def bits(self) -> Bits:
        """What the window's states would take and do take, after the last `forward`, before the first `reverse`."""
        return Bits(self.normal_bits, sum(layer.used_bits for layer in self.layers), float(self.optimal_bits))

    def _active(self, span: tuple[int, int]) -> Tensor | None:
        return None if self.active is None else self.active[span[0] : span[1]]


def add_product(total: Tensor, a: Tensor, b: Tensor, dtype: torch.dtype | None) -> None:
    """``total += a @ b``, the product computed in ``dtype``."""
    if dtype is None:
        total.addmm_(a, b)
    else:
        total.add_(a.to(dtype) @ b.to(dtype))
