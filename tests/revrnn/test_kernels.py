"""The operators of a time step: against Python's integers, and the native ones against the readable ones."""

import inspect
import itertools
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from revrnn import eager
from revrnn.fixed_point import STATE_LIMIT
from torch import Tensor

DTYPES = [torch.float32, torch.float64]
NAMES = [name for name in vars(eager) if name.startswith(("gru_", "lstm_"))]
UNITS = [-(2**31), -(2**31) + 1, -(2**31) + 1023, -1025, -1024, -1023, -1, 0, 1, 1023, 1024, 2**31 - 1]
GATES = [1, 2, 3, 511, 512, 1023, 1024]
WORDS = [0, 1, 1023, 1024, 2**30 - 1, 2**52 + 1, 2**53 - 1024, 2**53 - 1]


def cases() -> list[tuple[int, int, int]]:
    """Units, gates and words: extreme ones in all combinations, and random ones of all sizes."""
    draw = random.Random(0)
    drawn = [
        (draw.randint(-(2**31), 2**31 - 1), draw.randint(1, 1024), draw.randrange(2 ** draw.randint(1, 53)))
        for _ in range(7_328)
    ]
    return drawn + list(itertools.product(UNITS, GATES, WORDS))


def exact_multiply(h: int, z: int, word: int) -> tuple[int, int]:
    """The paper's algorithm 1."""
    word = word * 1024 + h % 1024
    return (h // 1024) * z + word % z, word // z


def gates_that_only_forget(z: Tensor, dtype: torch.dtype) -> Tensor:
    """``[B, 5G]`` of i, f, g, o, p with f and p z/1024, and i g and o tanh(c) zero, for ``max_forget`` 1."""
    zero = torch.zeros(z.shape, dtype=dtype)
    return torch.cat([zero, z.to(dtype) / 1024, zero, zero, z.to(dtype) / 1024], dim=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 8])
def test_multiplication_is_the_papers_algorithm(operators: Any, rows: int, dtype: torch.dtype) -> None:
    """Through the LSTM's cell, forward and back; 8,000 units in a row, and in rows shorter than a block."""
    columns = [torch.tensor(column).view(rows, -1) for column in zip(*cases(), strict=True)]
    h, z, word = columns[0].int(), columns[1], columns[2]
    before = h.clone(), word.clone()
    gates, value = gates_that_only_forget(z, dtype), torch.empty(h.shape, dtype=dtype)
    fullest, farthest = operators.lstm_cell_forward(gates, 1.0, h, word, None, value)
    expected = [exact_multiply(*case) for case in cases()]
    assert list(zip(h.flatten().tolist(), word.flatten().tolist(), strict=True)) == expected
    assert fullest in (None, max(word for _, word in expected))
    assert int(farthest) == max(abs(unit) for unit, _ in expected)
    assert torch.equal(value, h.to(dtype) * 2.0**-23)
    operators.lstm_cell_reverse(gates, 1.0, h, word, None, value)
    assert torch.equal(h, before[0])
    assert torch.equal(word, before[1])
    assert torch.equal(value, h.to(dtype) * 2.0**-23)


class Operands:
    """Random arguments of the operators, for B rows of G units."""

    def __init__(
        self, dtype: torch.dtype, *, batch: int = 5, group: int = 7, start: int = 2, active: bool = True
    ) -> None:
        self.generator, self.dtype, self.batch, self.group = torch.Generator().manual_seed(batch), dtype, batch, group
        self.start = start
        self.rows = torch.rand(batch, generator=self.generator) < 0.7 if active else None
        self.integers = torch.randint(-(2**24), 2**24, (batch, group), generator=self.generator).int()
        self.word = torch.randint(2**53, (batch, group - start), generator=self.generator)
        self.whole_word = torch.randint(2**53, (batch, group), generator=self.generator)

    def real(self, parts: int = 1) -> Tensor:
        return torch.randn(self.batch, parts * self.group, generator=self.generator, dtype=torch.float64).to(self.dtype)

    def share(self, parts: int = 1) -> Tensor:
        return torch.sigmoid(2 * self.real(parts))

    def strided(self, parts: int = 1) -> Tensor:
        """Columns of a wider tensor, as the inputs' part of some gates is."""
        return self.real(parts + 2)[:, self.group : -self.group]

    def of(self, name: str, m: float) -> list[Any]:
        h, r, s = self.integers, self.rows, self.start
        lstm = [torch.cat([self.share(2), self.real().tanh(), self.share(2)], dim=1), self.real()]
        step = [self.real(), self.strided(), self.share(2), self.real(), m, h, self.word, s, r, self.real()]
        return {
            "gru_gates": [self.real(2), self.strided(2), self.real(), self.real(2), self.real()],
            "gru_forward": step,
            "gru_reverse": step,
            "gru_gradient_update": [
                *(self.real(), self.share(2), self.real().tanh(), self.real(), m, r, self.real(2), self.real())
            ],
            "gru_gradient_reset": [self.real(), self.share(2), self.real(), self.real(2), self.real()],
            "lstm_gates": [self.real(5), self.strided(5), self.real(5)],
            "lstm_cell_forward": [lstm[0], m, h, self.whole_word, r, self.real()],
            "lstm_cell_reverse": [lstm[0], m, h, self.whole_word, r, self.real()],
            "lstm_hidden_forward": [*lstm, m, h, self.word, s, r, self.real()],
            "lstm_hidden_reverse": [*lstm, m, h, self.word, s, r, self.real()],
            "lstm_gradient": [
                *(self.real(), self.real(), lstm[0], self.real(), self.real(), self.real(), m, r, self.real(5))
            ],
        }[name]


