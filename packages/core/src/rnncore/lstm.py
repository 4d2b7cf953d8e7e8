"""An LSTM layer that is fast on CPU: torch's layer in its parameters and results, with a hand-written gradient.

A sequence is one autograd function. What does not depend on the state is computed for the whole window at once, and
so are the gradients by the weights.

Shapes: T time steps, B batch, I inputs, H units; gates in torch's order i, f, g, o.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rnncore import lstm_steps, narrow_products
from rnncore.device import autocast_dtype, let_weights_lie_apart, torch_rnn
from rnncore.opaque import opaque

State = tuple[Tensor, Tensor]
WIDE = (torch.float32, torch.float64)
#: Fewest time steps for which laying out the weights costs less than it saves, where there is no gradient.
FEW_STEPS = 8
#: Fewer inputs are few.
NARROW_INPUTS = 16


@opaque
def lstm_sequence(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """All steps of an LSTM layer (Hochreiter & Schmidhuber 1997, with forget gates), as `torch.nn.LSTM` has them.

    ``i, f, o = sigmoid(...)``, ``g = tanh(...)`` of ``W_ih x_t + b_ih + W_hh h_{t-1} + b_hh``;
    ``c_t = f * c_{t-1} + i * g``; ``h_t = o * tanh(c_t)``.

    In float32 and float64 on CPU, where there are native kernels, outputs and states are the same to the bit for any
    number of threads and however a text is cut into windows. With ``dtype``, and for the gradients by weights and x,
    the last bit may depend on both: these are products of torch's libraries.

    Args:
        x: ``[T, B, I]``, of the weights' type; of any floating type with ``dtype``.
        h0, c0: ``[B, H]``, the state before the first step.
        weight_ih, weight_hh: ``[4H, I]`` and ``[4H, H]``, float32 or float64.
        bias_ih, bias_hh: ``[4H]``, or None.
        dtype: What products are computed in (mixed precision): a 16-bit type, or None for the weights' own. Gates,
            states and outputs are of the weights' type in any case.

    Returns:
        The outputs ``[T, B, H]``, and h and c after the last step, ``[B, H]``.

    Raises:
        RuntimeError: Shapes or types do not fit, or there is no time step.
    """
    wide = weight_hh.dtype
    if wide not in WIDE or (dtype is None and x.dtype != wide):
        raise RuntimeError(f"Expected weights of float32 or float64 and input of their type, got {wide} and {x.dtype}")
    if x.dim() != 3 or weight_hh.dim() != 2:
        raise RuntimeError(f"Expected input [T, B, I], got {list(x.shape)}, and weight_hh [4H, H]")
    if not len(x):
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    rows, units = x.shape[1], weight_hh.shape[1]
    _expect("h0", h0, rows, units)
    _expect("c0", c0, rows, units)
    _expect("weight_ih", weight_ih, 4 * units, x.shape[2])
    _expect("weight_hh", weight_hh, 4 * units, units)
    _expect("bias_ih", bias_ih, 4 * units)
    _expect("bias_hh", bias_hh, 4 * units)
    with torch.autocast(x.device.type, enabled=False):
        output, h, c = _Sequence.apply(  # type: ignore[no-untyped-call]
            x, h0.to(wide), c0.to(wide), weight_ih, weight_hh, bias_ih, bias_hh, dtype
        )
    return output, h, c


def pays(weight_hh: Tensor, steps: int) -> bool:
    """Whether `lstm_sequence` is the faster way: on CPU, but for a few steps without gradient, as in generation."""
    if weight_hh.device.type != "cpu" or weight_hh.dtype not in WIDE:
        return False
    return torch.is_grad_enabled() or steps >= FEW_STEPS


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """``grad [N, O]`` turned, times ``x [N, I]``: with few inputs the other way round, which is twice as fast."""
    return (x.t() @ grad).t() if x.shape[1] < NARROW_INPUTS else grad.t() @ x


class LSTMLayer(nn.Module):
    """One layer of `torch.nn.LSTM`: its parameters and their names, its initial values, its results.

    On CPU it runs `lstm_sequence`; under autocast products are computed in autocast's type, and outputs and states
    are of the weights' type. Elsewhere torch's own layer runs (cuDNN on a GPU, in the weights' type also under
    autocast), and on CPU too where it `pays` more.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        """Draws the parameters as `torch.nn.LSTM` does, uniformly from ``-1/sqrt(H)`` to ``1/sqrt(H)``."""
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        self.weight_ih_l0 = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        if bias:
            self.bias_ih_l0 = nn.Parameter(torch.empty(4 * hidden_size))
            self.bias_hh_l0 = nn.Parameter(torch.empty(4 * hidden_size))
        let_weights_lie_apart()
        limit = 1 / math.sqrt(hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -limit, limit)

    def forward(self, input: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Outputs ``[T, B, H]`` and the last state ``(h, c)`` of inputs ``[T, B, I]``.

        ``state``: h and c before the first step, ``[1, B, H]`` each; zeros when absent. RuntimeError for a wrong shape.
        """
        if input.dim() != 3:
            raise RuntimeError(f"Expected input [T, B, I], got {list(input.shape)}")
        if state is None:
            zeros = self.weight_hh_l0.new_zeros(1, input.shape[1], self.hidden_size)
            state = (zeros, zeros)
        weight_ih, weight_hh = self.weight_ih_l0, self.weight_hh_l0
        bias_ih, bias_hh = (self.bias_ih_l0, self.bias_hh_l0) if self.bias else (None, None)
        if not pays(weight_hh, len(input)):
            weights: list[Tensor] = [
                weight for weight in (weight_ih, weight_hh, bias_ih, bias_hh) if weight is not None
            ]
            x = input.to(weight_hh.dtype) if input.is_cuda else input
            with torch_rnn(input.device):
                output, h, c = torch._VF.lstm(x, state, weights, self.bias, 1, 0.0, self.training, False, False)
            return output, (h, c)
        h, c = (part.squeeze(0) for part in state)
        dtype = autocast_dtype(input.device)
        output, h, c = lstm_sequence(input, h, c, weight_ih, weight_hh, bias_ih, bias_hh, dtype)
        return output, (h[None], c[None])

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


def _expect(name: str, tensor: Tensor | None, *shape: int) -> None:
    if tensor is not None and tensor.shape != shape:
        raise RuntimeError(f"Expected {name} {list(shape)}, got {list(tensor.shape)}")


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h0: Tensor,
        c0: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor | None,
        bias_hh: Tensor | None,
        dtype: torch.dtype | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        bias = bias_hh if bias_ih is None else bias_ih if bias_hh is None else bias_ih + bias_hh
        h0, c0 = h0.contiguous(), c0.contiguous()
        gates, output, cells = lstm_steps.forward(x, weight_ih, bias, h0, c0, weight_hh, dtype)
        ctx.save_for_backward(x, h0, c0, weight_ih, weight_hh, gates, output, cells)
        ctx.dtype = dtype
        return output, output[-1].clone(), cells[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, grad_h: Tensor, grad_c: Tensor) -> tuple[Tensor | None, ...]:
        x, h0, c0, weight_ih, weight_hh, gates, output, cells = ctx.saved_tensors
        by_x, _, _, by_ih, by_hh, by_bias_ih, by_bias_hh, _ = ctx.needs_input_grad
        with torch.autocast(x.device.type, enabled=False):
            by_gates, grad_h0, grad_c0 = lstm_steps.backward(
                grad_output, grad_h, grad_c, gates, c0, cells, weight_hh, ctx.dtype
            )
            rows = by_gates.flatten(0, 1)
            grad_bias = rows.sum(0) if by_bias_ih or by_bias_hh else None
            operands = [x] if by_ih else []
            if by_hh:
                operands.append(torch.cat([h0[None], output[:-1]]))
            grad_x, grad_weights = _by_operands(rows, weight_ih if by_x else None, operands, ctx.dtype)
        wide = weight_hh.dtype
        return (
            None if grad_x is None else grad_x.view_as(x).to(x.dtype),
            grad_h0,
            grad_c0,
            grad_weights[0].to(wide) if by_ih else None,
            grad_weights[-1].to(wide) if by_hh else None,
            grad_bias if by_bias_ih else None,
            grad_bias if by_bias_hh else None,
            None,
        )


def _by_operands(
    grad: Tensor, weight_ih: Tensor | None, operands: list[Tensor], dtype: torch.dtype | None
) -> tuple[Tensor | None, list[Tensor]]:
    """From the gradient ``[T B, 4H]``: that by x, and those by the weights that ``operands`` were multiplied with."""
    rows = [operand.flatten(0, 1) for operand in operands]
    if dtype is None:
        return None if weight_ih is None else grad @ weight_ih, [weight_gradient(grad, operand) for operand in rows]
    grad_x = None if weight_ih is None else narrow_products.by_input(grad, weight_ih, dtype)
    return grad_x, narrow_products.by_weight(grad, rows, dtype) if rows else []
