"""Runs of ``revrnn-nmt-train``: what they learn and leave behind, and what they refuse."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from revrnn.translation.building import build_model, load_model
from revrnn.translation.encoded import load
from revrnn.translation.train import main, validate
from rnncore import checkpoint

Train = Callable[..., Path]
Rows = Callable[..., list[dict[str, Any]]]
Reversible = Callable[[str], list[str]]

MODELS = {
    "revgru": ["-use_reverse"],
    "revlstm": ["-use_buffers"],
    "Vanilla gru": ["-encoder_model", "Vanilla", "-encoder_rnn_type", "gru", "-decoder_rnn_type", "gru"],
    "CUDNN lstm": ["-layers", "2", "-dropout", "0.1"],
    "CUDNN lstm in bfloat16": ["--amp", "bf16"],
}


@pytest.mark.parametrize("name", MODELS)
def test_models_learn(
    name: str,
    train: Train,
    reversible: Reversible,
    rows_of: Rows,
    prefix: Path,
    plot: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rnncore.report.plot", plot)
    words = [*MODELS[name], *(reversible(name) if name.startswith("rev") else [])]
    run = train(*words, "-epochs", "3")
    losses = [row["loss"] for row in rows_of(run, "valid")]
    assert losses[-1] < losses[0] < 3.4
    model, vocabularies, options, _ = load_model(run)
    data = load(prefix)
    assert vocabularies == data.vocabularies
    found = validate(model, data.pairs["valid"], options, torch.device("cpu"))
    assert found == pytest.approx(min(losses), rel=1e-6)
    (test,) = rows_of(run, "test")
    assert 0 <= test["bleu"] <= 100
    assert len((run / "test.translated.txt").read_text().splitlines()) == len(data.texts["test"].source)
    log = (run / "log.txt").read_text()
    assert "test BLEU" in log
    assert "tok:none" in log
    assert ("times less" in log) == name.startswith("rev")
    assert (run / "report.png").exists()


def test_reversal_trains_as_stored_states_do(train: Train, reversible: Reversible, rows_of: Rows) -> None:
    """With buffers both have the same states, so the losses agree to rounding, for a while."""
    words = [*reversible("revgru"), "-epochs", "1", "-dropouti", "0.2", "-separate_buffers"]
    losses = [
        [row["loss"] for row in rows_of(train(*words, way), "step", "valid")]
        for way in ("-use_reverse", "-use_buffers")
    ]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-4)
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)


def test_memory_is_reported(train: Train, reversible: Reversible, rows_of: Rows) -> None:
    run = train(*reversible("revlstm"), "-use_reverse", "-epochs", "1", "-log_mem", "-label_smoothing", "0.1")
    for row in rows_of(run, "step"):
        assert 1 < row["encoder_saving"] <= row["encoder_optimal_saving"]
        assert row["decoder_saving"] > 1
    assert "states" in (run / "log.txt").read_text()


def test_rate_decays(train: Train, rows_of: Rows) -> None:
    run = train(
        "-optim", "sgd", "-learning_rate", "0.5", "-epochs", "4", "-start_decay_at", "2", "--final_beam_size", "0"
    )
    log = (run / "log.txt").read_text()
    assert [f"learning rate {rate:g}" in log for rate in (0.5, 0.25, 0.125, 0.0625)] == [False, True, True, True]
    (test,) = rows_of(run, "test")
    assert "bleu" not in test


def test_the_best_epoch_is_kept(train: Train, rows_of: Rows, prefix: Path) -> None:
    """An epoch that makes it worse leaves the best model."""
    run = train("-epochs", "4", "-start_decay_at", "1", "-learning_rate_decay", "1", "-max_grad_norm", "0",
                "-optim", "sgd", "-learning_rate", "9", "--final_beam_size", "0")  # fmt: skip
    losses = [row["loss"] for row in rows_of(run, "valid")]
    assert losses.index(min(losses)) < 3
    model, _, options, _ = load_model(run)
    found = validate(model, load(prefix).pairs["valid"], options, torch.device("cpu"))
    assert found == pytest.approx(min(losses), rel=1e-6)


def test_a_rate_too_small_ends_the_run(train: Train, rows_of: Rows) -> None:
    words = ["-optim", "sgd", "-learning_rate", "0.01", "-start_decay_at", "1", "-learning_rate_decay", "0.001"]
    run = train(*words, "-epochs", "9", "-start_checkpoint_at", "5")
    assert [row["epoch"] for row in rows_of(run, "valid")] == [1]
    kept, last = (checkpoint.load(run / file)["model"] for file in ("best.pt", "last.pt"))
    assert all(torch.equal(kept[name], value) for name, value in last.items())  # no later epoch comes to be kept


@pytest.mark.parametrize("optim", ["adagrad", "adadelta"])
def test_optimizers(optim: str, train: Train, rows_of: Rows) -> None:
    rates = {"adagrad": "0.1", "adadelta": "1"}
    run = train("-optim", optim, "-learning_rate", rates[optim], "-epochs", "2", "--final_beam_size", "0")
    first, last = (row["loss"] for row in rows_of(run, "valid"))
    assert last < first


def test_noam(train: Train, rows_of: Rows) -> None:
    run = train("-decay_method", "noam", "-warmup_steps", "8", "-learning_rate", "1", "-epochs", "1")
    for row in rows_of(run, "step"):
        assert row["lr"] == pytest.approx(16**-0.5 * min(row["step"] ** -0.5, row["step"] * 8**-1.5))


def test_begins_with_another_models_weights(train: Train, rows_of: Rows, refused: Callable[..., str]) -> None:
    first = train("-epochs", "1")
    run = train("-epochs", "2", "-start_epoch", "2", "-train_from", str(first))
    assert [row["epoch"] for row in rows_of(run, "valid")] == [2]
    assert rows_of(run, "valid")[0]["loss"] < rows_of(first, "valid")[0]["loss"]
    assert "is another model; give its options" in refused("-train_from", str(first), "-layers", "2")


def test_given_embeddings(train: Train, prefix: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    vectors = torch.randn(len(load(prefix).vocabularies[0]), 12)
    torch.save(vectors, tmp_path / "vectors.pt")
    words = ["-pre_word_vecs_enc", str(tmp_path / "vectors.pt"), "-fix_word_vecs_enc", "-epochs", "1"]
    run = train(*words, "--max_steps", "3")
    (tmp_path / "vectors.pt").rename(tmp_path / "moved.pt")
    main(["--resume", str(run)], standalone_mode=False)
    assert torch.equal(checkpoint.load(run / "best.pt")["model"]["source_embedding"], vectors)
    (tmp_path / "moved.pt").rename(tmp_path / "vectors.pt")
    assert "is [" in refused("-pre_word_vecs_dec", str(tmp_path / "vectors.pt"))
    (tmp_path / "text").write_text("no tensor")
    assert "cannot be read as a tensor" in refused("-pre_word_vecs_enc", str(tmp_path / "text"))


@pytest.mark.parametrize("side", ["enc", "dec"])
def test_a_shared_embedding_is_frozen_by_either_flag(side: str) -> None:
    options, words = main.resolve(["-share_embeddings", "-word_vec_size", "4", f"-fix_word_vecs_{side}"]), list("abcde")
    model = build_model(options, (words, words))
    assert not model.source_embedding.requires_grad


def test_dry_run(arguments: list[str], reversible: Reversible, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(Path().iterdir())
    main([*arguments, *reversible("revgru"), "--dry_run"], standalone_mode=False)
    assert "# parameters: " in capsys.readouterr().out
    assert set(Path().iterdir()) == before


def test_where_a_run_goes(arguments: list[str]) -> None:
    main(
        [*arguments, "-epochs", "1", "-save_model", "mine", "-save_dir", "kept", "--max_steps", "2"],
        standalone_mode=False,
    )
    assert (Path("kept") / "mine" / "last.pt").exists()


def test_translations_that_cannot_be_written(refused: Callable[..., str]) -> None:
    Path("full/valid.translated.txt").mkdir(parents=True)
    assert "cannot write full/valid.translated.txt" in refused("-epochs", "1", "--run_dir", "full")


def test_a_run_cut_short_is_not_translated(train: Train, rows_of: Rows) -> None:
    """Its sentences would not end; a line says how to translate all the same."""
    run = train("--max_steps", "3")
    (test,) = rows_of(run, "test")
    assert "bleu" not in test
    assert "no BLEU; for that, add" in (run / "log.txt").read_text()
    assert not (run / "test.translated.txt").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "-encoder_model Rev -decoder_model Rev",
            "-encoder_model Rev goes with -encoder_rnn_type revgru or revlstm, not lstm",
        ),
        (
            "-encoder_rnn_type revgru -decoder_rnn_type revgru",
            "-encoder_model CUDNN goes with -encoder_rnn_type gru or lstm",
        ),
        ("-encoder_model Rev -encoder_rnn_type revlstm", "must both be Rev, or neither"),
        ("-encoder_rnn_type gru", "-encoder_rnn_type and -decoder_rnn_type must be the same"),
        ("-enc_layers 2", "-enc_layers and -dec_layers must be the same"),
        ("-use_reverse", "-use_reverse needs -encoder_model Rev -decoder_model Rev"),
        ("-slice_dim 17 -context_type slice", "-slice_dim must be from 0 to -rnn_size 16, not 17"),
        ("-context_type slice", "needs a -slice_dim above 0"),
        (
            "-context_type emb -global_attention dot",
            "needs contexts as wide as the hidden state, 16, not 12; use general",
        ),
        ("-share_embeddings", "run revrnn-nmt-preprocess with -share_vocab"),
        ("-share_decoder_embeddings", "needs target embeddings of -rnn_size"),
        ("-encoder_type cnn", "-encoder_type cnn belongs to another system of OpenNMT-py"),
        ("-model_type img", "only text is translated"),
        ("-exp_host there", "runs are logged to their directory and to TensorBoard"),
        ("-copy_attn", "-copy_attn belongs to another system"),
        ("-input_feed 1", "the decoder is unrolled before it attends"),
        ("-gpuid 0 1", "-gpuid takes one GPU here, not 2"),
        ("-start_epoch 14", "-start_epoch 14 is past the last epoch, -epochs 13"),
        ("-start_checkpoint_at 3 -epochs 2", "-start_checkpoint_at 3 is past the last epoch, -epochs 2"),
        ("-data nowhere", "-data takes what -save_data of revrnn-nmt-preprocess was"),
        ("-train_from nowhere.pt", "there is no checkpoint nowhere.pt"),
        ("-wdrop 1", "-wdrop must be at least 0 and below 1"),
    ],
)
def test_refusals(words: str, expected: str, refused: Callable[..., str]) -> None:
    before = set(Path().iterdir())
    assert expected in refused(*words.split())
    assert set(Path().iterdir()) == before


def test_odd_width_is_refused(refused: Callable[..., str], reversible: Reversible) -> None:
    assert "-rnn_size 15 must be even" in refused(*reversible("revgru"), "-rnn_size", "15")


def test_data_are_required(refusal: Callable[..., str]) -> None:
    assert "-data is required" in refusal(main, [])
