"""Arithmetic of a sparse network against the dense one, counted as papers on sparse training count it.

A weight that lives is one multiplication and one addition for each token in the forward pass, and twice that in the
backward pass: the gradients by the inputs and by the weights. Biases, gates and losses are left out. This is what
arithmetic on non-zeros alone would need; dense products, which training uses here, take the dense figure.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from selfish.selection import count


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Operations for each token."""

    dense_inference: int
    sparse_inference: int

    @property
    def dense_training(self) -> int:
        """Forward and backward."""
        return 3 * self.dense_inference

    @property
    def sparse_training(self) -> int:
        """Forward and backward."""
        return 3 * self.sparse_inference

    @property
    def share(self) -> float:
        """Sparse over dense; the same in training and inference."""
        return self.sparse_inference / self.dense_inference

    def __str__(self) -> str:
        return (
            f"inference {_millions(self.sparse_inference)} of {_millions(self.dense_inference)} operations a token, "
            f"training {_millions(self.sparse_training)} of {_millions(self.dense_training)} ({self.share:.1%})"
        )


def flops_per_token(
    module: nn.Module,
    masks: Mapping[str, Tensor],
    *,
    multiplied: Iterable[str] = (),
    times: Mapping[str, int] | None = None,
) -> Flops:
    """Of all products with weight matrices of ``module``, of which each is used once a token.

    Args:
        module: Embeddings are looked up and cost nothing, unless another module of it shares their weight.
        masks: By parameter; those without one are dense.
        multiplied: Embeddings that are decoders too, where the module does not say so by a second name.
        times: Of parameters that are used more than once a token, as the decoder of a mixture is, how often.
    """
    uses = {} if times is None else times
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    used = {name: module.get_parameter(name) for name in multiplied}
    for part in module.modules():
        if not isinstance(part, nn.Embedding):
            for parameter in part.parameters(recurse=False):
                if parameter.ndim >= 2:
                    used[names[id(parameter)]] = parameter
    dense = sum(2 * uses.get(n, 1) * parameter.numel() for n, parameter in used.items())
    sparse = sum(
        2 * uses.get(n, 1) * (count(masks[n]) if n in masks else parameter.numel()) for n, parameter in used.items()
    )
    return Flops(dense_inference=dense, sparse_inference=sparse)


def _millions(operations: int) -> str:
    return f"{operations / 1e6:,.2f} M"
