"""`rnncore.gradient` against autograd on the penalised loss of the whole window."""

from typing import NamedTuple

import pytest
import torch
from rnncore.gradient import loss_and_gradient
from rnncore.penalties import activation_penalty, temporal_penalty
from torch import Tensor, nn

T, B, V, H = 5, 6, 11, 4


class Outputs(NamedTuple):
    raw: list[Tensor]
    dropped: list[Tensor]
    state: list[tuple[Tensor, Tensor]]


class Model(nn.Module):
    """Embedding, an LSTM layer and a decoder; what the decoder takes is twice what the layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer, self.decoder = nn.Embedding(V, 3), nn.LSTM(3, H), nn.Linear(H, V)

    def forward(self, ids: Tensor, state: list[tuple[Tensor, Tensor]]) -> Outputs:
        raw, last = self.layer(self.embedding(ids), state[0])
        return Outputs([raw], [2 * raw], [last])

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.decoder(output).flatten(0, 1), targets.flatten())


@pytest.mark.parametrize("piece", [None, 1, 2, 6])
def test_pieces_add_up_to_the_whole_window(piece: int | None) -> None:
    torch.manual_seed(1)
    model = Model().double()
    ids, targets = torch.randint(V, (2, T, B))
    state = [(torch.randn(1, B, H).double(), torch.randn(1, B, H).double())]
    outputs = model(ids, state)
    plain = model.loss(outputs.dropped[-1], targets)
    total = plain + activation_penalty(outputs.dropped[-1], 2.0) + temporal_penalty(outputs.raw[-1], 3.0)
    expected = torch.autograd.grad(total, list(model.parameters()))

    loss, last = loss_and_gradient(model, ids, targets, state, activation=2.0, temporal=3.0, piece=piece)

    torch.testing.assert_close(loss, plain.detach(), rtol=1e-12, atol=0)
    for ours, theirs in zip(last[0], outputs.state[0], strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-14)
        assert not ours.requires_grad
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-13)


def test_gradients_are_added() -> None:
    torch.manual_seed(1)
    model = Model()
    ids, targets = torch.randint(V, (2, T, B))
    state = [(torch.zeros(1, B, H), torch.zeros(1, B, H))]
    once = []
    for times in (1, 2):
        loss_and_gradient(model, ids, targets, state, activation=0.0, temporal=0.0)
        once = once or [parameter.grad.clone() for parameter in model.parameters()]
        for parameter, gradient in zip(model.parameters(), once, strict=True):
            torch.testing.assert_close(parameter.grad, times * gradient)
