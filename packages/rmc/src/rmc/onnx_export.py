"""A language model as an ONNX file: one time step, from a token and a state to log probabilities and the next state.

Shapes: B batch, V vocabulary.
"""

import importlib.util
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rnncore.atomic_file import cannot_write
from rnncore.errors import UserError
from torch import Tensor, nn

from rmc.language_model import LanguageModel
from rmc.layer import RelationalMemory
from rmc.rnn import StackedRNN

#: What torch's exporter imports.
NEEDED = ("onnx", "onnxscript")


class OneStep(nn.Module):
    """``(ids [B], *state)`` to ``(log probabilities [B, V], *state)``; a state's tensors have the batch first."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """One step, by the equations of the cell where the layer is a memory."""
        model = self.model
        x = model.embedding(ids)
        recurrent = model.recurrent
        if isinstance(recurrent, RelationalMemory):
            memory, _ = recurrent.cell(x, state[0])
            output, after = memory.flatten(1), [memory]
        else:
            output, after = _plain_step(recurrent, x, list(state))
        return model.softmax.log_probabilities(model.projection(output)), *after


def state_of(model: LanguageModel, batch_size: int) -> list[Tensor]:
    """The state before a text, as `OneStep` takes it: of each layer h, or h and c, ``[B, H]``; or the memory."""
    state = model.initial_state(batch_size)
    if isinstance(state, Tensor):
        return [state]
    parts = [part for layer in state for part in (layer if isinstance(layer, tuple) else (layer,))]
    return [part[0] for part in parts]


def export(model: LanguageModel, path: Path) -> None:
    """Writes the file. Inputs are ``ids``, ``state0``, ...; outputs ``log_probabilities``, ``next0``, ....

    Raises:
        UserError: The file cannot be written, or a package is missing.
    """
    require_onnx(str(path))
    step = OneStep(model).cpu().eval()
    states = state_of(model, 2)
    names = [f"state{k}" for k in range(len(states))]
    batch = torch.export.Dim("batch")
    shapes: Any = {"ids": {0: batch}, "state": tuple({0: batch} for _ in states)}
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                step,
                (torch.zeros(2, dtype=torch.int64), *states),
                str(path),
                input_names=["ids", *names],
                output_names=["log_probabilities", *(f"next{k}" for k in range(len(states)))],
                dynamic_shapes=shapes,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except OSError as error:
        raise cannot_write(path, error) from error


def require_onnx(path: str) -> None:
    """Refuses an export that would fail in the end; nothing is asked for where the path is empty.

    Raises:
        UserError: A package is missing; there is no folder to write to.
    """
    if not path:
        return
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--onnx-export needs the packages {' and '.join(missing)}: pip install {' '.join(missing)}")
    folder = Path(path).parent
    if Path(path).is_dir() or not folder.is_dir():
        problem = "it is a folder; name a file" if Path(path).is_dir() else f"there is no folder {folder}"
        raise UserError(f"cannot write --onnx-export {path}: {problem}")
    place = path if Path(path).exists() else folder
    if not os.access(place, os.W_OK):
        raise UserError(f"cannot write --onnx-export {path}: {place} is read-only")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of its own parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _plain_step(layers: StackedRNN, x: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """A step of each layer by the cells of torch, which have an ONNX form on every device."""
    after: list[Tensor] = []
    for layer in layers.layers:
        weights = [layer.get_parameter(f"{kind}_l0") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        if layers.kind == "LSTM":
            x, c = torch.lstm_cell(x, (state.pop(0), state.pop(0)), *weights)
            after += [x, c]
        else:
            cell = {"GRU": torch.gru_cell, "RNN_TANH": torch.rnn_tanh_cell, "RNN_RELU": torch.rnn_relu_cell}
            x = cell[layers.kind](x, state.pop(0), *weights)
            after.append(x)
    return x, after