def copies(arguments: list[Any]) -> list[Any]:
    """The same, strides kept."""
    return [a.clone() if isinstance(a, Tensor) and a.is_contiguous() else a for a in arguments]


def without_buffer(name: str, arguments: list[Any]) -> list[Any]:
    word = list(inspect.signature(getattr(eager, name)).parameters).index("word")
    return [None if k == word else a for k, a in enumerate(arguments)]


def assert_like(got: list[Any], expected: list[Any], dtype: torch.dtype) -> None:
    """Reals within a few roundings; integers the same in float64, in float32 off by the rounding of an addend."""
    for ours, theirs in zip(got, expected, strict=True):
        if not isinstance(ours, Tensor):
            assert ours == theirs
        elif ours.dtype.is_floating_point:
            eps = 4 * torch.finfo(dtype).eps
            torch.testing.assert_close(ours, theirs, rtol=eps, atol=eps)
        elif ours.dtype == torch.int32 and dtype == torch.float32:
            assert int((ours - theirs).abs().max()) <= 4
        else:
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("max_forget", [0.5, 0.875, 1.0])
@pytest.mark.parametrize(
    "sizes", [{"active": False}, {"start": 0}, {}, {"batch": 1, "group": 1, "start": 0, "active": False}], ids=str
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_native_operators_are_the_readable_ones(
    native_operators: Any, name: str, dtype: torch.dtype, sizes: dict[str, Any], max_forget: float
) -> None:
    arguments = Operands(dtype, **sizes).of(name, max_forget)
    ours, theirs = copies(arguments), copies(arguments)
    reach = getattr(native_operators, name)(*ours)
    getattr(eager, name)(*theirs)
    assert_like(ours, theirs, dtype)
    changed = [a for a, b in zip(ours, arguments, strict=True) if isinstance(a, Tensor) and not torch.equal(a, b)]
    assert changed
    if name.endswith("forward"):
        named = dict(zip(inspect.signature(getattr(eager, name)).parameters, ours, strict=True))
        busy = slice(None) if named["active"] is None else named["active"]
        assert reach[0] == int(named["word"][busy].max())
        assert reach[1] == int(named["c" if name == "lstm_cell_forward" else "h"][busy].abs().max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("forward")])
def test_native_operators_without_a_buffer(native_operators: Any, name: str, dtype: torch.dtype) -> None:
    arguments = without_buffer(name, Operands(dtype).of(name, 0.875))
    ours, theirs = copies(arguments), copies(arguments)
    fullest, _ = getattr(native_operators, name)(*ours)
    getattr(eager, name)(*theirs)
    assert_like(ours, theirs, dtype)
    assert fullest == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("forward", [name for name in NAMES if name.endswith("forward")])
