"""The layer: its fast form against the equations, step by step, and its interface.

Shapes: T time steps, B batch, S slots, N rows, H heads.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rmc import RelationalMemory, eager, kernels
from rnncore.errors import UserError
from torch import Tensor

Small = Callable[..., RelationalMemory]
tight = {"rtol": 1e-10, "atol": 1e-10}
each_variant = pytest.mark.parametrize("variant", ["port", "sonnet"])
each_gate = pytest.mark.parametrize("gate_style", ["unit", "memory", None])


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normalised(x: Tensor, axes: tuple[int, ...], weight: Tensor, bias: Tensor) -> Tensor:
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / ((x - mean) ** 2).mean(axes, keepdim=True).add(1e-5).sqrt() * weight + bias


def step_by_hand(layer: RelationalMemory, x: Tensor, memory: Tensor) -> Tensor:
    """One step of the sonnet variant for one item, written with loops over rows and heads."""
    state = dict(layer.cell.named_parameters())

    def linear(name: str, value: Tensor) -> Tensor:
        return state[f"{name}.weight"] @ value + state[f"{name}.bias"]

    def norm(name: str, value: Tensor) -> Tensor:
        return normalised(value, (0,), state[f"{name}.weight"], state[f"{name}.bias"])

    projected = linear("input_projector", x)
    rows = [*memory, projected]
    for k in range(layer.cell.num_blocks):
        parts = [norm(f"blocks.{k}.qkv_norm", linear(f"blocks.{k}.qkv", row)).view(2, -1) for row in rows]
        results = []
        for number, row in enumerate(rows):
            taken = []
            for h in range(2):
                query, keys = parts[number][h, :3], [part[h, 3:6] for part in parts]
                scores = torch.stack([torch.exp(query @ key / math.sqrt(3)) for key in keys])
                taken.append(sum(s / scores.sum() * part[h, 6:] for s, part in zip(scores, parts, strict=True)))
            y = norm(f"blocks.{k}.attention_norm", row + torch.cat(taken))
            inner = linear("mlp.1", linear("mlp.0", y).clamp(min=0))
            results.append(norm(f"blocks.{k}.mlp_norm", y + inner))
        rows = results
    new = []
    for slot, candidate in zip(memory, rows, strict=False):
        gates = linear("memory_gates", slot.tanh()) + linear("input_gates", projected)
        write, keep = gates.chunk(2)
        write, keep = torch.sigmoid(write + state["input_bias"]), torch.sigmoid(keep + state["forget_bias"])
        new.append(write * candidate.tanh() + keep * slot)
    return torch.stack(new)


@pytest.mark.parametrize("blocks", [1, 2])
def test_cell_is_the_published_module(small: Small, blocks: int) -> None:
    layer = small(variant="sonnet", num_blocks=blocks, attention_mlp_layers=2)
    x, memory = drawn(1, 3, 5), drawn(2, 3, 2, 8)
    found, _ = layer.cell(x, memory)
    expected = torch.stack([step_by_hand(layer, *pair) for pair in zip(x, memory, strict=True)])
    torch.testing.assert_close(found, expected, **tight)


@pytest.mark.usefixtures("operators")
@each_variant
@each_gate
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize(("slots", "layers"), [(1, 1), (3, 3)])
def test_window_is_what_steps_are(
    small: Small, variant: str, gate_style: str | None, blocks: int, slots: int, layers: int
) -> None:
    layer = small(slots, variant=variant, gate_style=gate_style, num_blocks=blocks, attention_mlp_layers=layers)
    x, memory = drawn(1, 7, 6, 5).requires_grad_(), drawn(2, 6, slots, 8).requires_grad_()
    leaves = [x, memory, *(parameter for parameter in layer.parameters() if parameter.requires_grad)]
    weight, last_weight = drawn(3, 7, 6, slots * 8), drawn(4, 6, slots, 8)

    def results(**options: Any) -> list[Tensor]:
        output, last, *_ = layer(x, memory, **options)
        loss = (output * weight).sum() + (last.sin() * last_weight).sum()
        grads = torch.autograd.grad(loss, leaves, materialize_grads=True, allow_unused=True)
        return [output, last, *grads]

    for found, expected in zip(results(), results(return_attention=True), strict=True):
        torch.testing.assert_close(found, expected, **tight)


@pytest.mark.usefixtures("operators")
@each_variant
@each_gate
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("batch", [1, 700])
@pytest.mark.parametrize("last_only", [True, False])
def test_all_items_may_begin_alike(
    small: Small, variant: str, gate_style: str | None, blocks: int, batch: int, last_only: bool
) -> None:
    """The first memory of a text, and a loss that may see nothing but the last; chunks of one step and of several."""
    layer = small(2, variant=variant, gate_style=gate_style, num_blocks=blocks)
    x, weight = drawn(1, 4, batch, 5).requires_grad_(), drawn(2, 4, batch, 16)
    leaves = [x, *(parameter for parameter in layer.parameters() if parameter.requires_grad)]

    def results(**options: Any) -> list[Tensor]:
        output, last, *_ = layer(x, **options)
        loss = (last.flatten(1) * weight[0]).sum() if last_only else (output * weight).sum()
        grads = torch.autograd.grad(loss, leaves, materialize_grads=True, allow_unused=True)
        return [output, last, *grads]

    for found, expected in zip(results(), results(return_attention=True), strict=True):
        torch.testing.assert_close(found, expected, **tight)


@pytest.mark.usefixtures("operators")
@each_variant
@each_gate
def test_gradient_is_that_of_differences(small: Small, variant: str, gate_style: str | None) -> None:
    layer = small(2, variant=variant, gate_style=gate_style, num_blocks=2)
    parameters = {name: value for name, value in layer.named_parameters() if value.requires_grad}

    def run(x: Tensor, memory: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        given = dict(zip(parameters, values, strict=True))
        result: tuple[Tensor, Tensor] = torch.func.functional_call(layer, given, (x, memory))
        return result

    leaves = [drawn(1, 2, 2, 5).requires_grad_(), drawn(2, 2, 2, 8).requires_grad_(), *parameters.values()]
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True, atol=1e-6)


@pytest.mark.usefixtures("operators")
@each_variant
def test_a_text_may_be_cut_anywhere(small: Small, variant: str) -> None:
    layer, x = small(3, variant=variant), drawn(1, 9, 2, 5)
    whole, last = layer(x)
    memory, parts = None, []
    for piece in x.split([4, 1, 4]):
        output, memory = layer(piece, memory)
        parts.append(output)
    torch.testing.assert_close(torch.cat(parts), whole, **tight)
    torch.testing.assert_close(memory, last, **tight)
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0], whole, **tight)
        first, memory = layer(x[:5])
        torch.testing.assert_close(torch.cat([first, layer(x[5:7], memory)[0]]), whole[:7], **tight)


@pytest.mark.usefixtures("operators")
def test_gradients_by_weights_over_many_chunks(small: Small) -> None:
    """With so many rows each product for gradients by weights covers a part of the steps."""
    layer, x = small(1), drawn(1, 11, 300, 5)
    for options in ({}, {"return_attention": True}):
        layer.zero_grad()
        layer(x, **options)[0].square().sum().backward()
        grads = [parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None]
        if not options:
            first = grads
    for found, expected in zip(first, grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_native_and_eager_agree_in_float32(small: Small) -> None:
    if kernels.operators(torch.device("cpu")) is eager:
        pytest.skip("there is no C++ compiler")
    layer = RelationalMemory(12, 3, 20, 3, attention_mlp_layers=3)
    x = drawn(1, 8, 5, 12).float()
    found, _ = layer(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "operators", lambda device: eager)
        expected, _ = layer(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_weights_that_are_no_parameters(small: Small) -> None:
    """As weight drop and torch.func give them."""
    layer, x = small(), drawn(1, 6, 2, 5)
    weights = {name: 2 * weight.detach() for name, weight in layer.named_parameters()}
    found, _ = torch.func.functional_call(layer, weights, (x,))
    layer.load_state_dict(weights)
    torch.testing.assert_close(found, layer(x)[0], **tight)


def test_attention_is_a_distribution_over_rows(small: Small) -> None:
    layer = small(3, num_blocks=2)
    _, _, attention = layer(drawn(1, 4, 2, 5), return_attention=True)
    assert attention.shape == (4, 2, 2, 2, 4, 4)
    torch.testing.assert_close(attention.sum(5), torch.ones(4, 2, 2, 2, 4, dtype=torch.float64))
    assert float(attention.detach().std()) > 0.01


def test_batch_first(small: Small) -> None:
    x = drawn(1, 4, 2, 5)
    output, memory = small()(x)
    turned, same = small(batch_first=True)(x.transpose(0, 1))
    assert torch.equal(turned.transpose(0, 1), output)
    assert torch.equal(same, memory)


@pytest.mark.usefixtures("operators")
@each_variant
def test_mixed_precision_is_close(variant: str) -> None:
    torch.manual_seed(1)
    layer = RelationalMemory(16, 2, 16, 2, variant=variant)  # type: ignore[arg-type]
    x = torch.randn(6, 4, 16)

    def results() -> list[Tensor]:
        layer.zero_grad()
        output, _ = layer(x)
        output.square().sum().backward()
        return [output.detach(), layer.cell.memory_gates.weight.grad.clone()]

    expected = results()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = results()
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert 0 < float((ours - theirs).norm() / theirs.norm()) < 0.02


def test_the_port_has_one_layer_and_sonnet_several() -> None:
    def count(variant: str) -> int:
        layer = RelationalMemory(4, 1, 8, num_blocks=2, attention_mlp_layers=3, variant=variant)  # type: ignore[arg-type]
        return sum(name.endswith("weight") for name, _ in layer.named_parameters())

    assert count("port") == 3 + 1 + 4
    assert count("sonnet") == 3 + 3 + 2 * 4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mem_slots": 0}, "mem_slots must be at least 1, not 0"),
        ({"num_blocks": 0}, "num_blocks must be at least 1, not 0"),
        ({"attention_mlp_layers": 0}, "attention_mlp_layers must be at least 1, not 0"),
        ({"gate_style": "none"}, "gate_style must be unit, memory or None, not 'none'"),
        ({"variant": "tf"}, "variant must be port or sonnet, not 'tf'"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        RelationalMemory(**{"input_size": 4, "mem_slots": 1, "head_size": 4, **options})


@pytest.mark.parametrize(
    ("x", "memory", "expected"),
    [
        ((3, 2, 6), None, r"Expected input \[T, B, 5\], got \[3, 2, 6\]"),
        ((3, 5), None, r"Expected input \[T, B, 5\], got \[3, 5\]"),
        ((0, 2, 5), None, "sequence length to be larger than 0"),
        ((3, 2, 5), (2, 1, 8), r"Expected memory \[2, 2, 8\], got \[2, 1, 8\]"),
    ],
)
def test_wrong_shapes_are_refused(
    small: Small, x: tuple[int, ...], memory: tuple[int, ...] | None, expected: str
) -> None:
    with pytest.raises(RuntimeError, match=expected):
        small()(torch.zeros(x, dtype=torch.float64), None if memory is None else torch.zeros(memory))


def test_slots_start_unlike_each_other() -> None:
    assert torch.equal(RelationalMemory(4, 3, 2).initial_state(2)[1], torch.eye(3)[:, :2])
