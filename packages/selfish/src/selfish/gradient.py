"""The loss of a window and its gradient, for a whole batch or for pieces of it that need less memory.

Shapes: T time steps, B batch.
"""

from typing import Any

import torch
from rnncore import device
from rnncore.penalties import activation_penalty, temporal_penalty
from rnncore.windows import detach
from torch import Tensor

from selfish.convert import Model
from selfish.outputs import State


def loss_and_gradient(
    model: Model,
    inputs: Tensor,
    targets: Tensor,
    state: State,
    *,
    activation: float,
    temporal: float,
    piece: int,
    amp: str | None = None,
) -> tuple[Tensor, State]:
    """The mean loss of a window ``[T, B]`` in nats per token, without penalties, and the state after it.

    The gradients by the loss with its penalties are added to the parameters.

    Args:
        model: Its parameters take the gradients.
        inputs, targets: The window.
        state: Before it.
        activation, temporal: The penalties AR and TAR.
        piece: Columns to compute at a time; they divide B. Dropout is drawn for each piece.
        amp: ``"bf16"`` for mixed precision.
    """
    losses, states = [], []
    share = piece / inputs.shape[1]
    for start in range(0, inputs.shape[1], piece):
        columns = slice(start, start + piece)
        with device.autocast(inputs.device, amp):
            outputs = model(inputs[:, columns], _of_columns(state, columns))
            loss = model.loss(outputs.dropped[-1], targets[:, columns])
            total = loss
            if activation:
                total = total + activation_penalty(outputs.dropped[-1], activation)
            if temporal:
                total = total + temporal_penalty(outputs.raw[-1], temporal)
        (total if share == 1 else share * total).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
        states.append(detach(outputs.state))
    if len(losses) == 1:
        return losses[0], states[0]
    return torch.stack(losses).mean(), _side_by_side(states)


def _of_columns(state: Any, columns: slice) -> Any:
    """The same columns of each tensor ``[1, B, H]`` of a state."""
    if isinstance(state, Tensor):
        return state[:, columns].contiguous()
    return type(state)(_of_columns(part, columns) for part in state)


def _side_by_side(states: list[Any]) -> Any:
    """The state of the whole batch, from those of its pieces."""
    if isinstance(states[0], Tensor):
        return torch.cat(states, 1)
    return type(states[0])(_side_by_side(list(parts)) for parts in zip(*states, strict=True))
