"""State dicts of the authors' code (github.com/salesforce/awd-lstm-lm), by its parameter names, to ours and back.

A checkpoint of the authors' code is a pickled list [model, criterion, optimizer] of its own classes. Nothing here
unpickles it: unpickling runs what the file says. Where that code can be imported, and for a file that you trust, this
leaves a state dict behind (torch 2.6 and later need ``weights_only=False``, those before 1.13 do not know it)::

    import torch
    model, criterion, _ = torch.load("PTB.pt", map_location="cpu", weights_only=False)
    criterion = {f"criterion.{name}": tensor for name, tensor in criterion.state_dict().items()}
    torch.save({**model.state_dict(), **criterion}, "PTB_state.pt")

and here::

    model = AWDModel("LSTM", vocabulary_size=10_000)  # the sizes that it was trained with
    model.load_state_dict(from_original(torch.load("PTB_state.pt", weights_only=True)))

Only names change. The order of the gates, that of a QRNN layer's two inputs and that of the tombstones are the same.
The words must keep the numbers that the authors' code gave them.
"""

import re
from collections.abc import Callable, Mapping

from rnncore.errors import UserError
from torch import Tensor

#: Names outside the layers, ours to the authors'.
_OUTSIDE = {
    "embedding.weight": "encoder.weight",
    "decoder.weight": "decoder.weight",
    "decoder.bias": "decoder.bias",
    "criterion.tail_vectors": "criterion.tail_vectors",
    "criterion.tail_bias": "criterion.tail_bias",
}
#: Names in a layer, ours to the authors' with weight drop. Without it theirs are as ours.
_RECURRENT = {
    "weight_ih_l0": "module.weight_ih_l0",
    "weight_hh_l0": "module.weight_hh_l0_raw",
    "bias_ih_l0": "module.bias_ih_l0",
    "bias_hh_l0": "module.bias_hh_l0",
}
_QRNN = {"linear.weight": "linear.module.weight_raw", "linear.bias": "linear.module.bias"}
_INSIDE = {**_RECURRENT, **_QRNN}
_OUR_OUTSIDE = {theirs: ours for ours, theirs in _OUTSIDE.items()}
_OUR_INSIDE = {theirs: ours for ours, theirs in _INSIDE.items()} | {ours: ours for ours in _INSIDE}


def from_original(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of an `awdlm.model.AWDModel` from one with the authors' names; the tensors are the same objects.

    Args:
        state_dict: Of a model with LSTM, GRU or QRNN layers, with weight drop or without. Where ``decoder.weight`` is
            missing, ``encoder.weight`` serves for both. Parameters of the criterion are under ``criterion.``. What
            weight drop left in the model at its last step, ``rnns.0.module.weight_hh_l0`` beside
            ``rnns.0.module.weight_hh_l0_raw``, is a copy with elements dropped and is ignored.

    Raises:
        UserError: A name is unknown, is missing, or stands for the same as another.
    """
    kept = {name: tensor for name, tensor in state_dict.items() if not _is_dropped_copy(name)}
    ours = {name: _our_name(name) for name in kept}
    _refuse("has names that are not the authors':", [name for name in kept if ours[name] is None])
    twice = [name for name in kept if list(ours.values()).count(ours[name]) > 1]
    _refuse("has a parameter with and without weight drop:", twice)
    weight_drop = any(".module." in name for name in kept)
    found = {name: kept[theirs] for theirs, name in ours.items() if name is not None}
    return _complete(found, lambda name: _original_name(name, weight_drop))


def to_original(state_dict: Mapping[str, Tensor], *, weight_drop: bool = True) -> dict[str, Tensor]:
    """The state dict with the authors' names from that of an `awdlm.model.AWDModel`; the tensors are the same objects.

    Args:
        state_dict: Without ``decoder.weight``, ``embedding.weight`` serves for both.
        weight_drop: Whether the names are those of layers with weight drop. With ``--wdrop 0`` the authors' LSTM and
            GRU layers have none; their QRNN layers always have it.

    Raises:
        UserError: A name is unknown or missing.
    """
    _refuse("has names that are not AWDModel's:", [name for name in state_dict if not _original_name(name, True)])
    complete = _complete(state_dict, lambda name: name)
    return {str(_original_name(name, weight_drop)): tensor for name, tensor in complete.items()}


def _is_dropped_copy(theirs: str) -> bool:
    return re.fullmatch(r"rnns\.\d+\.(module\.weight_hh_l0|linear\.module\.weight)", theirs) is not None


def _our_name(theirs: str) -> str | None:
    layer = re.fullmatch(r"rnns\.(\d+)\.(.+)", theirs)
    if layer is None:
        return _OUR_OUTSIDE.get(theirs)
    inside = _OUR_INSIDE.get(layer[2])
    return inside and f"layers.{layer[1]}.module.{inside}"


def _original_name(ours: str, weight_drop: bool) -> str | None:
    layer = re.fullmatch(r"layers\.(\d+)\.module\.(.+)", ours)
    if layer is None:
        return _OUTSIDE.get(ours)
    inside = _INSIDE.get(layer[2])
    return inside and f"rnns.{layer[1]}.{inside if weight_drop else layer[2]}"


def _complete(found: Mapping[str, Tensor], shown: Callable[[str], str | None]) -> dict[str, Tensor]:
    """All of a model's tensors by our names, in its order; ``shown`` gives the name by which the caller knows one."""
    numbers = {name.split(".")[1] for name in found if name.startswith("layers.")}
    inside = _QRNN if any(".linear." in name for name in found) else _RECURRENT
    layers = [f"layers.{number}.module.{name}" for number in range(max(1, len(numbers))) for name in inside]
    split = any(name.startswith("criterion.") for name in found)
    outside = [name for name in _OUTSIDE if split or not name.startswith("criterion.")]
    expected = [outside[0], *layers, *outside[1:]]
    _refuse("lacks", [str(shown(name)) for name in expected if name not in found and name != "decoder.weight"])
    _refuse("mixes layers of different kinds:", [str(shown(name)) for name in found if name not in expected])
    return {name: found[name if name in found else "embedding.weight"] for name in expected}


def _refuse(fault: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise UserError(f"the state dict {fault} {', '.join(names[:3])}{more}")
