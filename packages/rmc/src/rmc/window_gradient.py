"""The gradient of `rmc.window`, written by hand.

Attention, normalisations and gates are computed once more from what the products of the window gave.

Shapes: T time steps, B batch, S slots, N = S + 1 rows, Q rows that query, M numbers of a row, F of its projections,
G gates of a slot.
"""

from collections.abc import Sequence

import torch
from rnncore.step_linear import StepLinear
from torch import Tensor

from rmc import kernels
from rmc.window import Kept, Setting, Weights

#: Fewest rows of the products that give gradients by weights.
ROWS = 1024


class WindowGradient:
    """The gradient of a window: from its last step to its first, some steps at a time."""

    def __init__(self, setting: Setting, x: Tensor, qkv_x: Tensor, kept: Kept, weights: Weights) -> None:
        self.setting, self.x, self.qkv_x, self.kept, self.weights = setting, x, qkv_x, kept, weights
        self.step, self.slots = kernels.operators(x.device), kept.states.shape[2]
        steps, batch, _ = x.shape
        self.chunk = min(steps, -(-ROWS // (batch * setting.queries(setting.blocks - 1, self.slots))))
        self.by_x, self.by_qkv_x = torch.empty_like(x), torch.empty_like(qkv_x)
        self.by_gates_x = x.new_empty(steps, batch, kept.gates.shape[3])
        self.by_weights = Weights.of([torch.zeros_like(tensor) for tensor in weights.flat()], len(weights.blocks))
        self.projected, self.hidden = _few(kept.projected, self.chunk), [_few(x, self.chunk) for x in kept.hidden]
        (self.gates,) = _few([kept.gates], self.chunk)
        rows = batch * (self.slots + 1)
        self.from_qkv = [StepLinear(block.qkv.t(), rows, setting.dtype) for block in weights.blocks]
        self.from_layer = [StepLinear(weight.t(), rows, setting.dtype) for weight, _ in weights.layers]
        self.from_gates = StepLinear(weights.gates.t(), rows, setting.dtype) if len(weights.gates) else None

    def run(self, grad_output: Tensor, grad_memory: Tensor) -> Tensor:
        """Fills ``by_x`` and the others; the gradient by the first memory."""
        grad = grad_memory.contiguous().clone()
        for stop in range(len(self.x), 0, -self.chunk):
            start = max(0, stop - self.chunk)
            squashed = self.kept.states[start:stop].tanh()
            for t in reversed(range(start, stop)):
                grad = self._step(t, t - start, grad.add_(grad_output[t]), squashed[t - start])
            self._weights(slice(start, stop), squashed)
        return grad

    def _step(self, t: int, at: int, grad: Tensor, squashed: Tensor) -> Tensor:
        """From the gradient by the memory after step t to that by the one before; ``at`` is its place in the chunk."""
        setting, kept, before = self.setting, self.kept, torch.empty_like(grad)
        above: Tensor = grad
        for k in reversed(range(setting.blocks)):
            block, by = self.weights.blocks[k % len(self.weights.blocks)], self.by_weights.blocks
            grads, y = by[k % len(by)], kept.attended[k][t]
            by_sum = torch.empty_like(y)
            norm = y, kept.hidden[k][-1][t], block.mlp_gamma, block.mlp_beta, setting.joint
            if k == setting.blocks - 1:
                self.step.gate_backward(
                    grad, *norm, kept.gates[t], kept.states[t], by_sum, self.gates[at], before, grads.mlp_gamma,
                    grads.mlp_beta,
                )  # fmt: skip
            else:
                self.step.normalise_backward(above, *norm, by_sum, grads.mlp_gamma, grads.mlp_beta)
            by_sum += self._mlp(k, t, at, by_sum)
            above = self._attention(k, t, at, by_sum)
        before += above
        if self.from_gates is not None:
            by_squashed = self.from_gates(self.gates[at].flatten(0, 1)).view_as(squashed)
            before += torch.ops.aten.tanh_backward(by_squashed, squashed)
        return before

    def _mlp(self, k: int, t: int, at: int, grad: Tensor) -> Tensor:
        """From the gradient by the MLP's result to that by its input."""
        for number in reversed(range(len(self.setting.rectified))):
            result = self.hidden[k][number][at]
            if self.setting.rectified[number]:
                torch.ops.aten.threshold_backward.grad_input(grad, self.kept.hidden[k][number][t], 0, grad_input=result)
            else:
                result.copy_(grad)
            grad = self.from_layer[number % len(self.from_layer)](result.flatten(0, 1)).view_as(result)
        return grad

    def _attention(self, k: int, t: int, at: int, grad: Tensor) -> Tensor:
        """From the gradient by what a block's attention gave to that by its rows: the memory's, or those between."""
        slots, kept, setting = self.slots, self.kept, self.setting
        block, grads = (each.blocks[k % len(each.blocks)] for each in (self.weights, self.by_weights))
        product, by_product = kept.projected[k][t], self.projected[k][at]
        if k == 0:
            rows = kept.states[t]
            by_rows = torch.empty_like(rows)
            inputs, results = (product, self.qkv_x[t]), (by_product, self.by_qkv_x[t], by_rows, self.by_x[t])
            pair = rows, self.x[t]
        else:
            rows = kept.between[k - 1][t]
            by_rows = torch.empty_like(rows)
            inputs, pair = (product[:, :slots], product[:, slots]), (rows[:, :slots], rows[:, slots])
            results = by_product[:, :slots], by_product[:, slots], by_rows[:, :slots], by_rows[:, slots]
        self.step.attend_backward(
            grad, *inputs, block.gamma, block.beta, *pair, block.attention_gamma, block.attention_beta, setting.heads,
            setting.key, setting.joint, *results, grads.gamma, grads.beta, grads.attention_gamma, grads.attention_beta,
        )  # fmt: skip
        self.from_qkv[k % len(self.from_qkv)].add_to(by_rows.flatten(0, 1), by_product.flatten(0, 1))
        return by_rows

    def _weights(self, steps: slice, squashed: Tensor) -> None:
        """Adds the gradients by weights of the steps of a chunk."""
        count, kept, by = len(squashed), self.kept, self.by_weights
        for k in range(self.setting.blocks):
            rows = kept.states[steps] if k == 0 else kept.between[k - 1][steps]
            block = by.blocks[k % len(by.blocks)]
            self._add(block.qkv, block.bias, self.projected[k][:count], rows)
            for number, hidden in enumerate(self.hidden[k]):
                before = kept.hidden[k][number - 1][steps] if number else kept.attended[k][steps]
                self._add(*by.layers[number % len(by.layers)], hidden[:count], before)
        if self.from_gates is not None:
            self._add(by.gates, None, self.gates[:count], squashed)
        by_gates = self.gates[:count]
        self.by_gates_x[steps] = by_gates[:, :, 0] if self.slots == 1 else by_gates.sum(2)

    def _add(self, by_weight: Tensor, by_bias: Tensor | None, grad: Tensor, inputs: Tensor) -> None:
        rows, columns = grad.flatten(0, 2), inputs.flatten(0, 2)
        if by_bias is not None:
            by_bias.addmv_(rows.t(), rows.new_ones(len(rows)))  # several times as fast as a sum over rows
        if self.setting.dtype is None:
            by_weight.addmm_(rows.t(), columns)
        else:
            by_weight += rows.t().to(self.setting.dtype) @ columns.to(self.setting.dtype)


def _few(tensors: Sequence[Tensor], steps: int) -> list[Tensor]:
    """Buffers like these, of fewer steps."""
    return [tensor.new_empty(steps, *tensor.shape[1:]) for tensor in tensors]
