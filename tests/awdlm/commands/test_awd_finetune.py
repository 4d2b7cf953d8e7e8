"""``awdlm-finetune``: averaged SGD from the first step, and a result that is no worse than what it began from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from awdlm import training as training_module
from awdlm.finetune import main
from awdlm.options import FINETUNE, OF_THE_MODEL
from awdlm.run_state import Training
from rnncore import checkpoint
from torch import Tensor

Run = Callable[..., Path]
Refused = Callable[..., str]
Rows = Callable[..., list[dict[str, Any]]]
Losses = Callable[..., list[float]]
ByHand = Callable[[Path, str, int], float]


@pytest.fixture(scope="module")
def trained(train: Run, sandbox: Path) -> Path:
    """A model whose sizes and dropouts are not the defaults."""
    rates = ["--dropout", "0.11", "--dropouth", "0.12", "--dropouti", "0.13", "--dropoute", "0.14", "--wdrop", "0.15"]
    train("--model", "QRNN", *rates, "--epochs", "2", "--lr", "3", "--save", "PTB.pt")
    return sandbox / "PTB.pt"


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """The model, in a folder of its own."""
    (tmp_path / "PTB.pt").write_bytes(trained.read_bytes())
    return tmp_path / "PTB.pt"


def offsets(patch: pytest.MonkeyPatch, *added: float) -> None:
    """Make evaluations worse: of the start, of each epoch, of the test text."""
    real, worse = training_module.evaluate, iter(added)
    patch.setattr(training_module, "evaluate", lambda *words: real(*words) + next(worse))


def test_the_result_lies_beside_the_model(
    copy: Path, finetune: Run, losses_of: Losses, rows_of: Rows, evaluated_by_hand: ByHand
) -> None:
    before = copy.read_bytes()
    run = finetune("--save", str(copy), "--epochs", "3", "--lr", "3")
    result = copy.with_name("PTB.finetuned.pt")
    assert copy.read_bytes() == before
    assert {path.name for path in copy.parent.iterdir()} == {"PTB.pt", "PTB.finetuned.pt"}
    valid, (tested,) = losses_of(run, "valid"), losses_of(run, "test")
    assert next((row["epoch"], row["step"]) for row in rows_of(run, "valid")) == (0, 0)
    assert valid[0] == pytest.approx(evaluated_by_hand(copy, "valid", 10), rel=1e-5)
    assert min(valid) == pytest.approx(evaluated_by_hand(result, "valid", 10), rel=1e-5)
    assert tested == pytest.approx(evaluated_by_hand(result, "test", 1), rel=1e-5)
    assert min(valid) < valid[0]  # it did learn


def test_the_checkpoint_says_what_the_model_is(trained: Path, copy: Path, finetune: Run, arguments: list[str]) -> None:
    run = finetune("--save", str(copy), "--dropouti", "0.4", "--max_steps", "1")
    begun, ended = (checkpoint.load(file) for file in (trained, copy.with_name("PTB.finetuned.pt")))
    assert ended["kind"] == FINETUNE
    assert {name: ended["config"][name] for name in OF_THE_MODEL} == {
        name: begun["config"][name] for name in OF_THE_MODEL
    }
    rates = [ended["config"][name] for name in ("dropout", "dropout_hidden", "dropout_words", "weight_drop")]
    assert rates == [0.11, 0.12, 0.14, 0.15]
    assert ended["config"]["dropout_input"] == 0.4  # given
    assert ended["config"]["data"] == arguments[1]
    assert ended["vocabulary"] == begun["vocabulary"]
    assert torch.equal(ended["model"]["decoder.bias"], checkpoint.load(run / "best.pt")["model"]["decoder.bias"])


@pytest.mark.parametrize("words", ["--model LSTM --tied", "--model GRU --nlayers 3", "--level character"])
def test_any_model_can_be_finetuned(
    words: str, train: Run, finetune: Run, sandbox: Path, losses_of: Losses, evaluated_by_hand: ByHand
) -> None:
    train(*words.split(), "--max_steps", "5", "--save", "any.pt")
    run = finetune("--save", "any.pt", "--max_steps", "3")
    first, last = losses_of(run, "valid")
    assert first == pytest.approx(evaluated_by_hand(sandbox / "any.pt", "valid", 10), rel=1e-5)
    result = evaluated_by_hand(sandbox / "any.finetuned.pt", "valid", 10)
    assert min(first, last) == pytest.approx(result, rel=1e-5)


def test_weights_are_averaged_from_the_first_step(copy: Path, finetune: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    iterates: list[dict[str, Tensor]] = []
    step = training_module._step

    def watched(training: Training, inputs: Tensor, targets: Tensor) -> Tensor:
        loss = step(training, inputs, targets)
        named = training.model.named_parameters()
        iterates.append({name: weight.detach().double().clone() for name, weight in named})
        return loss

    monkeypatch.setattr(training_module, "_step", watched)
    offsets(monkeypatch, 9.0, 5.0, 0.0, 0.0)
    run = finetune("--save", str(copy), "--epochs", "2")
    assert len(iterates) == checkpoint.load(run / "last.pt")["averages"]["steps"] > 30
    best = checkpoint.load(run / "best.pt")["model"]
    for name in iterates[0]:
        mean = torch.stack([iterate[name] for iterate in iterates[1:]]).mean(0)
        torch.testing.assert_close(best[name].double(), mean, rtol=1e-5, atol=1e-5)


def test_the_result_is_never_worse(
    copy: Path, finetune: Run, losses_of: Losses, evaluated_by_hand: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    offsets(monkeypatch, 0.0, 9.0, 9.0, 0.0)
    run = finetune("--save", str(copy), "--epochs", "2")
    begun, ended = (checkpoint.load(file)["model"] for file in (copy, copy.with_name("PTB.finetuned.pt")))
    assert all(torch.equal(begun[name], ended[name]) for name in begun)
    assert losses_of(run, "test") == [pytest.approx(evaluated_by_hand(copy, "test", 1), rel=1e-5)]


def test_it_ends_when_the_validation_loss_stalls(
    copy: Path, finetune: Run, rows_of: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Above the least but the last at epoch 4. The model that it begins from does not count: it is better than all.
    losses = iter([1.0, 3.0, 2.0, 2.5, 2.4, 1.0])
    monkeypatch.setattr(training_module, "evaluate", lambda *_: next(losses))
    run = finetune("--save", str(copy), "--nonmono", "1", "--epochs", "9")
    assert [row["epoch"] for row in rows_of(run, "valid")] == [0, 1, 2, 3, 4]
    assert [row["event"] for row in rows_of(run)][-3:] == ["valid", "test", "end"]
    assert "the validation loss stalls: done" in (run / "log.txt").read_text()


def test_in_place(copy: Path, finetune: Run, evaluated_by_hand: ByHand, losses_of: Losses) -> None:
    before = copy.read_bytes()
    run = finetune("--save", str(copy), "--in_place", "--epochs", "2", "--lr", "3")
    assert {path.name for path in copy.parent.iterdir()} == {"PTB.pt", "PTB.previous.pt"}
    assert copy.with_name("PTB.previous.pt").read_bytes() == before
    assert checkpoint.load(copy)["kind"] == FINETUNE
    assert min(losses_of(run, "valid")) == pytest.approx(evaluated_by_hand(copy, "valid", 10), rel=1e-5)


def test_a_finetuned_model_can_be_finetuned(copy: Path, finetune: Run, losses_of: Losses) -> None:
    first = finetune("--save", str(copy), "--epochs", "1", "--lr", "3")
    second = finetune("--save", str(copy.with_name("PTB.finetuned.pt")), "--epochs", "1", "--lr", "3")
    assert losses_of(second, "valid")[0] == min(losses_of(first, "valid"))
    assert copy.with_name("PTB.finetuned.finetuned.pt").exists()


@pytest.mark.parametrize("words", [[], ["--save", "runs/awdlm-train/one"]])
def test_a_run_is_finetuned(
    words: list[str],
    train: Run,
    finetune: Run,
    tmp_path: Path,
    losses_of: Losses,
    evaluated_by_hand: ByHand,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That of a run directory, and without ``--save`` that of the newest run."""
    monkeypatch.chdir(tmp_path)
    train("--run_dir", "runs/awdlm-train/one", "--max_steps", "3")
    finetune(*words, "--max_steps", "2", "--run_dir", "finetuned")
    best = tmp_path / "runs" / "awdlm-train" / "one" / "best.pt"
    first, *_ = losses_of(tmp_path / "finetuned", "valid")
    assert first == pytest.approx(evaluated_by_hand(best, "valid", 10), rel=1e-5)
    assert best.with_name("best.finetuned.pt").exists()


