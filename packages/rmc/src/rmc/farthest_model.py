"""What answers the questions of `rmc.farthest`: a memory, an LSTM or nothing, and ReLU layers behind it.

Shapes: O objects (steps), B batch, I inputs.
"""

from typing import Literal

from torch import Tensor, nn

from rmc.layer import RelationalMemory
from rmc.rnn import StackedRNN

Kind = Literal["rmc", "lstm", "mlp"]


class FarthestModel(nn.Module):
    """Reads a question step by step and answers after the last; without a recurrent layer, all steps at once."""

    def __init__(
        self,
        recurrent: RelationalMemory | StackedRNN | None,
        *,
        steps: int,
        input_size: int,
        classes: int,
        mlp_size: int = 256,
        mlp_layers: int = 4,
    ) -> None:
        """Makes the parameters.

        Args:
            recurrent: Of ``input_size`` inputs; None for the MLP alone.
            steps: O.
            input_size: I.
            classes: Possible answers.
            mlp_size, mlp_layers: The ReLU layers after the last step.
        """
        super().__init__()
        self.recurrent = recurrent
        features = steps * input_size if recurrent is None else recurrent.output_size
        sizes = [features] + [mlp_size] * mlp_layers
        layers = [part for k in range(mlp_layers) for part in (nn.Linear(sizes[k], sizes[k + 1]), nn.ReLU())]
        self.head = nn.Sequential(*layers, nn.Linear(sizes[-1], classes))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of questions ``[O, B, I]``; a memory begins each from its initial state."""
        if self.recurrent is None:
            logits: Tensor = self.head(inputs.transpose(0, 1).flatten(1))
        else:
            logits = self.head(self.recurrent(inputs)[0][-1])
        return logits
