"""Masks of a module over training: what they keep at 0, how they evolve, and checkpoints."""

import math
from collections.abc import Callable

import pytest
import torch
from rnncore.errors import UserError
from selfish.gate_layout import gate_layouts
from selfish.mask_update import DEATHS, GROWTHS, REDISTRIBUTIONS, Rules
from selfish.masking import Masking
from selfish.sparse_asgd import SparseASGD, SparseAverages
from torch import Tensor, nn

Golden = Callable[[str], dict[str, Tensor]]
SPARSE = ["encoder.weight", *(f"rnn.weight_{w}_l{k}" for k in (0, 1) for w in ("ih", "hh")), "decoder.weight"]


class Model(nn.Module):
    """The original's stacked LSTM: its parameters and their names."""

    def __init__(self, words: int = 12, size: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Embedding(words, size)
        self.rnn = nn.LSTM(size, size, 2)
        self.decoder = nn.Linear(size, words)

    def forward(self, words: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.rnn(self.encoder(words))[0])
        return logits


@pytest.fixture
def model() -> Model:
    torch.manual_seed(3)
    return Model()


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    words = torch.randint(12, (7, 3), generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(words[:-1]).flatten(0, 1), words[1:].flatten()).backward()
    optimizer.step()


def of(model: nn.Module, name: str) -> Tensor:
    return model.get_parameter(name).detach()


def momentum_sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=1e-6)


def assert_all_dead_are_zero(model: Model, masking: Masking, optimizer: torch.optim.Optimizer) -> None:
    for name, mask in masking.masks.items():
        parameter = model.get_parameter(name)
        dead = mask == 0
        assert not of(model, name)[dead].any()
        for value in optimizer.state[parameter].values():
            assert value.shape != parameter.shape or not value[dead].any()


@pytest.mark.parametrize(
    ("death", "growth", "redistribution"),
    [(d, GROWTHS[(i + j) % 4], r) for i, d in enumerate(DEATHS) for j, r in enumerate(REDISTRIBUTIONS)],  # every pair
)
def test_fifty_updates(death: str, growth: str, redistribution: str, model: Model) -> None:
    optimizer = momentum_sgd(model)
    rules = Rules(death=death, growth=growth, redistribution=redistribution)
    masking = Masking(model, density=0.3, decay_steps=60, rules=rules, threshold=0.02, seed=5)
    averages = SparseAverages(model.named_parameters(), masking.masks)
    counts = {name: int(mask.sum()) for name, mask in masking.masks.items()}
    moved = False
    for step in range(50):
        train_step(model, optimizer, step)
        masking.after_step(optimizer)
        averages.update()
        assert_all_dead_are_zero(model, masking, optimizer)
        if step == 20:
            averages.start()
        before = {name: mask.clone() for name, mask in masking.masks.items()}
        masking.evolve(optimizer)
        averages.remask()
        assert_all_dead_are_zero(model, masking, optimizer)
        now = {name: int(mask.sum()) for name, mask in masking.masks.items()}
        assert sum(now.values()) == sum(counts.values())
        if redistribution == "none":
            assert now == counts
        if redistribution == "cell-gate":
            pairs = (SPARSE[:1], SPARSE[1:3], SPARSE[3:5], SPARSE[5:])
            assert all(sum(map(now.get, pair)) == sum(map(counts.get, pair)) for pair in pairs)  # type: ignore[arg-type]
        for name, average in averages.averages.items():
            if name in masking.masks:
                dead, grown = masking.masks[name] == 0, (masking.masks[name] > before[name])
                assert not average[dead].any()
                assert not of(model, name)[grown].any()
                assert not averages.steps_alive(name)[dead | grown].any()
        moved |= any(not torch.equal(before[name], mask) for name, mask in masking.masks.items())
    assert moved
    assert masking.density == pytest.approx(sum(counts.values()) / sum(m.numel() for m in masking.masks.values()))


def test_the_expected_number_is_met_on_average(model: Model) -> None:
    optimizer = momentum_sgd(model)
    masking = Masking(model, density=0.3, decay_steps=100, rules=Rules(growth_expectation=True))
    train_step(model, optimizer, 0)
    densities = []
    for _ in range(60):
        masking.evolve(optimizer)
        densities.append(masking.density)
    assert len(set(densities)) > 10
    assert sum(densities) / 60 == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("optimizer_kind", [torch.optim.Adam, torch.optim.ASGD, torch.optim.RMSprop])
