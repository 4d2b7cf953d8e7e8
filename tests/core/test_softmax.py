"""Cross entropy of logits and its gradient, natively and by torch's operators, against ``F.cross_entropy``; cumax."""

import pytest
import torch
from rnncore import softmax
from rnncore.softmax import cross_entropy, cross_entropy_gradient, cumax_gradient
from torch import Tensor
from torch.nn import functional as F

SIZES = [(1, 1), (3, 7), (33, 16), (70, 131)]


@pytest.fixture(params=["native", "eager"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if name == "eager":
        monkeypatch.setattr(softmax, "_native", lambda logits: False)
    elif not softmax._native(torch.zeros(1, 1)):
        pytest.skip("there are no native kernels: no C++ compiler, or RNNCORE_NATIVE=0")
    return name


def example(rows: int, classes: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, bias and targets."""
    generator = torch.Generator().manual_seed(rows)
    logits = torch.randn(rows, classes, dtype=torch.float64, generator=generator) * 3
    bias = torch.randn(classes, dtype=torch.float64, generator=generator)
    wide = torch.float32 if dtype == torch.bfloat16 else dtype
    return logits.to(dtype), bias.to(wide), torch.randint(classes, (rows,), generator=generator)


def expected(logits: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Losses, and the gradient of their sum by the logits, in float64."""
    leaf = logits.double().requires_grad_()
    losses = F.cross_entropy(leaf if bias is None else leaf + bias.double(), targets, reduction="none")
    losses.sum().backward()
    assert leaf.grad is not None
    return losses.detach(), leaf.grad


@pytest.mark.parametrize(("rows", "classes"), SIZES)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-14), (torch.float32, 5e-6), (torch.bfloat16, 5e-6)])
def test_losses_and_gradients(rows: int, classes: int, biased: bool, dtype: torch.dtype, atol: float) -> None:
    logits, bias, targets = example(rows, classes, dtype)
    addend = bias if biased else None
    losses, by_logits = expected(logits, addend, targets)
    torch.testing.assert_close(cross_entropy(logits, addend, targets).double(), losses, rtol=atol, atol=atol)
    sums = torch.ones_like(bias)
    ours, gradient = cross_entropy_gradient(logits.clone(), addend, targets, sums if biased else None, 0.5)
    torch.testing.assert_close(ours.double(), losses, rtol=atol, atol=atol)
    assert gradient.dtype == dtype
    rounding = 2**-8 if dtype == torch.bfloat16 else 0  # of the gradient, on its way out
    torch.testing.assert_close(gradient.double(), by_logits, rtol=rounding, atol=atol)
    if biased:
        torch.testing.assert_close(sums.double(), 1 + 0.5 * by_logits.sum(0), rtol=0, atol=rows * atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_without_target_have_no_gradient(dtype: torch.dtype) -> None:
    logits, bias, targets = example(7, 9, dtype)
    sums, sums_of_few = torch.zeros_like(bias), torch.zeros_like(bias)
    losses, gradient = cross_entropy_gradient(logits.clone(), bias, targets[:4], sums, 0.5)
    losses_of_few, gradient_of_few = cross_entropy_gradient(logits[:4].clone(), bias, targets[:4], sums_of_few, 0.5)
    assert torch.equal(losses, losses_of_few)
    assert torch.equal(sums, sums_of_few)
    assert torch.equal(gradient, torch.cat([gradient_of_few, torch.zeros(3, 9, dtype=dtype)]))


def test_logits_stay_where_no_gradient_is_asked_for() -> None:
    logits, bias, targets = example(5, 9)
    before = logits.clone()
    cross_entropy(logits, bias, targets)
    assert torch.equal(logits, before)


def test_large_logits() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4]])
    losses, gradient = cross_entropy_gradient(logits, None, torch.tensor([1, 2]), None, 1.0)
    torch.testing.assert_close(losses, torch.tensor([1e4, 1.0986123]))
    torch.testing.assert_close(gradient, torch.tensor([[1.0, -1.0, 0.0], [1 / 3, 1 / 3, -2 / 3]]))


@pytest.mark.parametrize("place", [0, 3, 15, 16, 18])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_a_number_shows(place: int, bad: float) -> None:
    logits = torch.zeros(2, 19)
    logits[1, place] = bad
    losses = cross_entropy(logits, None, torch.tensor([4, 4]))
    assert losses.isfinite().tolist() == [True, False]


@pytest.mark.parametrize("target", [-1, 3])
def test_target_that_is_none_of_the_classes(target: int) -> None:
    with pytest.raises(IndexError):
        cross_entropy(torch.zeros(1, 3), None, torch.tensor([target]))


def test_bits_do_not_depend_on_threads() -> None:
    logits, bias, targets = example(257, 1000, torch.float32)
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            sums = torch.zeros_like(bias)
            found.append((*cross_entropy_gradient(logits.clone(), bias, targets, sums, 1.0), sums))
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


def test_the_gradient_of_cumax() -> None:
    logits, weights, _ = example(5, 8)
    shares = logits.requires_grad_().softmax(1)
    (expected_gradient,) = torch.autograd.grad((shares.cumsum(1).sin() @ weights).sum(), logits)
    by_sums = weights * shares.cumsum(1).cos()
    torch.testing.assert_close(cumax_gradient(by_sums, shares), expected_gradient, rtol=1e-12, atol=1e-15)
