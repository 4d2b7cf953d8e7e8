"""Captured training steps: plain runs on a CPU, replays on CUDA, and the bookkeeping of both on a stand-in."""

import contextlib
import copy
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rnncore import cuda_graph
from rnncore.cuda_graph import GraphedStep
from rnncore.dropout import LockedDropout, WeightDrop
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

V, B, H = 11, 3, 5


def on_cuda(test: Any) -> Any:
    """Marks a test that needs a CUDA device, and skips it without one."""
    return pytest.mark.cuda(pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")(test))


class LanguageModel(nn.Module):
    """A small LSTM language model in float64, with a parameter that never gets a gradient."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(V, H)
        self.lstm = WeightDrop(nn.LSTM(H, H), ["weight_hh_l0"], dropout)
        self.locked = LockedDropout(dropout)
        self.decoder = nn.Linear(H, V)
        self.unused = nn.Parameter(torch.ones(2))
        self.double()

    def step(self, inputs: Tensor, targets: Tensor, state: Any) -> tuple[Any, ...]:
        output, state = self.lstm(self.locked(self.embedding(inputs)), state)
        loss = nn.functional.cross_entropy(self.decoder(output).flatten(0, 1), targets.flatten())
        loss.backward()
        return loss, state, (output.mean(), None)


def windows(lengths: list[int], device: torch.device | str = "cpu") -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for length in lengths:
        tokens = torch.randint(V, (length + 1, B), generator=generator).to(device)
        yield tokens[:-1], tokens[1:]


def initial_state(device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    return torch.zeros(1, B, H, dtype=torch.float64, device=device), torch.zeros(
        1, B, H, dtype=torch.float64, device=device
    )


def assert_trains_like_plain(model: LanguageModel, graphed: GraphedStep, lengths: list[int], atol: float) -> None:
    """Windows with carried state and SGD steps in between: losses, extra outputs, gradients and parameters agree."""
    device = model.unused.device
    plain = copy.deepcopy(model)
    plain.lstm.module.flatten_parameters()
    optimizers = [torch.optim.SGD(which.parameters(), lr=0.5, weight_decay=0.1) for which in (model, plain)]
    state, plain_state = initial_state(device), initial_state(device)
    losses, plain_losses = [], []
    for inputs, targets in windows(lengths, device):
        loss, state, (mean, nothing) = graphed(inputs, targets, state)
        assert nothing is None
        assert not any(tensor.requires_grad for tensor in (loss, mean, *state))
        losses.append(loss)
        optimizers[1].zero_grad()
        plain_loss, plain_state, (plain_mean, _) = plain.step(inputs, targets, plain_state)
        plain_state = tuple(part.detach() for part in plain_state)
        plain_losses.append(plain_loss.detach())
        torch.testing.assert_close(mean, plain_mean.detach(), rtol=0, atol=atol)
        torch.testing.assert_close(state, plain_state, rtol=0, atol=atol)
        for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=atol)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(losses, plain_losses, rtol=0, atol=atol)
    assert model.unused.grad is None
    torch.testing.assert_close(list(model.parameters()), list(plain.parameters()), rtol=0, atol=atol)


def test_on_a_cpu_the_step_just_runs() -> None:
    model = LanguageModel()
    assert_trains_like_plain(model, GraphedStep(model.step, model.parameters()), [4, 3, 4], atol=0)


def test_errors_of_the_step_are_raised() -> None:
    model = LanguageModel()
    (inputs, targets), *_ = windows([3])
    with pytest.raises(IndexError):
        GraphedStep(model.step, model.parameters())(inputs + V, targets, initial_state())


class RecordedGraph(TorchDispatchMode):
    """Stands in for ``torch.cuda.CUDAGraph``: a replay runs the recorded operators again on the same tensors."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.generators: list[torch.Generator] = []
        RecordedGraph.made += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.generators.append(generator)

    def reset(self) -> None:
        self.calls.clear()

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, result in self.calls:
            for old, new in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old is not new:
                    old.copy_(new)


@pytest.fixture
def pretend_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU tensors count as CUDA's, streams do nothing, and graphs are recorded operators."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    nothing = lambda *_: contextlib.nullcontext()  # noqa: E731
    RecordedGraph.made = 0
    monkeypatch.setattr(cuda_graph, "_on_cuda", lambda tensor: True)
    monkeypatch.setattr(cuda_graph, "_synchronisation_forbidden", nothing)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    fork_rng = torch.random.fork_rng
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: fork_rng([]))
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", nothing)
    monkeypatch.setattr(torch.cuda, "device", nothing)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedGraph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, pool, stream: graph)


@pytest.mark.usefixtures("pretend_cuda")
def test_one_graph_for_each_length() -> None:
    model = LanguageModel()
    assert_trains_like_plain(model, GraphedStep(model.step, model.parameters()), [4, 3, 4, 4, 3, 2, 4], atol=0)
    assert RecordedGraph.made == 3


@pytest.mark.usefixtures("pretend_cuda")
def test_plain_runs_beyond_the_largest_number_of_graphs() -> None:
    model = LanguageModel()
    graphed = GraphedStep(model.step, model.parameters(), max_graphs=1)
    assert_trains_like_plain(model, graphed, [4, 3, 4, 3, 2, 4], atol=0)
    assert RecordedGraph.made == 1


@pytest.mark.usefixtures("pretend_cuda")
def test_gradients_return_after_they_were_cleared_or_replaced() -> None:
    model = LanguageModel()
    graphed = GraphedStep(model.step, model.parameters())
    ((inputs, targets),) = windows([4])
    graphed(inputs, targets, initial_state())
    expected = model.decoder.weight.grad.clone()
    model.zero_grad(set_to_none=True)
    graphed(inputs, targets, initial_state())
    assert torch.equal(model.decoder.weight.grad, expected)


