"""All time steps of a relational memory, with a gradient written by hand.

What does not depend on the memory (projections of the input, its part of the gates) comes from outside, for the whole
window at once. A step is a few products of matrices and, between them, the operators of `rmc.kernels`. The gradient
computes attention and normalisations once more from what the products gave, which is all that a step keeps, and takes
the gradients by weights in products over several steps.

Shapes: T time steps, B batch, S slots, N = S + 1 rows, Q rows that query, M numbers of a row, F of its projections,
G gates of a slot.
"""

from typing import Any

import torch
from rnncore.opaque import opaque
from torch import Tensor
from torch.autograd.function import once_differentiable

from rmc.window import Kept, Setting, Weights, buffers, forward
from rmc.window_gradient import WindowGradient


@opaque
def run(
    setting: Setting, x: Tensor, qkv_x: Tensor, gates_x: Tensor, memory: Tensor, weights: Weights
) -> tuple[Tensor, Tensor]:
    """Runs over a window.

    Args:
        setting: What a step does.
        x: The inputs' rows, ``[T, B, M]``.
        qkv_x: Their projections by the first block, ``[T, B, F]``, without bias.
        gates_x: Their part of the gates, ``[T, B, G]``, with all biases.
        memory: Before the first step, ``[B, S, M]``.
        weights: Of the recurrent part.

    Returns:
        The memory after each step, ``[T, B, S, M]``, and after the last, ``[B, S, M]``.
    """
    flat = weights.flat()
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, qkv_x, gates_x, memory, *flat))
    with torch.autocast(x.device.type, enabled=False):
        results: tuple[Tensor, Tensor] = _Sequence.apply(  # type: ignore[no-untyped-call]
            setting._replace(keep=wanted), x, qkv_x, gates_x, memory, *flat
        )
    return results


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, setting: Setting, x: Tensor, qkv_x: Tensor, gates_x: Tensor, memory: Tensor, *flat: Tensor
    ) -> tuple[Tensor, Tensor]:
        x, qkv_x, gates_x = x.contiguous(), qkv_x.contiguous(), gates_x.contiguous()
        weights = Weights.of(flat, setting.distinct)
        kept = buffers(setting, x, gates_x, memory, weights)
        forward(setting, x, qkv_x, gates_x, kept, weights)
        ctx.set_materialize_grads(False)  # often only the last memory has a gradient
        if setting.keep:
            hidden = [x for block in kept.hidden for x in block]
            ctx.setting, ctx.count = setting, len(flat)
            ctx.save_for_backward(
                *flat, x, qkv_x, kept.states, kept.gates, *kept.projected, *kept.attended, *kept.between, *hidden
            )
        return kept.states[1:], kept.states[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor | None, grad_memory: Tensor | None) -> tuple[Tensor | None, ...]:
        setting: Setting = ctx.setting
        all_saved = ctx.saved_tensors  # once: torch.utils.checkpoint refuses a second reading
        flat, (x, qkv_x, states, gates, *rest) = all_saved[: ctx.count], all_saved[ctx.count :]
        blocks, layers = setting.blocks, len(setting.rectified)
        projected, attended, between = rest[:blocks], rest[blocks : 2 * blocks], rest[2 * blocks : 3 * blocks - 1]
        hidden = rest[3 * blocks - 1 :]
        by_block = [hidden[k * layers : (k + 1) * layers] for k in range(blocks)]
        kept = Kept(states, projected, attended, by_block, between, gates)
        with torch.autocast(x.device.type, enabled=False):
            gradient = WindowGradient(setting, x, qkv_x, kept, Weights.of(flat, setting.distinct))
            first = gradient.run(grad_output, grad_memory)
        return None, gradient.by_x, gradient.by_qkv_x, gradient.by_gates_x, first, *gradient.by_weights.flat()
