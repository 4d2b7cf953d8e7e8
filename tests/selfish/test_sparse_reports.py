"""Tables, pictures and counted arithmetic of sparse networks."""

from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from rnncore.errors import UserError
from selfish.flops import flops_per_token
from selfish.gate_layout import gate_layouts
from selfish.mask_history import MaskHistory, Numbers, draw_densities, draw_overlap
from torch import nn


@pytest.fixture
def history() -> MaskHistory:
    """Of a matrix of two weights a gate, and one without gates; two updates."""
    layout = gate_layouts(nn.LSTM(2, 1))["weight_ih_l0"]
    masks = {"rnn": torch.tensor([[1.0, 0], [1, 1], [0, 0], [0, 1]]), "out": torch.ones(1, 3)}
    found = MaskHistory(masks, {"rnn": layout})
    first = {name: mask.bool() for name, mask in masks.items()}
    second = {"rnn": torch.tensor([[0, 1], [1, 1], [1, 0], [0, 0]]).bool(), "out": first["out"]}
    third = {"rnn": torch.tensor([[1, 0], [1, 1], [1, 0], [0, 0]]).bool(), "out": first["out"]}
    found.add(10, 0.5, first, second)
    found.add(20, 0.4, second, third)
    return found


def test_numbers_by_parameter_and_gate(history: MaskHistory) -> None:
    assert [place.label for place in history.places] == ["rnn", "rnn i", "rnn f", "rnn g", "rnn o", "out"]
    assert [update.step for update in history.updates] == [0, 10, 20]
    assert history.updates[1].numbers == (
        Numbers(removed=2, grown=2, kept=2, first=2),
        Numbers(removed=1, grown=1, kept=0, first=0),
        Numbers(removed=0, grown=0, kept=2, first=2),
        Numbers(removed=0, grown=1, kept=0, first=0),
        Numbers(removed=1, grown=0, kept=0, first=0),
        Numbers(removed=0, grown=0, kept=3, first=3),
    )
    assert history.updates[2].numbers[0] == Numbers(removed=1, grown=1, kept=3, first=3)


def test_the_table_of_an_update(history: MaskHistory) -> None:
    rows = [line.split() for line in history.table().splitlines()]
    assert rows[1] == ["all", "0.6364", "1", "1", "6", "85.7%"]
    assert rows[2] == ["rnn", "0.5000", "1", "1", "3", "75.0%"]
    assert rows[3] == ["gate", "i", "0.5000", "1", "1", "0", "100.0%"]
    assert rows[6] == ["gate", "o", "0.0000", "0", "0", "0", "0.0%"]
    assert history.table(history.updates[0]).splitlines()[1].split() == ["all", "0.6364", "0", "0", "7", "100.0%"]


def test_a_loaded_history_is_the_saved_one(history: MaskHistory, tmp_path: Path) -> None:
    torch.save(history.state_dict(), tmp_path / "history.pt")
    other = MaskHistory({"rnn": torch.zeros(4, 2), "out": torch.ones(1, 3)}, {})
    other.load_state_dict(torch.load(tmp_path / "history.pt", weights_only=True))
    assert other.updates == history.updates
    again = {"rnn": torch.ones(4, 2).bool(), "out": torch.ones(1, 3).bool()}
    other.add(30, 0.1, again, again)
    assert other.updates[-1].numbers[0].first == 4  # of the first mask, which was saved


@pytest.mark.parametrize("draw", [draw_densities, draw_overlap])
def test_pictures(draw, history: MaskHistory, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    draw(history, tmp_path / "picture.png")
    picture = imread(tmp_path / "picture.png")
    assert picture.shape[0] > 400
    assert len({tuple(pixel) for pixel in picture.reshape(-1, picture.shape[2])[::7].tolist()}) > 20
    with pytest.raises(UserError, match=r"cannot draw to .*: give a name that ends in \.png"):
        draw(history, tmp_path / "picture.doc")
    with pytest.raises(UserError, match="cannot write"):
        draw(history, tmp_path / "nowhere" / "picture.png")


def test_arithmetic_is_of_the_weights_that_live() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Embedding(7, 4)
            self.rnn = nn.LSTM(4, 4)
            self.decoder = nn.Linear(4, 7)

    model = Model()
    mask = torch.zeros(16, 4)
    mask[0] = 1
    found = flops_per_token(model, {"rnn.weight_ih_l0": mask, "encoder.weight": torch.zeros(7, 4)})
    assert found.dense_inference == 2 * (64 + 64 + 28)
    assert found.sparse_inference == 2 * (4 + 64 + 28)
    assert found.sparse_training == 3 * found.sparse_inference
    assert found.dense_training == 3 * found.dense_inference
    assert "(61.5%)" in str(found)
    model.decoder.weight = model.encoder.weight
    tied = flops_per_token(model, {"encoder.weight": torch.zeros(7, 4)})
    assert (tied.dense_inference, tied.sparse_inference) == (2 * (64 + 64 + 28), 2 * (64 + 64))
    only = flops_per_token(nn.Sequential(model.encoder), {}, multiplied=["0.weight"])
    assert only.dense_inference == 2 * 28
