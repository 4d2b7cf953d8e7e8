"""``--onnx-export``: what onnxruntime computes from the file is what the model computes."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rmc import onnx_export
from rmc.saved_model import load
from rnncore.errors import UserError

Run = Callable[..., Path]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("memory", "--memslots 2 --numblocks 2"),
        ("memory", "--variant sonnet --adaptivesoftmax --cutoffs 5 12"),
        ("rnn", "--nlayers 2"),
        ("rnn", "--model GRU"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of the exporter's own parts
def test_exported_model_says_the_same(task: str, words: str, launch: Run) -> None:
    runtime: Any = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run = launch(task, words, "--max_steps 3 --onnx-export model.onnx")
    model = load(run / "best.pt", "rmc-train" if task == "memory" else "rmc-train-rnn").model
    session = runtime.InferenceSession("model.onnx")
    text = torch.randint(31, (6, 3), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, _ = model.log_probabilities(text, model.initial_state(3))
    state = [part.numpy() for part in onnx_export.state_of(model, 3)]
    names = [each.name for each in session.get_inputs()]
    assert names == ["ids", *(f"state{k}" for k in range(len(state)))]
    for step, target in zip(text, expected, strict=True):
        found, *state = session.run(None, dict(zip(names, [step.numpy(), *state], strict=True)))
        np.testing.assert_allclose(found, target.numpy(), rtol=1e-4, atol=1e-5)


def test_missing_package_is_told_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    monkeypatch.setattr(onnx_export, "NEEDED", ("json", "onnxscript"))
    with pytest.raises(UserError, match="--onnx-export needs the packages onnxscript: pip install onnxscript"):
        onnx_export.require_onnx("model.onnx")
    onnx_export.require_onnx("")


@pytest.mark.parametrize(("path", "expected"), [("nowhere/m.onnx", "there is no folder nowhere"), (".", "is a folder")])
def test_impossible_path_is_told_before_the_run(path: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "NEEDED", ())
    with pytest.raises(UserError, match=expected):
        onnx_export.require_onnx(path)
