"""``urlstm-gates``: the gates that are drawn are those of the model at its first step and of the saved one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from rnncore import checkpoint
from torch import nn
from urlstm import train_adding, training
from urlstm.gate_histograms import main, spread_of
from urlstm.random_streams import Purpose, stream

Launch = Callable[..., Path]
Refused = Callable[..., str]


@pytest.mark.parametrize("task", ["adding", "copy", "images", "language"])
def test_gates_before_and_after(task: str, launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[dict[str, torch.Tensor]] = []
    real = training.under_way

    def noted(options: Any, command: str, place: torch.device, model: nn.Module, *words: Any, **more: Any) -> Any:
        first.append({name: value.clone() for name, value in model.state_dict().items()})
        return real(options, command, place, model, *words, **more)

    module = {"adding": "synthetic", "copy": "synthetic", "images": "train_images", "language": "train_language"}
    monkeypatch.setattr(f"urlstm.{module[task]}.under_way", noted)
    run = launch(task, "--max_steps", "12")
    found = spread_of(run)
    assert found.title == "ur-lstm, seed 22"
    assert found.start.keys() == found.trained.keys() != set()
    for values in (*found.start.values(), *found.trained.values()):
        assert values.dim() == 4
        assert bool(((values >= 0) & (values <= 1)).all())
    # A checkpoint with the weights of before the first step has the gates of the start.
    saved = checkpoint.load(run / "best.pt")
    checkpoint.save(run / "best.pt", {**saved, "model": first[0]}, keep_previous=False)
    again = spread_of(run)
    for name, values in found.start.items():
        assert torch.equal(again.trained[name], values)
        assert not torch.equal(found.trained[name], values)


def test_gates_are_of_sequences_that_are_not_trained_on(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    run = launch("adding", "--n_steps", "8", "--valid_interval", "4")
    seen: list[torch.Tensor] = []
    layer = type(train_adding.build_model(train_adding.main.resolve(["--hidden_size", "4"])).recurrent)
    real = layer.gate_activations
    monkeypatch.setattr(layer, "gate_activations", lambda self, x: (seen.append(x), real(self, x))[1])
    spread_of(run)
    expected, _ = train_adding.adding_batch(stream(22, Purpose.TEST), 9, 10)
    assert all(torch.equal(x, expected) for x in seen)
    assert len(seen) == 2


def test_the_picture_has_a_row_for_each_run(launch: Launch, sandbox: Path) -> None:
    runs = [launch("adding", "--n_steps", "4", "--model_type", gate) for gate in ("lstm", "ur-lstm")]
    main([str(runs[0]), "--output", "one.png"], standalone_mode=False)
    main([*map(str, runs), "--output", "two.png"], standalone_mode=False)
    one, two = imread("one.png"), imread("two.png")
    assert two.shape[0] > 1.5 * one.shape[0]


def test_a_comparison_gives_one_run_of_each_gate(
    sandbox: Path, copy_files: Callable[[Path, Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from urlstm.compare import main as compare

    words = (
        "adding --gates ur-lstm,lstm --seeds 2 --run_dir both --seq_length 9 --hidden_size 4 --n_steps 3 --threads 1"
    )
    compare([*words.split(), "--device", "cpu"], standalone_mode=False)
    copy_files(Path("both/lstm_seed22"), Path("both/lstm_seed22_before"))  # somebody's own
    main(["both", "--output", "gates.svg"], standalone_mode=False)
    text = Path("gates.svg").read_text()
    assert text.count("seed 22 -->") == 2
    assert text.index("<!-- lstm, seed 22") < text.index("<!-- ur-lstm, seed 22")
    assert text.count("<!-- keep -->") == 1


def test_a_text_that_has_changed(launch: Launch, data: Path, refused: Refused) -> None:
    run = launch("language", "--max_steps", "1", f"--data {data}")
    (data / "train.txt").write_text("other words " * 50)
    assert f"{data} has changed: its vocabulary is another than that of {run / 'best.pt'}" in refused(main, str(run))


def test_pictures_that_cannot_be_drawn(launch: Launch, refused: Refused) -> None:
    run = launch("adding", "--n_steps", "4")
    assert "cannot draw to gates.txt" in refused(main, str(run), "--output", "gates.txt")
    assert "cannot write nowhere/gates.png" in refused(main, str(run), "--output", "nowhere/gates.png")
    checkpoint.save(Path("other.pt"), {"kind": "revrnn-train"})
    Path("foreign").mkdir()
    Path("other.pt").rename("foreign/last.pt")
    assert "foreign/last.pt is a checkpoint of revrnn-train" in refused(main, "foreign")
