"""The ON-LSTM language model (Shen et al., ICLR 2019, arXiv 1810.09536, section 5.1).

Shapes: T time steps, B batch, V vocabulary, E embedding size, H units of a layer.
"""

import itertools
from typing import cast

import torch
from rnncore.dropout import LockedDropout, embedded_dropout
from torch import Tensor, nn

from selfish.decoder import Decoder
from selfish.onlstm import ONLSTMLayer
from selfish.outputs import Outputs, State


class ONLSTMModel(nn.Module):
    """Embedding, ON-LSTM layers and a tied decoder, with the dropouts of AWD-LSTM; the last layer has E units."""

    def __init__(
        self,
        vocabulary_size: int,
        *,
        embedding_size: int = 400,
        hidden_size: int = 1150,
        num_layers: int = 3,
        chunk_size: int = 10,
        dropout: float = 0.4,
        dropout_hidden: float = 0.25,
        dropout_input: float = 0.5,
        dropout_words: float = 0.1,
        weight_drop: float = 0.4,
    ) -> None:
        """Makes the parameters.

        Args:
            vocabulary_size: V.
            embedding_size: E.
            hidden_size: H of every layer but the last.
            num_layers: How many.
            chunk_size: Units that share one element of the master gates; it divides E and H.
            dropout: Of the last layer's outputs.
            dropout_hidden: Of the other layers' outputs.
            dropout_input: Of the embedded inputs.
            dropout_words: Of whole words of the embedding.
            weight_drop: Of the hidden-to-hidden weights.

        Raises:
            UserError: An argument is out of its range.
        """
        super().__init__()
        self.dropout_words = dropout_words
        sizes = [embedding_size, *[hidden_size] * (num_layers - 1), embedding_size]
        self.sizes = sizes[1:]
        self.encoder = nn.Embedding(vocabulary_size, embedding_size)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        self.layers = nn.ModuleList(
            ONLSTMLayer(before, after, chunk_size, drop_connect=weight_drop)
            for before, after in itertools.pairwise(sizes)
        )
        self.decoder = Decoder(embedding_size, self.encoder, tied=True)
        self.drop_input = LockedDropout(dropout_input)
        rates = [dropout_hidden] * (num_layers - 1) + [dropout]
        self.drop_outputs = nn.ModuleList(LockedDropout(rate) for rate in rates)

    def initial_state(self, batch_size: int) -> State:
        """Zeros."""
        zeros = [self.encoder.weight.new_zeros(1, batch_size, size) for size in self.sizes]
        return [(part, part) for part in zeros]

    def forward(self, ids: Tensor, state: State) -> Outputs:
        """A window ``[T, B]`` through embedding and layers; the last of ``dropped`` is what the decoder takes."""
        x = embedded_dropout(self.encoder.weight, ids, self.dropout_words if self.training else 0.0)
        x, raw, dropped, last, distances = self.drop_input(x), [], [], [], []
        for layer, drop, before in zip(self.layers, self.drop_outputs, state, strict=True):
            steps = cast(ONLSTMLayer, layer).run(x, before)
            x = drop(steps.output)
            raw.append(steps.output)
            dropped.append(x)
            last.append((steps.h[None], steps.c[None]))
            distances.append((steps.forget_distance, steps.input_distance))
        by_forget, by_input = (torch.stack(parts) for parts in zip(*distances, strict=True))
        return Outputs(raw, dropped, last, (by_forget, by_input))

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
