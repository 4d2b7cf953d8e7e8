"""The reversible LSTM over a chunk of time steps: forward, backward in time, and its gradient.

Fast path of `revrnn.cell.RevLSTMCell`, same equations. The inputs' part of the gates comes in as one product for the
whole chunk, and the gradients by the weights go out as operands of one product.

Shapes: K time steps, B batch, G units of one group. Half a is the update of groups h_a and c_a from the other h.
"""

import torch
from rnncore.step_linear import StepLinear
from torch import Tensor

from revrnn.buffer import InformationBuffer, make_room, took
from revrnn.kernels import operators
from revrnn.trace import GateGradient, Trace, forgotten_bits, restore_slice, rows_at, save_slices


class LSTMKernel:
    """One layer's recurrent weights, packed for the steps of one window."""

    def __init__(
        self,
        weight_hh: Tensor,
        rows: int,
        max_forget: float,
        dtype: torch.dtype | None = None,
        slices: tuple[int, int] = (0, 0),
    ) -> None:
        """Packs ``weight_hh [10G, G]``; arguments as for `revrnn.gru_kernel.GRUKernel`."""
        self.group, self.max_forget, self.slices = weight_hh.shape[1], max_forget, slices
        self.weights = weight_hh.detach().chunk(2)
        self.rows, self.dtype = rows, dtype
        self.linear = [StepLinear(weight, rows, dtype) for weight in self.weights]
        self.operators = operators(weight_hh.device)

    def trace(self, steps: int, like: Tensor, active: Tensor | None) -> Trace:
        """An empty trace of ``steps`` time steps for inputs like ``like [., B, .]``."""
        batch, group = like.shape[1], self.group
        groups = tuple(like.new_empty(steps + 1, batch, group) for _ in range(4))
        return Trace(groups, tuple(like.new_empty(steps, batch, 5 * group) for _ in range(2)), active)

    def forward(
        self,
        inputs: Tensor,
        state: list[Tensor],
        buffers: list[InformationBuffer | None],
        trace: Trace,
        saved: Tensor | None,
    ) -> list[int | Tensor]:
        """Advances the state over a chunk; as `revrnn.gru_kernel.GRUKernel.forward`, groups (h1, h2, c1, c2)."""
        parts, m, farthest = self._split(inputs), self.max_forget, []
        for t in range(len(inputs)):
            active = rows_at(trace.active, t)
            if saved is not None:
                save_slices(saved[t], state, self.slices)
            for a in (0, 1):
                gates, cell = self._gates(a, t, parts, trace), trace.groups[2 + a][t + 1]
                word = make_room(buffers[2 + a])
                fullest, reached = self.operators.lstm_cell_forward(gates, m, state[2 + a], word, active, cell)
                took(buffers[2 + a], fullest)
                farthest.append(reached)
                word, first, value = make_room(buffers[a]), self.slices[a], trace.groups[a][t + 1]
                fullest, reached = self.operators.lstm_hidden_forward(
                    gates, cell, m, state[a], word, first, active, value
                )
                took(buffers[a], fullest)
                farthest.append(reached)
        return farthest

    def reverse(
        self,
        inputs: Tensor,
        state: list[Tensor],
        buffers: list[InformationBuffer],
        trace: Trace,
        saved: Tensor | None,
    ) -> None:
        """Undoes `forward` and fills the trace, whose last states must be there; same arguments."""
        parts, m = self._split(inputs), self.max_forget
        for t in reversed(range(len(inputs))):
            active = rows_at(trace.active, t)
            for a in (1, 0):
                gates, cell = self._gates(a, t, parts, trace), trace.groups[2 + a][t + 1]
                if saved is not None:
                    restore_slice(saved[t], state, self.slices, a)
                word, first, value = buffers[a].word, self.slices[a], trace.groups[a][t]
                self.operators.lstm_hidden_reverse(gates, cell, m, state[a], word, first, active, value)
                buffers[a].give_back()
                word, value = buffers[2 + a].word, trace.groups[2 + a][t]
                self.operators.lstm_cell_reverse(gates, m, state[2 + a], word, active, value)
                buffers[2 + a].give_back()

    def _split(self, inputs: Tensor) -> list[tuple[Tensor, ...]]:
        """The inputs' part of each half's gates, as views by time step."""
        return [part.unbind() for part in inputs.chunk(2, dim=2)]

    def _gates(self, a: int, t: int, parts: list[tuple[Tensor, ...]], trace: Trace) -> Tensor:
        """Computes the gates of half a at step t, f and p not yet limited by ``max_forget``."""
        gates = trace.gates[a][t]
        self.operators.lstm_gates(self.linear[a](trace.groups[1 - a][t + a]), parts[a][t], gates)
        return gates

    def backward(self, trace: Trace, grad_output: Tensor, grad_state: list[Tensor]) -> list[GateGradient]:
        """The gradient of a chunk; as `revrnn.gru_kernel.GRUKernel.backward`, groups (h1, h2, c1, c2)."""
        transposed = [StepLinear(weight.t(), self.rows, self.dtype) for weight in self.weights]
        grad_gates = [torch.empty_like(gates) for gates in trace.gates]
        grad_outputs = [part.unbind() for part in grad_output.chunk(2, dim=2)]
        for t in reversed(range(len(grad_output))):
            active = rows_at(trace.active, t)
            grad_state[0] += grad_outputs[0][t]
            grad_state[1] += grad_outputs[1][t]
            for a in (1, 0):
                self.operators.lstm_gradient(
                    grad_state[a],
                    grad_state[2 + a],
                    trace.gates[a][t],
                    trace.groups[a][t],
                    trace.groups[2 + a][t],
                    trace.groups[2 + a][t + 1],
                    self.max_forget,
                    active,
                    grad_gates[a][t],
                )
                transposed[a].add_to(grad_state[1 - a], grad_gates[a][t])
        rows, others = 5 * self.group, (trace.groups[1][:-1], trace.groups[0][1:])
        return [GateGradient(slice(a * rows, (a + 1) * rows), grad_gates[a], others[a]) for a in (0, 1)]

    def forgotten_bits(self, trace: Trace) -> Tensor:
        """Bits that the chunk's forget gates forgot, saved units aside (a scalar tensor)."""
        gates = []
        for a, start in enumerate(self.slices):
            _, f, _, _, p = trace.gates[a].chunk(5, dim=2)
            gates += [f, p[..., start:]]
        return forgotten_bits(gates, self.max_forget, trace.active)
