"""One time step of the Relational Memory Core (Santoro et al. 2018, section 3; appendix A of arXiv 1806.01822).

Shapes: B batch, I inputs, S memory slots, N = S + 1 rows (the slots, then the input), M numbers of a row, H heads,
K key size, L layers of the MLP.
"""

from typing import Literal, get_args

import torch
from rnncore.errors import UserError
from torch import Tensor, nn
from torch.nn import functional as F

GateStyle = Literal["unit", "memory"]
Variant = Literal["port", "sonnet"]


class AttentionBlock(nn.Module):
    """The projections and normalisations of one round of attention; the MLP between them belongs to the cell."""

    def __init__(self, memory_size: int, projected: int, rows: int, variant: Variant) -> None:
        """``rows`` (N) are normalised together in the port, each by itself in Sonnet."""
        super().__init__()
        together = [rows] if variant == "port" else []
        self.qkv = nn.Linear(memory_size, projected)
        self.qkv_norm = nn.LayerNorm([*together, projected])
        self.attention_norm = nn.LayerNorm([*together, memory_size])
        self.mlp_norm = nn.LayerNorm([*together, memory_size])


class RelationalMemoryCell(nn.Module):
    """A step from an input ``[B, I]`` and a memory ``[B, S, M]`` to the next memory.

    The rows, M numbers each, attend to each other with H heads; the slots' results are gated into the memory.
    ``variant`` decides what the paper leaves open: ``port`` is the public PyTorch code, with one layer whose weights
    all L layers of the MLP (and all blocks) share, a ReLU after the last one too, and layer normalisation over rows and
    features; ``sonnet`` is the authors' module, where each layer and block has weights of its own (the blocks share the
    MLP), the last layer is linear, and each row is normalised by itself.
    """

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
    ) -> None:
        """Makes the parameters; see `rmc.layer.RelationalMemory`."""
        super().__init__()
        counts = {"input_size": input_size, "mem_slots": mem_slots, "head_size": head_size, "num_heads": num_heads}
        counts |= {"num_blocks": num_blocks, "attention_mlp_layers": attention_mlp_layers, "key_size": key_size or 1}
        for name, value in counts.items():
            if value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")
        if gate_style is not None and gate_style not in get_args(GateStyle):
            raise UserError(f"gate_style must be unit, memory or None, not {gate_style!r}")
        if variant not in get_args(Variant):
            raise UserError(f"variant must be port or sonnet, not {variant!r}")
        self.input_size, self.mem_slots, self.num_heads = input_size, mem_slots, num_heads
        self.num_blocks, self.mlp_layers, self.gate_style = num_blocks, attention_mlp_layers, gate_style
        self.key_size, self.memory_size, self.variant = key_size or head_size, head_size * num_heads, variant
        own = variant == "sonnet"
        projected = num_heads * (2 * self.key_size + head_size)
        self.input_projector = nn.Linear(input_size, self.memory_size)
        self.blocks = nn.ModuleList(
            AttentionBlock(self.memory_size, projected, mem_slots + 1, variant) for _ in range(num_blocks if own else 1)
        )
        layers = attention_mlp_layers if own else 1
        self.mlp = nn.ModuleList(nn.Linear(self.memory_size, self.memory_size) for _ in range(layers))
        self.gates = 0 if gate_style is None else 2 * (self.memory_size if gate_style == "unit" else 1)
        if self.gates:
            self.input_gates = nn.Linear(self.memory_size, self.gates)
            self.memory_gates = nn.Linear(self.memory_size, self.gates)
            # Constants in Sonnet; the port trains them.
            self.forget_bias = nn.Parameter(torch.tensor(float(forget_bias)), requires_grad=not own)
            self.input_bias = nn.Parameter(torch.tensor(float(input_bias)), requires_grad=not own)

    @property
    def joint(self) -> bool:
        """Whether all rows are normalised together."""
        return self.variant == "port"

    def block(self, number: int) -> AttentionBlock:
        """The weights of the ``number``-th round of attention."""
        block: AttentionBlock = self.blocks[number % len(self.blocks)]  # type: ignore[assignment]
        return block

    def mlp_layer(self, number: int) -> tuple[nn.Linear, bool]:
        """The ``number``-th layer of the MLP, and whether a ReLU follows it."""
        layer: nn.Linear = self.mlp[number % len(self.mlp)]  # type: ignore[assignment]
        return layer, self.joint or number < self.mlp_layers - 1

    def initial_memory(self, batch_size: int) -> Tensor:
        """``[B, S, M]``: the identity, cut or filled up with zeros, so that slots differ."""
        weight = self.input_projector.weight
        memory = torch.eye(self.mem_slots, self.memory_size, device=weight.device, dtype=weight.dtype)
        return memory.expand(batch_size, -1, -1).contiguous()

    def gate_bias(self) -> Tensor:
        """All biases of the gates together, ``[G]``: input gate, then forget gate."""
        half = self.gates // 2
        constant = torch.cat([self.input_bias.expand(half), self.forget_bias.expand(half)])
        return self.input_gates.bias + self.memory_gates.bias + constant

    def forward(self, input: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """The next memory ``[B, S, M]``, and what the rows attended to, ``[blocks, B, H, N, N]`` (from, to)."""
        projected = self.input_projector(input)
        rows, attention = torch.cat([memory, projected[:, None]], dim=1), []
        for number in range(self.num_blocks):
            rows, weights = self._attend(self.block(number), rows)
            attention.append(weights)
        candidate = rows[:, :-1]
        if self.gates:
            gates = self.memory_gates(torch.tanh(memory)) + self.input_gates(projected)[:, None]
            write, keep = gates.chunk(2, dim=2)
            write, keep = torch.sigmoid(write + self.input_bias), torch.sigmoid(keep + self.forget_bias)
            candidate = write * torch.tanh(candidate) + keep * memory
        return candidate, torch.stack(attention)

    def _attend(self, block: AttentionBlock, rows: Tensor) -> tuple[Tensor, Tensor]:
        """One round of attention and the MLP after it, ``[B, N, M]``, and the weights ``[B, H, N, N]``."""
        qkv = block.qkv_norm(block.qkv(rows)).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        query, key, value = qkv.split([self.key_size, self.key_size, qkv.shape[3] - 2 * self.key_size], dim=3)
        weights = torch.softmax(query @ key.transpose(2, 3) * self.key_size**-0.5, dim=3)
        rows = block.attention_norm(rows + (weights @ value).transpose(1, 2).flatten(2))
        x = rows
        for number in range(self.mlp_layers):
            layer, rectified = self.mlp_layer(number)
            x = F.relu(layer(x)) if rectified else layer(x)
        return block.mlp_norm(rows + x), weights
