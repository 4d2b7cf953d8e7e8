"""Beam search: recorded searches, an exhaustive search, and batches against single sentences."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from revrnn.translation.beam import BeamSearch, Penalties, largest, normalisers
from revrnn.translation.model import END
from torch import Tensor

Golden = Callable[[str], dict[str, Tensor]]
RECORDED: dict[str, dict[str, Any]] = {
    "plain": {},
    "nbest2": {"n_best": 2},
    "minlen": {"min_length": 5},
    "gnmt": {"n_best": 2, "penalties": Penalties(0.6, 0.2)},
}


def search_table(table: Tensor, attention: Tensor, copies: int = 1, **options: Any) -> BeamSearch:
    """Searches with log-probabilities ``table [T, word before, V]``, for some copies of one sentence."""
    search = BeamSearch(copies, attention.shape[1], **options)
    for step in range(len(table)):
        if not search.searched:
            break
        count = len(search.searched)
        search.advance(table[step][search.words], attention[step].expand(count, -1, -1))
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
    search.advance(torch.zeros(1, 2, 4).log_softmax(2), torch.zeros(1, 2, 3))
    assert all(torch.tensor(step.ranked).isfinite().all() for step in search.steps)


def test_sentences_do_not_disturb_each_other() -> None:
    generator = torch.Generator().manual_seed(3)
    tables = [torch.log_softmax(3 * torch.randn(9, 6, 6, generator=generator), 2) for _ in range(5)]
    alone = [search_table(table, torch.zeros(9, 3, 1)).hypotheses()[0] for table in tables]
    search = BeamSearch(5, 3)
    for step in range(9):
        if search.searched:
            rows = [tables[number][step][words] for number, words in zip(search.searched, search.words, strict=True)]
            search.advance(torch.stack(rows), None)
    for found, expected in zip(search.hypotheses(), alone, strict=True):
        assert [each[:2] for each in found] == [each[:2] for each in expected]


@pytest.mark.parametrize("columns", [5, 320, 321, 1000, 90_007])
def test_largest_is_topk(columns: int) -> None:
    values = torch.randn(7, columns, generator=torch.Generator().manual_seed(4))
    found, where = largest(values, 5)
    expected, at = values.topk(5, dim=1)
    assert torch.equal(found, expected)
    assert torch.equal(where, at)


def test_normalisers() -> None:
    values = 50 * torch.randn(3, 4, 90, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(normalisers(values.clone()), torch.logsumexp(values, 2))
