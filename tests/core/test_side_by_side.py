"""A text in pieces side by side, against the same from beginning to end."""

from typing import Any

import pytest
import torch
from rnncore import side_by_side
from rnncore.device import autocast
from rnncore.evaluation import evaluate
from rnncore.lstm import LSTMLayer
from torch import Tensor, nn
from torch.nn import functional as F

V, H = 13, 24


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "SHORTEST_PIECE", 50)
    monkeypatch.setattr(side_by_side, "LONGEST_PIECE", 160)


class Model(nn.Module):
    """A language model of two layers that counts the windows it reads, by their columns."""

    def __init__(self, forget_bias: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, H)
        layers = [LSTMLayer(H, H) for _ in range(2)]
        self.layers = nn.ModuleList(layers)
        self.decoder = nn.Linear(H, V)
        self.windows: list[int] = []
        with torch.no_grad():
            for layer in layers:
                layer.bias_ih_l0[H : 2 * H] = forget_bias

    def initial_state(self, batch_size: int) -> Any:
        zeros = self.decoder.weight.new_zeros(1, batch_size, H)
        return [(zeros, zeros) for _ in self.layers]

    def loss_sum(self, ids: Tensor, targets: Tensor, state: Any) -> tuple[Tensor, Any]:
        self.windows.append(ids.shape[1])
        x, after = self.embedding(ids), []
        for layer, before in zip(self.layers, state, strict=True):
            x, last = layer(x, before)
            after.append(last)
        return F.cross_entropy(self.decoder(x).flatten(0, 1), targets.flatten(), reduction="sum"), after


@torch.no_grad()
def from_beginning_to_end(model: Model, text: Tensor) -> float:
    return float(model.loss_sum(text[:-1], text[1:], model.initial_state(1))[0]) / (len(text) - 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [801, 2560, 2561, 6007])
def test_the_loss_is_that_of_one_column(count: int, dtype: torch.dtype) -> None:
    model, text = Model(forget_bias=-2.0).to(dtype), torch.randint(0, V, (count, 1))
    expected = from_beginning_to_end(model, text)
    model.windows.clear()
    assert evaluate(model, text, length=10) == pytest.approx(expected, rel=1e-6 if dtype == torch.float32 else 1e-12)
    side, alone = model.windows.count(side_by_side.PIECES), model.windows.count(1)
    windows = -(-(count - 1) // (10 * side_by_side.PIECES))
    assert windows <= side < 2 * windows  # the second reading ended early
    assert alone <= 5


def test_mixed_precision() -> None:
    model, text = Model(forget_bias=-2.0), torch.randint(0, V, (1601, 1))
    with autocast(text.device, "bf16"):
        expected = from_beginning_to_end(model, text)
    model.windows.clear()
    assert evaluate(model, text, "bf16", length=10) == pytest.approx(expected, rel=1e-3)
    assert 10 <= model.windows.count(side_by_side.PIECES) < 20


def tf32(x: Tensor) -> Tensor:
    """Rounded to the ten bits of TF32."""
    return ((x.view(torch.int32) + 2**12) & -(2**13)).view(torch.float32)


class CoarseLayer(LSTMLayer):
    """As cuDNN has it by default: the operands of its products are rounded to TF32."""

    def forward(self, input: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Any]:
        assert state is not None
        (h, c), outputs = (part[0] for part in state), []
        weights = tf32(self.weight_ih_l0), tf32(self.weight_hh_l0), self.bias_ih_l0, self.bias_hh_l0
        for x in input:
            h, c = torch.lstm_cell(tf32(x), (tf32(h), c), *weights)
            outputs.append(h)
        return torch.stack(outputs), (h[None], c[None])


@pytest.mark.parametrize(
    ("kind", "bits", "met"), [(CoarseLayer, 10, True), (CoarseLayer, 23, False), (LSTMLayer, 23, True)]
)
def test_the_noise_of_tf32_is_not_waited_for(
    kind: type[LSTMLayer], bits: int, met: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies above what float32 leaves: by that measure states never meet, and all is read twice."""
    model, text = Model(forget_bias=0.0), torch.randint(0, V, (1601, 1))
    for number, layer in enumerate(model.layers):
        grown = {name: 3 * value if "weight" in name else value for name, value in layer.state_dict().items()}
        model.layers[number] = kind(H, H)
        model.layers[number].load_state_dict(grown)
    expected = from_beginning_to_end(model, text)
    model.windows.clear()
    monkeypatch.setattr(side_by_side, "resolution", lambda like: 2.0**-bits)
    assert evaluate(model, text, length=10) == pytest.approx(expected, rel=1e-5)
    assert (1 not in model.windows) == met


def test_a_model_that_does_not_forget_reads_from_beginning_to_end() -> None:
    model, text = Model(forget_bias=40.0).double(), torch.randint(0, V, (1601, 1))
    expected = from_beginning_to_end(model, text)
    assert evaluate(model, text, length=10) == pytest.approx(expected, rel=1e-12)
    assert model.windows[-160:] == [1] * 160


def test_short_texts_are_not_cut() -> None:
    model = Model(forget_bias=-2.0)
    evaluate(model, torch.randint(0, V, (800, 1)), length=10)
    assert set(model.windows) == {1}


def test_a_state_of_integers_is_read_from_beginning_to_end() -> None:
    columns = []

    def read_window(ids: Tensor, targets: Tensor, state: Tensor) -> tuple[None, Tensor]:
        columns.append(ids.shape[1])
        return None, state

    list(side_by_side.read(read_window, torch.zeros(2000, 1), lambda size: torch.zeros(1, size).int(), length=10))
    assert set(columns) == {1}


@pytest.mark.parametrize("memory", [1, 30, 700])
@pytest.mark.parametrize("count", [2, 11, 801, 817, 4000, 6007])
def test_results_come_in_the_order_of_the_text(count: int, memory: int) -> None:
    """The state is the last tokens, ``memory`` of them: after as many steps nothing else is left of a state."""
    text = torch.randint(0, 1000, (count, 1)).double()

    def read_window(ids: Tensor, targets: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        known = torch.cat([state, ids])
        return torch.stack([ids, targets, known[: len(ids)]], 2), known[-len(state) :]

    def initial_state(batch_size: int) -> Tensor:
        return torch.full((memory, batch_size), -1.0).double()

    stretches = side_by_side.read(read_window, text, initial_state, length=10)
    found = torch.cat([torch.cat(windows).transpose(0, 1).flatten(0, 1) for windows in stretches])
    before = torch.cat([initial_state(1), text])[: count - 1]
    assert torch.equal(found, torch.cat([text[:-1], text[1:], before], 1))
