"""``awdlm-generate``: text from the checkpoint of a tiny run."""

from collections.abc import Callable
from pathlib import Path

import pytest
from awdlm.generate import main
from rnncore import checkpoint

Run = Callable[..., Path]
Generate = Callable[..., str]


@pytest.fixture(scope="module")
def lstm(train: Run) -> Path:
    return train("--epochs", "1") / "best.pt"


@pytest.fixture
def generate(capsys: pytest.CaptureFixture[str]) -> Generate:
    """The text that a command line prints."""

    def write(*words: object) -> str:
        capsys.readouterr()
        main([str(word) for word in (*words, "--device", "cpu")], standalone_mode=False)
        return capsys.readouterr().out.removesuffix("\n")

    return write


def test_text_goes_to_a_file(lstm: Path, generate: Generate, sandbox: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    text = generate("--checkpoint", lstm, "--words", 30, "--outf", file)
    assert file.read_text() == text + "\n"
    text = generate("--checkpoint", lstm, "--words", 20)
    assert (sandbox / "generated.txt").read_text() == text + "\n"


def test_flags_of_the_original_that_are_not_needed(lstm: Path, generate: Generate) -> None:
    words = "--checkpoint", lstm, "--words", 20
    assert generate(*words, "--data", "nowhere", "--model", "QRNN", "--log-interval", 7) == generate(*words)


@pytest.mark.parametrize("place", ["finetuned", "model.pt"])
def test_the_model_is_found(
    place: str,
    lstm: Path,
    finetune: Run,
    generate: Generate,
    copy_files: Callable[[Path, Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    run = copy_files(lstm.parent, tmp_path / "runs" / "awdlm-train" / "one")
    saved = checkpoint.load(run / "last.pt")
    saved["model"]["decoder.bias"][3] += 9  # another model than the best
    checkpoint.save(run / "last.pt", saved)
    if place == "model.pt":  # the flag's default
        (tmp_path / "model.pt").write_bytes((run / "last.pt").read_bytes())
    if place == "finetuned":
        finetune("--save", str(run / "best.pt"), "--epochs", "1", "--lr", "3", "--run_dir", "finetuning")
    words = ["--checkpoint", run / "best.finetuned.pt"] if place == "finetuned" else []
    assert generate("--checkpoint", run / "best.pt", "--words", 40) != generate(*words, "--words", 40)
