"""The continuous cache against a loop over tokens in float64 and against the original's numbers."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from awdlm import cache as cache_module
from awdlm.cache import ContinuousCache, mix
from rnncore.errors import UserError
from torch import Tensor
from torch.nn import functional as F

COUNT, WIDTH, VOCABULARY, THETA = 300, 6, 20, 0.7
WINDOWS = [1, 2, 8, 50, 127, 128, 129, 298, 299, 500]
LENGTHS = [[300], [1] * 300, [1, 128, 0, 2, 127, 42], [129, 171], [8, 1, 291]]


def make_text(scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    states = scale * torch.randn(COUNT, WIDTH, generator=generator, dtype=torch.float64)
    return states, torch.randint(0, VOCABULARY, (COUNT,), generator=generator)


def slow_distribution(states: Tensor, tokens: Tensor, position: int, window: int, theta: float) -> np.ndarray:
    """p_cache at a position, from the equation."""
    h, x = states.double().numpy(), tokens.numpy()
    history = range(max(0, position - window), position)
    scores = [theta * math.fsum(h[position] * h[j]) for j in history]
    votes = [math.exp(score - max(scores)) for score in scores]
    distribution = np.zeros(VOCABULARY)
    for j, vote in zip(history, votes, strict=True):
        distribution[x[j]] += vote / math.fsum(votes)
    return distribution


def slow(states: Tensor, tokens: Tensor, window: int, theta: float, partial: bool) -> Tensor:
    first = 1 if partial else window + 1
    probability = torch.zeros(len(states), dtype=torch.float64)
    for i in range(first, len(states)):
        probability[i] = slow_distribution(states, tokens, i, window, theta)[tokens[i]]
    return probability


def in_calls(cache: ContinuousCache, states: Tensor, tokens: Tensor, lengths: list[int]) -> Tensor:
    ends = np.cumsum([0, *lengths]).tolist()
    return torch.cat([cache.probability_of_targets(states[a:b], tokens[a:b]) for a, b in pairwise(ends)])


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("window", WINDOWS)
def test_probability_of_targets(window: int, partial: bool, device: torch.device) -> None:
    """However the text is cut into calls, with windows shorter and longer than a block and than the text."""
    states, tokens = make_text()
    expected = slow(states, tokens, window, THETA, partial)
    assert bool((expected > 0).any()) == (partial or window < COUNT - 1)
    for lengths in LENGTHS:
        cache = ContinuousCache(window=window, theta=THETA, partial=partial)
        probability = in_calls(cache, states.to(device), tokens.to(device), lengths).cpu()
        torch.testing.assert_close(probability, expected, rtol=0, atol=1e-13)
        assert cache.position == COUNT


def test_blocks_of_a_wide_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer rows a block, down to one, where the scores of a block would be too many."""
    states, tokens = make_text()
    expected = slow(states, tokens, 20, THETA, True)
    for scores in (1, 5 * 148):
        monkeypatch.setattr(cache_module, "BLOCK_SCORES", scores)
        probability = ContinuousCache(window=20, theta=THETA, partial=True).probability_of_targets(states, tokens)
        torch.testing.assert_close(probability, expected, rtol=0, atol=1e-13)


def test_scores_of_a_block_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    softmax = torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda band, dim: sizes.append(band.shape) or softmax(band, dim))
    states, tokens = torch.zeros(300_000, 1), torch.zeros(300_000, dtype=torch.int64)
    cache = ContinuousCache(window=290_000, theta=1.0)
    cache.add(states[:299_980], tokens[:299_980])
    assert cache.probability_of_targets(states[:20], tokens[:20]).tolist() == [pytest.approx(1)] * 20
    assert len(sizes) == 3
    assert all(rows * (rows + window) <= cache_module.BLOCK_SCORES for rows, window in sizes)


