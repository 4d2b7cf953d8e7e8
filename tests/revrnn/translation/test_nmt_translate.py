"""``revrnn-nmt-translate``: a trained model's translations, their scores, pictures, and bad input."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pytest
import torch
from revrnn.translation.beam import Penalties
from revrnn.translation.bleu import bleu
from revrnn.translation.building import load_model
from revrnn.translation.encoded import load
from revrnn.translation.model import BEGIN, END, UNKNOWN
from revrnn.translation.picture import draw_attention
from revrnn.translation.translate import main
from revrnn.translation.translator import Search, Translator
from rnncore import checkpoint
from rnncore.errors import UserError
from torch.nn import functional as F

Refusal = Callable[[click.Command, Sequence[str]], str]


@pytest.fixture(scope="module", params=["revgru", "revlstm", "plain"])
def run(request: pytest.FixtureRequest, train: Callable[..., Path], reversible: Callable[[str], list[str]]) -> Path:
    """A model that has learned some of the numbers."""
    words = [] if request.param == "plain" else [*reversible(request.param), "-use_reverse"]
    return train("-epochs", "8", "-rnn_size", "32", "-learning_rate", "0.02", "--final_beam_size", "0", *words)


@pytest.fixture(scope="module")
def plain_run(train: Callable[..., Path]) -> Path:
    return train("-epochs", "2", "--final_beam_size", "0")


def translate(*words: str) -> list[str]:
    main(list(words), standalone_mode=False)
    return Path("pred.txt").read_text().splitlines()


@pytest.mark.parametrize("penalties", [None, Penalties(0.5, 0.2)])
@pytest.mark.parametrize("beams", [1, 3])
def test_batches_translate_as_single_sentences(
    run: Path, beams: int, penalties: Penalties | None, prefix: Path
) -> None:
    model, vocabularies, _, _ = load_model(run)
    translator, texts = Translator(model.double(), vocabularies), load(prefix).texts["test"]
    sentences = [line.split() for line in texts.source]
    search = Search(beam_size=beams, n_best=beams, penalties=penalties)
    together = translator.translate(sentences, search, batch_size=7)
    for sentence, found in zip(sentences, together, strict=True):
        (alone,) = translator.translate([sentence], search)
        assert alone.words == found.words
        scores = [each.score for each in alone.hypotheses]
        assert scores == pytest.approx([each.score for each in found.hypotheses])
        assert min(scores) > -math.inf


def test_scores_are_the_models(run: Path, prefix: Path) -> None:
    """The score of a translation is the log-probability that the model gives it, all at once."""
    model, vocabularies, _, _ = load_model(run)
    model.double()
    data = load(prefix)
    batch = data.pairs["valid"].batch([2])
    (found,) = Translator(model, vocabularies).translate([data.texts["valid"].source[2].split()], Search())
    best = found.hypotheses[0]
    path = torch.tensor([BEGIN, *best.words, END])[:, None]
    with torch.no_grad():
        state, memory = model.encode(batch.source, batch.lengths)
        features, attention, _ = model.decode(path[:-1], state, memory)
        scores = F.linear(features, model.generator_weight, model.generator_bias)
    assert float(scores.log_softmax(2).gather(2, path[1:, :, None]).sum()) == pytest.approx(best.score, abs=1e-6)
    assert attention is not None
    assert best.attention is not None
    torch.testing.assert_close(best.attention, attention[:-1, 0])


def test_the_command(run: Path, numbers: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "attention.png"
    words = ["-model", str(run), "-src", str(numbers / "test.en"), "-tgt", str(numbers / "test.de")]
    found = translate(*words, "-report_bleu", "-verbose", "-attn_debug", "--attention_picture", str(picture),
                      "-dump_beam", str(tmp_path / "beams.json"), "--device", "cpu")  # fmt: skip
    reference = (numbers / "test.de").read_text().splitlines()
    out = capsys.readouterr().out
    assert f"BLEU {bleu(found, reference).score:.2f} (nrefs:1|case:mixed|eff:no|tok:none" in out
    assert f"PRED 3: {found[2]}\n" in out
    assert f"GOLD 3: {reference[2]}\n" in out
    assert picture.read_bytes()[:4] == b"\x89PNG"
    beams = json.loads((tmp_path / "beams.json").read_text())
    assert len(beams) == len(reference)
    assert len(beams[0]["scores"]) == len(beams[0]["predicted_ids"]) == len(beams[0]["beam_parent_ids"])
    several = translate(*words, "-n_best", "3", "-beam_size", "4", "-alpha", "0.5", "-beta", "0.1")
    assert len(several) == 3 * len(reference)


def test_lengths_of_translations(plain_run: Path, numbers: Path) -> None:
    words = ["-model", str(plain_run / "best.pt"), "-src", str(numbers / "test.en")]
    assert all(len(line.split()) >= 6 for line in translate(*words, "-min_length", "8"))
    assert all(len(line.split()) <= 2 for line in translate(*words, "-max_length", "2"))


def test_unknown_words_are_replaced(plain_run: Path) -> None:
    """By the source word that got most attention: the model is made to say nothing but unknown words."""
    model, vocabularies, _, _ = load_model(plain_run)
    with torch.no_grad():
        model.generator_bias[UNKNOWN] = 1e3
    source = ["seven", "hundred", "Überraschung"]
    (found,) = Translator(model, vocabularies).translate([source], Search(max_length=4), replace_unknown=True)
    attention = found.hypotheses[0].attention
    assert attention is not None
    assert found.words[0] == [source[at] for at in attention.argmax(1).tolist()]
    (plain,) = Translator(model, vocabularies).translate([source], Search(max_length=4))
    assert plain.words[0] == ["<unk>"] * len(attention)


def test_odd_input(plain_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Empty lines, unknown characters, one word, very many words: nothing is lost."""
    lines = ["", "\u2603 \U0001f600", "one", "two hundred " * 90, ""]
    (tmp_path / "text").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    found = translate("-model", str(plain_run), "-src", str(tmp_path / "text"), "-max_length", "5")
    assert len(found) == 5
    assert [bool(line) for line in found][::4] == [False, False]
    out = capsys.readouterr().out
    assert "2 empty lines have empty translations" in out
    assert "2 of 183 source words are not in the model's vocabulary" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-report_bleu"], "-report_bleu needs the reference: give -tgt"),
        (["-n_best", "6"], "-n_best 6 needs a -beam_size at least as large, not 5"),
        (["-tgt", "{numbers}/valid.de"], "has 17 lines and"),
        (["-src", "nowhere"], "cannot read nowhere"),
        (["-src", "{empty}"], "is empty: there is nothing to translate"),
        (["-model", "nowhere"], "there is no checkpoint nowhere"),
        (["-model", "{numbers}/test.en"], "is damaged"),
        (["-data_type", "img"], "only text is translated"),
        (["-report_rouge"], "-report_bleu scores translations"),
        (["--attention_picture", "x.png", "--attention_line", "99"], "--attention_line 99 is beyond the 17 lines"),
        (["-output", "."], "cannot write -output .: it is a folder"),
        (["-dump_beam", "none/x"], "cannot write -dump_beam none/x: there is no folder none"),
        (["--attention_picture", "none/x.png"], "cannot write --attention_picture none/x.png: there is no folder none"),
    ],
)
def test_refusals(
    words: list[str], expected: str, plain_run: Path, numbers: Path, tmp_path: Path, refusal: Refusal
) -> None:
    (tmp_path / "empty").write_text("")
    given = ["-model", str(plain_run), "-src", str(numbers / "test.en"), "-output", str(tmp_path / "out")]
    filled = [word.format(numbers=numbers, empty=tmp_path / "empty") for word in words]
    for name in ("-model", "-src", "-output"):
        if name in filled:
            del given[given.index(name) : given.index(name) + 2]
    assert expected in refusal(main, [*given, *filled])


def test_a_picture_of_no_known_kind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot draw .*nothing"):
        draw_attention(tmp_path / "x.nothing", ["a"], ["b", "$c"], torch.tensor([[0.5], [1.0]]))


def test_another_commands_checkpoint(tmp_path: Path, refusal: Refusal, numbers: Path) -> None:
    checkpoint.save(tmp_path / "best.pt", {"kind": "revrnn-train"})
    line = refusal(main, ["-model", str(tmp_path), "-src", str(numbers / "test.en")])
    assert "is a checkpoint of revrnn-train, not of revrnn-nmt-train" in line
