"""The stacked LSTM language model, as PyTorch's word language model has it (Zaremba et al. 2014, arXiv 1409.2329).

Shapes: T time steps, B batch, V vocabulary, E embedding size, H units of a layer.
"""

import torch
from rnncore.dropout import checked_probability, dropped_weight
from rnncore.lstm import LSTMLayer
from torch import Tensor, nn

from selfish.decoder import Decoder
from selfish.outputs import Outputs, State, run_layers


class Dropout(nn.Module):
    """``torch.nn.Dropout``, several times as fast on CPU; its masks are those of `rnncore.dropout`."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = checked_probability(p)

    def forward(self, input: Tensor) -> Tensor:
        """Elements of any shape, in training 0 with probability p and else 1 / (1 - p) as large."""
        return dropped_weight(input, self.p) if self.training and self.p > 0 else input

    def extra_repr(self) -> str:
        return f"p={self.p}"


class StackedLSTM(nn.Module):
    """Embedding, LSTM layers and decoder, with one rate of dropout between all of them."""

    def __init__(
        self,
        vocabulary_size: int,
        *,
        embedding_size: int = 1500,
        hidden_size: int = 1500,
        num_layers: int = 2,
        dropout: float = 0.65,
        tied: bool = False,
    ) -> None:
        """Makes the parameters.

        Args:
            vocabulary_size: V.
            embedding_size: E.
            hidden_size: H.
            num_layers: How many.
            dropout: Of the embedded inputs and of every layer's outputs.
            tied: Whether embedding and decoder have one weight; E and H must be equal.

        Raises:
            UserError: An argument is out of its range.
        """
        super().__init__()
        self.hidden_size = hidden_size
        self.encoder = nn.Embedding(vocabulary_size, embedding_size)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        sizes = [embedding_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(LSTMLayer(size, hidden_size) for size in sizes)
        self.decoder = Decoder(hidden_size, self.encoder, tied=tied)
        self.drop_input = Dropout(dropout)
        self.drop_outputs = nn.ModuleList(Dropout(dropout) for _ in range(num_layers))

    def initial_state(self, batch_size: int) -> State:
        """Zeros."""
        zeros = self.encoder.weight.new_zeros(1, batch_size, self.hidden_size)
        return [(zeros, zeros)] * len(self.layers)

    def forward(self, ids: Tensor, state: State) -> Outputs:
        """A window ``[T, B]`` through embedding and layers; the last of ``dropped`` is what the decoder takes."""
        return run_layers(self.layers, self.drop_outputs, self.drop_input(self.encoder(ids)), state)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The mean cross entropy of the decoded ``output [T, B, H]``, in nats per token; ``targets [T, B]``."""
        return self.decoder.loss(output, targets)

    @torch.no_grad()
    def loss_sum(self, ids: Tensor, targets: Tensor, state: State) -> tuple[Tensor, State]:
        """The summed loss of a window, in nats, and the state after it; for evaluation."""
        outputs = self(ids, state)
        return self.decoder.loss_rows(outputs.dropped[-1], targets).sum(), outputs.state

    @torch.no_grad()
    def log_probabilities(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Log probabilities ``[T, B, V]`` of the token after each of ``ids [T, B]``, and the state after the last."""
        outputs = self(ids, state)
        return self.decoder.log_probabilities(outputs.dropped[-1]), outputs.state