def test_history_kept_is_bounded() -> None:
    """Not the whole text is kept, and what is kept belongs to the cache."""
    states, tokens = make_text()
    cache = ContinuousCache(window=8, theta=THETA)
    probability = []
    for i in range(3 * COUNT):
        row, token = states[i % COUNT].clone(), tokens[i % COUNT].clone()
        probability.append(cache.probability_of_targets(row[None], token[None]))
        row.fill_(math.nan)
        token.fill_(0)
        assert len(cache._states) <= 2 * (8 + 1)
    expected = slow(states.repeat(3, 1), tokens.repeat(3), 8, THETA, False)
    torch.testing.assert_close(torch.cat(probability), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("partial", [False, True])
def test_distribution(partial: bool, device: torch.device) -> None:
    """Generation: the whole distribution, asked before the position is added."""
    states, tokens = make_text()
    cache = ContinuousCache(window=8, theta=THETA, partial=partial)
    for i in range(40):
        assert cache.ready == (i >= (1 if partial else 9))
        if i > 0:
            distribution = cache.distribution(states[i].to(device), VOCABULARY).cpu()
            expected = torch.from_numpy(slow_distribution(states, tokens, i, 8, THETA))
            torch.testing.assert_close(distribution, expected, rtol=0, atol=1e-13)
        cache.add(states[i : i + 1].to(device), tokens[i : i + 1].to(device))
    assert cache.position == 40


def test_adding_is_as_asking() -> None:
    states, tokens = make_text()
    asked, added = (ContinuousCache(window=150, theta=THETA) for _ in range(2))
    asked.probability_of_targets(states[:200], tokens[:200])
    added.add(states[:200], tokens[:200])
    rest = asked.probability_of_targets(states[200:], tokens[200:])
    assert rest.any()
    assert torch.equal(added.probability_of_targets(states[200:], tokens[200:]), rest)


def test_sharp_cache() -> None:
    """Scores far beyond what exp can take: the nearest state has the only vote."""
    states, tokens = make_text()
    expected = slow(states, tokens, 50, 1e4, True)
    assert ((expected < 1e-9) | (expected > 1 - 1e-9)).float().mean() > 0.9
    probability = ContinuousCache(window=50, theta=1e4, partial=True).probability_of_targets(states, tokens)
    torch.testing.assert_close(probability, expected, rtol=0, atol=1e-9)
    cache = ContinuousCache(window=50, theta=1e4, partial=True)
    single = cache.probability_of_targets(1e3 * states.float(), tokens)
    assert single.isfinite().all()


def test_flat_cache_counts_tokens() -> None:
    states, tokens = make_text()
    probability = ContinuousCache(window=8, theta=0.0).probability_of_targets(states, tokens)
    counts = torch.stack([(tokens[i - 8 : i] == tokens[i]).sum() / 8 for i in range(9, COUNT)])
    torch.testing.assert_close(probability[9:], counts.double(), rtol=0, atol=1e-15)


def test_products_are_never_in_half_precision() -> None:
    """Bfloat16 states are compared in float32, under autocast too."""
    states, tokens = make_text(scale=3.0)
    rounded = states.bfloat16()
    expected = slow(rounded, tokens, 50, THETA, True)
    with torch.autocast("cpu", torch.bfloat16):
        for given in (rounded, rounded.float()):
            cache = ContinuousCache(window=50, theta=THETA, partial=True)
            probability = cache.probability_of_targets(given, tokens)
            assert probability.dtype == torch.float32
            torch.testing.assert_close(probability.double(), expected, rtol=0, atol=2e-5)
            distribution = cache.distribution(given[0], VOCABULARY)
            joined = torch.cat([rounded, rounded[:1]]), torch.cat([tokens, tokens[:1]])
            last = torch.from_numpy(slow_distribution(*joined, COUNT, 50, THETA))
            torch.testing.assert_close(distribution.double(), last, rtol=0, atol=2e-5)


def test_mix() -> None:
    log_vocab = torch.tensor([0.3, 0.6, 0.1, 0.5], dtype=torch.float64).log()
    p_cache = torch.tensor([0.5, 0.0, 0.9, 0.2], dtype=torch.float64)
    expected = (0.8 * log_vocab.exp() + 0.2 * p_cache).log()
    torch.testing.assert_close(mix(log_vocab, p_cache, 0.2), expected, rtol=0, atol=1e-15)
    used = torch.tensor([True, True, False, False])
    some = mix(log_vocab, p_cache, 0.2, used)
    torch.testing.assert_close(some[:2], expected[:2], rtol=0, atol=1e-15)
    assert torch.equal(some[2:], log_vocab[2:])
    assert torch.equal(mix(log_vocab, p_cache, 0.0), log_vocab)
    torch.testing.assert_close(mix(log_vocab, p_cache, 1.0), p_cache.log(), rtol=0, atol=1e-15)


def test_mix_of_tiny_probabilities() -> None:
    """exp(-1000) is 0 in every type; its logarithm is not."""
    mixed = mix(torch.full((2,), -1000.0), torch.tensor([0.0, 0.25]), 0.1)
    assert mixed.tolist() == pytest.approx([-1000 + math.log(0.9), math.log(0.025)], rel=1e-6)


def test_bad_settings() -> None:
    with pytest.raises(UserError, match="--window must be at least 1, not 0"):
        ContinuousCache(window=0, theta=1.0)
    for theta in (-0.1, math.nan, math.inf):
        with pytest.raises(UserError, match=f"--theta must be a number of at least 0, not {theta}"):
            ContinuousCache(window=1, theta=theta)
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(UserError, match=f"--lambdasm must lie between 0 and 1, not {share}"):
            mix(torch.zeros(1), torch.zeros(1), share)


def test_states_that_do_not_fit() -> None:
    cache = ContinuousCache(window=3, theta=1.0)
    with pytest.raises(ValueError, match="the continuous cache is empty"):
        cache.distribution(torch.zeros(WIDTH), VOCABULARY)
    with pytest.raises(ValueError, match=r"needs states \[n, E\] and tokens \[n\], got \[5, 6\] and \[4\]"):
        cache.add(torch.zeros(5, WIDTH), torch.zeros(4, dtype=torch.int64))
    cache.add(torch.zeros(5, WIDTH), torch.zeros(5, dtype=torch.int64))
    for states in (torch.zeros(2, WIDTH + 1), torch.zeros(2, WIDTH, dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"the cache holds states of 6 torch\.float32 on cpu, not of"):
            cache.probability_of_targets(states, torch.zeros(2, dtype=torch.int64))


@pytest.fixture
def recorded(golden: Callable[[str], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The original's run: 29 positions, window 8, theta 0.662, lambdasm 0.1279."""
    return golden("pointer")


def losses(recorded: dict[str, Tensor], calls: list[int], dtype: torch.dtype, partial: bool = False) -> Tensor:
    """-log p(target) of each position, in nats."""
    cache = ContinuousCache(window=8, theta=0.662, partial=partial)
    states, targets = recorded["rnn_out"].to(dtype), recorded["seq"][1:, 0]
    weight, bias = (recorded[f"param.{name}"].to(dtype) for name in ("encoder.weight", "decoder.bias"))
    log_vocab = -F.cross_entropy(F.linear(states, weight, bias), targets, reduction="none")
    parts = zip(log_vocab.split(calls), states.split(calls), targets.split(calls), strict=True)
    return -torch.cat([cache.mixed_log_probability(*part, lambdasm=0.1279) for part in parts])


@pytest.mark.shared
@pytest.mark.parametrize("calls", [[29], [11, 11, 7], [1] * 29])
def test_recorded_losses(calls: list[int], recorded: dict[str, Tensor]) -> None:
    ours = losses(recorded, calls, torch.float64)
    torch.testing.assert_close(ours, recorded["one.losses"], rtol=0, atol=1e-12)
    torch.testing.assert_close(ours[:9], recorded["vocab_losses"][:9], rtol=0, atol=1e-12)
    # The original divides by the 30 tokens of the text, not by its 29 targets.
    torch.testing.assert_close(ours.sum() / 30, recorded["one.mean"], rtol=0, atol=1e-12)


@pytest.mark.shared
def test_recorded_chunks(recorded: dict[str, Tensor]) -> None:
    """The original leaves the cache out at the first token of every later chunk; we do not."""
    ours, theirs = losses(recorded, [11, 11, 7], torch.float64), recorded["chunks.losses"]
    left_out = torch.zeros(29, dtype=torch.bool)
    left_out[[11, 22]] = True
    torch.testing.assert_close(ours[~left_out], theirs[~left_out], rtol=0, atol=1e-12)
    torch.testing.assert_close(theirs[left_out], recorded["vocab_losses"][left_out], rtol=0, atol=1e-12)
    assert ((ours - theirs).abs()[left_out] > 1e-3).all()


@pytest.mark.shared
def test_recorded_losses_in_single_precision(recorded: dict[str, Tensor]) -> None:
    single = losses(recorded, [29], torch.float32)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), recorded["one.losses"], rtol=0, atol=1e-6)


@pytest.mark.shared
def test_partial_cache_of_the_recorded_text(recorded: dict[str, Tensor]) -> None:
    """From the second position on; equal to the original's from where that uses the cache."""
    ours = losses(recorded, [11, 11, 7], torch.float64, partial=True)
    torch.testing.assert_close(ours[9:], recorded["one.losses"][9:], rtol=0, atol=1e-12)
    p_vocab = (-recorded["vocab_losses"]).exp()
    p_cache = slow(recorded["rnn_out"], recorded["seq"][1:, 0], 8, 0.662, True)
    expected = -((1 - 0.1279) * p_vocab + 0.1279 * p_cache).log()
    torch.testing.assert_close(ours[1:], expected[1:], rtol=0, atol=1e-12)
    assert ours[0] == pytest.approx(float(recorded["vocab_losses"][0]), abs=1e-12)
