"""The language models that the reversible ones are compared with: torch's GRU and LSTM with the same regularisation.

Shapes: T time steps, B batch, V vocabulary, H units of a layer.
"""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from rnncore.device import autocast_dtype
from rnncore.dropout import LockedDropout, WeightDrop, embedding_mask
from rnncore.windows import detach
from torch import Tensor, nn

from revrnn.tied_vocabulary import TiedVocabulary

State = Sequence[Any]


class BaselineLM(nn.Module):
    """A language model of ``torch.nn.GRU`` or ``torch.nn.LSTM`` layers; sizes and dropout as of `ReversibleLM`.

    The state is a list with, for each layer, ``[1, B, H]`` (GRU) or a pair of them (LSTM).
    """

    def __init__(
        self,
        kind: Literal["gru", "lstm"],
        vocabulary_size: int,
        *,
        embedding_size: int = 650,
        hidden_size: int = 1150,
        num_layers: int = 1,
        dropout: float = 0.4,
        dropout_hidden: float = 0.3,
        dropout_input: float = 0.4,
        dropout_words: float = 0.1,
        weight_drop: float = 0.5,
    ) -> None:
        """Makes the parameters. ``dropout`` is of the last layer's outputs, ``dropout_hidden`` of the others'."""
        super().__init__()
        self.kind, self.dropout_words = kind, dropout_words
        self.vocabulary = TiedVocabulary(vocabulary_size, embedding_size)
        sizes = [embedding_size, *[hidden_size] * (num_layers - 1), embedding_size]
        layer = nn.GRU if kind == "gru" else nn.LSTM
        pairs = itertools.pairwise(sizes)
        self.layers = nn.ModuleList(
            WeightDrop(layer(pair[0], pair[1]), ["weight_hh_l0"], weight_drop) for pair in pairs
        )
        self.sizes = sizes[1:]
        self.drop_input = LockedDropout(dropout_input)
        rates = [dropout_hidden] * (num_layers - 1) + [dropout]
        self.drop_outputs = nn.ModuleList(LockedDropout(rate) for rate in rates)

    def initial_state(self, batch_size: int) -> State:
        """Zeros."""
        weight = self.vocabulary.weight
        zeros = [weight.new_zeros(1, batch_size, size) for size in self.sizes]
        return zeros if self.kind == "gru" else [(zero, zero) for zero in zeros]

    def loss(self, ids: Tensor, targets: Tensor, state: State) -> tuple[Tensor, State]:
        """The mean loss of a window ``[T, B]`` in nats per token, for ``backward``, and the state after it."""
        outputs, state = self._outputs(ids, state)
        return self.vocabulary.loss(outputs, targets, autocast_dtype(ids.device)), detach(state)

    @torch.no_grad()
    def loss_sum(self, ids: Tensor, targets: Tensor, state: State) -> tuple[Tensor, State]:
        """The summed loss of a window, in nats, and the state after it; for evaluation."""
        outputs, state = self._outputs(ids, state)
        return self.vocabulary.loss_sum(outputs, targets, autocast_dtype(ids.device)), state

    @torch.no_grad()
    def forward(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """The logits ``[T, B, V]`` after each of the ids ``[T, B]``, and the state after the last."""
        outputs, state = self._outputs(ids, state)
        return self.vocabulary.decode(outputs), state

    def _outputs(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        words, p = None, self.dropout_words if self.training else 0.0
        if p:
            weight = self.vocabulary.weight
            words = embedding_mask(len(weight), p, device=weight.device, dtype=weight.dtype)
        x, last = self.drop_input(self.vocabulary.embed(ids, words, None)), []
        for layer, drop, before in zip(self.layers, self.drop_outputs, state, strict=True):
            x, after = layer(x, before)
            x = drop(x)
            last.append(after)
        return x.to(self.vocabulary.weight.dtype), last
