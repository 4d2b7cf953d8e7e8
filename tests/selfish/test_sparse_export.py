"""Files of non-zero weights: what comes back, how large they are, what multiplies with them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rnncore.errors import UserError
from selfish import export as export_module
from selfish.export import Choice, converted, export, load, load_for_products, sparse_linear
from torch import Tensor, nn


def model_state() -> dict[str, Tensor]:
    torch.manual_seed(1)
    model = nn.LSTM(40, 24, 2)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    source = torch.Generator().manual_seed(2)
    for name in ("weight_ih_l0", "weight_hh_l1"):
        state[name] *= torch.rand(state[name].shape, generator=source) < 0.33
    blocks = torch.rand(24, 6, generator=source) < 0.3
    state["weight_hh_l0"] *= blocks.repeat_interleave(4, 0).repeat_interleave(4, 1)
    state["odd"] = torch.zeros(7, 3)
    state["odd"][6, 2] = 1.5
    state["nearly"] = torch.ones(8, 8)
    state["nearly"][0, 0] = 0
    state["count"] = torch.tensor(7)
    return state


def test_what_was_written_comes_back_to_the_bit(tmp_path: Path) -> None:
    state = model_state()
    report = export(state, tmp_path / "model.pt", repeats=0)
    loaded = load(tmp_path / "model.pt")
    assert loaded.keys() == state.keys()
    assert all(torch.equal(value, loaded[name]) and value.dtype == loaded[name].dtype for name, value in state.items())
    forms = {choice.name: choice.stored for choice in report.choices}
    assert forms == {
        "weight_ih_l0": "csr",
        "weight_hh_l0": "blocks",
        "weight_hh_l1": "csr",
        "odd": "csr",
        "nearly": "dense",
    }
    assert {choice.fastest for choice in report.choices} == {"dense"}  # nothing was measured


def test_only_non_zeros_are_stored(tmp_path: Path) -> None:
    weight = torch.randn(400, 500) * (torch.rand(400, 500, generator=torch.Generator().manual_seed(1)) < 0.1)
    report = export({"weight": weight}, tmp_path / "model.pt", repeats=0)
    living = int((weight != 0).sum())
    assert report.choices[0].stored_bytes == 6 * living + 4 * 401
    assert report.file_bytes < 6 * living + 4 * 401 + 8000
    assert report.dense_bytes == 800_000
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert saved["weights"]["weight"]["values"].numel() == living


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    state = model_state()
    alone = export(state, tmp_path / "alone.pt", repeats=1)
    tied = state | {"decoder": state["weight_ih_l0"], "other": state["bias_ih_l0"]}
    report = export(tied, tmp_path / "tied.pt", repeats=1)
    assert report.dense_bytes == alone.dense_bytes
    assert report.file_bytes < alone.file_bytes + 500
    assert [choice.name for choice in report.choices] == [choice.name for choice in alone.choices]
    loaded = load(tmp_path / "tied.pt")
    assert loaded.keys() == tied.keys()
    assert all(torch.equal(value, loaded[name]) for name, value in tied.items())
    products = load_for_products(tmp_path / "tied.pt")
    assert products["decoder"].layout == products["weight_ih_l0"].layout


@pytest.mark.parametrize("form", ["csr", "blocks", "dense"])
@pytest.mark.parametrize("shape", [(5, 40), (2, 3, 40)])
def test_products_of_every_form(form: str, shape: tuple[int, ...]) -> None:
    state = model_state()
    x, weight, bias = torch.randn(shape), state["weight_ih_l0"], state["bias_ih_l0"]
    for present in (bias, None):
        expected = nn.functional.linear(x, weight, present)
        torch.testing.assert_close(sparse_linear(x, converted(weight, form), present), expected)


def test_the_fastest_form_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"dense": 2.0, "csr": 1.0, "blocks": 3.0}
    monkeypatch.setattr(export_module, "time_products", lambda weight, rows, repeats: times)
    state = model_state()
    report = export(state, tmp_path / "model.pt")
    loaded = load_for_products(tmp_path / "model.pt")
    assert loaded["weight_hh_l1"].layout == torch.sparse_csr
    assert loaded["bias_hh_l1"].layout == torch.strided
    assert torch.equal(loaded["weight_hh_l1"].to_dense(), state["weight_hh_l1"])
    assert "sparse products are slower" not in str(report)


def test_the_report_says_where_sparse_products_are_slower() -> None:
    choice = Choice(
        name="w", density=0.3, dense_bytes=2**20, stored_bytes=2**19, stored="csr", milliseconds={"dense": 1, "csr": 2}
    )
    text = str(export_module.Report(choices=(choice,), dense_bytes=2**20, file_bytes=2**19))
    assert "w    0.3000      1.00      0.50  csr       1.000    2.000      nan  dense" in text
    assert "file 0.50 MB, dense model 1.00 MB" in text
    assert "sparse products are slower for 1 of 1 weights: these are stored sparse and computed dense" in text


def test_measured_forms_are_those_that_exist() -> None:
    found = export_module.time_products(model_state()["weight_hh_l1"], rows=2, repeats=3)
    assert found.keys() == {"dense", "csr"}  # its weights do not lie in blocks
    assert export_module.time_products(model_state()["weight_hh_l0"], rows=2, repeats=1).keys() == {
        "dense",
        "csr",
        "blocks",
    }
    assert all(0 < value < 1000 for value in found.values())
    assert "blocks" not in export_module.time_products(model_state()["odd"], rows=2, repeats=1)


@pytest.mark.parametrize("how", ["cut off", "another bit", "empty"])
def test_a_damaged_file(how: str, damage: Callable[[str, Path], None], tmp_path: Path) -> None:
    export(model_state(), tmp_path / "model.pt", repeats=0)
    damage(how, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt is damaged"):
        load(tmp_path / "model.pt")


def test_a_file_of_something_else(tmp_path: Path) -> None:
    from rnncore import checkpoint

    checkpoint.save(tmp_path / "last.pt", {"kind": "other"})
    with pytest.raises(UserError, match="is a checkpoint of other, not of selfish-export"):
        load(tmp_path / "last.pt")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], refusal: Callable[..., str]) -> None:
    from rnncore import checkpoint
    from selfish.export_command import main

    state = model_state()
    checkpoint.save(tmp_path / "best.pt", {"kind": "x", "config": {"nhid": 24}, "model": state})
    main([str(tmp_path / "best.pt"), str(tmp_path / "small.pt"), "--repeats", "2"], standalone_mode=False)
    assert "weight_hh_l1" in capsys.readouterr().out
    assert all(torch.equal(value, state[name]) for name, value in load(tmp_path / "small.pt").items())
    assert torch.load(tmp_path / "small.pt", weights_only=True)["export_config"]["options"] == {"nhid": 24}
    checkpoint.save(tmp_path / "none.pt", {"kind": "x"})
    assert "none.pt holds no model to export" in refusal(main, [str(tmp_path / "none.pt"), str(tmp_path / "y.pt")])
    assert "there is no checkpoint" in refusal(main, [str(tmp_path / "missing.pt"), str(tmp_path / "y.pt")])