@pytest.mark.parametrize("growth", ["momentum", "gradient"])
def test_any_optimizer(optimizer_kind: type[torch.optim.Optimizer], growth: str, model: Model) -> None:
    optimizer = optimizer_kind(model.parameters(), lr=0.01)  # type: ignore[call-arg]
    masking = Masking(model, density=0.3, decay_steps=10, rules=Rules(growth=growth))
    for step in range(3):
        train_step(model, optimizer, step)
        masking.after_step(optimizer)
        assert_all_dead_are_zero(model, masking, optimizer)
    before = {name: mask.clone() for name, mask in masking.masks.items()}
    masking.evolve(optimizer)
    assert_all_dead_are_zero(model, masking, optimizer)
    assert any(not torch.equal(before[name], mask) for name, mask in masking.masks.items())


def test_gates_compete_for_the_weights_of_their_layer(model: Model) -> None:
    rules = Rules(death="magnitude_rnn", growth="random_rnn", redistribution="cell-gate")
    masking = Masking(model, density=0.4, decay_steps=1000, rules=rules, death_rate=0.5)
    layout = gate_layouts(model)["rnn.weight_hh_l0"]
    with torch.no_grad():
        for name in ("rnn.weight_ih_l0", "rnn.weight_hh_l0"):
            model.get_parameter(name)[layout.rows["f"]] *= 10
    optimizer = momentum_sgd(model)
    masking.evolve(optimizer)
    living = {gate: int(masking.masks["rnn.weight_hh_l0"][rows].sum()) for gate, rows in layout.rows.items()}
    assert list(living) == ["i", "f", "g", "o"]
    assert living["f"] > 1.5 * max(living["i"], living["g"], living["o"])
    other = [int(masking.masks["rnn.weight_hh_l1"][rows].sum()) for rows in layout.rows.values()]
    assert max(other) < 1.5 * min(other)


def test_random_rnn_gives_every_gate_as_many(model: Model) -> None:
    masking = Masking(model, density=0.4, decay_steps=1000, rules=Rules(growth="random_rnn"))
    weight = model.rnn.weight_hh_l0
    with torch.no_grad():
        weight[:8] *= 1e-3  # gate i loses nearly all
    before = masking.masks["rnn.weight_hh_l0"].clone()
    lost = math.ceil(0.5 * int(before.sum()))
    survivors = weight.abs() > weight[before.bool()].abs().sort().values[lost - 1]
    masking.evolve(momentum_sgd(model))
    grown = [
        int((new > 0).sum() - old.sum())
        for new, old in zip(masking.masks["rnn.weight_hh_l0"].split(8), survivors.split(8), strict=True)
    ]
    assert sum(grown) == lost
    assert max(grown) - min(grown) <= 1


def test_tied_and_dense_parameters_and_biases(model: Model) -> None:
    model.decoder.weight = model.encoder.weight
    masking = Masking(model, density=0.3, decay_steps=1, dense=["rnn.weight_ih_l1"])
    assert list(masking.masks) == ["encoder.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.weight_hh_l1"]
    assert bool(model.rnn.weight_ih_l1.all())
    with pytest.raises(UserError, match=r"no parameter rnn.bias to leave dense"):
        Masking(model, density=0.3, decay_steps=1, dense=["rnn.bias"])


def run(
    model: Model, masking: Masking, optimizer: torch.optim.Optimizer, averages: SparseAverages, steps: range
) -> None:
    for step in steps:
        train_step(model, optimizer, step)
        masking.after_step(optimizer)
        averages.update()
        if step == 5:
            averages.start()
        if step % 3 == 2:
            masking.evolve(optimizer)
            averages.remask()


@pytest.mark.parametrize("stop", [4, 8])
@pytest.mark.parametrize("expectation", [False, True])
def test_to_be_resumed_to_the_bit(stop: int, expectation: bool, tmp_path, model: Model) -> None:  # type: ignore[no-untyped-def]
    def parts(model: Model) -> tuple[Masking, torch.optim.Optimizer, SparseAverages]:
        rules = Rules(redistribution="magnitude", growth_expectation=expectation)
        masking = Masking(model, density=0.3, decay_steps=12, rules=rules, seed=1)
        return masking, momentum_sgd(model), SparseAverages(model.named_parameters(), masking.masks)

    whole = parts(model)
    run(model, *whole, range(stop))
    state = {"model": model.state_dict(), **{str(k): part.state_dict() for k, part in enumerate(whole)}}
    torch.save(state, tmp_path / "last.pt")
    run(model, *whole, range(stop, 12))
    torch.manual_seed(99)
    other = Model()
    resumed = parts(other)
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    other.load_state_dict(saved["model"])
    for k, part in enumerate(resumed):
        part.load_state_dict(saved[str(k)])
    run(other, *resumed, range(stop, 12))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, of(other, name))
        assert torch.equal(whole[2].averages[name], resumed[2].averages[name])
    assert all(torch.equal(mask, resumed[0].masks[name]) for name, mask in whole[0].masks.items())
    assert whole[0].history.updates == resumed[0].history.updates