def test_reverse_undoes_forward_to_the_bit(operators: Any, forward: str, dtype: torch.dtype) -> None:
    """Among 650 units in single precision, where a rounding that differs would show; saved units are put back."""
    operands = Operands(dtype, batch=20, group=650)
    arguments = copies(operands.of(forward, 0.875))
    parameters = list(inspect.signature(getattr(eager, forward)).parameters)
    h = arguments[parameters.index("c" if forward == "lstm_cell_forward" else "h")]
    word = arguments[parameters.index("word")]
    before = h.clone(), word.clone()
    getattr(operators, forward)(*arguments)
    assert not torch.equal(h, before[0])
    start = operands.start if "start" in parameters else 0
    h[:, :start] = before[0][:, :start]
    getattr(operators, forward.replace("forward", "reverse"))(*arguments)
    assert torch.equal(h, before[0])
    assert torch.equal(word, before[1])


@pytest.mark.parametrize("name", NAMES)
def test_threads_change_nothing(native_operators: Any, name: str, set_threads: Callable[[int], None]) -> None:
    arguments, results = Operands(torch.float32, batch=20, group=650).of(name, 0.875), []
    for threads in (1, 2):
        set_threads(threads)
        results.append(copies(arguments))
        results[-1].append(getattr(native_operators, name)(*results[-1]))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two) if isinstance(one, Tensor) else one == two


@pytest.mark.parametrize("name", NAMES)
def test_native_and_readable_operators_have_one_signature(native_operators: Any, name: str) -> None:
    schema = getattr(native_operators, name).default._schema
    assert [argument.name for argument in schema.arguments] == list(inspect.signature(getattr(eager, name)).parameters)


@pytest.mark.parametrize("fault", ["dtype", "shape", "strides"])
@pytest.mark.parametrize("name", NAMES)
def test_native_operators_check_their_tensors(native_operators: Any, name: str, fault: str) -> None:
    """Memory is never read or written past its end."""
    arguments = Operands(torch.float32).of(name, 0.875)
    parameters = list(inspect.signature(getattr(eager, name)).parameters)
    for k, argument in enumerate(arguments):
        if not isinstance(argument, Tensor) or (parameters[k] == "inputs" and fault == "strides"):
            continue
        wrong = {
            "dtype": argument.to(torch.int16),
            "shape": argument[:-1],
            "strides": torch.stack([argument, argument], dim=-1)[..., 0],
        }[fault]
        with pytest.raises(RuntimeError, match=r"expected|not implemented"):
            getattr(native_operators, name)(*arguments[:k], wrong, *arguments[k + 1 :])


@pytest.mark.parametrize("unit", [-1_000_000, 0, 1_000_000])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["gru_forward", "lstm_cell_forward", "lstm_hidden_forward"])
def test_nan_is_never_silent(operators: Any, name: str, dtype: torch.dtype, unit: int) -> None:
    """It shows as a unit out of the range, whatever the unit was."""
    operands = Operands(dtype, active=False)
    operands.integers.fill_(unit)
    arguments = operands.of(name, 0.875)
    arguments[0].fill_(math.nan)
    for word in (operands.word, operands.whole_word):
        word.zero_()
    _, farthest = getattr(operators, name)(*arguments)
    assert int(farthest) >= STATE_LIMIT


@pytest.mark.parametrize("name", [name for name in NAMES if "reverse" in name])
def test_reversing_nan_does_not_crash(operators: Any, name: str) -> None:
    arguments = Operands(torch.float32).of(name, 0.875)
    arguments[0].fill_(math.nan)
    assert getattr(operators, name)(*arguments) is None


@pytest.mark.parametrize("native", ["0", "1"])
@pytest.mark.usefixtures("native_operators")
def test_native_operators_can_be_switched_off(native: str) -> None:
    """The same integers come out of another process, with the operators that the environment asks for."""
    code = (
        "import torch; from revrnn import RevLSTM, eager, kernels\n"
        "torch.manual_seed(0); torch.set_default_dtype(torch.float64)\n"
        "h, c = RevLSTM(3, 4)(torch.randn(40, 2, 3), tuple(torch.zeros(1, 2, 4).int() for _ in 'hc'))[1]\n"
        "print(kernels.operators(h.device) is eager, hasattr(torch.ops.revrnn, 'gru_gates'), *h.flatten().tolist())"
    )
    environment = os.environ | {"RNNCORE_NATIVE": native}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    used_eager, has_native, *integers = run.stdout.split()
    assert (used_eager, has_native) == (("True", "False") if native == "0" else ("False", "True"))
    names: dict[str, Any] = {}
    before = torch.get_default_dtype()
    try:
        exec(code.replace("print(", "dict(").split("dict(")[0], names)
    finally:
        torch.set_default_dtype(before)
    assert [int(integer) for integer in integers] == names["h"].flatten().tolist()
