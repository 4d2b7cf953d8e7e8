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

#: Command, words, and by how many nats its loss falls below the entropy of the frequencies.
RUNS = [
    ("awdlm-train", f"{AWD} --model LSTM --lr 8 --epochs 14", 0.4),
    ("awdlm-train", f"{AWD} --model GRU --lr 5 --epochs 6", 0.4),
    ("awdlm-train", f"{AWD} --model QRNN --lr 8 --epochs 14", 0.4),
    ("awdlm-train", f"{AWD} --tied --nlayers 1 --lr 5 --epochs 6", 0.4),
    ("awdlm-train", f"{AWD} --model QRNN --tied --optimizer adam --lr 0.05 --epochs 5", 0.4),
    ("awdlm-train", f"{AWD} --model LSTM --optimizer adam --lr 0.05 --epochs 6", 0.4),
    ("awdlm-train", f"{AWD} --model LSTM --nlayers 1 --lr 5 --epochs 6 --amp bf16", 0.4),
    ("awdlm-train", f"{AWD} --model GRU --nlayers 1 --lr 5 --epochs 5 --amp bf16", 0.4),
    ("awdlm-train", f"{AWD} --model QRNN --nlayers 1 --lr 5 --epochs 6 --amp bf16", 0.4),
    ("awdlm-train", f"{AWD} --model LSTM --level character --lr 5 --epochs 2", 0.4),
    ("awdlm-train", f"{AWD} --model QRNN --level character --lr 5 --epochs 2", 0.4),
    ("revrnn-train", f"{REV} --model lstm --epochs 4", 0.4),
    ("revrnn-train", f"{REV} --model gru --epochs 4", 0.4),
    ("revrnn-train", f"{REV} --model revgru --epochs 4", 0.4),
    ("revrnn-train", f"{REV} --model revlstm --epochs 4", 0.4),
    ("revrnn-train", f"{REV} --model revgru --use_buffers --epochs 4", 0.4),
    ("revrnn-train", f"{REV} --model revgru --use_reverse --epochs 4", 0.4),
    ("revrnn-train", f"{REV} --model revlstm --use_reverse --epochs 4", 0.4),
    ("revrnn-train", f"{REV} --model revgru --use_reverse --nlayers 2 --epochs 10", 0.4),
    ("revrnn-train", f"{REV} --model lstm --nlayers 2 --epochs 10", 0.4),
    ("revrnn-train", f"{REV} --model revgru --use_reverse --amp bf16 --epochs 4", 0.4),
    ("revrnn-train", f"{REV} --model lstm --amp bf16 --epochs 4", 0.4),
    ("revrnn-train", f"{REV} --model revgru --use_reverse --level character --epochs 2", 0.4),
    *(
        (command, f"{words} {sparse}", 0.25)
        for sparse in ("", SPARSE)
        for command, words in [
            ("selfish-train", f"{RHN} --nlayers 1 --lr 8 --epochs 10"),
            ("selfish-train", f"{RHN} --tied --nhid 16 --optimizer adam --adam_lr 0.05 --epochs 4"),
            (
                "selfish-train",
                f"{RHN} --model RHN --optimizer adam --adam_lr 0.03 --epochs 6 --nhid 16 --nlayers 1 --nrec 2 "
                "--couple --tied",
            ),
            ("selfish-train-onlstm", f"{AWD} --lr 8 --epochs 10 --nlayers 1"),
            (
                "selfish-train-mos",
                f"{AWD} --dropoutl 0 --optimizer adam --adam_lr 0.05 --epochs 6 --nlayers 1 --small_batch_size 2",
            ),
            ("selfish-train", f"{RHN} --nlayers 1 --level character --lr 10 --epochs 2"),
        ]
    ),
    ("rmc-train", RMC, 0.4),
    ("rmc-train", f"{RMC} --variant sonnet --memslots 2 --numblocks 2", 0.4),
    ("rmc-train", f"{RMC} --gatestyle memory", 0.4),
    ("rmc-train", f"{RMC} --gatestyle none", 0.4),
    ("rmc-train", f"{RMC} {ADAPTIVE}", 0.4),
    ("rmc-train", f"{RMC} --amp bf16", 0.4),
    ("rmc-train-rnn", RMC, 0.4),
    ("rmc-train-rnn", f"{RMC} --model GRU --nlayers 2", 0.4),
    ("rmc-train-rnn", f"{RMC} --model RNN_TANH --untied", 0.4),
    ("rmc-train-rnn", f"{RMC} --model RNN_RELU --nhid 20", 0.4),
    ("rmc-train-rnn", f"{RMC} --cudnn {ADAPTIVE}", 0.4),
    ("rmc-train-rnn", f"{RMC} --nlayers 2 --cudnn {ADAPTIVE}", 0.4),
]


@pytest.mark.parametrize(("command", "words", "margin"), RUNS, indirect=["command"])
def test_learns_more_than_the_frequencies_of_words(
    command: Any,
    words: str,
    margin: float,
    corpus: Path,
    tokens_of: Callable[[Path, str], list[str]],
    rows_of: Callable[..., list[dict[str, Any]]],
    losses_of: Callable[..., list[float]],
) -> None:
    run, character = command.run(*words.split()), "character" in words
    text = list((corpus / "train.txt").read_text()) if character else tokens_of(corpus, "train")
    shares = np.array(list(Counter(text).values())) / len(text)
    frequencies = float(-(shares * np.log(shares)).sum())
    assert np.mean(losses_of(run, "step")[-3:]) < frequencies - margin < math.log(len(shares)) - margin
    unit = "bpc" if character else "ppl"
    assert all(unit in row for row in rows_of(run, "valid", "test"))
