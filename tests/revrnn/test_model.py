"""The reversible language model: one gradient by two ways, its masks, its state, its evaluation."""

from typing import Any

import pytest
import torch
from revrnn import RevGRU
from revrnn.model import Masks, ReversibleLM, State
from revrnn.window import CHUNK
from rnncore.errors import UserError
from torch import Tensor
from torch.nn import functional as F

V, E, H, B = 11, 4, 6, 3
DROPOUT = {
    "dropout": 0.4, "dropout_hidden": 0.3, "dropout_input": 0.4, "dropout_words": 0.2, "weight_drop": 0.5
}  # fmt: skip
NO_DROPOUT = dict.fromkeys(DROPOUT, 0.0)


def model_of(
    kind: Any, num_layers: int = 1, dtype: torch.dtype = torch.float64, scale: float = 0.6, **options: float
) -> ReversibleLM:
    torch.manual_seed(0)
    model = ReversibleLM(kind, V, embedding_size=E, hidden_size=H, num_layers=num_layers, **DROPOUT | options).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-scale, scale)
    return model


def text(steps: int = 20, seed: int = 1) -> tuple[Tensor, Tensor]:
    ids = torch.randint(V, (steps + 1, B), generator=torch.Generator().manual_seed(seed))
    return ids[:-1], ids[1:]


def first_state(model: ReversibleLM) -> State:
    """Not zero, so that bits are lost from the first step on."""
    generator = torch.Generator().manual_seed(2)
    shapes = [group.shape for group in model.initial_state(B)]
    return tuple(torch.randint(-(2**22), 2**22, shape, generator=generator).int() for shape in shapes)


def gradients(model: ReversibleLM) -> list[Tensor]:
    """Takes the gradients out of the parameters."""
    taken = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    assert all(grad is not None for grad in taken)
    return [grad for grad in taken if grad is not None]


def both_ways(model: ReversibleLM, steps: int, **options: Any) -> list[tuple[Any, list[Tensor]]]:
    """Loss, state and bits, and gradients: by reversal, and from stored states with the same buffers."""
    device = model.vocabulary.weight.device
    ids, targets = (part.to(device) for part in text(steps))
    window, masks = (ids, targets, tuple(group.to(device) for group in first_state(model))), model.draw_masks(B)
    result = model.loss_and_backward(*window, masks=masks, count_bits=True)
    reversed_ = result, gradients(model)
    result = model.loss(*window, masks=masks, buffered=True, count_bits=True)
    result.loss.backward()
    return [reversed_, (result, gradients(model))]


