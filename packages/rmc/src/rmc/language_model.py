"""The language model around a relational memory (Santoro et al. 2018, section 4), and around its rivals.

Shapes: T time steps, B batch, V vocabulary, E embedding size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from rnncore.errors import UserError
from torch import Tensor, nn

from rmc.layer import RelationalMemory
from rmc.rnn import StackedRNN
from rmc.softmax import AdaptiveSoftmax, FullSoftmax


class LanguageModel(nn.Module):
    """Predicts the next token from all before it: embedding, dropout, recurrent layers, dropout, softmax.

    A memory's output is first brought to the embedding's size, so that the softmax can share the embedding's weight.
    What `rnncore.evaluation.evaluate` needs of a model is here.
    """

    def __init__(
        self,
        recurrent: RelationalMemory | StackedRNN,
        vocabulary_size: int,
        embedding_size: int,
        *,
        dropout: float = 0.5,
        tied: bool = True,
        cutoffs: Sequence[int] | None = None,
    ) -> None:
        """Makes the parameters that are not the recurrent layer's.

        Args:
            recurrent: The layer, of inputs of E numbers.
            vocabulary_size: V.
            embedding_size: E.
            dropout: Of the embedding's and the decoder's inputs, element by element.
            tied: Whether embedding and softmax share a weight; not with an adaptive softmax.
            cutoffs: Of an adaptive softmax; without them it is a full one.

        Raises:
            UserError: The output's size is not the embedding's, so that they cannot be tied.
        """
        super().__init__()
        self.recurrent, self.dropout = recurrent, nn.Dropout(dropout)
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        features = recurrent.output_size
        self.projection: nn.Module = nn.Identity()
        if isinstance(recurrent, RelationalMemory):
            self.projection, features = nn.Linear(features, embedding_size), embedding_size
        if cutoffs is not None:
            self.softmax: FullSoftmax | AdaptiveSoftmax = AdaptiveSoftmax(vocabulary_size, features, cutoffs)
        elif tied:
            if features != embedding_size:
                raise UserError(f"outputs of {features} and embeddings of {embedding_size} cannot share a weight")
            # The logits are products with this weight: at N(0, 1) they would start near the root of E.
            nn.init.normal_(self.embedding.weight, std=embedding_size**-0.5)
            self.softmax = FullSoftmax(vocabulary_size, features, self.embedding.get_parameter("weight"))
        else:
            nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
            self.softmax = FullSoftmax(vocabulary_size, features)

    def initial_state(self, batch_size: int) -> Any:
        """The recurrent state before a text."""
        return self.recurrent.initial_state(batch_size)

    def forward(self, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        """What the softmax takes, ``[T, B, features]``, and the state after a window ``[T, B]``."""
        output, after = self.recurrent(self.dropout(self.embedding(ids)), state)
        return self.dropout(self.projection(output)), after

    def loss(self, ids: Tensor, targets: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The mean cross entropy of a window ``[T, B]`` in nats per token, and the state after it."""
        output, after = self(ids, state)
        return self.softmax.loss(self._rows(output), targets.flatten()), after

    @torch.no_grad()
    def loss_sum(self, ids: Tensor, targets: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The summed loss of a window, in nats, and the state after it; for evaluation."""
        output, after = self(ids, state)
        return self.softmax.loss_sum(self._rows(output), targets.flatten()), after

    def log_probabilities(self, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Log probabilities ``[T, B, V]`` of the token after each of ``ids [T, B]``, and the state after the last."""
        output, after = self(ids, state)
        return self.softmax.log_probabilities(self._rows(output)).view(*ids.shape, -1), after

    def _rows(self, output: Tensor) -> Tensor:
        return output.flatten(0, 1).to(self.embedding.weight.dtype)
