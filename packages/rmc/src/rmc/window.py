"""The time steps of a relational memory over a window, without autograd: what they need, and what they keep.

Shapes: T time steps, B batch, S slots, N = S + 1 rows, Q rows that query, M numbers of a row, F of its projections,
G gates of a slot.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from rnncore.step_linear import StepLinear
from torch import Tensor

from rmc import kernels


class Block(NamedTuple):
    """The weights of a round of attention: ``qkv [F, M]`` and its bias, gamma and beta of three normalisations."""

    qkv: Tensor
    bias: Tensor
    gamma: Tensor
    beta: Tensor
    attention_gamma: Tensor
    attention_beta: Tensor
    mlp_gamma: Tensor
    mlp_beta: Tensor


class Setting(NamedTuple):
    """What a step does; ``rectified`` says of each layer of the MLP whether a ReLU follows it.

    ``distinct`` is how many blocks have weights of their own; ``dtype`` what products are computed in, if not in the
    weights' type; ``keep`` whether a gradient will be asked for; ``alike`` whether all items of the batch begin with
    the same memory, of which no gradient is wanted.
    """

    heads: int
    key: int
    joint: bool
    blocks: int
    distinct: int
    rectified: tuple[bool, ...]
    dtype: torch.dtype | None
    keep: bool
    alike: bool

    def queries(self, block: int, slots: int) -> int:
        """Rows that a block computes: of the last one the input's is not used, but normalised with the others."""
        return slots if block == self.blocks - 1 and not self.joint else slots + 1


class Weights(NamedTuple):
    """Blocks, layers of the MLP (weight ``[M, M]`` and bias ``[M]``), and the memory's part of the gates ``[G, M]``.

    Where blocks or layers have the same weights, these are there once.
    """

    blocks: list[Block]
    layers: list[tuple[Tensor, Tensor]]
    gates: Tensor

    @staticmethod
    def of(flat: Sequence[Tensor], distinct: int) -> "Weights":
        """From the order of `flat`."""
        size = len(Block._fields)
        blocks = [Block(*flat[1 + k * size : 1 + (k + 1) * size]) for k in range(distinct)]
        rest = flat[1 + distinct * size :]
        return Weights(blocks, list(zip(rest[::2], rest[1::2], strict=True)), flat[0])

    def flat(self) -> list[Tensor]:
        """All tensors one after the other."""
        return [self.gates, *(x for block in self.blocks for x in block), *(x for layer in self.layers for x in layer)]


class Kept(NamedTuple):
    """What products gave, ``[T, B, ., .]`` (or of one step only), and the memory before each step and after the last.

    ``hidden[k][l]`` is what layer l of the MLP gave in block k, after its ReLU; ``between[k]`` are the rows that go
    from block k to the next.
    """

    states: Tensor
    projected: list[Tensor]
    attended: list[Tensor]
    hidden: list[list[Tensor]]
    between: list[Tensor]
    gates: Tensor


def buffers(setting: Setting, x: Tensor, gates_x: Tensor, memory: Tensor, weights: Weights) -> Kept:
    """Room for what a window keeps; of all steps where a gradient will be asked for, else of one."""
    steps, batch, width = x.shape
    slots, room = memory.shape[1], steps if setting.keep else 1

    def empty(rows: int, columns: int) -> Tensor:
        return x.new_empty(room, batch, rows, columns)

    states = x.new_empty(steps + 1, batch, slots, width)
    states[0] = memory
    numbers = range(setting.blocks)
    queries = [setting.queries(k, slots) for k in numbers]
    return Kept(
        states,
        [empty(slots if k == 0 else slots + 1, len(weights.blocks[0].qkv)) for k in numbers],
        [empty(rows, width) for rows in queries],
        [[empty(rows, width) for _ in setting.rectified] for rows in queries],
        [empty(slots + 1, width) for _ in numbers[:-1]],
        empty(slots, gates_x.shape[2]),
    )


def forward(setting: Setting, x: Tensor, qkv_x: Tensor, gates_x: Tensor, kept: Kept, weights: Weights) -> None:
    """Runs over the window; arguments as of `rmc.sequence.run`. Writes all of ``kept``."""
    step, (states, width), slots = kernels.operators(x.device), (kept.states, x.shape[2]), kept.states.shape[2]
    rows = len(x[0]) * (slots + 1)
    to_qkv = [StepLinear(block.qkv, rows, setting.dtype) for block in weights.blocks]
    to_layer = [StepLinear(weight, rows, setting.dtype) for weight, _ in weights.layers]
    to_gates = StepLinear(weights.gates, rows, setting.dtype) if len(weights.gates) else None
    for t in range(len(x)):
        at = t if setting.keep else 0
        before = states[0, :1] if setting.alike and t == 0 else states[t]  # one item stands for all
        rows_all, rows_m, rows_x, from_x = before, states[t], x[t], qkv_x[t]
        for k in range(setting.blocks):
            block, product = weights.blocks[k % len(weights.blocks)], kept.projected[k][at]
            _product(to_qkv[k % len(to_qkv)], rows_all, product)
            qkv_m = product if k == 0 else product[:, :slots]
            y = kept.attended[k][at]
            step.attend_forward(
                qkv_m, from_x if k == 0 else product[:, slots], block.bias, block.gamma, block.beta, rows_m, rows_x,
                block.attention_gamma, block.attention_beta, setting.heads, setting.key, setting.joint, y,
            )  # fmt: skip
            h = y
            for number, rectified in enumerate(setting.rectified):
                result, inputs = kept.hidden[k][number][at], h
                h = result
                to_layer[number % len(to_layer)].write(h.view(-1, width), inputs.view(-1, width))
                step.rectify_forward(h, weights.layers[number % len(weights.layers)][1], rectified)
            norm = y, h, block.mlp_gamma, block.mlp_beta, setting.joint
            if k < setting.blocks - 1:
                rows_all = kept.between[k][at]
                step.normalise_forward(*norm, rows_all)
                rows_m, rows_x = rows_all[:, :slots], rows_all[:, slots]
        gates = kept.gates[at]
        if to_gates is not None:
            _product(to_gates, before.tanh(), gates)
        step.gate_forward(*norm, gates, gates_x[t], states[t], states[t + 1])


def _product(weight: StepLinear, rows: Tensor, result: Tensor) -> None:
    """Writes the product of ``rows [B, ., .]``; of one item, for all that ``result`` has."""
    if len(rows) == len(result):
        weight.write(result.flatten(0, 1), rows.flatten(0, 1))
    else:
        result.copy_(weight(rows[0]))