@pytest.mark.usefixtures("pretend_cuda")
def test_inputs_and_outputs_are_the_callers_own() -> None:
    model = LanguageModel()
    graphed = GraphedStep(model.step, model.parameters())
    given = list(windows([4, 4, 4]))
    losses = [graphed(inputs, targets, initial_state())[0] for inputs, targets in given]
    assert len({loss.item() for loss in losses}) == 3
    torch.testing.assert_close(given, list(windows([4, 4, 4])), rtol=0, atol=0)


def noisy_step(weight: nn.Parameter, generator: torch.Generator | None) -> cuda_graph.Step:
    """Returns its dropout mask as a third output."""

    def step(inputs: Tensor, targets: Tensor, state: Any) -> tuple[Any, ...]:
        mask = torch.empty_like(weight).bernoulli_(0.5, generator=generator)
        loss = (weight * mask).sum()
        loss.backward()
        return loss, state, mask

    return step


def drawn_masks(graphed: GraphedStep, number: int, device: str = "cpu") -> list[Tensor]:
    ((inputs, targets),) = windows([4], device)
    return [graphed(inputs, targets, None)[2] for _ in range(number)]


@pytest.mark.usefixtures("pretend_cuda")
@pytest.mark.parametrize("own_generator", [False, True])
def test_capture_itself_draws_nothing(own_generator: bool) -> None:
    weight = nn.Parameter(torch.ones(50))
    generator = torch.Generator() if own_generator else None
    graphed = GraphedStep(noisy_step(weight, generator), [weight], generators=[generator] if generator else [])
    (generator or torch.default_generator).manual_seed(0)
    masks = drawn_masks(graphed, 2)
    (generator or torch.default_generator).manual_seed(0)
    expected = [torch.empty(50).bernoulli_(0.5, generator=generator) for _ in range(2)]
    assert all(map(torch.equal, masks, expected))


def waiting_step(model: LanguageModel) -> cuda_graph.Step:
    """The model's step, and a look at the loss, which no graph can hold."""

    def step(inputs: Tensor, targets: Tensor, state: Any) -> tuple[Any, ...]:
        outputs = model.step(inputs, targets, state)
        outputs[0].item()
        return outputs

    return step


@pytest.mark.usefixtures("pretend_cuda")
def test_a_failed_capture_is_one_warning_and_plain_runs(caplog: pytest.LogCaptureFixture) -> None:
    model = LanguageModel()
    graphed = GraphedStep(waiting_step(model), model.parameters())
    with caplog.at_level(logging.WARNING):
        assert_trains_like_plain(model, graphed, [4, 3, 4], atol=0)
    (record,) = caplog.records
    assert record.getMessage() == (
        "the training step runs without CUDA graphs: its capture failed "
        "(operation not permitted when stream is capturing)"
    )


@on_cuda
@pytest.mark.parametrize(("max_graphs", "captured"), [(16, 3), (1, 1)])
def test_cuda_graphs_train_like_plain_steps(max_graphs: int, captured: int, caplog: pytest.LogCaptureFixture) -> None:
    model = LanguageModel().cuda()
    graphed = GraphedStep(model.step, model.parameters(), max_graphs=max_graphs)
    assert_trains_like_plain(model, graphed, [4, 3, 4, 4, 3, 2, 4], atol=1e-10)
    assert len(graphed._graphs) == captured
    assert not caplog.records


@on_cuda
@pytest.mark.parametrize("own_generator", [False, True])
def test_masks_differ_between_cuda_replays(own_generator: bool) -> None:
    weight = nn.Parameter(torch.ones(1000, device="cuda"))
    generator = torch.Generator("cuda").manual_seed(0) if own_generator else None
    graphed = GraphedStep(noisy_step(weight, generator), [weight], generators=[generator] if generator else [])
    masks = drawn_masks(graphed, 3, "cuda")
    assert len(graphed._graphs) == 1
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[1], masks[2])
    assert all(350 < mask.sum().item() < 650 for mask in masks)
    assert torch.equal(weight.grad, masks[2])


@on_cuda
def test_weight_drop_and_locked_dropout_in_a_cuda_graph(caplog: pytest.LogCaptureFixture) -> None:
    """The same window with fixed parameters: every replay has a loss of its own, and moves with the parameters."""
    model = LanguageModel(dropout=0.5).cuda()
    graphed = GraphedStep(model.step, model.parameters())
    ((inputs, targets),) = windows([4], "cuda")
    state = initial_state("cuda")
    losses = [graphed(inputs, targets, state)[0].item() for _ in range(4)]
    assert len(set(losses)) == 4
    with torch.no_grad():
        model.decoder.weight.zero_()
        model.decoder.bias.zero_()
    loss = graphed(inputs, targets, state)[0]
    torch.testing.assert_close(loss.cpu(), torch.tensor(V, dtype=torch.float64).log())
    assert not caplog.records


@on_cuda
def test_a_step_that_waits_for_the_device_runs_plainly(caplog: pytest.LogCaptureFixture) -> None:
    model = LanguageModel().cuda()
    with caplog.at_level(logging.WARNING):
        assert_trains_like_plain(model, GraphedStep(waiting_step(model), model.parameters()), [4, 3, 4], atol=1e-10)
    assert len(caplog.records) == 1
    assert torch.cuda.get_sync_debug_mode() == 0
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert torch.rand(3, device="cuda").max() > 0, "the generator still works"
