"""One time step: against the paper's equations in real numbers, and undone to the bit."""

from collections.abc import Callable, Sequence

import pytest
import torch
from revrnn.buffer import InformationBuffer
from revrnn.cell import RevGRUCell, RevLSTMCell
from revrnn.forget import Fixed, fixed, forget, unforget
from rnncore.errors import UserError
from torch import Tensor

B, I, H = 4, 5, 6
G = H // 2
KINDS = {"gru": (RevGRUCell, 2), "lstm": (RevLSTMCell, 4)}
MAX_FORGETS = [0.5, 0.75, 0.875, 0.96875, 1.0]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gru_step(cell: RevGRUCell, x: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
    """Section 3.1 in real numbers."""
    assert cell.bias is not None
    m, (h1, h2) = cell.max_forget, state
    weights = zip(*(w.split(G) for w in (cell.weight_ih, cell.weight_hh, cell.bias)), strict=True)
    (z1, r1, g1, z2, r2, g2) = list(weights)

    def gate(part: tuple[Tensor, ...], h: Tensor) -> Tensor:
        return x @ part[0].T + h @ part[1].T + part[2]

    z = m * torch.sigmoid(gate(z1, h2)) + 1 - m
    h1 = z * h1 + (1 - z) * torch.tanh(gate(g1, torch.sigmoid(gate(r1, h2)) * h2))
    z = m * torch.sigmoid(gate(z2, h1)) + 1 - m
    h2 = z * h2 + (1 - z) * torch.tanh(gate(g2, torch.sigmoid(gate(r2, h1)) * h1))
    return [h1, h2]


def lstm_step(cell: RevLSTMCell, x: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
    """Section 3.2 in real numbers."""
    assert cell.bias is not None
    m, groups = cell.max_forget, list(state)
    gates = list(zip(*(w.split(G) for w in (cell.weight_ih, cell.weight_hh, cell.bias)), strict=True))
    for a in (0, 1):
        i, f, g, o, p = (x @ w.T + groups[1 - a] @ u.T + b for w, u, b in gates[5 * a : 5 * a + 5])
        forget_c, forget_h = (m * torch.sigmoid(gate) + 1 - m for gate in (f, p))
        groups[2 + a] = forget_c * groups[2 + a] + torch.sigmoid(i) * torch.tanh(g)
        groups[a] = forget_h * groups[a] + torch.sigmoid(o) * torch.tanh(groups[2 + a])
    return groups


@pytest.mark.parametrize("max_forget", [0.5, 0.875, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_papers_equations(kind: str, max_forget: float, make_cells: Callable[..., list[RevGRUCell]]) -> None:
    """Values and gradients after 4 steps; forget gates are rounded to 1/1024, which is all that may differ."""
    torch.manual_seed(0)
    (cell,) = make_cells(kind, I, H, max_forget=max_forget)
    step = gru_step if kind == "gru" else lstm_step
    x, weights = numbers(4, B, I).requires_grad_(), numbers(KINDS[kind][1], B, G, seed=1)
    start = [group.requires_grad_() for group in numbers(KINDS[kind][1], B, G, seed=2).clamp(-1, 1)]
    leaves = [x, *start, *cell.parameters()]
    state, real = [fixed(group) for group in start], start
    buffer = InformationBuffer(B, G, max_forget=max_forget)
    for t in range(4):
        state = list(cell(x[t], state, [buffer] * len(state)))
        real = step(cell, x[t], real)  # type: ignore[operator]
    for ours, theirs in zip(state, real, strict=True):
        torch.testing.assert_close(ours.value, theirs, rtol=0, atol=4 * 2.0**-10)
        assert torch.equal(ours.bits, fixed(ours.value).bits)
    results = [[group.value for group in state], real]
    gradients = [
        torch.autograd.grad(sum((w * h).sum() for w, h in zip(weights, groups, strict=True)), leaves)
        for groups in results
    ]
    for ours_by, theirs_by in zip(*gradients, strict=True):
        assert (ours_by - theirs_by).norm() < 4 * 2.0**-10 * theirs_by.norm()


@pytest.mark.parametrize("slice_dim", [0, 2, G])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("max_forget", MAX_FORGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_undone_to_the_bit(
    kind: str, max_forget: float, separate: bool, slice_dim: int, make_cells: Callable[..., list[RevGRUCell]]
) -> None:
    torch.manual_seed(0)
    steps, groups = 25, KINDS[kind][1]
    (cell,) = make_cells(kind, I, H, max_forget=max_forget, dtype=torch.float32)
    x, active = numbers(steps, B, I).float(), torch.arange(steps)[:, None] < torch.tensor([25, 24, 3, 0])
    shared = InformationBuffer(B, G, max_forget=max_forget)
    buffers = [InformationBuffer(B, G, max_forget=max_forget) if separate else shared for _ in range(groups)]
    if slice_dim:
        buffers[0] = InformationBuffer(B, G - slice_dim, max_forget=max_forget)
    empty = [buffer.used_bits for buffer in buffers]
    with torch.no_grad():
        states = [[fixed(group) for group in numbers(groups, B, G, seed=1).float().clamp(-1, 1)]]
        for t in range(steps):
            states.append(list(cell(x[t], states[-1], buffers, active[t], slice_dim)))
    assert not torch.equal(states[-1][0].bits, states[0][0].bits)
    assert max(buffer.used_bits for buffer in buffers) > max(empty)
    state = states.pop()
    for t in reversed(range(steps)):
        before = states.pop()
        saved = before[0].bits[:, :slice_dim] if slice_dim else None
        state = list(cell.reverse(x[t], state, buffers, active[t], saved))
        assert all(torch.equal(ours.bits, theirs.bits) for ours, theirs in zip(state, before, strict=True))
        assert all(torch.equal(ours.value, theirs.value) for ours, theirs in zip(state, before, strict=True))
    assert [buffer.used_bits for buffer in buffers] == empty
    assert not any(buffer.word.any() for buffer in buffers)


@pytest.mark.parametrize("kind", KINDS)
def test_idle_rows_keep_their_state_and_pass_their_gradient(
    kind: str, make_cells: Callable[..., list[RevGRUCell]]
) -> None:
    torch.manual_seed(0)
    (cell,) = make_cells(kind, I, H)
    start = numbers(KINDS[kind][1], B, G, seed=1).requires_grad_()
    state = [fixed(group) for group in start]
    x, active = numbers(B, I).requires_grad_(), torch.tensor([True, False, True, False])
    after, alone = cell(x, state, active=active), cell(x, state)
    for before, new, free in zip(state, after, alone, strict=True):
        assert torch.equal(new.bits[~active], before.bits[~active])
        assert torch.equal(new.bits[active], free.bits[active])
    by_start, by_x = torch.autograd.grad(sum(group.value.sum() for group in after), [start, x])
    assert bool((by_start[:, ~active] == 1).all())
    assert bool((by_x[~active] == 0).all())
    assert bool((by_x[active] != 0).all())


def test_fixed_rounds_and_passes_the_gradient() -> None:
    x = numbers(50).requires_grad_()
    number = fixed(x)
    assert number.bits.tolist() == [round(value * 2**23) for value in x.tolist()]
    assert torch.equal(number.value, number.bits.double() / 2**23)
    (grad,) = torch.autograd.grad((number.value * numbers(50, seed=1)).sum(), x)
    assert torch.equal(grad, numbers(50, seed=1))


def test_forget_is_exact_in_integers() -> None:
    """h z + u, with z rounded to 1/1024 and u to 2**-23; a gate of 1 keeps all bits, one of 1/1024 the high ones."""
    h = Fixed(torch.tensor([[5_000_000, -3_000_001, 7 * 1024 + 5]], dtype=torch.int32), numbers(1, 3))
    z = torch.tensor([[1.0, 0.25, 1 / 1024]], dtype=torch.float64)
    u = torch.tensor([[0.5, -(2.0**-23), 0.0]], dtype=torch.float64)
    buffer = InformationBuffer(1, 3, max_forget=1.0)
    after = forget(h, z, u, buffer)
    # -3000001 = -2930 * 1024 + 319, and 319 = 1 * 256 + 63: the product takes 63, the word 1.
    assert after.bits.tolist() == [[5_000_000 + 2**22, -2930 * 256 + 63 - 1, 7]]
    assert buffer.word.tolist() == [[0, 1, 5]]
    assert unforget(after, z, u, buffer).bits.tolist() == h.bits.tolist()


@pytest.mark.parametrize("sign", [1, -1])
def test_leaving_the_range_is_an_error(sign: int) -> None:
    near = torch.full((1, 2), sign * 253.9, dtype=torch.float64)
    one = torch.ones(1, 2, dtype=torch.float64)
    for buffer in (None, InformationBuffer(1, 2, max_forget=0.5)):
        assert forget(fixed(near), one, 0.05 * sign * one, buffer).value.abs().max() < 254
        with pytest.raises(UserError, match="hidden state left the fixed-point range") as caught:
            forget(fixed(near), one, 0.2 * sign * one, buffer)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cell", [RevGRUCell, RevLSTMCell])
@pytest.mark.parametrize("hidden_size", [7, 1, 0, -2])
def test_sizes_must_be_even(cell: type[RevGRUCell], hidden_size: int) -> None:
    with pytest.raises(UserError, match=f"even number of units .two groups., not {hidden_size}"):
        cell(I, hidden_size)


@pytest.mark.parametrize("max_forget", [0.0, -0.5, 1.01, float("nan")])
def test_max_forget_must_be_a_share(max_forget: float) -> None:
    with pytest.raises(UserError, match="max_forget must be above 0 and at most 1"):
        RevGRUCell(I, H, max_forget=max_forget)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_uniform_within_their_bound(kind: str) -> None:
    torch.manual_seed(0)
    cell = KINDS[kind][0](30, 68)
    bound = 1 / 8  # 1 / sqrt(30 + 34)
    for parameter in cell.parameters():
        assert 0.95 * bound < float(parameter.detach().abs().max()) <= bound
        assert abs(float(parameter.detach().mean())) < 0.1 * bound
    assert [name for name, _ in KINDS[kind][0](3, 4, bias=False).named_parameters()] == ["weight_ih", "weight_hh"]
