"""The parameters of a layer or a cell: their names and start, those of torch's, and what a gate adds to them.

Shapes: I inputs, H units, K blocks of the gate.
"""

import torch
from rnncore.errors import UserError
from torch import Tensor, nn

from urlstm.gates import Gate
from urlstm.initialisation import starting_biases
from urlstm.sequence import Weights


class Start:
    """How biases start, as of `urlstm.layer.URLSTM`: made once, and asked for each direction of each layer."""

    def __init__(
        self, gate: Gate, bias: bool, forget_bias: float | None, trainable_bias: bool, t_max: int | None
    ) -> None:
        """Keeps the arguments.

        Raises:
            UserError: The gate needs a bias and there is to be none.
        """
        if gate.start != "constant" and trainable_bias and not bias:
            need = f"a gate that starts {gate.start} needs a bias"
            raise UserError(f"{need}: leave bias=True, or give trainable_bias=False")
        self.gate, self.bias, self.fixed = gate, bias, not trainable_bias
        self.forget_bias, self.t_max = forget_bias, t_max


def add_parameters(
    module: nn.Module, start: Start, suffix: str, input_size: int, hidden_size: int, device: object, dtype: object
) -> None:
    """Gives a module uninitialised ``weight_ih [K H, I]``, ``weight_hh [K H, H]``, and with bias ``bias_ih`` and
    ``bias_hh [K H]``, their names ended by the suffix; and the buffer ``gate_bias [K H]`` where the start is fixed.
    ValueError for a size that is not positive."""
    for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
        if size <= 0:
            raise ValueError(f"{name} must be greater than zero")
    rows = len(start.gate.blocks) * hidden_size
    shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, input_size), "weight_hh": (rows, hidden_size)}
    if start.bias:
        shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
    for name, shape in shapes.items():
        empty = torch.empty(shape, device=device, dtype=dtype)  # type: ignore[call-overload]
        module.register_parameter(name + suffix, nn.Parameter(empty))
    if start.fixed:
        module.register_buffer(f"gate_bias{suffix}", torch.empty(rows, device=device, dtype=dtype))  # type: ignore[call-overload]


@torch.no_grad()
def initialise(module: nn.Module, start: Start, suffixes: list[str], hidden_size: int) -> None:
    """Sets all parameters: uniform in (-1/sqrt(H), 1/sqrt(H)) as torch's layers do, then the gates' own start.

    The start of a block is its whole bias: in ``bias_ih``, while ``bias_hh`` is zero there, or, where it is fixed, in
    ``gate_bias``, while both are zero there.
    """
    bound = hidden_size**-0.5
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -bound, bound)
    for suffix in suffixes:
        fixed = module.get_buffer(f"gate_bias{suffix}").zero_() if start.fixed else None
        if not start.bias and fixed is None:
            continue
        own = [module.get_parameter(f"{name}{suffix}") for name in ("bias_ih", "bias_hh")] if start.bias else []
        biases = starting_biases(start.gate, hidden_size, start.forget_bias, start.t_max)
        for block, value in biases.items():
            first = start.gate.blocks.index(block) * hidden_size
            rows = slice(first, first + hidden_size)
            for bias in own:
                bias[rows] = 0
            (own[0] if fixed is None else fixed)[rows] = value


def torch_weights(module: nn.Module, suffix: str) -> list[Tensor]:
    """The weights as torch's own layers take them, the fixed bias added: with it there are always two biases."""
    ih, hh, bias_ih, bias_hh, fixed = _tensors(module, suffix)
    weights = [ih, hh]
    if fixed is not None:
        bias_ih = fixed if bias_ih is None else bias_ih + fixed
        bias_hh = torch.zeros_like(fixed) if bias_hh is None else bias_hh
    return weights if bias_ih is None or bias_hh is None else [*weights, bias_ih, bias_hh]


def sequence_weights(module: nn.Module, suffix: str, gru: bool) -> Weights:
    """The weights as `urlstm.sequence.run` takes them; a GRU's second bias stays apart."""
    ih, hh, bias_ih, bias_hh, fixed = _tensors(module, suffix)
    biases = [bias for bias in (bias_ih, fixed, None if gru else bias_hh) if bias is not None]
    return Weights(ih, hh, sum(biases[1:], biases[0]) if biases else None, bias_hh if gru else None)


def _tensors(module: nn.Module, suffix: str) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    ih, hh = (getattr(module, f"{name}{suffix}") for name in ("weight_ih", "weight_hh"))
    bias_ih, bias_hh, fixed = (getattr(module, f"{name}{suffix}", None) for name in ("bias_ih", "bias_hh", "gate_bias"))
    return ih, hh, bias_ih, bias_hh, fixed
