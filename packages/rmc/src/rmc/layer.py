"""`RelationalMemory`: the Relational Memory Core as a layer over sequences.

Shapes: T time steps, B batch, I inputs, S memory slots, N = S + 1 rows, M numbers of a row, H heads.
"""

from typing import Any

import torch
from rnncore.device import autocast_dtype
from torch import Tensor, nn
from torch.nn import functional as F

from rmc import sequence, window
from rmc.cell import GateStyle, RelationalMemoryCell, Variant

WIDE = (torch.float32, torch.float64)


class RelationalMemory(nn.Module):
    """A recurrent layer whose state is a set of slots that attend to each other and to the input.

    ``layer(input [T, B, I], memory [B, S, M])`` gives the outputs ``[T, B, S M]``, which are the memories after each
    step in a row, and the last memory. The equations are those of `rmc.cell.RelationalMemoryCell`, which holds the
    parameters; a window is computed by `rmc.sequence`. Under autocast products are computed in its type.
    """

    #: Fewest steps for which weights are laid out when there is no gradient; below, as in generation, the cell runs.
    FEW_STEPS = 4

    def __init__(
        self,
        input_size: int,
        mem_slots: int,
        head_size: int,
        num_heads: int = 1,
        *,
        num_blocks: int = 1,
        forget_bias: float = 1.0,
        input_bias: float = 0.0,
        gate_style: GateStyle | None = "unit",
        attention_mlp_layers: int = 2,
        key_size: int | None = None,
        variant: Variant = "port",
        batch_first: bool = False,
    ) -> None:
        """Makes the parameters.

        Args:
            input_size: I.
            mem_slots: S.
            head_size: Numbers of a slot that belong to one head; M is this times ``num_heads``.
            num_heads: H.
            num_blocks: Rounds of attention in a time step.
            forget_bias: Added to the forget gates at the start; in ``sonnet`` for ever.
            input_bias: Likewise, to the input gates.
            gate_style: ``unit`` has gates for each number, ``memory`` for each slot, None has none.
            attention_mlp_layers: Layers of the MLP after an attention.
            key_size: Numbers of a query and of a key; ``head_size`` when absent.
            variant: ``port`` or ``sonnet``, as `rmc.cell.RelationalMemoryCell` says.
            batch_first: Whether inputs and outputs are ``[B, T, .]``.

        Raises:
            UserError: A size below 1, a gate style or variant that does not exist.
        """
        super().__init__()
        self.batch_first = batch_first
        self.cell = RelationalMemoryCell(
            input_size,
            mem_slots,
            head_size,
            num_heads,
            num_blocks=num_blocks,
            forget_bias=forget_bias,
            input_bias=input_bias,
            gate_style=gate_style,
            attention_mlp_layers=attention_mlp_layers,
            key_size=key_size,
            variant=variant,
        )

    @property
    def output_size(self) -> int:
        """Numbers of an output, S M."""
        return self.cell.mem_slots * self.cell.memory_size

    def initial_state(self, batch_size: int) -> Tensor:
        """`rmc.cell.RelationalMemoryCell.initial_memory`."""
        return self.cell.initial_memory(batch_size)

    def forward(self, input: Tensor, memory: Tensor | None = None, *, return_attention: bool = False) -> Any:
        """Outputs and last memory; with ``return_attention`` the attention, too.

        Args:
            input: ``[T, B, I]``.
            memory: Before the first step, ``[B, S, M]``; `initial_state` when absent.
            return_attention: Give ``[T, blocks, B, H, N, N]`` as well: what each row (the slots, then the input) of
                each head takes from each. Computed step by step by the cell, slowly.

        Raises:
            RuntimeError: A wrong shape or type, or no time step.
        """
        x = input.transpose(0, 1) if self.batch_first else input
        self._check(input, x, memory)
        alike = memory is None
        memory = self.initial_state(x.shape[1]) if memory is None else memory
        attention: list[Tensor] = []
        few = not x.shape[1] or (not torch.is_grad_enabled() and len(x) < self.FEW_STEPS)
        if return_attention or few or memory.dtype not in WIDE:
            states = []
            for step in x:
                memory, weights = self.cell(step, memory)
                states.append(memory)
                attention.append(weights)
            memories = torch.stack(states)
        else:
            memories, memory = self._sequence(x, memory, alike)
        output = memories.flatten(2)
        output = output.transpose(0, 1) if self.batch_first else output
        return (output, memory, torch.stack(attention)) if return_attention else (output, memory)

    def _sequence(self, x: Tensor, memory: Tensor, alike: bool) -> tuple[Tensor, Tensor]:
        cell = self.cell
        wide = cell.input_projector.weight.dtype
        projected = cell.input_projector(x)
        qkv = F.linear(projected, cell.block(0).qkv.weight).to(wide)
        gates = projected.new_empty(*x.shape[:2], 0).to(wide)
        from_memory = memory.new_empty(0, cell.memory_size)
        if cell.gates:
            gates = F.linear(projected, cell.input_gates.weight, cell.gate_bias()).to(wide)
            from_memory = cell.memory_gates.weight
        layers = [cell.mlp_layer(number) for number in range(cell.mlp_layers)]
        setting = window.Setting(
            heads=cell.num_heads,
            key=cell.key_size,
            joint=cell.joint,
            blocks=cell.num_blocks,
            distinct=len(cell.blocks),
            rectified=tuple(rectified for _, rectified in layers),
            dtype=autocast_dtype(x.device),
            keep=True,
            alike=alike,
        )
        blocks = [
            window.Block(
                *(part for name in ("qkv", "qkv_norm", "attention_norm", "mlp_norm") for part in _pair(block, name))
            )
            for block in cell.blocks
        ]
        weights = window.Weights(
            blocks, [(layer.weight, layer.bias) for layer, _ in layers[: len(cell.mlp)]], from_memory
        )
        return sequence.run(setting, projected.to(wide), qkv, gates, memory, weights)

    def _check(self, input: Tensor, x: Tensor, memory: Tensor | None) -> None:
        if input.dim() != 3 or input.shape[2] != self.cell.input_size:
            order = "B, T" if self.batch_first else "T, B"
            raise RuntimeError(f"Expected input [{order}, {self.cell.input_size}], got {list(input.shape)}")
        if not len(x):
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        expected = (x.shape[1], self.cell.mem_slots, self.cell.memory_size)
        if memory is not None and memory.shape != expected:
            raise RuntimeError(f"Expected memory {list(expected)}, got {list(memory.shape)}")

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        cell = self.cell
        return f"{cell.input_size}, slots={cell.mem_slots}, heads={cell.num_heads}, variant={cell.variant!r}"


def _pair(module: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    part = getattr(module, name)
    return part.weight, part.bias
