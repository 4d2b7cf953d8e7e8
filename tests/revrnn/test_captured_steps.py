"""Steps of a reversible language model that wait for nothing, as a CUDA graph needs them."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from revrnn import eager, gru_kernel, lstm_kernel
from revrnn.buffer import InformationBuffer
from revrnn.model import ReversibleLM, State
from rnncore.cuda_graph import GraphedStep
from rnncore.errors import UserError
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

V, B = 11, 3


class NoWait(TorchDispatchMode):
    """Refuses what would make the host wait for a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def model_of(kind: Any, num_layers: int = 2, **options: float) -> ReversibleLM:
    torch.manual_seed(0)
    rates = dict.fromkeys(["dropout", "dropout_hidden", "dropout_input", "dropout_words", "weight_drop"], 0.0)
    return ReversibleLM(kind, V, embedding_size=4, hidden_size=6, num_layers=num_layers, **rates, **options).double()


def window_of(model: ReversibleLM, steps: int) -> tuple[Tensor, Tensor, State]:
    """Random words, and zeros for a state."""
    place = model.vocabulary.weight.device
    ids = torch.randint(V, (steps + 1, B), generator=torch.Generator().manual_seed(1)).to(place)
    return ids[:-1], ids[1:], model.initial_state(B)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_a_step_that_may_not_wait_does_not(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CPU, what a GPU runs: eager operators, and buffers whose words begin by schedule."""
    begin = InformationBuffer.__init__

    def scheduled(self: InformationBuffer, *words: Any, **options: Any) -> None:
        begin(self, *words, **options)
        self._scheduled = 17

    monkeypatch.setattr(InformationBuffer, "__init__", scheduled)
    for module in (gru_kernel, lstm_kernel):
        monkeypatch.setattr(module, "operators", lambda device: eager)
    model = model_of(kind)
    window = window_of(model, 60)
    with NoWait():
        model.loss_and_backward(*window, wait=False)
    with NoWait(), pytest.raises(AssertionError):
        model.loss_and_backward(*window)


@pytest.mark.parametrize(("steps", "beyond"), [(200, False), (300, True)])
def test_a_state_out_of_range_is_told(steps: int, beyond: bool, device: torch.device) -> None:
    """At once or, where nothing may wait for the device, by the loss."""
    model = model_of("lstm", 1, max_forget=0.01).to(device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.layers[0].get_parameter("bias_l0").fill_(20.0)  # h grows by almost 1.0 at each step
    window = window_of(model, steps)
    with pytest.raises(UserError, match="left the fixed-point range") if beyond else nullcontext():
        model.loss_and_backward(*window)
    assert bool(model.loss_and_backward(*window, wait=False).loss.isnan()) == beyond


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_a_step_is_captured(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    model = model_of(kind).to("cuda")
    window = window_of(model, 60)
    expected = model.loss_and_backward(*window)
    grads = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    graphed = GraphedStep(lambda *it: tuple(model.loss_and_backward(*it, wait=False))[:2], model.parameters())
    for _ in range(2):
        loss, last = graphed(*window)
        assert not caplog.records
        torch.testing.assert_close(loss, expected.loss)
        assert all(torch.equal(a, b) for a, b in zip(last, expected.state, strict=True))
        torch.testing.assert_close([parameter.grad for parameter in model.parameters()], grads)
