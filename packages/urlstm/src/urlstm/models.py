"""The networks of the adding, copy and image tasks: one gated layer and a readout.

Shapes: T time steps, B batch, I inputs, H hidden units.
"""

from typing import Literal

import torch
from rnncore.errors import UserError
from torch import Tensor, nn

from urlstm.layer import make_layer

Readout = Literal["last", "all"]


class AddingModel(nn.Module):
    """Reads value and marker, and says a number at the end."""

    def __init__(
        self,
        gate: str,
        hidden_size: int,
        *,
        forget_bias: float | None = 1.0,
        trainable_bias: bool = True,
        t_max: int | None = None,
    ) -> None:
        """Build the layer (the arguments are those of `urlstm.layer.make_layer`) and a linear readout."""
        super().__init__()
        self.recurrent = make_layer(
            gate, 2, hidden_size, forget_bias=forget_bias, trainable_bias=trainable_bias, t_max=t_max
        )
        self.readout = nn.Linear(hidden_size, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Numbers ``[B]``, float32, from ``[T, B, 2]``."""
        output, _ = self.recurrent(inputs)
        answer: Tensor = self.readout(output[-1]).squeeze(1)
        return answer.float()


class CopyModel(nn.Module):
    """Reads categories, one of them a step, and says one at each step."""

    def __init__(
        self,
        gate: str,
        categories: int,
        hidden_size: int,
        *,
        forget_bias: float | None = 1.0,
        trainable_bias: bool = True,
        t_max: int | None = None,
    ) -> None:
        """Build the layer (the arguments are those of `urlstm.layer.make_layer`) and a linear readout."""
        super().__init__()
        self.categories = categories
        self.recurrent = make_layer(
            gate, categories, hidden_size, forget_bias=forget_bias, trainable_bias=trainable_bias, t_max=t_max
        )
        self.readout = nn.Linear(hidden_size, categories)

    def encoded(self, ids: Tensor) -> Tensor:
        """Ids ``[T, B]`` as the layer reads them: one-hot ``[T, B, categories]``."""
        weight = self.readout.weight
        return torch.zeros(*ids.shape, self.categories, dtype=weight.dtype, device=ids.device).scatter_(
            2, ids.unsqueeze(2), 1
        )

    def forward(self, ids: Tensor, last: int | None = None) -> Tensor:
        """Logits ``[T, B, categories]``, float32, of ids ``[T, B]``; only of the ``last`` steps where that is given."""
        output, _ = self.recurrent(self.encoded(ids))
        logits: Tensor = self.readout(output if last is None else output[-last:])
        return logits.float()


class ImageModel(nn.Module):
    """Reads a picture pixel by pixel, and says which class it is of."""

    def __init__(
        self,
        gate: str,
        channels: int,
        steps: int,
        hidden_size: int,
        relu_size: int,
        classes: int,
        *,
        readout: Readout = "last",
        forget_bias: float | None = 1.0,
        trainable_bias: bool = True,
        t_max: int | None = None,
    ) -> None:
        """Build the layer, a layer of ReLUs and the readout.

        Args:
            gate, forget_bias, trainable_bias, t_max: Of `urlstm.layer.make_layer`.
            channels: I.
            steps: T, which only the readout of all steps depends on.
            hidden_size: H.
            relu_size: Units of the layer between.
            classes: How many there are.
            readout: What the ReLUs read: ``"last"``, the last output ``[B, H]``, as in the paper; or ``"all"``, all T
                outputs side by side, which needs no long memory.
        """
        super().__init__()
        self.steps = steps if readout == "all" else 1
        self.recurrent = make_layer(
            gate, channels, hidden_size, forget_bias=forget_bias, trainable_bias=trainable_bias, t_max=t_max
        )
        self.between = nn.Linear(self.steps * hidden_size, relu_size)
        self.readout = nn.Linear(relu_size, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits ``[B, classes]``, float32, from ``[T, B, C]``. Raises UserError for a picture of another size."""
        if len(pixels) < self.steps or (self.steps > 1 and len(pixels) != self.steps):
            raise UserError(f"the model reads pictures of {self.steps} pixels, not {len(pixels)}")
        output, _ = self.recurrent(pixels)
        seen = output[-self.steps :].transpose(0, 1).flatten(1)
        logits: Tensor = self.readout(torch.relu(self.between(seen)))
        return logits.float()
