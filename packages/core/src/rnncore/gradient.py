"""The loss of a window and its gradient, for a whole batch or for pieces of it that need less memory.

Shapes: T time steps, B batch.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from rnncore import device
from rnncore.penalties import activation_penalty, temporal_penalty
from rnncore.windows import detach


class Outputs(Protocol):
    """What a language model computes of a window: each layer's outputs ``[T, B, .]``, and the state after it."""

    @property
    def raw(self) -> list[Tensor]:
        """Before dropout."""

    @property
    def dropped(self) -> list[Tensor]:
        """After it; the last are what the decoder takes."""

    @property
    def state(self) -> Any:
        """To go on from; where pieces of the batch are wanted, tensors ``[1, B, H]``, or tuples and lists of them."""


class LanguageModel(Protocol):
    """A module that is called with a window and the state before it, and can tell a loss of its outputs."""

    def __call__(self, ids: Tensor, state: Any, /) -> Outputs:
        """The window ``ids [T, B]`` through all but the decoder."""

    def loss(self, output: Tensor, targets: Tensor, /) -> Tensor:
        """The mean loss of the last dropped outputs ``[T, B, H]``, in nats per token."""


def loss_and_gradient(
    model: LanguageModel,
    inputs: Tensor,
    targets: Tensor,
    state: Any,
    *,
    activation: float,
    temporal: float,
    piece: int | None = None,
    amp: str | None = None,
) -> tuple[Tensor, Any]:
    """The mean loss of a window ``[T, B]`` in nats per token, without penalties, and the state after it.

    The gradients by the loss with its penalties are added to the parameters.

    Args:
        model: Its parameters take the gradients.
        inputs, targets: The window.
        state: Before it.
        activation, temporal: The penalties AR and TAR.
        piece: Columns to compute at a time, to bound the memory; they divide B. All when absent. Dropout is drawn for
            each piece.
        amp: ``"bf16"`` for mixed precision.
    """
    losses, states, count = [], [], inputs.shape[1]
    piece = piece or count
    share = piece / count
    for start in range(0, count, piece):
        columns = slice(start, start + piece)
        with device.autocast(inputs.device, amp):
            outputs = model(inputs[:, columns], state if share == 1 else _of_columns(state, columns))
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
