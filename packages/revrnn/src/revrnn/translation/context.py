"""What the decoder attends to (Reversible RNNs, section 5): hidden states, embeddings, or slices of either.

Attention to whole hidden states would need all of them stored. Embeddings are computed again from token ids, and a
slice is a few units of the hidden state, saved at each step instead of going through the information buffer.

Shapes: S source steps, B batch, E embedding size, H hidden units in two groups of G, N units of the slice, C width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from rnncore.errors import UserError
from torch import Tensor

ContextType = Literal["hidden", "emb", "slice", "slice_emb", "linear"]
Location = Literal["start", "end", "both"]


@dataclass(frozen=True, kw_only=True)
class ContextShape:
    """A kind of context and its sizes.

    ``hidden``: all H units; ``emb``: the embedding; ``slice``: N units; ``slice_emb``: both, embedding first;
    ``linear``: a learned linear map of what slice_emb has, H wide. ``slices``: how many first units of each of the two
    groups of the hidden state are attended to.
    """

    kind: ContextType
    embedding_size: int
    hidden_size: int
    slices: tuple[int, int]

    @property
    def has_embedding(self) -> bool:
        """Whether embeddings are part of it."""
        return self.kind in ("emb", "slice_emb", "linear")

    @property
    def raw_width(self) -> int:
        """The width of embedding and units together."""
        return self.embedding_size * self.has_embedding + sum(self.slices)

    @property
    def width(self) -> int:
        """C."""
        return self.hidden_size if self.kind == "linear" else self.raw_width

    def units(self, hidden: Tensor) -> Tensor:
        """The sliced units ``[..., N]`` of hidden states ``[..., H]``."""
        group = self.hidden_size // 2
        if self.slices == (group, self.hidden_size - group):
            return hidden
        return torch.cat([hidden[..., : self.slices[0]], hidden[..., group : group + self.slices[1]]], dim=-1)

    def spread(self, units: Tensor) -> Tensor:
        """The transpose of `units`: ``[..., N]`` in its place among zeros, ``[..., H]``."""
        group = self.hidden_size // 2
        hidden = units.new_zeros(*units.shape[:-1], self.hidden_size)
        hidden[..., : self.slices[0]] = units[..., : self.slices[0]]
        hidden[..., group : group + self.slices[1]] = units[..., self.slices[0] :]
        return hidden


def context_shape(
    kind: ContextType, *, embedding_size: int, hidden_size: int, slice_dim: int, location: Location
) -> ContextShape:
    """The shape that options describe.

    Args:
        kind: The context type.
        embedding_size, hidden_size: E and H.
        slice_dim: N, from 0 to H.
        location: ``start`` takes the first units of group 1 and, past G, of group 2; ``end`` of group 2, then 1;
            ``both`` of each group half.

    Raises:
        UserError: ``slice_dim`` is out of range, or 0 for the context ``slice``.
    """
    if not 0 <= slice_dim <= hidden_size:
        raise UserError(f"-slice_dim must be from 0 to -rnn_size {hidden_size}, not {slice_dim}")
    if kind == "slice" and slice_dim == 0:
        raise UserError("-context_type slice needs a -slice_dim above 0: there would be nothing to attend to")
    size = {"hidden": hidden_size, "emb": 0}.get(kind, slice_dim)
    group = hidden_size // 2
    first = {"start": min(size, group), "end": max(0, size - (hidden_size - group)), "both": size - size // 2}[location]
    first = min(group, max(first, size - (hidden_size - group)))  # both fit, for odd sizes too
    slices = (first, size - first)
    return ContextShape(kind=kind, embedding_size=embedding_size, hidden_size=hidden_size, slices=slices)
