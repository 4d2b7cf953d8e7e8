"""``rmc-generate``, ``rmc-generate-rnn`` and ``rmc-attention``: from a checkpoint alone."""

from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pytest
import torch
from rmc import attention_picture, generate
from rmc.options import MEMORY
from rmc.saved_model import load

Run = Callable[..., Path]
MAINS = {"memory": generate.main, "rnn": generate.main_rnn}
ADAPTIVE = "--adaptivesoftmax --cutoffs 5 12"


@pytest.fixture(scope="module")
def trained(launch: Run) -> Callable[..., Path]:
    """``trained(task, words)``: a run, made once."""
    found: dict[tuple[str, str], Path] = {}

    def run(task: str, words: str = "") -> Path:
        if (task, words) not in found:
            found[task, words] = launch(task, words, "--epochs 2")
        return found[task, words]

    return run


def written(capsys: pytest.CaptureFixture[str], task: str, *words: str) -> list[str]:
    capsys.readouterr()
    MAINS[task]([*words, "--device", "cpu"], standalone_mode=False)
    return capsys.readouterr().out.split()


@pytest.mark.parametrize("task", ["memory", "rnn"])
@pytest.mark.parametrize("words", ["", ADAPTIVE])
def test_text_is_what_the_model_says(
    task: str, words: str, trained: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """At temperature 0 each word is the likeliest after all before it, which one window over the text tells."""
    run = trained(task, words)
    kind = MEMORY if task == "memory" else "rmc-train-rnn"
    saved = load(run / "best.pt", kind)
    greedy = ["--checkpoint", str(run), "--temperature", "0", "--words", "12", "--prompt", "ba da"]
    text = written(capsys, task, *greedy)
    assert Path("generated.txt").read_text().split() == text
    ids, expected = [saved.vocabulary.index(token) for token in ("<eos>", "ba", "da")], []
    with torch.no_grad():
        for _ in range(12):
            found, _ = saved.model.log_probabilities(torch.tensor(ids)[:, None], saved.model.initial_state(1))
            ids.append(int(found[-1, 0].argmax()))
            expected.append(saved.vocabulary.tokens[ids[-1]])
    assert text[2:] == [word for word in expected if word != "<eos>"]


@pytest.mark.parametrize("task", ["memory", "rnn"])
def test_newest_run_is_the_default(
    task: str, launch: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch(task, "--name newest --epochs 1")
    folder = "rmc-train" if task == "memory" else "rmc-train-rnn"
    text = written(capsys, task, "--words", "20")
    assert text == written(capsys, task, "--words", "20", "--checkpoint", f"runs/{folder}/newest/best.pt")
    assert text != written(capsys, task, "--words", "20", "--seed", "2")


def test_mistakes(
    trained: Callable[..., Path], refusal: Callable[[click.Command, Sequence[str]], str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    other = str(trained("rnn").resolve())
    assert "is a checkpoint of rmc-train-rnn, not of rmc-train; rmc-generate-rnn reads it" in refusal(
        generate.main, ["--checkpoint", other]
    )
    assert "there is no checkpoint absent.pt" in refusal(generate.main, ["--checkpoint", "absent.pt"])
    assert "--temperature" in refusal(generate.main, ["--temperature", "-1"])
    monkeypatch.chdir(tmp_path)
    assert "there is no run in runs/rmc-train; name a checkpoint\n" in refusal(generate.main, [])


def test_attention_of_a_sentence(trained: Callable[..., Path], sandbox: Path) -> None:
    run = trained("memory", "--memslots 3")
    words = ["ba", "da", "mo", "ka"]
    shares = attention_picture.attention_of(load(run / "best.pt", MEMORY), words)
    assert shares.shape == (4, 2, 4)
    torch.testing.assert_close(shares.sum(2), torch.ones(4, 2))
    later = attention_picture.attention_of(load(run / "best.pt", MEMORY), [*words, "be"])
    torch.testing.assert_close(later[:4], shares)
    assert not torch.allclose(shares[0], shares[1])
    attention_picture.main([str(run), "--text", " ".join(words)], standalone_mode=False)
    assert (sandbox / "attention.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--text", " "], "--text is empty"),
        (["--text", "ba", "--output", "x.doc"], "cannot draw to x.doc: give a name that ends in"),
        (["--text", "ba", "--output", "nowhere/x.png"], "nowhere/x.png"),
    ],
)
def test_mistakes_of_pictures(
    words: list[str],
    expected: str,
    trained: Callable[..., Path],
    refusal: Callable[[click.Command, Sequence[str]], str],
) -> None:
    assert expected in refusal(attention_picture.main, [str(trained("memory")), *words])
