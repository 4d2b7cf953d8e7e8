"""Numbers of the original code: cells to the bit, language models to 1e-9, in float64.

The reference data describes how they were made (``goldens/README.md``). The original keeps the gates of its GRU in two
matrices for each group and those of its LSTM in the order f, g, i, o, p.
"""

from collections.abc import Callable

import pytest
import torch
from revrnn.buffer import InformationBuffer
from revrnn.cell import RevGRUCell, RevLSTMCell
from revrnn.fixed_point import to_float
from revrnn.forget import Fixed
from revrnn.model import Masks, Result, ReversibleLM
from torch import Tensor

pytestmark = pytest.mark.shared

Numbers = dict[str, Tensor]
Golden = Callable[[str], Numbers]

LINEAR = {
    "gru": ("ih2_to_zr1", "irh2_to_g1", "ih1_to_zr2", "irh1_to_g2"),
    "lstm": ("ih2_to_zgfop1", "ih1_to_zgfop2"),
}
GROUPS = {"gru": 2, "lstm": 4}
RUNS = ["nobuf", "sepbuf", "shared", "mask", "slice2", "long"]
MODELS = ["revgru_lm_1layer", "revgru_lm_2layer", "revlstm_lm_1layer"]


def in_our_order(kind: str, parts: list[Tensor]) -> Tensor:
    """One tensor of gate rows from the original's, one for each of its linear layers."""
    if kind == "gru":
        return torch.cat(parts)
    split = [part.chunk(5) for part in parts]
    return torch.cat([rows for f, g, i, o, p in split for rows in (i, f, g, o, p)])


def rows(kind: str, numbers: Numbers, prefix: str, suffix: str) -> Tensor:
    return in_our_order(kind, [numbers[f"{prefix}{name}{suffix}"].double() for name in LINEAR[kind]])


class CellRun:
    """One of the recorded runs of a cell."""

    def __init__(self, kind: str, name: str, numbers: Numbers) -> None:
        self.numbers, self.prefix = numbers, f"f64.{name}."
        self.cell = (RevGRUCell if kind == "gru" else RevLSTMCell)(6, 8).double()
        weight = rows(kind, numbers, "param.", ".weight")
        with torch.no_grad():
            self.cell.weight_ih.copy_(weight[:, :6])
            self.cell.weight_hh.copy_(weight[:, 6:])
            self.cell.bias.copy_(rows(kind, numbers, "param.", ".bias"))
        self.x = numbers["x_long" if name == "long" else "x"]
        self.active = numbers["mask"].bool() if name in ("mask", "slice2") else None
        self.slice_dim = 2 if name == "slice2" else 0
        self.start = [Fixed(h.contiguous(), to_float(h, torch.float64)) for h in numbers["h0"].chunk(GROUPS[kind], 1)]
        self.buffers = self.make_buffers(name, GROUPS[kind])

    def make_buffers(self, name: str, groups: int) -> list[InformationBuffer | None]:
        if name == "nobuf":
            return [None] * groups
        made = [InformationBuffer(3, 4 - (self.slice_dim if k == 0 else 0), max_forget=0.875) for k in range(groups)]
        return [made[0]] * groups if name in ("shared", "long") else list(made)

    def rows_at(self, t: int) -> Tensor | None:
        return None if self.active is None else self.active[t]

    def step(self, t: int, state: list[Fixed]) -> list[Fixed]:
        return list(self.cell(self.x[t], state, self.buffers, self.rows_at(t), self.slice_dim))

    def step_back(self, t: int, state: list[Fixed], saved: Tensor | None) -> list[Fixed]:
        return list(self.cell.reverse(self.x[t], state, self.buffers, self.rows_at(t), saved))

    def recorded(self, key: str) -> Tensor:
        return self.numbers[self.prefix + key]


def bits_of(state: list[Fixed]) -> Tensor:
    return torch.cat([group.bits for group in state], dim=1)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("kind", LINEAR)
