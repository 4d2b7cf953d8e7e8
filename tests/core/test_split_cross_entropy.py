"""Split cross entropy against the whole matrix of log probabilities built by hand."""

from typing import Any

import pytest
import torch
from rnncore import loss as loss_module
from rnncore import split_cross_entropy
from rnncore.split_cross_entropy import SplitCrossEntropy, splits_for
from torch import Tensor
from torch.nn import functional as F

N, E, V = 29, 5, 17
SPLITS = [(), (6,), (4, 9), (1, 2, 16)]


class Case:
    """A criterion with random tombstones, and random leaves and targets; what it should give, slowly."""

    def __init__(
        self,
        splits: tuple[int, ...],
        *,
        rows: int = N,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        targets: Tensor | None = None,
    ) -> None:
        generator = torch.Generator().manual_seed(len(splits))

        def leaf(*shape: int) -> Tensor:
            values = torch.randn(*shape, dtype=torch.float64, generator=generator)
            return values.to(device, dtype).requires_grad_()

        self.criterion = SplitCrossEntropy(E, splits).to(device, dtype)
        self.hidden, self.weight, self.bias = leaf(rows, E), leaf(V, E), leaf(V)
        with torch.no_grad():
            for parameter in self.criterion.parameters():
                parameter.copy_(leaf(*parameter.shape))
        drawn = torch.randint(V, (rows,), generator=generator)
        self.targets = (drawn if targets is None else targets).to(device)
        self.inputs = self.hidden, self.weight, self.bias

    def leaves(self) -> list[Tensor]:
        return [*self.inputs, *self.criterion.parameters()]

    def gradients(self, loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, self.leaves()))

    def log_probabilities(self) -> Tensor:
        return by_hand(self.criterion.splits, *self.leaves())

    def slow_loss(self) -> Tensor:
        return F.nll_loss(self.log_probabilities(), self.targets)

    def loss(self, dtype: torch.dtype | None = None) -> Tensor:
        return self.criterion.loss(*self.inputs, self.targets, dtype)


def by_hand(splits: tuple[int, ...], hidden: Tensor, weight: Tensor, bias: Tensor, *tail: Tensor) -> Tensor:
    """``[N, V]``, word by word, with exponentials as the equations say."""
    if not splits:
        return F.linear(hidden, weight, bias).log_softmax(1)
    scores = (hidden @ weight.t() + bias).exp()
    tombstones = (hidden @ tail[0].t() + tail[1]).exp()
    head = scores[:, : splits[0]].sum(1) + tombstones.sum(1)
    columns = []
    for word in range(len(weight)):
        k = sum(word >= split for split in splits)  # 0: in the head
        if k == 0:
            columns.append((scores[:, word] / head).log())
            continue
        end = splits[k] if k < len(splits) else len(weight)
        in_tail = scores[:, word] / scores[:, splits[k - 1] : end].sum(1)
        columns.append((tombstones[:, len(splits) - k] / head * in_tail).log())
    return torch.stack(columns, 1)


def assert_all_close(got: list[Tensor], expected: list[Tensor], atol: float) -> None:
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


