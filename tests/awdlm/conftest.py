"""What the tests of the QRNN share: the operators of its recurrence, one kind after the other, and where they run."""

import os
from types import SimpleNamespace

import pytest
import torch
from awdlm import eager, forget_mult, gates, kernels, triton_kernels

CUDA = pytest.mark.cuda
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's kernels run on CPU, slowly, one program at a time


@pytest.fixture
def native_operators() -> object:
    """The C++ operators."""
    found = kernels.operators(torch.device("cpu"))
    if found is eager:
        pytest.skip("there are no native kernels: no C++ compiler, or RNNCORE_NATIVE=0")
    return found


@pytest.fixture
def triton_operators() -> object:
    """Triton's operators, on a GPU or interpreted."""
    if triton_kernels.triton is None:
        pytest.skip("Triton is not installed")
    if not torch.cuda.is_available() and not INTERPRETED:
        pytest.skip("there is no CUDA device; TRITON_INTERPRET=1 runs Triton's kernels without one")
    return triton_kernels


@pytest.fixture(
    params=["native", "eager", pytest.param("triton", marks=CUDA), pytest.param("eager on cuda", marks=CUDA)]
)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """``operators`` of one kind, which the layers use during the test, and their ``device``.

    ``rounding``: the largest error of a result that is rounded to its type once, in units of its eps.
    """
    operators: object = eager
    if request.param in ("native", "triton"):
        operators = request.getfixturevalue(f"{request.param}_operators")
    elif request.param != "eager" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    on_cuda = request.param in ("triton", "eager on cuda") and torch.cuda.is_available() and not INTERPRETED
    for module in (forget_mult, gates):
        monkeypatch.setattr(module, "operators", lambda device: operators)
    device = torch.device("cuda" if on_cuda else "cpu")
    cut_off = request.param == "triton" and INTERPRETED  # it does not round to the nearest bfloat16
    return SimpleNamespace(operators=operators, device=device, rounding=1.01 if cut_off else 0.51)
