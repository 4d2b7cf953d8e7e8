"""The language model of section 4.3: embedding, dropout, one gated layer, and a decoder that shares the embedding.

Shapes: T time steps, B batch, V vocabulary, E embedding, H hidden units.
"""

from typing import Any

import torch
from rnncore.device import autocast_dtype
from rnncore.loss import cross_entropy_sum, linear_cross_entropy
from torch import Tensor, nn

from urlstm.layer import make_layer

#: The state of the layer: a pair of tensors ``[1, B, H]`` for the LSTMs, one for the GRUs; None for zeros.
State = Any


class LanguageModel(nn.Module):
    """Predicts the next token from all before it. What `rnncore.evaluation.evaluate` needs of a model is here."""

    def __init__(
        self,
        gate: str,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        *,
        dropout: float = 0.0,
        reset_state: bool = False,
        forget_bias: float | None = 1.0,
        trainable_bias: bool = True,
        t_max: int | None = None,
    ) -> None:
        """Build the layers.

        Args:
            gate, forget_bias, trainable_bias, t_max: Of `urlstm.layer.make_layer`.
            vocabulary_size: V.
            embedding_size: E.
            hidden_size: H.
            dropout: Probability that an element of an embedded token is dropped.
            reset_state: Whether every window begins from zeros, whatever state it is given.
        """
        super().__init__()
        self.reset_state = reset_state
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        # The decoder's logits are products with this weight: at torch's own N(0, 1) they would start near sqrt(E).
        nn.init.normal_(self.embedding.weight, std=embedding_size**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.recurrent = make_layer(
            gate, embedding_size, hidden_size, forget_bias=forget_bias, trainable_bias=trainable_bias, t_max=t_max
        )
        self.projection = nn.Linear(hidden_size, embedding_size)

    def initial_state(self, batch_size: int) -> State:
        """None, which stands for zeros in every layer."""
        return None

    def embedded(self, ids: Tensor) -> Tensor:
        """What the layer reads: ``[T, B, E]`` from ids ``[T, B]``."""
        x: Tensor = self.dropout(self.embedding(ids))
        return x

    def forward(self, ids: Tensor, state: State = None) -> tuple[Tensor, State]:
        """What the decoder multiplies with the embedding, ``[T, B, E]``, and the state after a window ``[T, B]``."""
        output, after = self.recurrent(self.embedded(ids), None if self.reset_state else state)
        return self.projection(output), after

    def loss(self, ids: Tensor, targets: Tensor, state: State) -> tuple[Tensor, State]:
        """The mean cross entropy of a window ``[T, B]`` in nats per token, and the state after it."""
        decoded, after = self(ids, state)
        return linear_cross_entropy(*self._rows(decoded, targets), autocast_dtype(ids.device)), after

    @torch.no_grad()
    def loss_sum(self, ids: Tensor, targets: Tensor, state: State) -> tuple[Tensor, State]:
        """The summed loss of a window, in nats, and the state after it; for evaluation."""
        decoded, after = self(ids, state)
        return cross_entropy_sum(*self._rows(decoded, targets), autocast_dtype(ids.device)), after

    def _rows(self, decoded: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, None, Tensor]:
        weight = self.embedding.weight
        return decoded.flatten(0, 1).to(weight.dtype), weight, None, targets.flatten()
