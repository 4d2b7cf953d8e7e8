"""State dicts of the authors' code (github.com/Shiweiliuiiiiiii/Selfish-RNN and zihangdai/mos) to ours and back.

Names change, and rows are joined: of an uncoupled highway layer the carry gate's weights (``W_C``, ``R_C``) lie below
those of h and t in one matrix. The order of the gates is the same. The words must keep the numbers that the authors'
code gave them. Nothing here unpickles: a state dict is what ``torch.load(path, weights_only=True)`` gives.
"""

import re
from collections.abc import Mapping

import torch
from rnncore.errors import UserError
from torch import Tensor

from selfish.mos_model import MoSModel
from selfish.onlstm_model import ONLSTMModel
from selfish.rhn_model import RHNModel
from selfish.stacked_lstm import StackedLSTM

Model = StackedLSTM | RHNModel | ONLSTMModel | MoSModel


def from_original(model: Model, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict for ``model`` from one with the authors' names.

    Args:
        model: Has the sizes that the authors' model was trained with.
        state_dict: Where ``decoder.weight`` is missing and the model is tied, the embedding serves for both. What
            weight drop left in an AWD-LSTM at its last step, ``rnns.0.module.weight_hh_l0`` beside
            ``rnns.0.module.weight_hh_l0_raw``, is a copy with elements dropped and is ignored.

    Raises:
        UserError: A name is unknown or missing, a shape is not the model's, or a tied model gets two matrices.
    """
    found, names, own = _without_weight_drop(state_dict), _original_names(model), to_original(model)
    encoder, decoder = names["encoder.weight"][0], names["decoder.weight"][0]
    if model.decoder.weight is model.encoder.weight and encoder in found:
        only = found[encoder]
        if not torch.equal(found.setdefault(decoder, only), only):
            raise UserError(f"the state dict has another {decoder} than {encoder}: its model is not tied")
    _refuse("lacks", [name for name in own if name not in found])
    _refuse("has names that are not this model's:", [name for name in found if name not in own])
    for name, tensor in own.items():
        if found[name].shape != tensor.shape:
            shapes = f"{list(found[name].shape)} where this model needs {list(tensor.shape)}"
            raise UserError(f"the state dict has {name} {shapes}")
    return {ours: found[parts[0]] if len(parts) == 1 else _joined(found, parts) for ours, parts in names.items()}


def to_original(model: Model) -> dict[str, Tensor]:
    """The state dict of ``model`` with the authors' names (of an AWD-LSTM, those without weight drop)."""
    result, own = {}, model.state_dict()
    for ours, parts in _original_names(model).items():
        if len(parts) == 1:
            result[parts[0]] = own[ours]
            continue
        carry = len(own[ours]) // 3
        result |= zip(parts, torch.split(own[ours], [2 * carry, carry]), strict=True)
    return result


def _joined(found: Mapping[str, Tensor], parts: tuple[str, ...]) -> Tensor:
    return torch.cat([found[name] for name in parts])


def _original_names(model: Model) -> dict[str, tuple[str, ...]]:
    """For each of our names the authors', whose rows ours has one after the other."""
    coupled = not isinstance(model, RHNModel) or model.couple
    return {ours: _theirs(model, ours, coupled) for ours in model.state_dict()}


def _theirs(model: Model, ours: str, coupled: bool) -> tuple[str, ...]:
    match = re.fullmatch(r"layers\.(\d+)\.(?:module\.)?(weight|bias)_(ih|hh)(?:_l0|\.(\d+))?", ours)
    if match is None:
        return (_outside(model, ours),)
    layer, kind, side, depth = match.groups()
    if isinstance(model, StackedLSTM):
        return (f"rnn.{kind}_{side}_l{layer}",)
    if isinstance(model, ONLSTMModel):
        return (f"rnn.cells.{layer}.{'ih.0' if side == 'ih' else 'hh'}.{kind}",)
    if isinstance(model, MoSModel):
        return (f"rnns.{layer}.{kind}_{side}_l0",)
    matrix = f"rnns.{layer}.highways.{depth or 0}.{'W' if side == 'ih' else 'R'}"
    return (f"{matrix}.{kind}",) if coupled else (f"{matrix}.{kind}", f"{matrix}_C.{kind}")


def _outside(model: Model, ours: str) -> str:
    """Of a parameter outside the layers."""
    if isinstance(model, RHNModel):
        return ours.replace("encoder", "embedding").replace("decoder", "fc1")
    return ours.replace("latent", "latent.0")


def _without_weight_drop(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names as they are without weight drop."""
    found = {}
    for name, tensor in state_dict.items():
        if f"{name}_raw" not in state_dict:
            found[re.sub(r"^(rnns\.\d+)\.module\.(\w+?)(_raw)?$", r"\1.\2", name)] = tensor
    return found


def _refuse(fault: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise UserError(f"the state dict {fault} {', '.join(names[:3])}{more}")
