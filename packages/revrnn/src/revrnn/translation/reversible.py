"""A stack of reversible layers as an encoder or decoder has it.

Shapes: T time steps, B batch, I inputs, H units, L layers, G = H / 2 units of one group; n groups of a layer's state,
2 of a GRU, 4 of an LSTM.
"""

from collections.abc import Sequence

import torch
from rnncore.device import autocast_dtype
from torch import Tensor, nn

from revrnn.layer import RevGRU, RevLSTM
from revrnn.sequence import Stack, run
from revrnn.translation.vanilla import Buffers, Kind, Run, State
from revrnn.window import Weights, Window


class ReversibleStack(nn.Module):
    """Reversible GRU or LSTM layers with the interface of `revrnn.translation.vanilla.VanillaStack`.

    A state is n tensors ``[L, B, G]``: int32 fixed-point numbers, exact, or real numbers with gradient.
    """

    def __init__(
        self,
        kind: Kind,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        *,
        max_forget: float = 0.875,
        slices: tuple[int, int] = (0, 0),
        buffered: bool = False,
    ) -> None:
        """Makes the layers.

        Args:
            kind, input_size, hidden_size, num_layers: As of ``torch.nn.GRU``; ``hidden_size`` is even.
            max_forget: In (0, 1]; at most log2(1/(1 - max_forget)) bits are forgotten per unit and step.
            slices: How many first units of the last layer's two groups are saved at each step.
            buffered: Whether stored states have information buffers too, to see what they hold.
        """
        super().__init__()
        self.kind, self.hidden_size, self.num_layers = kind, hidden_size, num_layers
        self.max_forget, self.slices, self.buffered = max_forget, slices, buffered
        layer = RevGRU if kind == "gru" else RevLSTM
        self.layers = layer(input_size, hidden_size, num_layers, max_forget=max_forget)

    def recurrent_weights(self) -> list[Tensor]:
        """Each layer's hidden-to-hidden weight."""
        return [weights.hh for weights in self.layers.weights()]

    def initial_state(self, batch_size: int) -> State:
        """Zeros, int32."""
        shape = (self.num_layers, batch_size, self.hidden_size // 2)
        device = self.layers.weights()[0].hh.device
        return tuple(
            torch.zeros(shape, dtype=torch.int32, device=device) for _ in range(2 if self.kind == "gru" else 4)
        )

    def forward(
        self,
        x: Tensor,
        state: State | None,
        lengths: Tensor | None,
        between: Sequence[Tensor | None],
        weight_masks: Sequence[Tensor | None],
        buffers: Buffers = (),
        count_bits: bool = False,
    ) -> Run:
        """Runs with stored states; as `VanillaStack.forward`. Without gradient the state comes back exact, as int32.

        Args:
            x, state, lengths, between, weight_masks: As there.
            buffers: Each layer's, to be gone on with; new ones when absent.
            count_bits: Whether to report memory.
        """
        state = state or self.initial_state(x.shape[1])
        stack = self._stack(x.device, between, buffered=self.buffered and self.training, count_bits=count_bits)
        groups = [[part[layer] for part in state] for layer in range(self.num_layers)]
        active = active_steps(len(x), lengths)
        with torch.autocast(x.device.type, enabled=False):
            outputs, real, fixed, window = run(stack, x, groups, self._weights(weight_masks), active, buffers)
        last = real if torch.is_grad_enabled() else fixed
        bits = window.bits() if count_bits else None
        return Run(outputs, packed(last), bits, [layer.buffer for layer in window.layers])

    def window(
        self,
        state: State,
        lengths: Tensor | None,
        steps: int,
        between: Sequence[Tensor | None],
        weight_masks: Sequence[Tensor | None],
        *,
        buffers: Buffers = (),
        count_bits: bool = False,
    ) -> Window:
        """Begins a window of ``steps`` steps that will be reversed, from an int32 state.

        Args:
            state, lengths, between, weight_masks: As for `forward`.
            steps: T.
            buffers: Of each layer, to be gone on with; new ones when absent.
            count_bits: Whether to report memory.
        """
        stack = self._stack(state[0].device, between, buffered=True, count_bits=count_bits)
        groups = [[part[layer] for part in state] for layer in range(self.num_layers)]
        return stack.window(self._weights(weight_masks), groups, active_steps(steps, lengths), buffers)

    def _weights(self, masks: Sequence[Tensor | None]) -> list[Weights]:
        return [layer.dropped(mask) for layer, mask in zip(self.layers.weights(), masks, strict=True)]

    def _stack(
        self, device: torch.device, between: Sequence[Tensor | None], *, buffered: bool, count_bits: bool
    ) -> Stack:
        return Stack(
            kind=self.kind,
            max_forget=self.max_forget,
            buffered=buffered,
            slices=self.slices,
            masks=[*between, None],
            dtype=autocast_dtype(device),
            count_bits=count_bits,
        )


def active_steps(steps: int, lengths: Tensor | None) -> Tensor | None:
    """bool ``[T, B]``, true at the time steps of each sequence; None without lengths."""
    return None if lengths is None else torch.arange(steps, device=lengths.device)[:, None] < lengths


def used_bits(buffers: Buffers) -> int:
    """Bits that buffers hold."""
    return sum(buffer.used_bits for buffer in buffers if buffer is not None)


def packed(groups: Sequence[Sequence[Tensor]]) -> State:
    """Each layer's groups as a state."""
    return tuple(torch.stack(parts) for parts in zip(*groups, strict=True))
