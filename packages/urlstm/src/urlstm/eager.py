"""The recurrences over whole sequences, without autograd, by torch's own operators: where there is no native code.

A unit's equations are in `urlstm.equations`; what a step leaves in the gates, and the local derivatives, are here.

Shapes: N rows, those of all time steps one after the other; B of the longest step; H units; K blocks, in the order of
`urlstm.gates`. ``rows`` gives the number of rows of each time step, never rising, as in a ``PackedSequence``.
"""

from collections.abc import Iterator, Sequence

import torch
from rnncore.softmax import cumax_gradient
from rnncore.step_linear import StepLinear
from torch import Tensor

from urlstm.gates import Unit

CUMAX_BLOCKS: dict[Unit, tuple[int, ...]] = {"cumax-refine": (1,), "ordered": (4, 5)}
OUTPUT_BLOCK = 3


def forward(
    unit: Unit, gates: Tensor, product: StepLinear, bias: Tensor, h0: Tensor, c0: Tensor, rows: list[int], reverse: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Runs over the time steps, the last one first where ``reverse``.

    Args:
        unit: Which equations; not ``torch``.
        gates: ``[N, K H]``, what the input gives before activation. Becomes the activations, in place; blocks of a
            cumax hold the softmax.
        product: With the recurrent weight ``[K H, H]``.
        bias: ``[K H]``, added to the recurrent product; of a GRU only.
        h0: ``[B, H]``.
        c0: ``[B, H]``; of a GRU empty.
        rows, reverse: As above.

    Returns:
        The hidden states ``[N, H]``; the cells ``[N, H]`` (of a GRU instead what the recurrent product gives to the
        candidate); the last hidden state and cell ``[B, H]``.
    """
    h, c, count = h0.clone(), c0.clone(), gates.shape[1] // h0.shape[1]
    out, cells = (gates.new_empty(len(gates), h.shape[1]) for _ in range(2))
    for span, number in _passed(rows, reverse):
        blocks = gates[span].view(number, count, h.shape[1])
        if unit == "refine-gru":
            from_h = (product(h[:number]) + bias).view_as(blocks)
            cells[span] = from_h[:, 2]
            h[:number] = _gru_step(blocks, from_h, h[:number])
        else:
            product.add_to(gates[span], h[:number])
            c[:number] = cells[span] = _cell_step(unit, blocks, c[:number])
            h[:number] = blocks[:, OUTPUT_BLOCK] * c[:number].tanh()
        out[span] = h[:number]
    return out, cells, h, c


def backward(
    unit: Unit,
    grad: Tensor,
    grad_h: Tensor,
    grad_c: Tensor,
    gates: Tensor,
    cells: Tensor,
    before: Tensor,
    product: StepLinear,
    rows: list[int],
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by the gates before activation ``[N, K H]``, by h0 and by c0.

    The gradient of a GRU's recurrent product is that of its gates with the block of the candidate times the reset gate.

    Args:
        unit, rows, reverse: As of `forward`.
        grad: By the hidden states, ``[N, H]``.
        grad_h, grad_c: By the last ones, ``[B, H]``; of a GRU, grad_c is empty.
        gates, cells: What `forward` left.
        before: ``[N, H]``, the cells that each step began with; of a GRU the hidden states.
        product: With the recurrent weight transposed, ``[H, K H]``.
    """
    h, c = grad_h.clone(), grad_c.clone()
    units = h.shape[1]
    by_gates, carry, by_hidden = _derivatives(
        unit, gates.view(len(gates), gates.shape[1] // units, units), cells, before
    )
    operand = torch.empty_like(by_gates[: len(h)])
    for span, number in _passed(rows, not reverse):
        by, now = by_gates[span], h[:number]
        now += grad[span]
        if unit == "refine-gru":
            by *= now[:, None]
            operand[:number] = by
            operand[:number, 2] *= gates[span, :units]
            now *= carry[span]
            product.add_to(now, operand[:number].flatten(1))
            continue
        cell = c[:number]
        cell += now * by_hidden[span]
        by[:, :OUTPUT_BLOCK] *= cell[:, None]
        by[:, OUTPUT_BLOCK] *= now
        by[:, OUTPUT_BLOCK + 1 :] *= cell[:, None]
        for block in CUMAX_BLOCKS.get(unit, ()):
            by[:, block] = cumax_gradient(by[:, block], gates[span, block * units : (block + 1) * units])
        cell *= carry[span]
        now.copy_(product(by.flatten(1)))
    return by_gates.flatten(1), h, c


def _passed(rows: Sequence[int], reverse: bool) -> Iterator[tuple[slice, int]]:
    """Where each time step's rows are, and how many, in the order in which a direction passes them."""
    spans, first = [], 0
    for number in rows:
        spans.append((slice(first, first + number), number))
        first += number
    yield from reversed(spans) if reverse else spans


def _cell_step(unit: Unit, blocks: Tensor, c: Tensor) -> Tensor:
    """Activates the blocks ``[b, K, H]`` in place; the new cell."""
    a, f, u, o, *masters = blocks.unbind(1)
    a.sigmoid_(), o.sigmoid_(), u.tanh_()
    f.copy_(f.softmax(1)) if unit == "cumax-refine" else f.sigmoid_()
    for master in masters:
        master.copy_(master.softmax(1))
    keep, write = _shares(unit, blocks)
    return keep * c + write * u


def _shares(unit: Unit, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of the old cell and of the candidate, from activations ``[., K, H]``."""
    a, f, _, _, *masters = blocks.unbind(1)
    if unit == "ordered":
        master_input, master_forget = 1 - masters[0].cumsum(1), masters[1].cumsum(1)
        both = master_input * master_forget
        return f * both + master_forget - both, a * both + master_input - both
    g = _refined(f.cumsum(1) if unit == "cumax-refine" else f, a)
    return g, 1 - g


def _refined(f: Tensor, r: Tensor) -> Tensor:
    return 2 * r * f + (1 - 2 * r) * f * f


def _gru_step(blocks: Tensor, from_h: Tensor, h: Tensor) -> Tensor:
    r, z, u, s = blocks.unbind(1)
    for number in (0, 1, 3):
        blocks[:, number].add_(from_h[:, number]).sigmoid_()
    u.addcmul_(r, from_h[:, 2]).tanh_()
    g = _refined(z, s)
    return g * h + (1 - g) * u


def _refine_derivatives(f: Tensor, r: Tensor, by_g: Tensor) -> tuple[Tensor, Tensor]:
    """By f itself and by r before activation."""
    return by_g * 2 * (r + (1 - 2 * r) * f), by_g * 2 * f * (1 - f) * r * (1 - r)


def _derivatives(unit: Unit, blocks: Tensor, cells: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The local derivatives of all time steps at once; see the two kinds of states."""
    if unit == "refine-gru":
        return _gru_derivatives(blocks, cells, before)
    return _cell_derivatives(unit, blocks, cells, before)


def _gru_derivatives(blocks: Tensor, from_h: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The local derivatives of h by the gates before activation ``[N, K, H]`` and by the old state ``[N, H]``."""
    r, z, u, s = blocks.unbind(1)
    g = _refined(z, s)
    by_z, by_s = _refine_derivatives(z, s, before - u)
    by_u = (1 - g) * (1 - u * u)
    return torch.stack([by_u * from_h * r * (1 - r), by_z * z * (1 - z), by_u, by_s], dim=1), g, g


def _cell_derivatives(unit: Unit, blocks: Tensor, cells: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The local derivatives by the gates before activation, of the cell (of h for the output gate); by the old cell;
    and of h by the cell. A block of cumax stops at its cumulative sum."""
    a, f, u, o, *masters = blocks.unbind(1)
    keep, write = _shares(unit, blocks)
    tanh_c = cells.tanh()
    by_u, by_o = write * (1 - u * u), tanh_c * o * (1 - o)
    by_masters: list[Tensor] = []
    if unit == "ordered":
        master_input, master_forget = 1 - masters[0].cumsum(1), masters[1].cumsum(1)
        both, by_both = master_input * master_forget, before * (f - 1) + u * (a - 1)
        by_a, by_f = u * both * a * (1 - a), before * both * f * (1 - f)
        by_masters = [-(u + by_both * master_forget), before + by_both * master_input]
    else:
        cumulative = unit == "cumax-refine"
        by_f, by_a = _refine_derivatives(f.cumsum(1) if cumulative else f, a, before - u)
        by_f = by_f if cumulative else by_f * f * (1 - f)
    return torch.stack([by_a, by_f, by_u, by_o, *by_masters], dim=1), keep, o * (1 - tanh_c * tanh_c)