def test_a_checkpoint_with_other_masks(model: Model) -> None:
    masking = Masking(model, density=0.3, decay_steps=1)
    for other in (
        Masking(Model(12, 6), density=0.3, decay_steps=1),
        Masking(nn.Linear(3, 3), density=0.3, decay_steps=1),
    ):
        with pytest.raises(
            UserError, match=r"^the checkpoint has other masks: for [^\n]*; use the flags of the run[^\n]*$"
        ):
            masking.load_state_dict(other.state_dict())


def test_what_cannot_be(model: Model) -> None:
    with pytest.raises(UserError, match="--growth_expectation goes with random growth"):
        Rules(growth="gradient", growth_expectation=True)
    with pytest.raises(UserError, match="--growth random_rnn needs a recurrent layer whose gates are known"):
        Masking(nn.Linear(3, 3), density=0.5, decay_steps=1, rules=Rules(growth="random_rnn"))
    with pytest.raises(UserError, match="no weight matrix"):
        Masking(nn.LayerNorm(3), density=0.5, decay_steps=1)
    masking = Masking(model, density=0.5, decay_steps=1, rules=Rules(growth="gradient"))
    with pytest.raises(UserError, match="--growth gradient needs the gradient"):
        masking.evolve(momentum_sgd(model))
    with pytest.raises(UserError, match="--density"):
        Masking(model, density=math.nan, decay_steps=1)


def test_masks_follow_the_parameters(model: Model) -> None:
    masking = Masking(model, density=0.3, decay_steps=1)
    before = {name: mask.clone() for name, mask in masking.masks.items()}
    model.double()
    masking.apply()
    assert all(mask.dtype == torch.float64 and torch.equal(mask, before[name]) for name, mask in masking.masks.items())


@pytest.mark.shared
@pytest.mark.parametrize("redistribution", ["none", "magnitude", "nonzeros"])
def test_an_update_is_the_originals(redistribution: str, golden: Golden, model: Model) -> None:
    known = golden("masking_random")
    case = f"magnitude-random-{redistribution}"
    rules = Rules(redistribution=redistribution, growth_expectation=True)
    masking = Masking(model, density=0.33, decay_steps=100, rules=rules, death_rate=0.5, threshold=0.05)
    optimizer = momentum_sgd(model)
    train_step(model, optimizer, 0)
    state = masking.state_dict()
    state["masks"] = {name: known[f"{case}.mask0.{name}"].bool() for name in SPARSE}
    state["baseline"] = {name: int(mask.sum()) for name, mask in state["masks"].items()}
    state["steps"] = 3
    state["generator"] = torch.Generator().manual_seed(63).get_state()
    masking.load_state_dict(state)
    assert masking.death_rate == pytest.approx(float(known[f"{case}.death_rate"]), abs=1e-12)
    with torch.no_grad():
        for name in SPARSE:
            model.get_parameter(name).copy_(known[f"{case}.weight.{name}"])
            optimizer.state[model.get_parameter(name)]["momentum_buffer"].copy_(known[f"{case}.mom.{name}"])
    masking.evolve(optimizer)
    for name in SPARSE:
        assert torch.equal(masking.masks[name], known[f"{case}.mask1.{name}"])
        assert torch.equal(of(model, name), known[f"{case}.weight1.{name}"])
    assert masking.state_dict()["adjustment"] == pytest.approx(float(known[f"{case}.adjusted_growth"]), abs=1e-9)


def test_the_optimizer_of_the_paper(model: Model) -> None:
    """SGD, masks and averages beside each other take the steps of the one optimizer."""
    torch.manual_seed(3)
    other = Model()
    masking, twin = (Masking(m, density=0.3, decay_steps=20, seed=4) for m in (model, other))
    sgd = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=1e-3)
    whole = SparseASGD(other.named_parameters(), twin.masks, lr=0.5, weight_decay=1e-3)
    averages = SparseAverages(model.named_parameters(), masking.masks)
    averages.start()
    for step in range(12):
        train_step(model, sgd, step)
        masking.after_step(sgd)
        averages.update()
        train_step(other, whole, step)
        twin.after_step(whole)
        if step % 4 == 3:
            masking.evolve(sgd)
            averages.remask()
            twin.evolve(whole)
            whole.remask()
    for name, average in averages.averages.items():
        torch.testing.assert_close(average, whole.averages.averages[name], rtol=1e-4, atol=1e-6)
