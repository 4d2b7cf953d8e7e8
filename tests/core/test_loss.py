"""Cross entropy over a vocabulary in blocks against ``F.cross_entropy`` of all logits."""

from typing import Any

import pytest
import torch
from rnncore import loss as loss_module
from rnncore.loss import cross_entropy_and_gradient, cross_entropy_sum, linear_cross_entropy
from torch import Tensor
from torch.nn import functional as F

N, E, V = 23, 5, 11


class Decoder:
    """Inputs, targets and parameters of a decoder, all leaves that require gradients."""

    def __init__(self, dtype: torch.dtype = torch.float64, rows: int = N, bias: bool = True) -> None:
        generator = torch.Generator().manual_seed(rows)

        def leaf(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()

        self.hidden, self.weight, self.bias = leaf(rows, E), leaf(V, E), leaf(V) if bias else None
        self.targets = torch.randint(V, (rows,), generator=generator)

    def leaves(self) -> list[Tensor]:
        return [leaf for leaf in (self.hidden, self.weight, self.bias) if leaf is not None]

    def gradients(self, loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, self.leaves()))

    def plain(self, reduction: str = "mean") -> Tensor:
        return F.cross_entropy(F.linear(self.hidden, self.weight, self.bias), self.targets, reduction=reduction)


def assert_all_close(got: list[Tensor], expected: list[Tensor], atol: float) -> None:
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


@pytest.mark.parametrize("block", [1, V, 2 * V, 5 * V + 3, N * V, 2**23])
@pytest.mark.parametrize("bias", [True, False])
def test_loss_and_gradients(monkeypatch: pytest.MonkeyPatch, block: int, bias: bool) -> None:
    monkeypatch.setattr(loss_module, "BLOCK", block)
    monkeypatch.setattr(loss_module, "FEWEST_ROWS", 1)
    d = Decoder(bias=bias)
    loss = linear_cross_entropy(d.hidden, d.weight, d.bias, d.targets)
    torch.testing.assert_close(loss, d.plain(), rtol=0, atol=1e-13)
    assert_all_close(d.gradients(3.0 * loss), d.gradients(3.0 * d.plain()), 1e-13)


