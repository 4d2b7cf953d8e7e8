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

#: Rows of the products that give gradients by weights, about.
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
        (self.gates,), self.above = _few([kept.gates], self.chunk), [torch.empty_like(y[0]) for y in kept.attended]
        self.by_squashed = torch.empty_like(kept.states[0])
        rows = batch * (self.slots + 1)
        self.from_qkv = [StepLinear(block.qkv.t(), rows, setting.dtype) for block in weights.blocks]
        self.from_layer = [StepLinear(weight.t(), rows, setting.dtype) for weight, _ in weights.layers]
        self.from_gates = StepLinear(weights.gates.t(), rows, setting.dtype) if len(weights.gates) else None

    def run(self, grad_output: Tensor | None, grad_memory: Tensor | None) -> Tensor | None:
        """Fills ``by_x`` and the others; the gradient by the first memory, where it is wanted."""
        last = self.kept.states[-1]
        grad = torch.zeros_like(last) if grad_memory is None else grad_memory.contiguous().clone()
        for stop in range(len(self.x), 0, -self.chunk):
            start = max(0, stop - self.chunk)
            squashed = self.kept.states[start:stop].tanh()
            for t in reversed(range(start, stop)):
                if grad_output is not None:
                    grad += grad_output[t]
                grad = self._step(t, t - start, grad, squashed[t - start])
            self._weights(start, squashed)
        return None if self.setting.alike else grad

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
                    grad, *norm, kept.gates[t], kept.states[t], by_sum, self.gates[at], self.by_gates_x[t], before,
                    grads.mlp_gamma, grads.mlp_beta,
                )  # fmt: skip
            else:
                self.step.normalise_backward(above, *norm, by_sum, grads.mlp_gamma, grads.mlp_beta)
            self._mlp(k, t, at, by_sum)
            above = self._attention(k, t, at, by_sum, before)
        if self.from_gates is not None and not self._begins(t):
            self.from_gates.write(self.by_squashed.flatten(0, 1), self.gates[at].flatten(0, 1))
            before += torch.ops.aten.tanh_backward(self.by_squashed, squashed)
        return before

    def _begins(self, step: int) -> bool:
        """Whether all items have the same memory before a step, and no gradient by it is wanted."""
        return self.setting.alike and step == 0

    def _mlp(self, k: int, t: int, at: int, grad: Tensor) -> None:
        """Adds to the gradient by the MLP's result, which is that by the sum after it, the one by its input."""
        above, count = grad, len(self.from_layer)
        for number in reversed(range(len(self.setting.rectified))):
            result, (_, by_bias) = self.hidden[k][number][at], self.by_weights.layers[number % count]
            rectified = self.setting.rectified[number]
            self.step.rectify_backward(above, self.kept.hidden[k][number][t], rectified, result, by_bias)
            rows = result.flatten(0, 1)
            if number:
                above = self.above[k]
                self.from_layer[number % count].write(above.flatten(0, 1), rows)
            else:
                self.from_layer[0].add_to(grad.flatten(0, 1), rows)

    def _attention(self, k: int, t: int, at: int, grad: Tensor, before: Tensor) -> Tensor:
        """From the gradient by what a block's attention gave to that by the rows between blocks.

        In the first block the rows are the memory, whose gradient is added to ``before``.
        """
        slots, kept, setting = self.slots, self.kept, self.setting
        block, grads = (each.blocks[k % len(each.blocks)] for each in (self.weights, self.by_weights))
        product, by_product = kept.projected[k][t], self.projected[k][at]
        if k == 0:
            by_rows = before
            inputs, results = (product, self.qkv_x[t]), (by_product, self.by_qkv_x[t], by_rows, self.by_x[t])
            pair = kept.states[t], self.x[t]
        else:
            rows = kept.between[k - 1][t]
            by_rows = torch.zeros_like(rows)
            inputs, pair = (product[:, :slots], product[:, slots]), (rows[:, :slots], rows[:, slots])
            results = by_product[:, :slots], by_product[:, slots], by_rows[:, :slots], by_rows[:, slots]
        self.step.attend_backward(
            grad, *inputs, block.bias, block.gamma, block.beta, *pair, block.attention_gamma, block.attention_beta,
            setting.heads, setting.key, setting.joint, *results, grads.bias, grads.gamma, grads.beta,
            grads.attention_gamma, grads.attention_beta,
        )  # fmt: skip
        if k or not self._begins(t):
            self.from_qkv[k % len(self.from_qkv)].add_to(by_rows.flatten(0, 1), by_product.flatten(0, 1))
        return by_rows

    def _weights(self, start: int, squashed: Tensor) -> None:
        """Adds the gradients by weights of the steps of a chunk, the first of which is ``start``."""
        count, kept, by = len(squashed), self.kept, self.by_weights
        steps = slice(start, start + count)
        for k in range(self.setting.blocks):
            block = by.blocks[k % len(by.blocks)]
            if k == 0:
                self._add_of_memory(block.qkv, self.projected[0][:count], kept.states[steps], start)
            else:
                self._add(block.qkv, self.projected[k][:count], kept.between[k - 1][steps])
            for number, hidden in enumerate(self.hidden[k]):
                before = kept.hidden[k][number - 1][steps] if number else kept.attended[k][steps]
                self._add(by.layers[number % len(by.layers)][0], hidden[:count], before)
        if self.from_gates is not None:
            self._add_of_memory(by.gates, self.gates[:count], squashed, start)

    def _add_of_memory(self, by_weight: Tensor, grad: Tensor, inputs: Tensor, start: int) -> None:
        """`_add` for what comes from the memory: the same for all items where they begin alike."""
        if self._begins(start):
            by_weight.addmm_(grad[0].sum(0).t(), inputs[0, 0])
            grad, inputs = grad[1:], inputs[1:]
        self._add(by_weight, grad, inputs)

    def _add(self, by_weight: Tensor, grad: Tensor, inputs: Tensor) -> None:
        if self.setting.dtype is not None:
            grad, inputs = grad.to(self.setting.dtype), inputs.to(self.setting.dtype)
        # Longer sums are slower: they leave the cache.
        pairs = (torch.split(each.flatten(0, 2), ROWS) for each in (grad, inputs))
        for rows, columns in zip(*pairs, strict=True):
            if grad.dtype == by_weight.dtype:
                by_weight.addmm_(rows.t(), columns)
            else:
                by_weight += rows.t() @ columns


def _few(tensors: Sequence[Tensor], steps: int) -> list[Tensor]:
    """Buffers like these, of fewer steps."""
    return [tensor.new_empty(steps, *tensor.shape[1:]) for tensor in tensors]