@pytest.mark.parametrize("steps", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_reversal_gives_the_gradient_of_stored_states(kind: str, steps: int, device: torch.device) -> None:
    """With all dropouts, over the edges of chunks; and the same loss, state and memory."""
    (reversed_, grads), (stored, expected) = both_ways(model_of(kind, 2).to(device), steps)
    torch.testing.assert_close(reversed_.loss, stored.loss.detach(), rtol=0, atol=1e-12)
    assert reversed_.bits == pytest.approx(stored.bits, rel=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(reversed_.state, stored.state, strict=True))
    for ours, theirs in zip(grads, expected, strict=True):
        assert theirs.any()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("max_forget", [0.5, 1.0])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_reversal_for_other_depths_and_limits(kind: str, max_forget: float, num_layers: int) -> None:
    (_, grads), (_, expected) = both_ways(model_of(kind, num_layers, max_forget=max_forget), 30)
    for ours, theirs in zip(grads, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


@pytest.mark.parametrize("steps", [20, 150])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_reversal_in_mixed_precision(kind: str, steps: int, device: torch.device) -> None:
    """States are rebuilt to the bit there too: the two gradients differ by the rounding of bfloat16 sums only."""
    model = model_of(kind, 2, torch.float32).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        (reversed_, grads), (stored, expected) = both_ways(model, steps)
    assert reversed_.loss.item() == pytest.approx(stored.loss.item(), rel=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(reversed_.state, stored.state, strict=True))
    for ours, theirs in zip(grads, expected, strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).norm()) < 0.01 * float(theirs.norm())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_cuda_computes_what_the_cpu_computes(kind: str) -> None:
    """In float64; functions that differ in the last place rarely round to other integers."""
    model = model_of(kind, 2, **NO_DROPOUT)
    (on_cpu, expected), _ = both_ways(model, 30)
    (on_cuda, grads), _ = both_ways(model.to("cuda"), 30)
    assert on_cuda.loss.item() == pytest.approx(on_cpu.loss.item(), rel=1e-5)
    for ours, theirs in zip(grads, expected, strict=True):
        assert float((ours.cpu() - theirs).norm()) < 1e-3 * float(theirs.norm())


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_gradients_are_added(kind: str) -> None:
    model = model_of(kind, 2)
    masks, state = model.draw_masks(B), first_state(model)
    separate = []
    for seed in (1, 2):
        model.loss_and_backward(*text(seed=seed), state, masks=masks)
        separate.append(gradients(model))
    for seed in (1, 2):
        model.loss_and_backward(*text(seed=seed), state, masks=masks)
    for total, one, two in zip(gradients(model), *separate, strict=True):
        torch.testing.assert_close(total, one + two, rtol=1e-12, atol=1e-15)


def by_hand(model: ReversibleLM, ids: Tensor, state: State, masks: Masks, unroll: Any, make_cells: Any) -> Tensor:
    """Logits of cells, step by step, with the same masks: embedding, dropout, layers, decoder."""
    cells = [make_cells(model.kind, layer.input_size, layer.hidden_size, max_forget=0.875)[0] for layer in model.layers]
    with torch.no_grad():
        for cell, layer, mask in zip(cells, model.layers, masks.weights, strict=True):
            ih, hh, bias = layer.weights()[0]
            cell.weight_ih.copy_(ih)
            cell.weight_hh.copy_(hh if mask is None else hh * mask)
            cell.bias.copy_(bias)
    weight = model.vocabulary.weight
    x = F.embedding(ids, weight if masks.words is None else weight * masks.words)
    x = x if masks.inputs is None else x * masks.inputs
    groups = [[group.double() / 2**23 for group in layer] for layer in state]
    outputs, _ = unroll(cells, x, groups, buffered=False, masks=masks.outputs)
    return F.linear(outputs, weight, model.vocabulary.bias)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_the_model_by_hand(kind: str, training: bool, make_cells: Any, unroll: Any) -> None:
    model = model_of(kind, 3).train(training)
    (ids, targets), masks, state = text(), model.draw_masks(B), first_state(model)
    logits = by_hand(model, ids, state, masks, unroll, make_cells)
    result = model.loss(ids, targets, state, masks=masks)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(result.loss, expected, rtol=0, atol=1e-12)
    assert result.bits is None
    if not training:
        total, after = model.loss_sum(ids, targets, state)
        torch.testing.assert_close(total, expected.detach() * ids.numel(), rtol=0, atol=1e-10)
        again, same = model(ids, state)
        torch.testing.assert_close(again, logits.detach(), rtol=0, atol=1e-12)
        for last in (after, same):
            assert all(torch.equal(a, b) for a, b in zip(last, result.state, strict=True))


def test_masks_are_drawn_in_training_only() -> None:
    model = model_of("gru", 3)
    masks = model.draw_masks(B)
    assert masks.words is not None
    assert masks.inputs is not None
    assert masks.words.shape == (V, 1)
    assert masks.inputs.shape == (1, B, E)
    assert [mask.shape for mask in masks.outputs if mask is not None] == [(1, B, H), (1, B, H), (1, B, E)]
    shapes = [layer.weight_hh_l0.shape for layer in model.layers]
    assert [mask.shape for mask in masks.weights if mask is not None] == shapes
    assert set(masks.inputs.unique().tolist()) == {0.0, 1 / 0.6}
    assert set(masks.words.unique().tolist()) == {0.0, 1 / 0.8}
    for mask, p in zip(masks.outputs, (0.3, 0.3, 0.4), strict=True):
        assert mask is not None
        assert set(mask.unique().tolist()) == {0.0, 1 / (1 - p)}
    assert all(set(mask.unique().tolist()) == {0.0, 2.0} for mask in masks.weights if mask is not None)
    model.eval()
    assert model.draw_masks(B) == Masks(None, None, [None] * 3, [None] * 3)
    plain = model_of("gru", 3, **NO_DROPOUT)
    assert plain.train().draw_masks(B) == Masks(None, None, [None] * 3, [None] * 3)


@pytest.mark.parametrize("path", ["loss", "loss_and_backward"])
def test_each_window_draws_new_masks(path: str) -> None:
    model = model_of("gru", 2)
    window = (*text(), first_state(model))
    losses = [getattr(model, path)(*window).loss.item() for _ in range(3)]
    assert len(set(losses)) == 3
    torch.manual_seed(4)
    first = getattr(model, path)(*window).loss.item()
    torch.manual_seed(4)
    assert getattr(model, path)(*window).loss.item() == first


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_the_state_is_carried_exactly(kind: str) -> None:
    """Evaluated in windows of any lengths, a text has one loss; and no window changes the state it was given."""
    model = model_of(kind, 2).eval()
    ids, targets = text(60)
    begin = first_state(model)
    kept = [group.clone() for group in begin]
    whole, last = model.loss_sum(ids, targets, begin)
    parts, state = 0.0, begin
    for rows in (slice(0, 7), slice(7, 40), slice(40, 60)):
        total, state = model.loss_sum(ids[rows], targets[rows], state)
        parts += total.item()
    assert parts == pytest.approx(whole.item(), rel=1e-13)
    assert all(torch.equal(a, b) for a, b in zip(state, last, strict=True))
    model.loss_and_backward(ids, targets, begin)
    assert all(torch.equal(a, b) for a, b in zip(begin, kept, strict=True))


def test_first_states_are_zero_and_fit_the_layers() -> None:
    shapes = {"gru": [(2, B, H // 2), (2, B, E // 2)], "lstm": [(4, B, H // 2), (4, B, E // 2)]}
    for kind, expected in shapes.items():
        state = model_of(kind, 2).initial_state(B)
        assert [tuple(group.shape) for group in state] == expected
        assert all(group.dtype == torch.int32 and not group.any() for group in state)


def test_embedding_and_decoder_share_their_weight() -> None:
    model = model_of("lstm", 2)
    names = [name for name, _ in model.named_parameters()]
    assert names[:2] == ["vocabulary.weight", "vocabulary.bias"]
    assert len(names) == 2 + 2 * 3
    assert model.vocabulary.weight.shape == (V, E)


def test_new_models_begin_as_the_papers() -> None:
    """Embedding uniform in (-0.1, 0.1), biases of the decoder zero, 650 units."""
    model = ReversibleLM("gru", 10_000)
    assert float(model.vocabulary.weight.detach().abs().max()) <= 0.1
    assert not model.vocabulary.bias.detach().any()
    assert sum(p.numel() for p in model.parameters()) == 10_000 * 651 + 3 * 650 * (650 + 325 + 1)


@pytest.mark.parametrize("path", ["loss", "loss_and_backward", "loss_sum", "forward"])
def test_leaving_the_range_is_one_clear_line(path: str) -> None:
    model = model_of("lstm", max_forget=0.01, scale=0.0, **NO_DROPOUT)
    with torch.no_grad():
        layer = model.layers[0]
        layer.bias_l0.fill_(20.0)
    ids, targets = text(300)
    arguments = (ids, model.initial_state(B)) if path == "forward" else (ids, targets, model.initial_state(B))
    with pytest.raises(UserError, match=r"left the fixed-point range \(-256, 256\)") as caught:
        getattr(model, path)(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["loss", "loss_and_backward", "loss_sum", "forward"])
def test_nan_is_never_silent(path: str) -> None:
    """In one number of the recurrent weights, in the first window."""
    model = model_of("gru", **NO_DROPOUT)
    layer = model.layers[0]
    assert isinstance(layer, RevGRU)
    with torch.no_grad():
        layer.weights()[0].hh[0, 0] = float("nan")
    ids, targets = text()
    arguments = (ids, model.initial_state(B)) if path == "forward" else (ids, targets, model.initial_state(B))
    with pytest.raises(UserError):
        getattr(model, path)(*arguments)


def test_reversal_keeps_neither_activations_nor_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a long window only chunks are embedded, decoded and differentiated."""
    model = model_of("gru", 2)
    seen: list[int] = []
    plain = model.vocabulary.loss_backward

    def watched(outputs: Tensor, *rest: Any) -> Any:
        seen.append(len(outputs))
        return plain(outputs, *rest)

    monkeypatch.setattr(model.vocabulary, "loss_backward", watched)
    model.loss_and_backward(*text(500), first_state(model))
    assert sum(seen) == 500
    assert max(seen) <= CHUNK
