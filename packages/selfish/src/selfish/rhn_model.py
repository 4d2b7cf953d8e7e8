"""The language model of recurrent highway networks (Zilly et al., ICML 2017, arXiv 1607.03474, section 6).

Shapes: T time steps, B batch, V vocabulary, E embedding size, H units of a layer.
"""

import torch
from rnncore.dropout import LockedDropout, embedded_dropout
from torch import Tensor, nn

from selfish.decoder import Decoder
from selfish.outputs import Outputs, State, run_layers
from selfish.rhn import RANGE, RHNLayer


class RHNModel(nn.Module):
    """Embedding, highway layers and decoder with variational dropout (Gal & Ghahramani 2016, arXiv 1512.05287)."""

    def __init__(
        self,
        vocabulary_size: int,
        *,
        embedding_size: int = 830,
        hidden_size: int = 830,
        num_layers: int = 1,
        depth: int = 10,
        couple: bool = False,
        dropout: float = 0.65,
        dropout_hidden: float = 0.25,
        dropout_input: float = 0.65,
        dropout_words: float = 0.2,
        tied: bool = False,
    ) -> None:
        """Makes the parameters.

        Args:
            vocabulary_size: V.
            embedding_size: E.
            hidden_size: H.
            num_layers: How many, each with a state of its own.
            depth: Highway layers in a time step of one layer.
            couple: Whether c = 1 - t.
            dropout: Of the last layer's outputs.
            dropout_hidden: Of what the recurrent weights see of a state, one mask for all steps and depths.
            dropout_input: Of every layer's inputs.
            dropout_words: Of whole words of the embedding.
            tied: Whether embedding and decoder have one weight; E and H must be equal.

        Raises:
            UserError: An argument is out of its range.
        """
        super().__init__()
        self.hidden_size, self.couple, self.dropout_words = hidden_size, couple, dropout_words
        self.encoder = nn.Embedding(vocabulary_size, embedding_size)
        nn.init.uniform_(self.encoder.weight, -RANGE, RANGE)
        self.layers = nn.ModuleList(
            RHNLayer(size, hidden_size, depth, couple=couple, recurrent_dropout=dropout_hidden)
            for size in [embedding_size] + [hidden_size] * (num_layers - 1)
        )
        self.decoder = Decoder(hidden_size, self.encoder, tied=tied, limit=RANGE)
        self.drop_input = LockedDropout(dropout_input)
        rates = [dropout_input] * (num_layers - 1) + [dropout]
        self.drop_outputs = nn.ModuleList(LockedDropout(rate) for rate in rates)

    def initial_state(self, batch_size: int) -> State:
        """Zeros."""
        return [self.encoder.weight.new_zeros(1, batch_size, self.hidden_size)] * len(self.layers)

    def forward(self, ids: Tensor, state: State) -> Outputs:
        """A window ``[T, B]`` through embedding and layers; the last of ``dropped`` is what the decoder takes."""
        x = embedded_dropout(self.encoder.weight, ids, self.dropout_words if self.training else 0.0)
        return run_layers(self.layers, self.drop_outputs, self.drop_input(x), state)

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
