"""The reversible GRU over a chunk of time steps: forward, backward in time, and its gradient.

Fast path of `revrnn.cell.RevGRUCell`, same equations. The inputs' part of the gates comes in as one product for the
whole chunk, and the gradients by the weights go out as operands of one product.

Shapes: K time steps, B batch, G units of one group. Half a is the update of group a from the other group.
"""

import torch
from rnncore.step_linear import StepLinear
from torch import Tensor

from revrnn.buffer import InformationBuffer, make_room, took
from revrnn.kernels import operators
from revrnn.trace import GateGradient, Trace, forgotten_bits, restore_slice, rows_at, save_slices


class GRUKernel:
    """One layer's recurrent weights, packed for the steps of one window."""

    def __init__(
        self,
        weight_hh: Tensor,
        rows: int,
        max_forget: float,
        dtype: torch.dtype | None = None,
        slices: tuple[int, int] = (0, 0),
    ) -> None:
        """Packs a layer's weights for batches of some size.

        Args:
            weight_hh: ``[6G, G]``.
            rows: The batch size.
            max_forget: m in z = m s + (1 - m).
            dtype: What products are computed in.
            slices: How many first units of each group have no buffer because they are saved at each step.
        """
        self.group, self.max_forget, self.slices = weight_hh.shape[1], max_forget, slices
        halves, edge = weight_hh.detach().chunk(2), 2 * self.group
        self.weights = [(half[:edge], half[edge:]) for half in halves]
        self.rows, self.dtype = rows, dtype
        self.linear = [[StepLinear(part, rows, dtype) for part in parts] for parts in self.weights]
        self.operators = operators(weight_hh.device)

    def trace(self, steps: int, like: Tensor, active: Tensor | None) -> Trace:
        """An empty trace of ``steps`` time steps for inputs like ``like [., B, .]``."""
        batch, group = like.shape[1], self.group
        groups = tuple(like.new_empty(steps + 1, batch, group) for _ in range(2))
        gates = tuple(like.new_empty(steps, batch, n * group) for n in (2, 1, 2, 1))
        return Trace(groups, gates, active)

    def forward(
        self,
        inputs: Tensor,
        state: list[Tensor],
        buffers: list[InformationBuffer | None],
        trace: Trace,
        saved: Tensor | None,
    ) -> list[int | Tensor]:
        """Advances the state over a chunk.

        Args:
            inputs: The inputs' part of the gates, ``[K, B, 6G]``.
            state: int32 groups ``[B, G]``, changed in place.
            buffers: One for each group.
            trace: Filled; its first states must be there.
            saved: int32 ``[K, B, S]``, receives the slices of both groups before each step.

        Returns:
            Magnitudes that units reached, to be compared with the fixed-point range.
        """
        parts, m, farthest = self._split(inputs), self.max_forget, []
        reset = torch.empty_like(trace.groups[0][0])
        for t in range(len(inputs)):
            active = rows_at(trace.active, t)
            if saved is not None:
                save_slices(saved[t], state, self.slices)
            for a in (0, 1):
                product, zr, g = self._gates(a, t, parts, trace, reset)
                word, first, value = make_room(buffers[a]), self.slices[a], trace.groups[a][t + 1]
                fullest, reached = self.operators.gru_forward(
                    product, parts[a][1][t], zr, g, m, state[a], word, first, active, value
                )
                took(buffers[a], fullest)
                farthest.append(reached)
        return farthest

    def reverse(
        self,
        inputs: Tensor,
        state: list[Tensor],
        buffers: list[InformationBuffer],
        trace: Trace,
        saved: Tensor | None,
    ) -> None:
        """Undoes `forward` and fills the trace, whose last states must be there; same arguments."""
        parts, m = self._split(inputs), self.max_forget
        reset = torch.empty_like(trace.groups[0][0])
        for t in reversed(range(len(inputs))):
            active = rows_at(trace.active, t)
            for a in (1, 0):
                product, zr, g = self._gates(a, t, parts, trace, reset)
                if saved is not None:
                    restore_slice(saved[t], state, self.slices, a)
                word, first, value = buffers[a].word, self.slices[a], trace.groups[a][t]
                self.operators.gru_reverse(product, parts[a][1][t], zr, g, m, state[a], word, first, active, value)
                buffers[a].give_back()

    def _split(self, inputs: Tensor) -> list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
        """The inputs' part of [z r] and of g, for each half, as views by time step."""
        edge = 2 * self.group
        return [(half[..., :edge].unbind(), half[..., edge:].unbind()) for half in inputs.chunk(2, dim=2)]

    def _gates(
        self,
        a: int,
        t: int,
        parts: list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]],
        trace: Trace,
        reset: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Computes z and r of half a at step t; returns the recurrent part of g, [z r], and where g goes."""
        zr, other = trace.gates[2 * a][t], trace.groups[1 - a][t + a]
        self.operators.gru_gates(self.linear[a][0](other), parts[a][0][t], other, zr, reset)
        return self.linear[a][1](reset), zr, trace.gates[2 * a + 1][t]

    def backward(self, trace: Trace, grad_output: Tensor, grad_state: list[Tensor]) -> list[GateGradient]:
        """The gradient of a chunk.

        Args:
            trace: Of the chunk.
            grad_output: Of the layer's outputs, ``[K, B, 2G]``.
            grad_state: Of the state after the chunk, ``[B, G]`` each; becomes that of the state before.
        """
        transposed = [[StepLinear(part.t(), self.rows, self.dtype) for part in parts] for parts in self.weights]
        grad_zr, grad_g = ([torch.empty_like(trace.gates[2 * a + k]) for a in (0, 1)] for k in (0, 1))
        grad_outputs = [part.unbind() for part in grad_output.chunk(2, dim=2)]
        for t in reversed(range(len(grad_output))):
            active = rows_at(trace.active, t)
            grad_state[0] += grad_outputs[0][t]
            grad_state[1] += grad_outputs[1][t]
            for a in (1, 0):
                zr, other, into_zr, into_g = (
                    trace.gates[2 * a][t],
                    trace.groups[1 - a][t + a],
                    grad_zr[a][t],
                    grad_g[a][t],
                )
                self.operators.gru_gradient_update(
                    grad_state[a],
                    zr,
                    trace.gates[2 * a + 1][t],
                    trace.groups[a][t],
                    self.max_forget,
                    active,
                    into_zr,
                    into_g,
                )
                grad_reset = transposed[a][1](into_g)
                self.operators.gru_gradient_reset(grad_reset, zr, other, into_zr, grad_state[1 - a])
                transposed[a][0].add_to(grad_state[1 - a], into_zr)
        return self._products(trace, grad_zr, grad_g)

    def _products(self, trace: Trace, grad_zr: list[Tensor], grad_g: list[Tensor]) -> list[GateGradient]:
        """Pairs the gradients by the gates with what their recurrent weights multiplied."""
        products, group = [], self.group
        for a, other in enumerate((trace.groups[1][:-1], trace.groups[0][1:])):
            first = 3 * a * group
            reset = other * trace.gates[2 * a][..., group:]
            products.append(GateGradient(slice(first, first + 2 * group), grad_zr[a], other))
            products.append(GateGradient(slice(first + 2 * group, first + 3 * group), grad_g[a], reset))
        return products

    def forgotten_bits(self, trace: Trace) -> Tensor:
        """Bits that the chunk's forget gates forgot, saved units aside (a scalar tensor)."""
        gates = [trace.gates[2 * a][..., self.slices[a] : self.group] for a in (0, 1)]
        return forgotten_bits(gates, self.max_forget, trace.active)