@pytest.mark.parametrize("splits", SPLITS)
@pytest.mark.parametrize("block", [7, 2**23])
def test_against_all_log_probabilities(
    monkeypatch: pytest.MonkeyPatch, splits: tuple[int, ...], block: int, device: torch.device
) -> None:
    monkeypatch.setattr(loss_module, "BLOCK", block)
    monkeypatch.setattr(loss_module, "FEWEST_ROWS", 1)
    c = Case(splits, device=device)
    got = c.criterion.log_probabilities(*c.inputs)
    assert not got.requires_grad
    torch.testing.assert_close(got, c.log_probabilities().detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(got.exp().sum(1), torch.ones_like(got[:, 0]), rtol=0, atol=1e-13)

    loss = c.loss()
    torch.testing.assert_close(loss, c.slow_loss(), rtol=0, atol=1e-13)
    assert_all_close(c.gradients(3.0 * loss), c.gradients(3.0 * c.slow_loss()), 1e-13)

    rows = c.criterion.loss_rows(*c.inputs, c.targets)
    assert not rows.requires_grad
    torch.testing.assert_close(rows, -c.log_probabilities()[range(N), c.targets].detach(), rtol=0, atol=1e-12)
    total = c.criterion.loss_sum(*c.inputs, c.targets)
    torch.testing.assert_close(total, N * c.slow_loss().detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("splits", SPLITS)
def test_gradcheck(splits: tuple[int, ...]) -> None:
    c = Case(splits, rows=6)

    def loss(*_: Tensor) -> Tensor:
        return c.loss()

    assert torch.autograd.gradcheck(loss, tuple(c.leaves()))


@pytest.mark.parametrize("targets", [[0, 3, 2], [4, 8], [16, 9, 16, 16], [3, 16], [4]])
def test_parts_without_rows(targets: list[int]) -> None:
    """Splits 4 and 9: some windows have no word of the head, or of a tail; a part may have one row."""
    c = Case((4, 9), rows=len(targets), targets=torch.tensor(targets))
    torch.testing.assert_close(c.loss(), c.slow_loss(), rtol=0, atol=1e-13)
    assert_all_close(c.gradients(c.loss()), c.gradients(c.slow_loss()), 1e-13)


def test_rows_that_lie_apart_in_memory() -> None:
    c = Case((4, 9), rows=2 * N)
    strided = c.hidden.view(2, N, E)[0].t().contiguous().t()
    targets = c.targets[::2]
    expected = F.nll_loss(by_hand((4, 9), strided, *c.leaves()[1:]), targets)
    loss = c.criterion.loss(strided, c.weight, c.bias, targets)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-13)
    assert_all_close(c.gradients(loss), c.gradients(expected), 1e-13)


def test_a_tied_weight_gets_both_gradients() -> None:
    c = Case((4, 9))
    ids = torch.randint(V, (N,), generator=torch.Generator().manual_seed(5))
    c.criterion.loss(F.embedding(ids, c.weight), c.weight, c.bias, c.targets).backward()
    expected = F.nll_loss(by_hand((4, 9), F.embedding(ids, c.weight), *c.leaves()[1:]), c.targets)
    (gradient,) = torch.autograd.grad(expected, c.weight)
    torch.testing.assert_close(c.weight.grad, gradient, rtol=0, atol=1e-13)


def test_only_what_the_rows_need_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head for all rows, a tail for its own, and at once a block, give or take the rounding of its rows."""
    limit = 3 * (V - 9)
    monkeypatch.setattr(loss_module, "BLOCK", limit)
    monkeypatch.setattr(loss_module, "FEWEST_ROWS", 1)
    sizes = []

    def watch(name: str) -> None:
        plain = getattr(loss_module, name)

        def watched(logits: Tensor, *rest: Any) -> Any:
            sizes.append(logits.numel())
            return plain(logits, *rest)

        monkeypatch.setattr(loss_module, name, watched)

    watch("cross_entropy")
    watch("cross_entropy_gradient")
    c = Case((4, 9))
    head, middle = (c.targets < 4).sum().item(), ((c.targets >= 4) & (c.targets < 9)).sum().item()
    expected = N * (4 + 2) + middle * 5 + (N - head - middle) * (V - 9)
    for compute in (c.loss, lambda: c.criterion.loss_sum(*c.inputs, c.targets)):
        sizes.clear()
        compute()
        assert sum(sizes) == expected
        assert max(sizes) < limit + (V - 9)


def test_without_gradient_no_gradient_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    c = Case((4, 9))
    expected = c.slow_loss().detach()

    def refuses(*args: object) -> Tensor:
        raise AssertionError("gradients were taken")

    monkeypatch.setattr(split_cross_entropy, "cross_entropy_and_gradient", refuses)
    with torch.no_grad():
        torch.testing.assert_close(c.loss(), expected, rtol=0, atol=1e-13)
    for leaf in c.leaves():
        leaf.requires_grad_(False)
    torch.testing.assert_close(c.loss(), expected, rtol=0, atol=1e-13)


def test_a_gradient_of_the_gradient_is_refused() -> None:
    c = Case((4, 9))
    (gradient,) = torch.autograd.grad(c.loss().square(), c.hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_tombstones_alone_can_train() -> None:
    """With the model frozen the gradient still reaches them."""
    c = Case((4, 9))
    expected = torch.autograd.grad(c.slow_loss(), list(c.criterion.parameters()))
    for tensor in c.inputs:
        tensor.requires_grad_(False)
    got = torch.autograd.grad(c.loss(), list(c.criterion.parameters()))
    assert_all_close(list(got), list(expected), 1e-13)


def test_single_precision() -> None:
    c, exact = Case((4, 9), dtype=torch.float32), Case((4, 9))
    got = c.gradients(c.loss())
    assert_all_close([grad.double() for grad in got], exact.gradients(exact.slow_loss()), 1e-6)


def test_products_in_bfloat16() -> None:
    """Operands are rounded to 8 bits of mantissa; parameters, gradients and the softmax stay float32."""
    c = Case((4, 9), dtype=torch.float32, rows=64)
    loss = c.loss(torch.bfloat16)
    assert loss.dtype == torch.float32
    hidden, weight, bias, vectors, tail_bias = (leaf.detach() for leaf in c.leaves())
    rounded = [tensor.bfloat16().double() for tensor in (hidden, weight, vectors)]
    expected = by_hand((4, 9), *rounded[:2], bias.double(), rounded[2], tail_bias.double())
    # Logits of head and tail are rounded to bfloat16 once each: half a unit of 8 bits, for two softmax.
    largest = max(float((rounded[0] @ factor.t()).abs().max()) for factor in rounded[1:])
    assert abs(loss.item() - F.nll_loss(expected, c.targets).item()) < 2 * largest * 2.0**-8
    total = c.criterion.loss_sum(*c.inputs, c.targets, torch.bfloat16)
    assert total.item() / 64 == pytest.approx(loss.item())
    got = c.gradients(loss)
    assert [grad.dtype for grad in got] == [torch.float32] * 5
    for ours, theirs in zip(got, c.gradients(c.slow_loss()), strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 0.02


def test_extreme_scores_stay_finite() -> None:
    c = Case((4, 9), dtype=torch.float32)
    with torch.no_grad():
        c.weight *= 1e4
    loss = c.loss()
    picked = c.criterion.log_probabilities(*c.inputs).gather(1, c.targets[:, None])
    torch.testing.assert_close(loss, -picked.mean())
    assert loss.isfinite()
    assert all(bool(grad.isfinite().all()) for grad in c.gradients(loss))


def test_start_and_names_of_the_parameters() -> None:
    """Zero tombstones: each weighs as much as a word with score 0; without splits there is nothing to save."""
    criterion = SplitCrossEntropy(E, (4, 9))
    assert list(criterion.state_dict()) == ["tail_vectors", "tail_bias"]
    zeros = torch.zeros(1, E), torch.zeros(V, E), torch.zeros(V)
    got = criterion.log_probabilities(*zeros).exp().flatten()
    sizes = torch.tensor([1.0] * 4 + [5.0] * 5 + [V - 9.0] * (V - 9))
    torch.testing.assert_close(got, 1 / (6 * sizes))
    assert not SplitCrossEntropy(E).state_dict()


@pytest.mark.parametrize("splits", [(0, 3), (4, 4), (9, 4), (-1,)])
def test_splits_that_do_not_increase(splits: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="positive and increase"):
        SplitCrossEntropy(E, splits)


def test_splits_beyond_the_vocabulary() -> None:
    c, criterion = Case(()), SplitCrossEntropy(E, (4, V)).double()
    for compute in (criterion.loss, criterion.loss_sum, criterion.loss_rows):
        with pytest.raises(ValueError, match=f"below the vocabulary of {V}, but they are \\[4, {V}\\]"):
            compute(*c.inputs, c.targets)
    with pytest.raises(ValueError, match=f"below the vocabulary of {V}"):
        criterion.log_probabilities(*c.inputs)


def test_published_splits() -> None:
    assert splits_for(10_000) == splits_for(75_000) == ()
    assert splits_for(267_735) == splits_for(500_000) == splits_for(76_001) == (2800, 20_000, 76_000)
    assert splits_for(500_001) == splits_for(793_471) == (4200, 35_000, 180_000)
    assert splits_for(75_001) == splits_for(76_000) == (2800, 20_000), "no tail without words"