def test_cell_to_the_bit(kind: str, name: str, golden: Golden) -> None:
    """States and buffer words after each step, then everything back again."""
    run = CellRun(kind, name, golden(f"rev{kind}_cell"))
    buffers = [] if name == "nobuf" else run.buffers[: 1 if name in ("shared", "long") else None]
    states = [run.start]
    for t in range(len(run.x)):
        states.append(run.step(t, states[-1]))
        assert torch.equal(bits_of(states[-1]), run.recorded("h")[t])
        output = torch.cat([states[-1][0].value, states[-1][1].value], dim=1)
        assert torch.equal(output, run.recorded("output_hidden")[t])
        for k, buffer in enumerate(buffers):
            assert buffer is not None
            assert torch.equal(buffer.word, run.recorded(f"buf{k}")[t])
    if name == "nobuf":
        return
    assert [buffer.used_bits for buffer in buffers] == [int(run.recorded(f"bits{k}")) for k in range(len(buffers))]
    if name == "long":
        assert torch.equal(torch.stack(buffers[0]._full, dim=2), run.recorded("past0"))
    state = states[-1]
    for t in reversed(range(len(run.x))):
        state = run.step_back(t, state, states[t][0].bits[:, : run.slice_dim] if run.slice_dim else None)
        assert torch.equal(bits_of(state), bits_of(states[t]))
        assert torch.equal(bits_of(state), run.recorded("h_reversed")[t])


@pytest.mark.parametrize("name", ["nobuf", "shared", "mask"])
@pytest.mark.parametrize("kind", LINEAR)
def test_cell_in_single_precision(kind: str, name: str, golden: Golden) -> None:
    """The order of additions in a product is not the original's: gates may round otherwise, by 1/1024."""
    numbers = golden(f"rev{kind}_cell")
    run = CellRun(kind, name, numbers)
    run.cell.float()
    run.x, state = run.x.float(), [Fixed(g.bits, g.value.float()) for g in run.start]
    for t in range(len(run.x)):
        state = run.step(t, state)
    difference = bits_of(state) - numbers[f"f32.{name}.h"][-1]
    assert difference.abs().max() < 3 * 2**13


class RecordedModel:
    """A recorded language model."""

    def __init__(self, name: str, numbers: Numbers) -> None:
        self.kind, self.numbers = name.split("_")[0][3:], numbers
        self.depth = int(name[-6])
        self.model = ReversibleLM(
            self.kind, 12, embedding_size=6, hidden_size=8, num_layers=self.depth, dropout=0.0,
            dropout_hidden=0.0, dropout_input=0.0, dropout_words=0.0, weight_drop=0.0,
        ).double()  # fmt: skip
        with torch.no_grad():
            for parameter, value in self.pairs("param."):
                parameter.copy_(value)
        groups = GROUPS[self.kind]
        self.state = tuple(torch.stack(numbers[f"h0.{k}"].chunk(groups, 1)) for k in range(self.depth))

    def pairs(self, prefix: str) -> list[tuple[torch.nn.Parameter, Tensor]]:
        """Each parameter with the recorded tensor for it."""
        vocabulary = self.model.vocabulary
        pairs = [
            (vocabulary.weight, self.numbers[f"{prefix}embed_drop.embed.raw_weight"]),
            (vocabulary.bias, self.numbers[f"{prefix}out.bias"]),
        ]
        for k, layer in enumerate(self.model.layers):
            weight = rows(self.kind, self.numbers, f"{prefix}rnns.{k}.rnn.", ".raw_weight")
            pairs.append((layer.weight_ih_l0, weight[:, : layer.input_size]))
            pairs.append((layer.weight_hh_l0, weight[:, layer.input_size :]))
            pairs.append((layer.bias_l0, rows(self.kind, self.numbers, f"{prefix}rnns.{k}.rnn.", ".bias")))
        return pairs

    def masks(self) -> Masks:
        """The recorded dropout masks; of a weight's mask only the recurrent columns are not all ones."""
        weights = []
        for k, layer in enumerate(self.model.layers):
            mask = rows(self.kind, self.numbers, f"drop.mask.rnn{k}.", "")
            assert bool((mask[:, : layer.input_size] == 1).all())
            weights.append(mask[:, layer.input_size :])
        names = [f"lockdroph{k}" for k in range(self.depth - 1)] + ["lockdrop"]
        outputs = [self.numbers[f"drop.mask.{name}"][None].double() for name in names]
        words, inputs = self.numbers["drop.mask.embed"], self.numbers["drop.mask.lockdropi"][None].double()
        return Masks(words, inputs, outputs, weights)

    def result(self, path: str, masks: Masks | None = None) -> Result:
        """Loss and gradients of the recorded window, by reversal or from stored states."""
        window = (self.numbers["inp"], self.numbers["tgt"], self.state)
        if path == "reversed":
            return self.model.loss_and_backward(*window, masks=masks, count_bits=True)
        result = self.model.loss(*window, masks=masks, buffered=True, count_bits=True)
        result.loss.backward()
        return result

    def assert_state(self, state: tuple[Tensor, ...], key: str) -> None:
        for k, layer in enumerate(state):
            assert torch.equal(torch.cat(layer.unbind(), dim=1), self.numbers[f"{key}{k}"])


