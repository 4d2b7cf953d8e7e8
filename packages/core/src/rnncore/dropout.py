"""Dropout for recurrent networks: locked, embedding and weight dropout.

Sources: Gal & Ghahramani 2016 (arXiv 1512.05287) for one mask over all time steps and for dropping whole words;
Merity, Keskar & Socher 2017 (arXiv 1708.02182) for weight drop.

Shapes: T time steps, B batch, F features, V vocabulary, E embedding size. All masks are scaled: an element is 0 with
probability p and 1/(1-p) otherwise. A mask is a function of the generator's state (torch's default one for its
device where none is given), whatever the number of threads.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rnncore import native
from rnncore.device import let_weights_lie_apart, torch_rnn
from rnncore.errors import UserError
from rnncore.opaque import opaque


def checked_probability(p: float) -> float:
    """``p`` itself if it is a dropout probability, 0 <= p < 1; else a ``UserError`` (a NaN too)."""
    if not 0 <= p < 1:
        raise UserError(f"a dropout probability must be at least 0 and below 1, but it is {p}")
    return p


def locked_mask(
    batch_size: int,
    features: int,
    p: float,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The mask of Gal & Ghahramani 2016, one for all time steps of a window: [1, B, F], to multiply with [T, B, F]."""
    return _mask((1, batch_size, features), p, device, dtype, generator)


def embedding_mask(
    num_embeddings: int,
    p: float,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A mask that drops whole words of the vocabulary (Gal & Ghahramani 2016, section 4.2): [V, 1]."""
    return _mask((num_embeddings, 1), p, device, dtype, generator)


def weight_mask(weight: Tensor, p: float, *, generator: torch.Generator | None = None) -> Tensor:
    """A mask of the shape, dtype and device of ``weight``, for DropConnect (Merity et al. 2017, section 2)."""
    return _mask(tuple(weight.shape), p, weight.device, weight.dtype, generator)


@opaque
def dropped_weight(
    weight: Tensor, p: float, *, rescale: bool = True, generator: torch.Generator | None = None
) -> Tensor:
    """``weight * weight_mask(weight, p)`` with its gradient, on CPU each by one native pass over the weight.

    Without ``rescale``, what is kept stays as large as it is.
    """
    scale = 1 / (1 - checked_probability(p)) if rescale else 1.0
    result: Tensor = _Dropped.apply(weight, p, scale, generator)  # type: ignore[no-untyped-call]
    return result


def embedded_dropout(
    weight: Tensor,
    ids: Tensor,
    p: float = 0.0,
    *,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The embeddings of ``ids`` with whole words dropped: ``(weight * mask)[ids]`` (Merity et al. 2017, section 4.3).

    The rows are gathered first and scaled after, so that nothing of the size of ``weight`` [V, E] is copied.
    ``mask`` [V, 1] comes from ``embedding_mask``; where it is None, one is drawn with probability ``p`` (0: no
    dropout). ``ids`` int64 of any shape; the result is [*ids.shape, E]. The gradient is dense and reaches every word
    that was kept, the last of the vocabulary included.
    """
    checked_probability(p)
    if mask is None and p > 0:
        mask = _mask((weight.shape[0], 1), p, weight.device, weight.dtype, generator)
    rows = nn.functional.embedding(ids, weight)
    return rows if mask is None else rows * mask[ids]


class LockedDropout(nn.Module):
    """Dropout of [T, B, F] with one mask for all time steps (``locked_mask``); the identity in evaluation."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = checked_probability(p)

    def forward(self, input: Tensor) -> Tensor:
        """[T, B, F] to the same; ``ValueError`` for another number of dimensions."""
        if input.dim() != 3:
            raise ValueError(f"locked dropout needs [time, batch, features], got {list(input.shape)}")
        if not self.training or self.p == 0:
            return input
        return input * locked_mask(input.shape[1], input.shape[2], self.p, device=input.device, dtype=input.dtype)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class WeightDrop(nn.Module):
    """A module some of whose weights lose elements at random in training: the weight drop of Merity et al. 2017.

    ``names`` are parameters of ``module`` (dots reach into submodules), for example ``["weight_hh_l0"]`` of
    ``torch.nn.LSTM``, whose fused kernels stay in use. Each call in training draws one mask per name, which
    serves all time steps. The full weights stay the parameters of ``module`` under their own names: optimizers and
    ``state_dict`` see nothing else, and gradients reach them through the mask. Evaluation uses them as they are.

    Raises ``ValueError`` for a name that is no parameter of ``module``, ``UserError`` for a bad ``p``.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], p: float) -> None:
        super().__init__()
        known = dict(module.named_parameters(remove_duplicate=False))
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"no parameters {unknown} in {type(module).__name__}, which has {list(known)}")
        self.module = module
        self.names = tuple(names)
        self.p = checked_probability(p)
        if isinstance(module, nn.RNNBase) and p > 0:
            # torch would move all weights into one new block at each call, away from where a CUDA graph reads them.
            module.flatten_parameters = _leave_in_place  # type: ignore[method-assign]
            let_weights_lie_apart()  # one is new each time

    def forward(self, *inputs: Any) -> Any:
        """What ``module`` makes of ``inputs``, with freshly dropped weights in training."""
        weight = next(self.parameters())
        if not (weight.is_cuda and isinstance(self.module, nn.RNNBase)):
            return self._call(inputs)
        with torch_rnn(weight.device):
            return self._call((inputs[0].to(weight.dtype), *inputs[1:]))

    def _call(self, inputs: tuple[Any, ...]) -> Any:
        if not (self.training and self.p > 0):
            return self.module(*inputs)
        raw = {name: self.module.get_parameter(name) for name in self.names}
        dropped = {name: dropped_weight(weight, self.p) for name, weight in raw.items()}
        try:
            return torch.func.functional_call(self.module, dropped, inputs)
        finally:
            for name, weight in raw.items():
                # torch.nn.LSTM keeps the weights that it last ran with, and with them their autograd graph.
                owner, _, leaf = name.rpartition(".")
                setattr(self.module.get_submodule(owner), leaf, weight)

    def extra_repr(self) -> str:
        return f"names={list(self.names)}, p={self.p}"


