"""Every kind of language model learns more of a tiny corpus than how often each of its words comes."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

AWD = "--dropout 0 --dropouth 0 --dropouti 0 --dropoute 0 --wdrop 0 --alpha 0 --beta 0"
REV = "--dropout 0 --dropouth 0 --dropouti 0 --dropoute 0 --wdrop 0 --lr_decay 1"
RHN = "--dropout 0 --dropouth 0 --dropouti 0 --dropoute 0"
RMC = "--dropout 0 --epochs 4 --lr 0.04"
SPARSE = "--sparse --density 0.5"
ADAPTIVE = "--adaptivesoftmax --cutoffs 5 12"

RUNS = [
    ("awdlm-train", f"{AWD} --model LSTM --lr 8 --epochs 14"),
    ("awdlm-train", f"{AWD} --model GRU --lr 5 --epochs 6"),
    ("awdlm-train", f"{AWD} --model QRNN --lr 8 --epochs 14"),
    ("awdlm-train", f"{AWD} --tied --nlayers 1 --lr 10 --epochs 4"),
    ("awdlm-train", f"{AWD} --model QRNN --tied --optimizer adam --lr 0.05 --epochs 3"),
    ("awdlm-train", f"{AWD} --model LSTM --optimizer adam --lr 0.05 --epochs 4"),
    ("awdlm-train", f"{AWD} --model LSTM --nlayers 1 --lr 10 --epochs 4 --amp bf16"),
    ("awdlm-train", f"{AWD} --model GRU --nlayers 1 --lr 5 --epochs 3 --amp bf16"),
    ("awdlm-train", f"{AWD} --model QRNN --nlayers 1 --lr 10 --epochs 4 --amp bf16"),
    ("awdlm-train", f"{AWD} --model LSTM --level character --lr 5 --epochs 2"),
    ("awdlm-train", f"{AWD} --model QRNN --level character --lr 5 --epochs 2"),
    ("revrnn-train", f"{REV} --model lstm --epochs 3"),
    ("revrnn-train", f"{REV} --model gru --epochs 3"),
    ("revrnn-train", f"{REV} --model revgru --epochs 3"),
    ("revrnn-train", f"{REV} --model revlstm --epochs 3"),
    ("revrnn-train", f"{REV} --model revgru --use_buffers --epochs 3"),
    ("revrnn-train", f"{REV} --model revgru --use_reverse --epochs 3"),
    ("revrnn-train", f"{REV} --model revlstm --use_reverse --epochs 3"),
    ("revrnn-train", f"{REV} --model revgru --use_reverse --nlayers 2 --lr 30 --epochs 5"),
    ("revrnn-train", f"{REV} --model lstm --nlayers 2 --epochs 10"),
    ("revrnn-train", f"{REV} --model revgru --use_reverse --amp bf16 --epochs 3"),
    ("revrnn-train", f"{REV} --model lstm --amp bf16 --epochs 3"),
    ("revrnn-train", f"{REV} --model revgru --use_reverse --level character --epochs 2"),
    *(
        (command, f"{words} {sparse}")
        for sparse in ("", SPARSE)
        for command, words in [
            ("selfish-train", f"{RHN} --nlayers 1 --lr 20 --epochs 6"),
            ("selfish-train", f"{RHN} --tied --nhid 16 --optimizer adam --adam_lr 0.05 --epochs 4"),
            (
                "selfish-train",
                f"{RHN} --model RHN --optimizer adam --adam_lr 0.05 --epochs 3 --nhid 16 --nlayers 1 --nrec 2 "
                "--couple --tied",
            ),
            ("selfish-train-onlstm", f"{AWD} --lr 20 --epochs 6 --nlayers 1"),
            (
                "selfish-train-mos",
                f"{AWD} --dropoutl 0 --optimizer adam --adam_lr 0.05 --epochs 3 --nlayers 1 --small_batch_size 2",
            ),
            ("selfish-train", f"{RHN} --nlayers 1 --level character --lr 10 --epochs 2"),
        ]
    ),
    ("rmc-train", RMC),
    ("rmc-train", f"{RMC} --variant sonnet --memslots 2 --numblocks 2"),
    ("rmc-train", f"{RMC} --gatestyle memory"),
    ("rmc-train", f"{RMC} --gatestyle none"),
    ("rmc-train", f"{RMC} {ADAPTIVE}"),
    ("rmc-train", f"{RMC} --amp bf16"),
    ("rmc-train-rnn", RMC),
    ("rmc-train-rnn", f"{RMC} --model GRU --nlayers 2"),
    ("rmc-train-rnn", f"{RMC} --model RNN_TANH --untied"),
    ("rmc-train-rnn", f"{RMC} --model RNN_RELU --nhid 20"),
    ("rmc-train-rnn", f"{RMC} --cudnn {ADAPTIVE}"),
    ("rmc-train-rnn", f"{RMC} --nlayers 2 --cudnn {ADAPTIVE}"),
]


@pytest.mark.parametrize(("command", "words"), RUNS, indirect=["command"])
def test_learns_more_than_the_frequencies_of_words(
    command: Any,
    words: str,
    corpus: Path,
    tokens_of: Callable[[Path, str], list[str]],
    rows_of: Callable[..., list[dict[str, Any]]],
    losses_of: Callable[..., list[float]],
) -> None:
    run, character = command.run(*words.split()), "character" in words
    text = list((corpus / "train.txt").read_text()) if character else tokens_of(corpus, "train")
    shares = np.array(list(Counter(text).values())) / len(text)
    frequencies = float(-(shares * np.log(shares)).sum())
    assert np.mean(losses_of(run, "step")[-3:]) < frequencies - 0.4 < math.log(len(shares)) - 0.4
    unit = "bpc" if character else "ppl"
    assert all(unit in row for row in rows_of(run, "valid", "test"))
