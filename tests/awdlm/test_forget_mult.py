"""The recurrence of the QRNN: every kind of operators against the loop, values and gradients."""

import inspect
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from awdlm import eager, kernels, triton_kernels
from awdlm.forget_mult import forget_mult, forget_mult_loop
from torch import Tensor

SIZES = [(1, 1, 1), (7, 3, 5), (4, 2, 600)]  # the last is more than a block of any kernel
TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def shares_and_values(
    sizes: tuple[int, int, int], device: torch.device, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """f, z and a first state."""
    torch.manual_seed(sum(sizes))
    f, z, initial = torch.rand(sizes), torch.randn(sizes), torch.randn(sizes[1:])
    f, z = (part.double().to(device, dtype) for part in (f, z))
    return f, z, initial.to(device, kernels.compute_dtype(dtype))


def with_gradients(function: Callable[..., Tensor], *inputs: Tensor | None) -> list[Tensor]:
    """The value of a function and, for weights that differ everywhere, the gradients by its inputs."""
    leaves = [None if part is None else part.detach().clone().requires_grad_() for part in inputs]
    value = function(*leaves)
    weights = torch.linspace(-1, 1, value.numel(), dtype=value.dtype, device=value.device).view(value.shape)
    (value * weights).sum().backward()
    return [value.detach(), *(leaf.grad for leaf in leaves if leaf is not None and leaf.grad is not None)]


@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_values_and_gradients_are_those_of_the_loop(
    backend: SimpleNamespace, sizes: tuple[int, int, int], start: bool
) -> None:
    f, z, initial = shares_and_values(sizes, backend.device)
    inputs = (f, z, initial if start else None)
    ours, theirs = with_gradients(forget_mult, *inputs), with_gradients(forget_mult_loop, *inputs)
    assert len(ours) == len(theirs) == (4 if start else 3)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **TIGHT)


def test_the_loop_is_the_recurrence() -> None:
    """By hand, in exact binary fractions."""
    f = torch.tensor([0.5, 0.25, 1.0, 0.0]).view(4, 1, 1)
    z = torch.tensor([8.0, 16.0, -3.0, 5.0]).view(4, 1, 1)
    assert forget_mult_loop(f, z, torch.tensor([[2.0]])).flatten().tolist() == [5.0, 7.75, -3.0, -3.0]
    assert forget_mult_loop(f, z).flatten().tolist() == [4.0, 7.0, -3.0, -3.0]


def test_gradients_are_those_of_finite_differences(backend: SimpleNamespace) -> None:
    inputs = [part.requires_grad_() for part in shares_and_values((3, 2, 3), backend.device)]
    assert torch.autograd.gradcheck(forget_mult, inputs)


