"""The time loop of an LSTM layer and its gradient, without autograd, and the eager operators of one step.

The C++ in `kernels/lstm.cpp` has the same operators, fused, for float32 and float64 on CPU, and the whole loop.

Shapes: T time steps, B batch, I inputs, H units. ``gates``, ``[T, B, 4H]`` or of one step, holds i, f, g, o. All
tensors are contiguous and of one floating type.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rnncore import narrow_products, native
from rnncore.step_linear import StepLinear


def lstm_cell_forward(product: Tensor, gates: Tensor, before: Tensor, c: Tensor, h: Tensor) -> None:
    """One step: ``gates [B, 4H]``, the inputs' part, become the activated gates; from ``before``, c before, to c and h.

    ``i, f, o = sigmoid(...)`` and ``g = tanh(...)`` of ``product + gates``; ``c = f * before + i * g``;
    ``h = o * tanh(c)``.
    """
    gates.add_(product)
    i, f, g, o = gates.chunk(4, dim=1)
    gates[:, : 2 * c.shape[1]].sigmoid_()
    g.tanh_()
    o.sigmoid_()
    torch.mul(f, before, out=c).addcmul_(i, g)
    torch.tanh(c, out=h).mul_(o)


def lstm_cell_backward(
    grad_h: Tensor, grad_c: Tensor, gates: Tensor, before: Tensor, c: Tensor, grad_gates: Tensor
) -> None:
    """From the gradients by h and c to those by the gates before activation and, in place, by the c before."""
    i, f, g, o = gates.chunk(4, dim=1)
    tanh_c = torch.tanh(c)
    grad_c.addcmul_(grad_h, o * (1 - tanh_c * tanh_c))
    to_i, to_f, to_g, to_o = grad_gates.chunk(4, dim=1)
    torch.mul(grad_c, g * (i - i * i), out=to_i)
    torch.mul(grad_c, before * (f - f * f), out=to_f)
    torch.mul(grad_c, i * (1 - g * g), out=to_g)
    torch.mul(grad_h, tanh_c * (o - o * o), out=to_o)
    grad_c.mul_(f)


EAGER = SimpleNamespace(lstm_cell_forward=lstm_cell_forward, lstm_cell_backward=lstm_cell_backward)


def operators(device: torch.device) -> Any:
    """The namespace of the operators for a device: C++ on CPU where there is a compiler, else ``EAGER``."""
    if device.type == "cpu" and native.load(Path(__file__).with_name("kernels") / "lstm.cpp"):
        return torch.ops.rnncore
    return EAGER


def forward(
    x: Tensor,
    weight_ih: Tensor,
    bias: Tensor | None,
    h: Tensor,
    c: Tensor,
    weight_hh: Tensor,
    dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """All steps: the activated gates ``[T, B, 4H]``, h and c of each step.

    ``h`` and ``c`` ``[B, H]`` are those before the first step. ``dtype`` is what products are computed in (mixed
    precision); the weights' own when absent.
    """
    step = operators(x.device)
    if step is not EAGER and dtype is None:
        # Its products are as fast as the library's to within a tenth, and a row's bits are the same in every window.
        gates, output, cells = step.lstm_forward(
            x.contiguous(), weight_ih.contiguous(), bias, h, c, weight_hh.contiguous()
        )
        return gates, output, cells
    gates = _project(x.flatten(0, 1), weight_ih, bias, dtype).view(*x.shape[:2], len(weight_ih))
    output = gates.new_empty(*gates.shape[:2], h.shape[1])
    cells, linear = torch.empty_like(output), StepLinear(weight_hh, len(h), dtype)
    for t in range(len(gates)):
        step.lstm_cell_forward(linear(h), gates[t], c, cells[t], output[t])
        h, c = output[t], cells[t]
    return gates, output, cells


def _project(rows: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype | None) -> Tensor:
    """The inputs' part of all gates: ``rows [N, I]`` and ``weight [4H, I]`` to ``[N, 4H]``."""
    if dtype is None:
        return F.linear(rows, weight, bias)
    product = narrow_products.product(rows, weight, dtype)
    return product.to(weight.dtype) if bias is None else torch.add(product, bias)


def backward(
    grad_output: Tensor,
    grad_h: Tensor,
    grad_c: Tensor,
    gates: Tensor,
    c: Tensor,
    cells: Tensor,
    weight: Tensor,
    dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of `forward` by the gates before activation ``[T, B, 4H]`` and by the first h and c.

    ``grad_h`` and ``grad_c`` are by the last state; what `forward` made of the gates comes as ``gates``.
    """
    step, grad_gates = operators(gates.device), torch.empty_like(gates)
    grad_h, grad_c = grad_h.clone(), grad_c.clone()
    if step is not EAGER and dtype is None:
        weight = weight.contiguous()
        step.lstm_backward(grad_output.contiguous(), gates, c, cells, weight, grad_h, grad_c, grad_gates)
        return grad_gates, grad_h, grad_c
    transposed = StepLinear(weight.t(), len(c), dtype)
    for t in reversed(range(len(gates))):
        before = cells[t - 1] if t else c
        step.lstm_cell_backward(grad_h.add_(grad_output[t]), grad_c, gates[t], before, cells[t], grad_gates[t])
        grad_h = transposed(grad_gates[t])
    return grad_gates, grad_h, grad_c