@pytest.mark.parametrize("path", ["reversed", "stored"])
@pytest.mark.parametrize("name", MODELS)
def test_language_model(name: str, path: str, golden: Golden) -> None:
    numbers = golden(name)
    recorded = RecordedModel(name, numbers)
    result = recorded.result(path)
    torch.testing.assert_close(result.loss.detach(), numbers["f64.fwd.loss"], rtol=0, atol=1e-12)
    recorded.assert_state(result.state, "f64.fwd.last_h.")
    for parameter, expected in recorded.pairs("f64.fwd.grad."):
        assert expected.any()
        torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=1e-9)
    assert result.bits is not None
    assert result.bits.normal == int(numbers["f64.rev.normal_bits"])
    assert result.bits.used == int(numbers["f64.rev.used_bits"])
    assert result.bits.optimal == pytest.approx(float(numbers["f64.rev.optimal_bits"]), rel=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_language_model_without_buffers(name: str, golden: Golden) -> None:
    """Evaluation: the recorded logits, loss and last state."""
    numbers = golden(name)
    recorded = RecordedModel(name, numbers)
    model = recorded.model.eval()
    total, state = model.loss_sum(numbers["inp"], numbers["tgt"], recorded.state)
    torch.testing.assert_close(total / 21, numbers["f64.eval_nobuf.loss"], rtol=0, atol=1e-12)
    recorded.assert_state(state, "f64.eval_nobuf.last_h.")
    logits, state = model(numbers["inp"], recorded.state)
    torch.testing.assert_close(logits, numbers["f64.eval_nobuf.decoded"], rtol=0, atol=1e-12)
    recorded.assert_state(state, "f64.eval_nobuf.last_h.")


@pytest.mark.parametrize("path", ["reversed", "stored"])
@pytest.mark.parametrize("name", MODELS)
def test_language_model_with_dropout(name: str, path: str, golden: Golden) -> None:
    """The recorded gradients miss the restored low bits of the states, so they hold only roughly."""
    numbers = golden(name)
    recorded = RecordedModel(name, numbers)
    result = recorded.result(path, recorded.masks())
    torch.testing.assert_close(result.loss.detach(), numbers["drop.rev.loss"], rtol=0, atol=1e-12)
    for parameter, expected in recorded.pairs("drop.rev.grad."):
        assert parameter.grad is not None
        assert float((parameter.grad - expected).norm()) < 5e-4 * float(expected.norm())