def test_a_dry_run_leaves_nothing_behind(
    trained: Path, sandbox: Path, contents: Callable[[Path], dict[Path, bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(sandbox)
    main(["--save", str(trained), "--dry_run", "--device", "cpu"], standalone_mode=False)
    assert "model: QRNN\n" in capsys.readouterr().out
    assert contents(sandbox) == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--nhid", "13"], "was trained with --nhid 12, not 13; leave it out"),
        (["--emsize", "17"], "was trained with --emsize 16, not 17; leave it out"),
        (["--nlayers", "4"], "was trained with --nlayers 2, not 4; leave it out"),
        (["--model", "GRU"], "was trained with --model QRNN, not GRU; leave it out"),
        (["--tied"], "was trained with --tied True, not False; leave it out"),
        (["--level", "character"], "was trained with --level word, not character; leave it out"),
        (["--model", "RNN"], "--model must be one of LSTM, GRU, QRNN"),
        (["--batch_size", "500"], "train.txt has 889 tokens, but 500 columns need 1000; use a smaller --batch_size"),
        (["--data", "nowhere"], "'nowhere' is no directory and no data set"),
        (["--when", "3"], "unknown flag '--when'"),
        (["--optimizer", "adam"], "unknown flag '--optimizer'"),
    ],
)
def test_flags_that_cannot_be(words: list[str], expected: str, trained: Path, refused: Refused) -> None:
    line = refused("--save", str(trained), *words, "--device", "cpu", "--run_dir", "never", command=main)
    assert expected in line
    assert not Path("never").exists()


def test_the_same_flags_may_be_given(trained: Path, finetune: Run, copy: Path) -> None:
    same = ["--model", "QRNN", "--nhid", "12", "--emsize", "16", "--nlayers", "2"]
    assert finetune("--save", str(copy), *same, "--max_steps", "1").exists()


def test_another_vocabulary(trained: Path, data: Path, refused: Refused) -> None:
    (data / "valid.txt").write_text("ba de xyzzy\n" * 20)
    line = refused("--save", str(trained), "--data", str(data), "--run_dir", "never", command=main)
    assert f"{data} has another vocabulary than the model; give the --data it was trained on" in line
    assert not Path("never").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "there is no run in runs/awdlm-train; name a checkpoint with --save"),
        (["--save", "nowhere.pt"], "there is no checkpoint nowhere.pt"),
        (["--save", "empty"], "there is no checkpoint empty/best.pt"),
    ],
)
def test_no_model_to_finetune(
    words: list[str], expected: str, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert expected in refused(*words, command=main)