def test_chunks_of_a_wider_tensor_are_taken_as_they_are(backend: SimpleNamespace) -> None:
    """Of [T, B, 3H], as a linear map gives it, and of a sequence that has the batch first."""
    f, z, initial = shares_and_values((6, 3, 10), backend.device)
    whole = with_gradients(forget_mult, f, z, initial)
    wide = torch.cat([z, f, f], dim=2)
    firsts = [part.transpose(0, 1).contiguous().transpose(0, 1) for part in (f, z)]
    units = [part.transpose(0, 2).contiguous().transpose(0, 2) for part in (f, z)]
    for pair in ((wide[..., 10:20], wide[..., :10]), firsts, units):
        assert not pair[0].is_contiguous()
        leaves = [part.detach().requires_grad_() for part in (*pair, initial)]
        value = forget_mult(*leaves)
        value.backward(torch.linspace(-1, 1, value.numel(), dtype=value.dtype, device=value.device).view_as(value))
        assert torch.equal(value, whole[0])
        assert all(torch.equal(leaf.grad, grad) for leaf, grad in zip(leaves, whole[1:], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_types_are_rounded_once(backend: SimpleNamespace, dtype: torch.dtype) -> None:
    """Computed in float32: the error is that of one rounding, after many steps too."""
    f, z, initial = shares_and_values((200, 2, 9), backend.device, dtype)
    value = forget_mult(f / 16, z, initial)
    exact = forget_mult_loop((f / 16).double(), z.double(), initial.double())
    assert value.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(value.double(), exact, rtol=backend.rounding * eps, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_in_narrow_types(backend: SimpleNamespace, dtype: torch.dtype) -> None:
    inputs = shares_and_values((20, 2, 9), backend.device, dtype)
    ours = with_gradients(forget_mult, *inputs)
    exact = with_gradients(forget_mult_loop, *(part.double() for part in inputs))
    assert [part.dtype for part in ours] == [dtype, dtype, dtype, torch.float32]
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(
            one.double(), other, rtol=4 * torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cut", [1, 4, 6])
def test_two_windows_are_one_to_the_bit(backend: SimpleNamespace, cut: int, dtype: torch.dtype) -> None:
    f, z, initial = shares_and_values((7, 3, 37), backend.device, dtype)
    whole, first = forget_mult(f, z, initial), forget_mult(f[:cut], z[:cut], initial)
    assert torch.equal(torch.cat([first, forget_mult(f[cut:], z[cut:], first[-1])]), whole)


def test_threads_change_nothing(native_operators: Any, set_threads: Callable[[int], None]) -> None:
    f, z, initial = shares_and_values((70, 20, 131), torch.device("cpu"), torch.float32)
    results = []
    for threads in (1, 2):
        set_threads(threads)
        results.append(with_gradients(forget_mult, f, z, initial))
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("f", "z", "initial"),
    [
        (torch.zeros(3, 2, 4), torch.zeros(3, 2, 5), None),
        (torch.zeros(2, 4), torch.zeros(2, 4), None),
        (torch.zeros(3, 2, 4), torch.zeros(3, 2, 4).double(), None),
        (torch.zeros(3, 2, 4), torch.zeros(3, 2, 4), torch.zeros(2, 5)),
        (torch.zeros(3, 2, 4), torch.zeros(3, 2, 4), torch.zeros(1, 2, 4)),
    ],
)
def test_what_does_not_fit_is_refused(f: Tensor, z: Tensor, initial: Tensor | None) -> None:
    with pytest.raises(RuntimeError, match=r"^Expected (f and z \[T, B, H\] of one type|hidden size \(2, 4\)), got"):
        forget_mult(f, z, initial)


NAMES = ["forget_mult_forward", "forget_mult_backward", "gates_forward", "gates_backward"]


@pytest.mark.parametrize("name", NAMES)
def test_all_kinds_of_operators_have_one_signature(native_operators: Any, name: str) -> None:
    expected = list(inspect.signature(getattr(eager, name)).parameters)
    schema = getattr(native_operators, name).default._schema
    assert [argument.name for argument in schema.arguments] == expected
    assert list(inspect.signature(getattr(triton_kernels, name)).parameters) == expected


@pytest.mark.parametrize("fault", ["dtype", "shape", "strides"])
@pytest.mark.parametrize("name", NAMES)
def test_native_operators_check_their_tensors(native_operators: Any, name: str, fault: str) -> None:
    """Memory is never read or written past its end."""
    sequence, state = torch.rand(4, 3, 6), torch.rand(3, 6)
    arguments: list[Any] = {
        "forget_mult_forward": [sequence, sequence, state],
        "forget_mult_backward": [sequence, sequence, sequence, sequence, state],
        "gates_forward": [torch.rand(4, 3, 18), torch.rand(18), state, True],
        "gates_backward": [sequence, state, torch.rand(4, 3, 18), torch.rand(18), sequence, state, True],
    }[name]
    getattr(native_operators, name)(*arguments)
    for k, argument in enumerate(arguments):
        if isinstance(argument, Tensor):
            wrong = {
                "dtype": argument.to(torch.int16),
                "shape": argument[..., 1:].contiguous(),
                "strides": torch.stack([argument, argument], dim=-1)[..., 0],
            }[fault]
            with pytest.raises(RuntimeError, match=r"expected|not implemented"):
                getattr(native_operators, name)(*arguments[:k], wrong, *arguments[k + 1 :])


def test_without_a_compiler_the_eager_operators_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.native, "load", lambda source: False)
    assert kernels.operators(torch.device("cpu")) is eager


def test_without_triton_on_a_gpu_one_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("tried\nno compiler")

    monkeypatch.setattr(triton_kernels, "gates_forward", fail)
    monkeypatch.setattr(torch, "zeros", lambda *sizes, device: torch.empty(sizes))
    kernels._cuda_operators.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert kernels.operators(torch.device("cuda")) is eager
            assert kernels.operators(torch.device("cuda:1")) is eager
    finally:
        kernels._cuda_operators.cache_clear()
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == "no Triton kernels (no compiler): the slower eager ones are used"


@pytest.mark.cuda
def test_a_gpu_has_triton_operators() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    if triton_kernels.triton is None:
        pytest.skip("Triton is not installed")
    assert kernels.operators(torch.device("cuda")) is triton_kernels
