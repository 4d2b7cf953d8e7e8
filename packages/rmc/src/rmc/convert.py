"""Weights of the public PyTorch port, by their names there and here."""

from collections.abc import Mapping

from torch import Tensor

_CELL = {
    "qkv_projector": "blocks.0.qkv",
    "qkv_layernorm": "blocks.0.qkv_norm",
    "attended_memory_layernorm": "blocks.0.attention_norm",
    "attended_memory_layernorm2": "blocks.0.mlp_norm",
    "attention_mlp.0": "mlp.0",
    "input_projector": "input_projector",
    "input_gate_projector": "input_gates",
    "memory_gate_projector": "memory_gates",
}
_MODEL = {
    "token_to_input_encoder": "embedding",
    "output_to_embed_decoder": "projection",
    "embed_to_logit_decoder": "softmax",
}


def layer_from_port(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `rmc.RelationalMemory` with ``variant="port"`` loads, from a state of the port's RelationalMemory.

    Parameters of its language model are left out. Of the MLP's layers, which are one, the first is taken.
    """
    found = {}
    for name, value in state.items():
        module, _, parameter = name.rpartition(".")
        if name in ("forget_bias", "input_bias"):
            found[f"cell.{name}"] = value
        elif module in _CELL:
            found[f"cell.{_CELL[module]}.{parameter}"] = value
    return found


def model_from_port(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `rmc.language_model.LanguageModel` loads, from a state of the port's language model."""
    found = {f"recurrent.{name}": value for name, value in layer_from_port(state).items()}
    for name, value in state.items():
        module, _, parameter = name.rpartition(".")
        if module in _MODEL:
            found[f"{_MODEL[module]}.{parameter}"] = value
        elif name.startswith("criterion_adaptive."):
            found[f"softmax.adaptive.{name.removeprefix('criterion_adaptive.')}"] = value
    if "softmax.bias" in found:
        found["softmax.weight"] = found["embedding.weight"]
    return found
