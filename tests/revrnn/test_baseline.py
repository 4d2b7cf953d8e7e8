"""The baseline language models against torch's modules put together by hand."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from revrnn.baseline import BaselineLM
from rnncore import dropout
from torch import Tensor, nn
from torch.nn import functional as F

V, E, H, B, T = 11, 4, 6, 3, 9
NO_DROPOUT = {
    "dropout": 0.0, "dropout_hidden": 0.0, "dropout_input": 0.0, "dropout_words": 0.0, "weight_drop": 0.0
}  # fmt: skip


def model_of(kind: Any, num_layers: int, **options: float) -> BaselineLM:
    torch.manual_seed(0)
    return BaselineLM(kind, V, embedding_size=E, hidden_size=H, num_layers=num_layers, **options).double()


def text(seed: int = 1) -> tuple[Tensor, Tensor]:
    ids = torch.randint(V, (T + 1, B), generator=torch.Generator().manual_seed(seed))
    return ids[:-1], ids[1:]


class ByHand(nn.Module):
    """Embedding, layers and decoder of torch, with copies of the model's parameters; one weight embeds and decodes."""

    def __init__(self, model: BaselineLM) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, E).double()
        self.decoder = nn.Linear(E, V).double()
        with torch.no_grad():
            self.embedding.weight.copy_(model.vocabulary.weight)
            self.decoder.bias.copy_(model.vocabulary.bias)
        self.decoder.weight = self.embedding.weight
        self.layers = nn.ModuleList(copy.deepcopy(layer.module) for layer in model.layers)

    def loss(self, ids: Tensor, targets: Tensor, states: list[Any]) -> tuple[Tensor, Tensor, list[Any]]:
        x, last = self.embedding(ids), []
        for layer, state in zip(self.layers, states, strict=True):
            x, state = layer(x, state)
            last.append(state)
        logits = self.decoder(x)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten()), logits, last

    def pairs(self, model: BaselineLM) -> list[tuple[nn.Parameter, nn.Parameter]]:
        pairs = [
            (model.vocabulary.weight, self.embedding.weight),
            (model.vocabulary.bias, self.decoder.bias),
        ]
        for ours, theirs in zip(model.layers, self.layers, strict=True):
            pairs += list(zip(ours.module.parameters(), theirs.parameters(), strict=True))
        return pairs


def flat(state: Any) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else [tensor for part in state for tensor in flat(part)]


def assert_close(ours: Tensor | None, theirs: Tensor | None) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_torch_modules_by_hand(kind: str, num_layers: int) -> None:
    """Two windows, the state carried: losses, gradients, last states; and as many parameters, no more."""
    model = model_of(kind, num_layers, **NO_DROPOUT)
    hand = ByHand(model)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in hand.parameters())
    state, hand_state = model.initial_state(B), [None] * num_layers
    for seed in (1, 2):
        loss, state = model.loss(*text(seed), state)
        hand_loss, _, hand_state = hand.loss(*text(seed), hand_state)
        loss.backward()
        hand_loss.backward()
        hand_state = [s.detach() if isinstance(s, Tensor) else tuple(t.detach() for t in s) for s in hand_state]
        assert_close(loss, hand_loss)
        for ours, theirs in hand.pairs(model):
            assert_close(ours.grad, theirs.grad)
        for ours, theirs in zip(flat(state), flat(hand_state), strict=True):
            assert not ours.requires_grad
            assert_close(ours, theirs)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_evaluation(kind: str) -> None:
    """Without dropout, without gradient: the summed loss and the logits."""
    model = model_of(kind, 2).eval()
    hand = ByHand(model)
    state = model.initial_state(B)
    total, after = model.loss_sum(*text(), state)
    logits, again = model(text()[0], state)
    loss, expected, last = hand.loss(*text(), [None] * 2)
    assert not total.requires_grad
    assert_close(total, loss.detach() * T * B)
    assert_close(logits, expected.detach())
    for one, two, theirs in zip(flat(after), flat(again), flat(last), strict=True):
        assert_close(one, theirs.detach())
        assert_close(two, theirs.detach())


@pytest.mark.parametrize("name", NO_DROPOUT)
def test_each_dropout_is_drawn_anew_for_each_window_of_training(name: str) -> None:
    model = model_of("lstm", 2, **NO_DROPOUT | {name: 0.5})
    state = model.initial_state(B)
    losses = {float(model.loss(*text(), state)[0].detach()) for _ in range(5)}
    assert len(losses) > 1
    torch.manual_seed(3)
    first = model.loss(*text(), state)[0]
    torch.manual_seed(3)
    assert torch.equal(model.loss(*text(), state)[0], first)
    model.eval()
    assert len({float(model.loss(*text(), state)[0].detach()) for _ in range(3)}) == 1


def test_dropouts_are_where_they_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand with the masks that were drawn, in the order in which they are drawn."""
    model = model_of("gru", 2, dropout=0.3, dropout_hidden=0.4, dropout_input=0.2, dropout_words=0.5, weight_drop=0.0)
    drawn: list[Tensor] = []
    plain: Callable[..., Tensor] = dropout._mask

    def recorded(*args: Any) -> Tensor:
        drawn.append(plain(*args))
        return drawn[-1]

    monkeypatch.setattr(dropout, "_mask", recorded)
    loss, _ = model.loss(*text(), model.initial_state(B))
    words, inputs, hidden, outputs = drawn
    assert [tuple(mask.shape) for mask in drawn] == [(V, 1), (1, B, E), (1, B, H), (1, B, E)]
    ids, targets = text()
    x = F.embedding(ids, model.vocabulary.weight * words) * inputs
    for layer, mask in zip(model.layers, (hidden, outputs), strict=True):
        x = layer.module(x)[0] * mask
    logits = F.linear(x, model.vocabulary.weight, model.vocabulary.bias)
    assert_close(loss, F.cross_entropy(logits.flatten(0, 1), targets.flatten()))


def test_vocabulary_begins_small() -> None:
    """Uniform in (-0.1, 0.1), no bias, as in the original."""
    torch.manual_seed(0)
    model = BaselineLM("gru", 2_000)
    weight = model.vocabulary.weight.detach()
    assert 0.0999 < float(weight.abs().max()) <= 0.1
    assert abs(float(weight.mean())) < 1e-3
    assert not model.vocabulary.bias.detach().any()
