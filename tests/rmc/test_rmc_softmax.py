"""The adaptive softmax against torch's own module. Shapes: N rows, E features, V vocabulary."""

import pytest
import torch
from rmc.softmax import AdaptiveSoftmax
from torch import Tensor, nn

FEATURES, VOCABULARY, CUTOFFS = 64, 700, [10, 60, 300]


def softmax_rows_targets(dtype: torch.dtype, most: int = VOCABULARY) -> tuple[AdaptiveSoftmax, Tensor, Tensor]:
    """One of some rows more than a block has; targets below ``most``."""
    torch.manual_seed(2)
    softmax = AdaptiveSoftmax(VOCABULARY, FEATURES, CUTOFFS).to(dtype)
    rows = torch.randn(600, FEATURES, dtype=dtype, requires_grad=True)
    return softmax, rows, torch.randint(most, (600,))


def gradients(loss: Tensor, softmax: nn.Module, rows: Tensor) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, [rows, *softmax.parameters()], allow_unused=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("most", [VOCABULARY, 300, 10], ids=["all", "a tail without targets", "only the head"])
def test_loss_and_gradients_are_those_of_torch(dtype: torch.dtype, most: int) -> None:
    softmax, rows, targets = softmax_rows_targets(dtype, most)
    expected = softmax.adaptive(rows, targets)
    relative, absolute = (1e-12, 1e-12) if dtype == torch.float64 else (1e-4, 1e-6)
    loss = softmax.loss(rows, targets)
    torch.testing.assert_close(loss, expected.loss, rtol=relative, atol=absolute)
    torch.testing.assert_close(softmax.loss_sum(rows, targets), -expected.output.sum(), rtol=relative, atol=absolute)
    by_ours, by_theirs = gradients(loss, softmax, rows), gradients(expected.loss, softmax, rows)
    for ours, theirs in zip(by_ours, by_theirs, strict=True):
        assert (ours is None) == (theirs is None)
        torch.testing.assert_close(ours, theirs, rtol=relative, atol=absolute)
    assert sum(grad is None for grad in by_ours) == {VOCABULARY: 0, 300: 2, 10: 6}[most]


@pytest.mark.parametrize("most", [VOCABULARY, 300])
def test_mixed_precision_is_close(most: int) -> None:
    softmax, rows, targets = softmax_rows_targets(torch.float32, most)
    expected = softmax.adaptive(rows, targets).loss
    nats = float(expected.detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, total = softmax.loss(rows, targets), softmax.loss_sum(rows, targets)
        all_words = softmax.log_probabilities(rows)
    assert loss.dtype == total.dtype == all_words.dtype == torch.float32
    assert 0 < abs(float(loss.detach()) - nats) < 2e-3
    assert float(total) / 600 == pytest.approx(nats, abs=2e-3)
    torch.testing.assert_close(all_words, softmax.log_probabilities(rows), rtol=0.02, atol=0)
    for ours, theirs in zip(gradients(loss, softmax, rows), gradients(expected, softmax, rows), strict=True):
        if theirs is None:
            assert ours is None
        else:
            assert ours is not None
            assert float((ours - theirs).norm() / theirs.norm()) < 0.02


def test_probabilities_of_all_words_are_those_of_the_loss() -> None:
    softmax, rows, targets = softmax_rows_targets(torch.float64)
    all_words = softmax.log_probabilities(rows)
    torch.testing.assert_close(all_words.exp().sum(1), torch.ones(600, dtype=torch.float64))
    picked = all_words.gather(1, targets[:, None]).sum()
    torch.testing.assert_close(softmax.loss_sum(rows, targets), -picked.detach())


def test_rows_without_gradient_have_a_loss() -> None:
    softmax, rows, targets = softmax_rows_targets(torch.float64)
    with torch.no_grad():
        loss = softmax.loss(rows, targets)
    torch.testing.assert_close(loss * 600, softmax.loss_sum(rows, targets))
    assert not loss.requires_grad
