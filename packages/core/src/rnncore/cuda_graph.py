"""A training step captured as CUDA graphs, one per window length, replayed with one launch each.

It removes the host's cost of launching thousands of small kernels (``torch.cuda.CUDAGraph``; the PyTorch notes on "CUDA
Graphs"). What a step reads and writes has fixed addresses: inputs are copied in, gradients stay in the same tensors,
outputs are copied out. On a CPU, and wherever capture is impossible, the step just runs.
"""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Step = Callable[[Tensor, Tensor, Any], tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    arguments: Any
    outputs: Any


class GraphedStep:
    """``step(inputs [T, B], targets [T, B], state) -> (loss, new_state, ...)``, captured once per shape of arguments.

    ``step`` runs forward and backward, on a CUDA device without waiting for it; the state and all outputs are tensors,
    tuples and lists of them, or None. It neither clears gradients nor steps the optimizer. A call clears the gradients
    of ``parameters``, so that afterwards they are this window's alone, and returns the outputs cut from the autograd
    graph. ``parameters`` must keep their storage (``load_state_dict`` does, ``Module.to`` may not).

    Before a new shape is captured the step runs ``warmup_steps + 1`` times; random generators are put back after that,
    so a call draws what one plain step draws. Replays go on drawing new numbers; CUDA ``generators`` other than the
    default must be named. Beyond ``max_graphs`` shapes the step runs plainly, and so it does for good, with one logged
    warning, once a capture has failed. Errors of the step itself are raised.
    """

    def __init__(
        self,
        step: Step,
        parameters: Iterable[Tensor],
        *,
        max_graphs: int = 16,
        warmup_steps: int = 2,
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        self.step = step
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.max_graphs = max_graphs
        self.warmup_steps = warmup_steps
        self.generators = list(generators)
        self._graphs: dict[Any, _Graph] = {}
        self._gradients: list[Tensor | None] | None = None
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None
        self._failed = False

    def __call__(self, inputs: Tensor, targets: Tensor, state: Any) -> tuple[Any, ...]:
        """``step``'s outputs, detached; ``parameters`` hold the gradients of this window."""
        arguments = (inputs, targets, state)
        key = _map(lambda tensor: (tensor.shape, tensor.dtype), arguments)
        if key not in self._graphs and not self._try_capture(key, arguments):
            return self._run(arguments)
        captured = self._graphs[key]
        for static, given in zip(_tensors(captured.arguments), _tensors(arguments), strict=True):
            static.copy_(given, non_blocking=True)
        self._attach_gradients()
        captured.graph.replay()
        # The graphs share their memory: the next replay of any of them may write over these.
        outputs: tuple[Any, ...] = _map(torch.clone, captured.outputs)
        return outputs

    def _run(self, arguments: tuple[Tensor, Tensor, Any]) -> tuple[Any, ...]:
        self._attach_gradients()
        if gradients := [gradient for gradient in self._gradients or [] if gradient is not None]:
            torch._foreach_zero_(gradients)
        outputs: tuple[Any, ...] = _map(torch.detach, self.step(*arguments))
        return outputs

    def _attach_gradients(self) -> None:
        """Give the parameters the gradients that the graphs write, or none before there are graphs."""
        for parameter, gradient in zip(self.parameters, self._gradients or [None] * len(self.parameters), strict=True):
            parameter.grad = gradient

    def _try_capture(self, key: Any, arguments: tuple[Tensor, Tensor, Any]) -> bool:
        """Capture the step for arguments of these shapes; whether that is possible."""
        if self._failed or len(self._graphs) >= self.max_graphs or not _on_cuda(arguments[0]):
            return False
        static = _map(torch.clone, arguments)
        with torch.cuda.device(arguments[0].device), _preserved(self.generators):
            self._warm_up(static)
            graph = torch.cuda.CUDAGraph()
            try:
                self._graphs[key] = _Graph(graph=graph, arguments=static, outputs=self._capture(graph, static))
            except RuntimeError as error:
                graph.reset()
                self._graphs.clear()
                self._failed = True
                reason = str(error).partition("\n")[0]
                logger.warning("the training step runs without CUDA graphs: its capture failed (%s)", reason)
        return not self._failed

    def _warm_up(self, static: tuple[Tensor, Tensor, Any]) -> None:
        """Let libraries and autograd set themselves up outside the graph, and find which parameters get gradients."""
        self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(self.warmup_steps):
                self._run(static)
            if self._gradients is None:
                gradients = [parameter.grad for parameter in self.parameters]
                self._gradients = [None if gradient is None else torch.zeros_like(gradient) for gradient in gradients]
        torch.cuda.current_stream().wait_stream(self._stream)

    def _capture(self, graph: torch.cuda.CUDAGraph, static: tuple[Tensor, Tensor, Any]) -> tuple[Any, ...]:
        for generator in self.generators:
            graph.register_generator_state(generator)
        # torch.cuda.graph does not give back the current stream when a capture fails: the outer block does.
        with torch.cuda.stream(self._stream):
            with _synchronisation_forbidden():
                self._run(static)
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                return self._run(static)


@contextmanager
def _synchronisation_forbidden() -> Iterator[None]:
    """A step that waits for the device raises here, before it can spoil a capture, from which torch recovers badly."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype feature")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@contextmanager
def _preserved(generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Put the device's default generator and the given ones back afterwards."""
    states = [generator.get_state() for generator in generators]
    with torch.random.fork_rng([torch.cuda.current_device()]):
        yield
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)


def _on_cuda(tensor: Tensor) -> bool:
    return tensor.is_cuda


def _map(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """``tree`` (tuples and lists, as tuples) with ``function`` of each tensor; what is no tensor stays."""
    if isinstance(tree, Tensor):
        return function(tree)
    return tuple(_map(function, part) for part in tree) if isinstance(tree, (tuple, list)) else tree


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    return [tensor for part in tree for tensor in _tensors(part)] if isinstance(tree, (tuple, list)) else []
