"""Milliseconds of a training step of each translation model, in turn in one run, and of beam search by sentence.

One step is zero_grad, forward, backward, clip, SGD, at the sizes of the Multi30k commands: 300 units, batches of 64
sentences of like lengths. Beam search has 5 beams; every translation has 13 words, whatever the untrained model says.
With --trained, a trained model translates the test text as it is, too.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from revrnn.translation import data_command
from revrnn.translation.building import build_model, load_model
from revrnn.translation.encoded import TranslationData, load
from revrnn.translation.fields import epoch_batches
from revrnn.translation.model import END, Batch
from revrnn.translation.options import TranslationOptions
from revrnn.translation.reversal import loss_and_backward
from revrnn.translation.translator import Search, Translator
from rnncore import device
from rnncore.memory import keep_freed_memory

REV = {
    "context_type": "slice_emb",
    "slice_dim": 20,
    "dropout_slice": 0.4,
    "use_buffers": True,
    "separate_buffers": True,
}
#: Sentences of a batch of beam search.
TOGETHER = 250
MODELS = {
    "Vanilla gru": {},
    "CUDNN gru": {},
    "Rev revgru, states stored": REV,
    "Rev revgru, -use_reverse": {**REV, "use_reverse": True},
    "Vanilla lstm": {},
    "CUDNN lstm": {},
    "Rev revlstm, states stored": REV,
    "Rev revlstm, -use_reverse": {**REV, "use_reverse": True},
}


def options_of(name: str) -> TranslationOptions:
    """The options of a model of `MODELS`, as the README's commands have them."""
    family, cell = name.split(",")[0].split()
    common = {"encoder_model": family, "decoder_model": family, "encoder_rnn_type": cell, "decoder_rnn_type": cell}
    rates = {"dropout_input": 0.4, "dropout_output": 0.4, "dropout_hidden": 0.4}
    return TranslationOptions(data="", embedding_size=300, rnn_size=300, **common, **rates, **MODELS[name])  # type: ignore[arg-type]


def make_step(name: str, data: TranslationData) -> Callable[[Batch], None]:
    """A function that takes one optimizer step on a batch."""
    options = options_of(name)
    model = build_model(options, data.vocabularies).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, fused=True)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        scale = 1 / batch.source.shape[1]
        if options.use_reverse:
            loss_and_backward(model, batch, scale)
        else:
            (model.loss(batch).loss * scale).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()

    return step


def search_times(translator: Translator, text: list[list[str]], alone: int, search: Search) -> tuple[float, float]:
    """Milliseconds of a sentence of a text: one at a time, over ``alone`` ones of it, and `TOGETHER` at a time."""
    some = text[:: max(1, len(text) // alone)][:alone]
    times = []
    for sentences, size in ((some[:2], 1), (some, 1), (text, TOGETHER)):
        start = time.perf_counter()
        translator.translate(sentences, search, batch_size=size)
        times.append((time.perf_counter() - start) / len(sentences) * 1000)
    return times[1], times[2]


def untrained(name: str, data: TranslationData) -> Translator:
    """A translator whose translations do not end by themselves."""
    model = build_model(options_of(name), data.vocabularies)
    with torch.no_grad():
        model.generator_bias[END] -= 50
    return Translator(model, data.vocabularies)


def number_words() -> TranslationData:
    """The corpus that needs no download."""
    with tempfile.TemporaryDirectory() as folder:
        data_command.main(["toy", "--output", folder], standalone_mode=False)
        return load(Path(folder) / data_command.PREFIXES["toy"])


@click.command()
@click.argument("prefix", type=Path, required=False)
@click.option("--steps", default=11, help="Measured steps of each model, after one that is not.")
@click.option("--sentences", default=1000, help="Sentences translated in batches.")
@click.option("--alone", default=20, help="Sentences translated one at a time.")
@click.option("--trained", type=Path, help="Run directory of a model of this data, to translate with.")
@click.option("--quick", is_flag=True, help="A step, a few sentences: to see that it runs.")
@click.option("--output", type=Path, help="JSON file for the numbers.")
def main(
    prefix: Path | None, steps: int, sentences: int, alone: int, trained: Path | None, quick: bool, output: Path | None
) -> None:
    """Measure on preprocessed data, such as data/multi30k/multi30k.tok.low; without PREFIX on number words."""
    if quick:
        steps, sentences, alone = 1, 20, 2
    keep_freed_memory()
    device.seed_everything(1)
    data = load(prefix) if prefix else number_words()
    pairs, batches = data.pairs["train"], epoch_batches(data.pairs["train"], 64, seed=1, epoch=1)
    models = {name: make_step(name, data) for name in MODELS}
    times: dict[str, list[float]] = {name: [] for name in MODELS}
    for number in range(steps + 1):
        batch = pairs.batch(batches[number])
        for name, step in models.items():
            start = time.perf_counter()
            step(batch)
            times[name].append((time.perf_counter() - start) * 1000)
    numbers = {name: round(statistics.median(each[1:]), 1) for name, each in times.items()}
    for name, milliseconds in numbers.items():
        print(f"{name:28} {milliseconds:8.1f} ms a step")
    ratios = {
        f"{rev} / {plain}": round(numbers[rev] / numbers[plain], 2)
        for rev, plain in (("Rev revgru, -use_reverse", "Vanilla gru"), ("Rev revlstm, -use_reverse", "Vanilla lstm"))
    }
    text = [line.split() for line in data.texts["test"].source][:sentences]
    searches = {
        name: (untrained(name, data), Search(max_length=13)) for name in ("Vanilla gru", "Rev revgru, -use_reverse")
    }
    if trained is not None:
        model, vocabularies, *_ = load_model(trained)
        searches["trained"] = Translator(model, vocabularies), Search()
    for name, (translator, search) in searches.items():
        one, many = search_times(translator, text, alone, search)
        numbers |= {f"{name}, one sentence at a time": round(one, 2), f"{name}, {TOGETHER} at a time": round(many, 2)}
        ratios[f"{name}, one at a time / {TOGETHER}"] = round(one / many, 1)
    for name, ratio in ratios.items():
        print(f"{name:60} {ratio:6.2f}")
    if output is not None:
        content = {"machine": device.describe_machine(), "ms": numbers, "ratios": ratios}
        output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
