"""The reversible language model (Reversible RNNs, section 6.1): embedding, reversible layers, tied decoder.

Shapes: T time steps, B batch, E embedding size, V vocabulary, G units of one group; of a layer's state there are
n groups (2 of a GRU, 4 of an LSTM).
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from rnncore.device import autocast_dtype
from rnncore.dropout import embedding_mask, locked_mask, weight_mask
from rnncore.errors import UserError
from torch import Tensor, nn

from revrnn.forget import RANGE_MESSAGE
from revrnn.layer import RevGRU, RevLSTM
from revrnn.sequence import Stack, run
from revrnn.tied_vocabulary import TiedVocabulary
from revrnn.window import Bits, Weights, Window, spans

State = tuple[Tensor, ...]


class Masks(NamedTuple):
    """The dropout masks of one window, None where nothing is dropped.

    ``words [V, 1]``; ``inputs [1, B, E]``; ``outputs``, one ``[1, B, .]`` for each layer; ``weights``, one for each
    layer's ``weight_hh``.
    """

    words: Tensor | None
    inputs: Tensor | None
    outputs: Sequence[Tensor | None]
    weights: Sequence[Tensor | None]


class Result(NamedTuple):
    """Of one window: mean loss in nats per token, the state after it, and its memory, when asked for."""

    loss: Tensor
    state: State
    bits: Bits | None


class ReversibleLM(nn.Module):
    """A language model of reversible GRU or LSTM layers whose state is carried from window to window exactly.

    All layers but the last have ``hidden_size`` units, the last ``embedding_size``. The state is one int32 tensor
    ``[n, B, G]`` for each layer.
    """

    def __init__(
        self,
        kind: Literal["gru", "lstm"],
        vocabulary_size: int,
        *,
        embedding_size: int = 650,
        hidden_size: int = 1150,
        num_layers: int = 1,
        max_forget: float = 0.875,
        dropout: float = 0.4,
        dropout_hidden: float = 0.3,
        dropout_input: float = 0.4,
        dropout_words: float = 0.1,
        weight_drop: float = 0.5,
    ) -> None:
        """Makes the parameters. ``dropout`` is of the last layer's outputs, ``dropout_hidden`` of the others'."""
        super().__init__()
        self.kind, self.max_forget, self.embedding_size = kind, max_forget, embedding_size
        self.dropout, self.dropout_hidden, self.dropout_input = dropout, dropout_hidden, dropout_input
        self.dropout_words, self.weight_drop = dropout_words, weight_drop
        self.vocabulary = TiedVocabulary(vocabulary_size, embedding_size)
        sizes = [embedding_size, *[hidden_size] * (num_layers - 1), embedding_size]
        layer = RevGRU if kind == "gru" else RevLSTM
        pairs = itertools.pairwise(sizes)
        self.layers = nn.ModuleList(layer(before, after, max_forget=max_forget) for before, after in pairs)

    def initial_state(self, batch_size: int) -> State:
        """Zeros."""
        groups = 2 if self.kind == "gru" else 4
        device = self.vocabulary.weight.device
        sizes = [layer.hidden_size // 2 for layer in self._layers()]
        return tuple(torch.zeros(groups, batch_size, size, dtype=torch.int32, device=device) for size in sizes)

    def draw_masks(self, batch_size: int) -> Masks:
        """Masks for one window: none in evaluation."""
        layers = self._layers()
        if not self.training:
            return Masks(None, None, [None] * len(layers), [None] * len(layers))
        device, dtype = self.vocabulary.weight.device, self.vocabulary.weight.dtype

        def locked(features: int, p: float) -> Tensor | None:
            return locked_mask(batch_size, features, p, device=device, dtype=dtype) if p else None

        rates = [self.dropout_hidden] * (len(layers) - 1) + [self.dropout]
        words, p = len(self.vocabulary.weight), self.dropout_words
        return Masks(
            embedding_mask(words, p, device=device, dtype=dtype) if p else None,
            locked(self.embedding_size, self.dropout_input),
            [locked(layer.hidden_size, rate) for layer, rate in zip(layers, rates, strict=True)],
            [weight_mask(layer.weights()[0].hh, self.weight_drop) if self.weight_drop else None for layer in layers],
        )

    def loss(
        self,
        ids: Tensor,
        targets: Tensor,
        state: State,
        *,
        masks: Masks | None = None,
        buffered: bool = False,
        count_bits: bool = False,
    ) -> Result:
        """The loss of a window with stored states, for ``loss.backward()``.

        Args:
            ids, targets: ``[T, B]``.
            state: Before the window.
            masks: Drawn when absent.
            buffered: Whether to keep information buffers all the same, to see what they would hold.
            count_bits: Whether to report memory.
        """
        masks = masks or self.draw_masks(ids.shape[1])
        stack = self._stack(masks, buffered=buffered, count_bits=count_bits)
        x = self.vocabulary.embed(ids, masks.words, masks.inputs)
        groups = [layer.unbind() for layer in state]
        outputs, _, last, window = run(stack, x, groups, self._weights(masks))
        loss = self.vocabulary.loss(outputs, targets, stack.dtype)
        return Result(loss, _packed(last), window.bits() if count_bits else None)

    @torch.no_grad()
    def loss_and_backward(
        self,
        ids: Tensor,
        targets: Tensor,
        state: State,
        *,
        masks: Masks | None = None,
        count_bits: bool = False,
        wait: bool = True,
    ) -> Result:
        """The loss of a window and, added to the parameters' ``grad``, its gradient, by reversal.

        Forward in time only the last state and the information buffers are kept. Back in time, chunk by chunk, the
        states are rebuilt, decoded and differentiated: nothing of the size of the window's activations ever exists.
        Arguments as for `loss`; without ``wait`` the host does not look at a GPU's numbers, as in a CUDA graph it may
        not: the loss is NaN where a unit left the fixed-point range.
        """
        masks = masks or self.draw_masks(ids.shape[1])
        stack = self._stack(masks, reversible=True, count_bits=count_bits)
        window = stack.window(self._weights(masks), [layer.unbind() for layer in state], None)
        chunks = spans(len(ids))
        for span in chunks:
            window.forward(span, self.vocabulary.embed(ids[slice(*span)], masks.words, masks.inputs))
        strayed = window.strayed()
        if wait and strayed:
            raise UserError(RANGE_MESSAGE)
        last = _packed([layer.state for layer in window.layers])
        bits = window.bits() if count_bits else None
        total = self.vocabulary.weight.new_zeros(())
        for span in reversed(chunks):
            chunk, scale = ids[slice(*span)], 1 / ids.numel()
            outputs = window.reverse(span, self.vocabulary.embed(chunk, masks.words, masks.inputs))
            loss, grad = self.vocabulary.loss_backward(outputs, targets[slice(*span)], scale, stack.dtype)
            total += loss
            self.vocabulary.embed_backward(chunk, masks.words, masks.inputs, window.backward(grad))
        window.add_gradients(self._weights(None), masks.weights)
        return Result((total / ids.numel()).masked_fill(strayed, math.nan), last, bits)

    @torch.no_grad()
    def loss_sum(self, ids: Tensor, targets: Tensor, state: State) -> tuple[Tensor, State]:
        """The summed loss of a window, in nats, and the state after it; for evaluation."""
        window, total = self._plain_window(state), self.vocabulary.weight.new_zeros(())
        for span in spans(len(ids)):
            outputs = window.forward(span, self.vocabulary.embed(ids[slice(*span)], None, None))
            total += self.vocabulary.loss_sum(outputs, targets[slice(*span)], window.layers[0].dtype)
        window.check()
        return total, _packed([layer.state for layer in window.layers])

    @torch.no_grad()
    def forward(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """The logits ``[T, B, V]`` after each of the ids ``[T, B]``, without dropout, and the state after the last."""
        window = self._plain_window(state)
        chunks = [window.forward(s, self.vocabulary.embed(ids[slice(*s)], None, None)) for s in spans(len(ids))]
        window.check()
        return self.vocabulary.decode(torch.cat(chunks)), _packed([layer.state for layer in window.layers])

    def _layers(self) -> list[RevGRU | RevLSTM]:
        return [layer for layer in self.layers if isinstance(layer, RevGRU | RevLSTM)]

    def _weights(self, masks: Masks | None) -> list[Weights]:
        """Each layer's weights, the dropped ones in place of ``hh``."""
        weights = [layer.weights()[0] for layer in self._layers()]
        if masks is None:
            return weights
        return [layer.dropped(mask) for layer, mask in zip(weights, masks.weights, strict=True)]

    def _stack(
        self, masks: Masks | None, *, reversible: bool = False, buffered: bool = False, count_bits: bool = False
    ) -> Stack:
        return Stack(
            kind=self.kind,
            max_forget=self.max_forget,
            reversible=reversible,
            buffered=buffered,
            masks=() if masks is None else masks.outputs,
            dtype=autocast_dtype(self.vocabulary.weight.device),
            count_bits=count_bits,
        )

    def _plain_window(self, state: State) -> Window:
        return self._stack(None).window(self._weights(None), [layer.unbind() for layer in state], None)


def _packed(groups: Sequence[Sequence[Tensor]]) -> State:
    return tuple(torch.stack(list(layer)) for layer in groups)
