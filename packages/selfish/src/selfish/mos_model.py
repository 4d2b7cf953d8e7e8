"""AWD-LSTM with a mixture of softmaxes (Yang et al., ICLR 2018, arXiv 1711.03953).

Shapes: T time steps, B batch, V vocabulary, E embedding size, H units of a layer, K experts.
"""

import itertools

import torch
from rnncore.device import autocast_dtype
from rnncore.dropout import LockedDropout, WeightDrop, embedded_dropout
from rnncore.errors import UserError
from rnncore.lstm import LSTMLayer
from torch import Tensor, nn
from torch.nn import functional as F

from selfish.decoder import Decoder
from selfish.mixture import mixture_log_probabilities, mixture_loss, mixture_loss_rows
from selfish.outputs import Outputs, State, run_layers


class MoSModel(nn.Module):
    """AWD-LSTM (Merity et al. 2017, arXiv 1708.02182) whose decoder mixes K softmaxes.

    From an output o come the experts' weights, ``softmax(prior o)``, and K contexts ``tanh(latent o)`` of E features,
    each decoded by the same linear map.
    """

    def __init__(
        self,
        vocabulary_size: int,
        *,
        embedding_size: int = 400,
        hidden_size: int = 1150,
        last_hidden_size: int | None = None,
        num_layers: int = 3,
        n_experts: int = 10,
        dropout: float = 0.4,
        dropout_hidden: float = 0.3,
        dropout_input: float = 0.65,
        dropout_words: float = 0.1,
        dropout_latent: float | None = None,
        weight_drop: float = 0.5,
        tied: bool = True,
        epsilon: float = 0.0,
    ) -> None:
        """Makes the parameters.

        Args:
            vocabulary_size: V.
            embedding_size: E.
            hidden_size: Units of every layer but the last.
            last_hidden_size: Units of the last layer; E when None.
            num_layers: How many.
            n_experts: K.
            dropout: Of the last layer's outputs.
            dropout_hidden: Of the other layers' outputs.
            dropout_input: Of the embedded inputs.
            dropout_words: Of whole words of the embedding.
            dropout_latent: Of the contexts; ``dropout_hidden`` when None.
            weight_drop: Of the hidden-to-hidden weights.
            tied: Whether embedding and decoder have one weight.
            epsilon: Added to probabilities before the logarithm; the authors' code adds 1e-8, with which they no
                longer sum to 1 and rare words cost less.

        Raises:
            UserError: An argument is out of its range.
        """
        super().__init__()
        if n_experts < 1:
            raise UserError(f"the number of experts must be positive, not {n_experts}")
        self.dropout_words, self.n_experts, self.epsilon = dropout_words, n_experts, epsilon
        last = embedding_size if last_hidden_size is None else last_hidden_size
        sizes = [embedding_size, *[hidden_size] * (num_layers - 1), last]
        self.sizes = sizes[1:]
        self.encoder = nn.Embedding(vocabulary_size, embedding_size)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        self.layers = nn.ModuleList(
            WeightDrop(LSTMLayer(before, after), ["weight_hh_l0"], weight_drop)
            for before, after in itertools.pairwise(sizes)
        )
        self.prior = nn.Linear(last, n_experts, bias=False)
        self.latent = nn.Linear(last, n_experts * embedding_size)
        self.decoder = Decoder(embedding_size, self.encoder, tied=tied)
        self.drop_input = LockedDropout(dropout_input)
        self.drop_latent = LockedDropout(dropout_hidden if dropout_latent is None else dropout_latent)
        rates = [dropout_hidden] * (num_layers - 1) + [dropout]
        self.drop_outputs = nn.ModuleList(LockedDropout(rate) for rate in rates)

    def initial_state(self, batch_size: int) -> State:
        """Zeros."""
        zeros = [self.encoder.weight.new_zeros(1, batch_size, size) for size in self.sizes]
        return [(part, part) for part in zeros]

    def forward(self, ids: Tensor, state: State) -> Outputs:
        """A window ``[T, B]`` through embedding and layers; the last of ``dropped`` is what the decoder takes."""
        x = embedded_dropout(self.encoder.weight, ids, self.dropout_words if self.training else 0.0)
        return run_layers(self.layers, self.drop_outputs, self.drop_input(x), state)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The mean of -log p(target) of the decoded ``output [T, B, H]``, in nats per token; ``targets [T, B]``."""
        latent, log_prior = self._contexts(output)
        return mixture_loss(
            latent,
            log_prior,
            self.decoder.weight,
            self.decoder.bias,
            targets.flatten(),
            epsilon=self.epsilon,
            dtype=autocast_dtype(output.device),
        )

    @torch.no_grad()
    def loss_sum(self, ids: Tensor, targets: Tensor, state: State) -> tuple[Tensor, State]:
        """The summed loss of a window, in nats, and the state after it; for evaluation."""
        outputs = self(ids, state)
        latent, log_prior = self._contexts(outputs.dropped[-1])
        rows = mixture_loss_rows(
            latent,
            log_prior,
            self.decoder.weight,
            self.decoder.bias,
            targets.flatten(),
            epsilon=self.epsilon,
            dtype=autocast_dtype(ids.device),
        )
        return rows.sum(), outputs.state

    @torch.no_grad()
    def log_probabilities(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Log probabilities ``[T, B, V]`` of the token after each of ``ids [T, B]``, and the state after the last."""
        outputs = self(ids, state)
        latent, log_prior = self._contexts(outputs.dropped[-1])
        rows = mixture_log_probabilities(
            latent, log_prior, self.decoder.weight, self.decoder.bias, epsilon=self.epsilon
        )
        return rows.view(*ids.shape, -1), outputs.state

    def _contexts(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """The contexts ``[T B, K, E]`` and the logarithms of the experts' weights ``[T B, K]``."""
        wide = self.decoder.weight.dtype
        latent = self.drop_latent(torch.tanh(self.latent(output)))
        log_prior = F.log_softmax(self.prior(output).to(wide), dim=2)
        return latent.to(wide).view(-1, self.n_experts, self.decoder.weight.shape[1]), log_prior.flatten(0, 1)
