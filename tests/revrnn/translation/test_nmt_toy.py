"""From nothing to translations that are nearly all right, by the commands, on a small form of the toy corpus."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from revrnn.translation import data_command, number_corpus
from revrnn.translation.train import main

MODELS = {
    "Rev": "-encoder_model Rev -decoder_model Rev -encoder_rnn_type revgru -decoder_rnn_type revgru -use_reverse",
    "Vanilla": "-encoder_model Vanilla -decoder_model Vanilla -encoder_rnn_type gru -decoder_rnn_type gru",
}
RECIPE = "-word_vec_size 48 -rnn_size 48 -batch_size 32 -epochs 5 -start_decay_at 4 -optim adam -learning_rate 0.01 "
RECIPE += "-context_type slice_emb -slice_dim 16"


@pytest.fixture(scope="module")
def small_toy(sandbox: Path) -> Path:
    """The corpus with fewer sentences."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(number_corpus, "COUNTS", {"train": 4000, "val": 50, "test": 100})
        data_command.main(["toy"], standalone_mode=False)
    return Path("data/toy/toy.tok.low")


@pytest.mark.slow
@pytest.mark.parametrize("family", MODELS)
def test_numbers_are_learned(family: str, small_toy: Path, rows_of: Callable[..., list[dict[str, Any]]]) -> None:
    words = ["-data", str(small_toy), *RECIPE.split(), *MODELS[family].split(), "--run_dir", family]
    main([*words, "-seed", "1", "--threads", "1", "--device", "cpu"], standalone_mode=False)
    (test,) = rows_of(Path(family), "test")
    assert test["bleu"] > 95
