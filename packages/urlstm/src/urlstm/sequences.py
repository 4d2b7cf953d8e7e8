"""What a layer is given, in one form: sequences padded or packed, batched or not, with the checks of torch's layers.

Shapes: T time steps, B batch, I inputs, H units, N rows of all time steps; S states of a layer: layers times
directions.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

State = tuple[Tensor, ...]


class Sequences(NamedTuple):
    """The input of a layer. ``data``: ``[T, B, I]``, or ``[N, I]`` where packed; ``rows``: of each time step.

    ``packed`` and ``batched`` tell how it came, ``batch_first`` whether outputs go back as ``[B, T, H]``.
    """

    data: Tensor
    rows: list[int]
    packed: PackedSequence | None = None
    batched: bool = True
    batch_first: bool = False

    @property
    def flat(self) -> Tensor:
        """``[N, I]``."""
        return self.data if self.packed is not None else self.data.flatten(0, 1)

    def output(self, flat: Tensor) -> Tensor | PackedSequence:
        """Outputs ``[N, H]`` in the form in which the input came."""
        if self.packed is not None:
            return self.packed._replace(data=flat)
        output = flat.view(*self.data.shape[:2], flat.shape[1])
        if not self.batched:
            return output.squeeze(1)
        return output.transpose(0, 1) if self.batch_first else output

    def sorted_state(self, state: State) -> State:
        """States ``[S, B, H]`` (or ``[S, H]``) in the order of the rows, contiguous."""
        if not self.batched:
            state = tuple(part.unsqueeze(1) for part in state)
        if self.packed is not None and self.packed.sorted_indices is not None:
            state = tuple(part.index_select(1, self.packed.sorted_indices) for part in state)
        return tuple(part.contiguous() for part in state)

    def user_state(self, state: State) -> State:
        """States in the user's order: undoes `sorted_state`."""
        if self.packed is not None and self.packed.unsorted_indices is not None:
            state = tuple(part.index_select(1, self.packed.unsorted_indices) for part in state)
        return state if self.batched else tuple(part.squeeze(1) for part in state)


def read(
    kind: str, input: Tensor | PackedSequence, input_size: int, weight_dtype: torch.dtype, batch_first: bool
) -> Sequences:
    """Checks an input and gives it one form.

    Args:
        kind: The name of the layer, for messages.
        input: ``[T, B, I]`` (``[B, T, I]`` with ``batch_first``), ``[T, I]``, or a ``PackedSequence``.
        input_size: I.
        weight_dtype: That of the layer's weights: the input's must be the same, save under autocast.
        batch_first: As above.

    Raises:
        ValueError, RuntimeError: As torch's layers.
    """
    data = input.data if isinstance(input, PackedSequence) else input
    if not isinstance(input, PackedSequence) and data.dim() not in (2, 3):
        raise ValueError(f"{kind}: Expected input to be 2D or 3D, got {data.dim()}D instead")
    if data.dtype != weight_dtype and not torch.is_autocast_enabled(data.device.type):
        raise ValueError(
            f"RNN input dtype ({data.dtype}) does not match weight dtype ({weight_dtype}). "
            f"Convert input: input.to({weight_dtype}), or convert model: model.to({data.dtype})"
        )
    if data.shape[-1] != input_size:
        expected = f"Expected {input_size}, got {data.shape[-1]}"
        raise RuntimeError(f"input.size(-1) must be equal to input_size. {expected}")
    if isinstance(input, PackedSequence):
        return Sequences(data, input.batch_sizes.tolist(), packed=input)
    batched = data.dim() == 3
    data = data if batched else data.unsqueeze(1)
    data = data.transpose(0, 1) if batched and batch_first else data
    if not len(data):
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    return Sequences(data, [data.shape[1]] * len(data), batched=batched, batch_first=batch_first)


def check_state(state: State, sequences: Sequences, states: int, hidden_size: int) -> None:
    """RuntimeError, as torch's layers have it, unless the state is ``[S, B, H]``, or ``[S, H]`` where not batched."""
    dims = [part.dim() for part in state]
    wanted = 3 if sequences.batched else 2
    if sequences.packed is None and any(dim != wanted for dim in dims):
        names, tensors = ("hx", "tensor") if len(state) == 1 else ("hx and cx", "tensors")
        got = f"{dims[0]}-D" if len(state) == 1 else f"({', '.join(f'{dim}-D' for dim in dims)})"
        batch = "batched 3-D" if sequences.batched else "unbatched 2-D"
        raise RuntimeError(f"For {batch} input, {names} should also be {wanted}-D but got {got} {tensors}")
    expected = (states, sequences.rows[0], hidden_size) if sequences.batched else (states, hidden_size)
    for number, part in enumerate(state):
        if part.shape != expected:
            name = "hidden" if len(state) == 1 else f"hidden[{number}]"
            full = (states, sequences.rows[0], hidden_size)
            got_shape = list(part.shape) if sequences.batched else [part.shape[0], 1, *part.shape[1:]]
            raise RuntimeError(f"Expected {name} size {full}, got {got_shape}")
