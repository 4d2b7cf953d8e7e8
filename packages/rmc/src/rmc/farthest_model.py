"""What answers the questions of `rmc.farthest`: a memory, an LSTM or nothing, and ReLU layers behind it.

Shapes: O objects (steps), B batch, I inputs.
"""

from typing import Literal

import torch
from rnncore.lstm import LSTMLayer
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
        _initialise(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of questions ``[O, B, I]``; a memory begins each from its initial state."""
        if self.recurrent is None:
            logits: Tensor = self.head(inputs.transpose(0, 1).flatten(1))
        elif isinstance(self.recurrent, RelationalMemory):
            logits = self.head(self.recurrent(inputs)[1].flatten(1))  # no gradient by the memories before the last
        else:
            logits = self.head(self.recurrent(inputs)[0][-1])
        return logits


@torch.no_grad()
def _initialise(model: nn.Module) -> None:
    """Draws all matrices from N(0, 2 / inputs) (He et al. 2015, arXiv 1502.01852), and sets their biases to zero.

    A question's answer depends on products of several inputs. At torch's own, smaller values the ReLU layers pass
    little of these on beside their biases, and training stays for very long where it knows only M itself.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            layer.bias.zero_()
        elif isinstance(layer, LSTMLayer | nn.LSTM):
            for name, parameter in layer.named_parameters():
                if name.startswith("weight"):
                    nn.init.kaiming_normal_(parameter, nonlinearity="relu")
                else:
                    parameter.zero_()
