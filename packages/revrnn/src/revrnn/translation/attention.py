"""Global attention over contexts whose width need not be that of the queries.

Scores of a query q and a context vector k (Luong, Pham & Manning 2015, arXiv 1508.04025, section 3.1; Bahdanau, Cho &
Bengio 2015, arXiv 1409.0473, appendix A.1.2):

- ``dot``: q . k, for equal widths
- ``general``: (W q) . k
- ``mlp``: v . tanh(W q + U k)
- ``mlp-conc``: w . [q; k], a linear score

The context vectors of a sentence, averaged with softmaxed scores, are joined with the query: W_out [average; q],
through tanh for ``dot`` and ``general``.

Shapes: T queries, S context vectors, B batch, H width of a query, C width of a context vector.
"""

import math
from typing import Literal, NamedTuple

import torch
from rnncore.errors import UserError
from torch import Tensor, nn

Score = Literal["dot", "general", "mlp", "mlp-conc"]


class Memory(NamedTuple):
    """What queries attend to: all that does not depend on them is computed once.

    ``values [B, S, C]``; ``keys``, what scores are computed from, ``[B, S, .]``; ``padding``, bool ``[B, S]``, true
    past a sentence's end.
    """

    values: Tensor
    keys: Tensor
    padding: Tensor

    def take(self, sentences: Tensor) -> "Memory":
        """The memory of some sentences, by their numbers."""
        return Memory(*(part.index_select(0, sentences) for part in self))


class Attention(nn.Module):
    """Attends, and joins what it found with the query.

    Parameters: ``linear_in [C, H]`` (general); ``linear_query [H, H]`` and bias, ``linear_context [H, C]``,
    ``v [1, H]`` (mlp); ``mlp_conc [1, H + C]`` (mlp-conc); ``linear_out [H, C + H]``, with a bias for mlp alone.
    """

    def __init__(self, hidden_size: int, context_size: int, score: Score = "general") -> None:
        """Raises UserError for ``dot`` with another context width than ``hidden_size``."""
        super().__init__()
        if score == "dot" and context_size != hidden_size:
            raise UserError(
                f"-global_attention dot needs contexts as wide as the hidden state, {hidden_size}, not {context_size}; "
                "use general"
            )
        self.score, self.hidden_size, self.context_size = score, hidden_size, context_size
        if score == "general":
            self.linear_in = nn.Linear(hidden_size, context_size, bias=False)
        elif score == "mlp":
            self.linear_query = nn.Linear(hidden_size, hidden_size)
            self.linear_context = nn.Linear(context_size, hidden_size, bias=False)
            self.v = nn.Linear(hidden_size, 1, bias=False)
        elif score == "mlp-conc":
            self.mlp_conc = nn.Linear(hidden_size + context_size, 1, bias=False)
        self.linear_out = nn.Linear(hidden_size + context_size, hidden_size, bias=score == "mlp")

    def memory(self, context: Tensor, lengths: Tensor) -> Memory:
        """Prepares contexts ``[S, B, C]`` of sentences of ``lengths [B]``."""
        values = context.transpose(0, 1)
        keys = values
        if self.score == "mlp":
            keys = self.linear_context(values)
        elif self.score == "mlp-conc":
            keys = values @ self.mlp_conc.weight[:, self.hidden_size :].t()
        padding = torch.arange(len(context), device=context.device) >= lengths.to(context.device)[:, None]
        return Memory(values, keys, padding)

    def forward(self, queries: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Attends.

        Args:
            queries: ``[T, B, H]``.
            memory: From `memory`.

        Returns:
            The joined vectors ``[T, B, H]``, and the weights ``[T, B, S]``, which sum to 1.
        """
        query = queries.transpose(0, 1)
        scores = self._scores(query, memory.keys).masked_fill(memory.padding[:, None], -math.inf)
        weights = torch.softmax(scores, dim=2)
        joined = self.linear_out(torch.cat([torch.bmm(weights, memory.values), query], dim=2))
        if self.score in ("dot", "general"):
            joined = torch.tanh(joined)
        return joined.transpose(0, 1), weights.transpose(0, 1)

    def _scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """``[B, T, H]`` and keys ``[B, S, .]`` to ``[B, T, S]``."""
        if self.score == "mlp":
            hidden = torch.tanh(self.linear_query(query)[:, :, None] + keys[:, None])
            scores: Tensor = self.v(hidden).squeeze(3)
            return scores
        if self.score == "mlp-conc":
            return query @ self.mlp_conc.weight[:, : self.hidden_size].t() + keys.transpose(1, 2)
        if self.score == "general":
            query = self.linear_in(query)
        return torch.bmm(query, keys.transpose(1, 2))