def _leave_in_place() -> None:
    """Stands in for ``RNNBase.flatten_parameters``."""


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, p: float, scale: float, generator: torch.Generator | None) -> Tensor:
        ctx.scale, ctx.native = scale, _native(weight)
        dropped: Tensor
        if ctx.native:
            draws = _draws(p, weight.device, generator)
            words: list[int] = draws.stream.state["state"]["state"].view(np.int64).tolist()
            bits = 8 * np.dtype(draws.bits).itemsize
            dropped, kept = torch.ops.rnncore.drop_weight(weight.contiguous(), words, bits, draws.last_kept, scale)
        else:
            kept = _kept(tuple(weight.shape), p, weight.device, weight.dtype, generator)
            dropped = torch.addcmul(weight.new_zeros(()), weight, kept, value=scale)
        ctx.save_for_backward(kept)
        return dropped

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (kept,) = ctx.saved_tensors
        if ctx.native:
            grad: Tensor = torch.ops.rnncore.drop_gradient(grads[0].contiguous(), kept, ctx.scale)
        else:
            grad = torch.addcmul(kept.new_zeros(()), grads[0], kept, value=ctx.scale)
        return grad, None, None, None


def _native(weight: Tensor) -> bool:
    """Whether there is native code for such a weight; the first call may compile it."""
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64):
        return False
    if torch.compiler.is_compiling():
        return False
    return native.load(Path(__file__).with_name("kernels") / "dropout.cpp")


def _mask(
    shape: tuple[int, ...],
    p: float,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    generator: torch.Generator | None,
) -> Tensor:
    return _kept(shape, p, device, dtype, generator).div_(1.0 - p)


def _kept(
    shape: tuple[int, ...],
    p: float,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Zeros with probability p, ones elsewhere."""
    checked_probability(p)
    mask = torch.empty(shape, device=device, dtype=dtype)
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return mask.bernoulli_(1.0 - p, generator=generator)
    return _fill_from_bits(mask, p, generator)


def _fill_from_bits(mask: Tensor, p: float, generator: torch.Generator | None) -> Tensor:
    """Set elements to 0 with probability ``p``, to the nearest 1/65536, else to 1.

    ``Tensor.bernoulli_`` draws one element after another on CPU and takes about ten times as long (torch 2.13). The
    bits here are those of NumPy's SFC64, whose stream is fixed, seeded from torch's generator.
    """
    stream, bits, last_kept = _draws(p, mask.device, generator)
    words = stream.random_raw(-(-mask.numel() * np.dtype(bits).itemsize // 8))
    draws = torch.from_numpy(words.view(bits)[: mask.numel()]).view(mask.shape)
    return torch.le(draws, last_kept, out=mask)


class _Draws(NamedTuple):
    """Random bits, which ``bits`` cuts into numbers: an element is kept if its number is at most ``last_kept``."""

    stream: np.random.SFC64
    bits: type[np.int8 | np.int16]
    last_kept: int


def _draws(p: float, device: torch.device, generator: torch.Generator | None) -> _Draws:
    keep = 1.0 - checked_probability(p)
    bits = np.int8 if (keep * 256).is_integer() else np.int16  # the narrower are cheaper and exact for p = 1/2
    steps = 256 if bits is np.int8 else 65536
    seed = int(torch.empty((), dtype=torch.int64, device=device).random_(generator=generator))
    return _Draws(np.random.SFC64(seed), bits, max(round(keep * steps), 1) - 1 - steps // 2)