@pytest.mark.parametrize("block", [1, 3 * V, 2**23])
def test_sum(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(loss_module, "BLOCK", block)
    monkeypatch.setattr(loss_module, "FEWEST_ROWS", 1)
    d = Decoder()
    total = cross_entropy_sum(d.hidden, d.weight, d.bias, d.targets)
    assert not total.requires_grad
    torch.testing.assert_close(total, d.plain("sum").detach(), rtol=0, atol=1e-12)


def test_gradient_is_added_to_what_is_there() -> None:
    d = Decoder()
    weight, bias = torch.ones(V, E, dtype=torch.float64), torch.full((V,), 2.0, dtype=torch.float64)
    total, grad_hidden = cross_entropy_and_gradient(d.hidden, d.weight, d.bias, d.targets, 0.25, weight, bias)
    torch.testing.assert_close(total, d.plain("sum").detach(), rtol=0, atol=1e-12)
    expected = d.gradients(0.25 * d.plain("sum"))
    assert_all_close([grad_hidden, weight - 1, bias - 2], expected, 1e-12)


def test_never_more_logits_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "BLOCK", 4 * V)
    monkeypatch.setattr(loss_module, "FEWEST_ROWS", 1)
    sizes = []
    plain = loss_module.cross_entropy_gradient

    def watched(logits: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        sizes.append(logits.numel())
        return plain(logits, *rest)

    monkeypatch.setattr(loss_module, "cross_entropy_gradient", watched)
    d = Decoder()
    linear_cross_entropy(d.hidden, d.weight, d.bias, d.targets)
    assert sum(sizes) == N * V
    assert max(sizes) <= 4 * V
    assert len(sizes) == 6  # of 23 rows, nearly equal, the fewest


def test_extreme_logits_stay_finite() -> None:
    d = Decoder()
    with torch.no_grad():
        d.weight *= 1e4
    loss = linear_cross_entropy(d.hidden, d.weight, d.bias, d.targets)
    torch.testing.assert_close(loss, d.plain(), rtol=1e-13, atol=0)
    assert all(bool(grad.isfinite().all()) for grad in d.gradients(loss))


def test_single_precision() -> None:
    d, exact = Decoder(torch.float32), Decoder()
    loss = linear_cross_entropy(d.hidden, d.weight, d.bias, d.targets)
    assert loss.dtype == torch.float32
    assert_all_close([grad.double() for grad in d.gradients(loss)], exact.gradients(exact.plain()), 1e-6)


@pytest.mark.parametrize("inputs", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [64, 70])
def test_products_in_bfloat16(rows: int, inputs: torch.dtype) -> None:
    """Operands are rounded to 8 bits of mantissa; what softmax sees is kept in float32, and so is the loss."""
    d = Decoder(torch.float32, rows=rows)
    d.hidden = d.hidden.detach().to(inputs).requires_grad_()
    loss = linear_cross_entropy(d.hidden, d.weight, d.bias, d.targets, torch.bfloat16)
    assert loss.dtype == torch.float32
    rounded = [leaf.detach().bfloat16().double() for leaf in (d.hidden, d.weight)]
    logits = F.linear(*rounded) + d.bias.detach().double()
    # A logit is rounded to bfloat16 once: half a unit of its 8 bits.
    bound = float(F.linear(*rounded).abs().max()) * 2.0**-8
    assert abs(loss.item() - F.cross_entropy(logits, d.targets).item()) < bound
    total = cross_entropy_sum(d.hidden, d.weight, d.bias, d.targets, torch.bfloat16)
    assert total.item() / rows == pytest.approx(loss.item())
    got = d.gradients(loss)
    assert [grad.dtype for grad in got] == [inputs, torch.float32, torch.float32]
    d.hidden = d.hidden.detach().float().requires_grad_()
    for ours, theirs in zip(got, d.gradients(d.plain()), strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 0.02


def test_few_numbers_of_rows_are_multiplied_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN keeps memory for each."""
    shapes = set()
    plain = F.linear

    def watched(rows: Tensor, weight: Tensor) -> Tensor:
        shapes.add((rows.dtype, len(rows)))
        return plain(rows, weight)

    monkeypatch.setattr(loss_module.F, "linear", watched)
    for rows in (1, 50, 64, 65, 100, 128):
        d = Decoder(torch.float32, rows=rows)
        for dtype in (torch.bfloat16, None):
            loss = linear_cross_entropy(d.hidden, d.weight, d.bias, d.targets, dtype)
            assert [len(grad) for grad in d.gradients(loss)] == [rows, V, V]
            cross_entropy_sum(d.hidden, d.weight, d.bias, d.targets, dtype)
    assert {rows for dtype, rows in shapes if dtype == torch.bfloat16} == {64, 128}
    assert {rows for dtype, rows in shapes if dtype == torch.float32} == {1, 50, 64, 65, 100, 128}


def test_without_gradient_no_gradient_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """In evaluation only the loss is computed."""
    d = Decoder()
    expected = d.plain().detach()

    def refuses(*args: object) -> Tensor:
        raise AssertionError("gradients were taken")

    monkeypatch.setattr(loss_module, "cross_entropy_and_gradient", refuses)
    detached = [leaf.detach() for leaf in d.leaves()]
    torch.testing.assert_close(linear_cross_entropy(*detached, d.targets), expected, rtol=0, atol=1e-13)
    with torch.no_grad():
        loss = linear_cross_entropy(d.hidden, d.weight, d.bias, d.targets)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-13)


def test_the_gradient_of_the_gradient_is_refused() -> None:
    d = Decoder()
    loss = linear_cross_entropy(d.hidden, d.weight, d.bias, d.targets)
    (gradient,) = torch.autograd.grad(loss.square(), d.hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
