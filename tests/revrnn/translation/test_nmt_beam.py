"""Beam search: recorded searches, an exhaustive search, and batches against single sentences."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from revrnn.translation import likeliest as module
from revrnn.translation.beam import BeamSearch, Penalties
from revrnn.translation.likeliest import NEVER, likeliest
from revrnn.translation.model import END
from torch import Tensor

Golden = Callable[[str], dict[str, Tensor]]
RECORDED: dict[str, dict[str, Any]] = {
    "plain": {},
    "nbest2": {"n_best": 2},
    "minlen": {"min_length": 5},
    "gnmt": {"n_best": 2, "penalties": Penalties(0.6, 0.2)},
}


def advance(search: BeamSearch, table: Tensor, attention: Tensor | None) -> None:
    """One step with log-probabilities ``[N, K, V]`` of the words after each beam."""
    words = table.shape[2]
    none, identity = torch.zeros(words), torch.eye(words, dtype=table.dtype)
    found = likeliest(table.flatten(0, 1), identity, none.to(table), min(search.beams, words), search.barred)
    scores, chosen = (part.view(*table.shape[:2], -1) for part in found)
    search.advance(scores, chosen, attention)


def search_table(table: Tensor, attention: Tensor, copies: int = 1, **options: Any) -> BeamSearch:
    """Searches with log-probabilities ``table [T, word before, V]``, for some copies of one sentence."""
    search = BeamSearch(copies, attention.shape[1], **options)
    for step in range(len(table)):
        if not search.searched:
            break
        count = len(search.searched)
        advance(search, table[step][search.words], attention[step].expand(count, -1, -1))
    return search


@pytest.mark.shared
@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("name", RECORDED)
def test_search_is_the_recorded_one(name: str, copies: int, golden: Golden) -> None:
    numbers, options = golden("nmt_beam"), RECORDED[name]
    search = search_table(numbers["logp_table"], numbers["attn_table"], copies, **options)
    assert len(search.steps) == int(numbers[f"{name}.steps"])
    assert bool(search.searched) != bool(numbers[f"{name}.done"])
    for number, hypotheses in enumerate(search.hypotheses()):
        dump = search.dump(number)
        steps = len(search.steps)
        assert dump["beam_parent_ids"] == numbers[f"{name}.prev_ks"][:steps].tolist()
        assert dump["predicted_ids"] == numbers[f"{name}.next_ys"][1 : steps + 1].tolist()
        torch.testing.assert_close(torch.tensor(dump["scores"][-1]), numbers[f"{name}.final_scores"])
        scores = torch.tensor([each.score for each in hypotheses])
        torch.testing.assert_close(scores, numbers[f"{name}.scores"])
        for k in range(options.get("n_best", 1)):
            words = numbers[f"{name}.hyp{k}"].tolist()
            assert [*hypotheses[k].words, END][: len(words)] == words
            found, expected = hypotheses[k].attention, numbers[f"{name}.hyp{k}.attn"]
            assert found is not None
            torch.testing.assert_close(found, expected[: len(found)])


def exhaustive(table: Tensor, length: int) -> list[tuple[float, list[int]]]:
    """Every sentence of up to ``length`` words that ends, best first."""
    found = []
    words = [word for word in range(table.shape[2]) if word != END]
    for count in range(length):
        for sentence in itertools.product(words, repeat=count):
            path, total = [2, *sentence, END], 0.0
            for step, (before, after) in enumerate(itertools.pairwise(path)):
                total += float(table[step, before, after])
            found.append((total, list(sentence)))
    return sorted(found, reverse=True)


def test_a_wide_beam_finds_the_best_of_all() -> None:
    table = torch.log_softmax(2 * torch.randn(4, 5, 5, generator=torch.Generator().manual_seed(1)), 2)
    (found,) = search_table(table, torch.zeros(4, 400, 1), n_best=20).hypotheses()
    for hypothesis, (score, words) in zip(found[:20], exhaustive(table, 4)[:20], strict=True):
        assert hypothesis.words == words
        assert hypothesis.score == pytest.approx(score, abs=1e-5)


def test_penalties_by_their_formula() -> None:
    """Longer sentences and attended words are worth something at the end, not on the way."""
    generator = torch.Generator().manual_seed(2)
    table = torch.log_softmax(torch.randn(12, 7, 7, generator=generator), 2)
    attention = torch.softmax(torch.randn(12, 4, 3, generator=generator), 2)
    plain, ranked = (search_table(table, attention, n_best=4, penalties=p) for p in (None, Penalties(0.9, 0.3)))
    assert plain.dump(0) == ranked.dump(0)
    assert len(ranked.finished[0]) >= 4
    for score, last, beam in ranked.finished[0]:
        found = next(each for each in ranked.hypotheses()[0] if each.score == score)
        assert found.attention is not None
        words, total = [2, *found.words, END], 0.0
        for step, (before, after) in enumerate(itertools.pairwise(words)):
            total += float(table[step, before, after])
        at_end = ranked.steps[last - 1].attention
        assert at_end is not None
        coverage = found.attention.sum(0) + at_end[0, beam]
        expected = total / ((5 + len(words)) / 6) ** 0.9 + 0.3 * float(coverage.clamp(max=1).log().sum())
        assert score == pytest.approx(expected, abs=1e-5)


def test_no_penalty_of_nothing() -> None:
    """Without coverage penalty a word that got no attention at all is no trouble."""
    search = BeamSearch(1, 2, penalties=Penalties(0.5, -0.0))
    advance(search, torch.zeros(1, 2, 4).log_softmax(2), torch.zeros(1, 2, 3))
    assert all(torch.tensor(step.ranked).isfinite().all() for step in search.steps)


def test_sentences_do_not_disturb_each_other() -> None:
    generator = torch.Generator().manual_seed(3)
    tables = [torch.log_softmax(3 * torch.randn(9, 6, 6, generator=generator), 2) for _ in range(5)]
    alone = [search_table(table, torch.zeros(9, 3, 1)).hypotheses()[0] for table in tables]
    search = BeamSearch(5, 3)
    for step in range(9):
        if search.searched:
            rows = [tables[number][step][words] for number, words in zip(search.searched, search.words, strict=True)]
            advance(search, torch.stack(rows), None)
    for found, expected in zip(search.hypotheses(), alone, strict=True):
        assert [each[:2] for each in found] == [each[:2] for each in expected]


@pytest.fixture(params=["native", "eager"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "eager":
        monkeypatch.setattr(module, "_native", lambda logits: False)
    elif not module._native(torch.zeros(1, 1)):
        pytest.skip("there are no native kernels: no C++ compiler, or RNNCORE_NATIVE=0")


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("barred", [None, 0, 4])
@pytest.mark.parametrize(("words", "count"), [(5, 5), (64, 3), (131, 7), (1000, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_likeliest_words(
    words: int, count: int, barred: int | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against log_softmax and topk of all rows at once; the blocks here are of few rows."""
    monkeypatch.setattr(module, "BLOCK", 2 * words)
    generator = torch.Generator().manual_seed(4)
    features, weight = (torch.randn(n, 6, dtype=dtype, generator=generator) for n in (7, words))
    bias = 5 * torch.randn(words, dtype=dtype, generator=generator)
    scores = torch.log_softmax(4 * features @ weight.t() + bias, 1)
    if barred is not None:
        scores[:, barred] = NEVER
    expected, at = scores.topk(count, dim=1)
    values, found = likeliest(4 * features, weight, bias, count, barred)
    torch.testing.assert_close(values, expected)
    assert torch.equal(found, at)


@pytest.mark.usefixtures("path")
def test_likeliest_of_a_word_that_leaves_nothing_to_others() -> None:
    """The barred word has nearly all the probability, or none: the sum is taken from the largest of all."""
    bias = torch.tensor([300.0, 0.0, -300.0])
    values, words = likeliest(torch.zeros(1, 2), torch.zeros(3, 2), bias, 2, 0)
    assert values.tolist() == [[-300.0, -600.0]]
    assert words.tolist() == [[1, 2]]
