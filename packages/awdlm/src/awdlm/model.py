"""The language model of AWD-LSTM (Merity, Keskar, Socher 2017, arXiv 1708.02182), with LSTM, GRU or QRNN layers.

Shapes: T time steps, B batch, V vocabulary, E embedding size, H units of a layer.
"""

import itertools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from rnncore.device import autocast_dtype
from rnncore.dropout import LockedDropout, WeightDrop, embedded_dropout
from rnncore.lstm import LSTMLayer
from rnncore.split_cross_entropy import SplitCrossEntropy, splits_for
from torch import Tensor, nn

from awdlm.qrnn import QRNNLayer

Kind = Literal["LSTM", "GRU", "QRNN"]
#: What follows each layer's last time step: (h, c) of an LSTM, h of a GRU, (h, previous input) of a QRNN layer.
State = Sequence[Any]


class Outputs(NamedTuple):
    """What a window gives: each layer's outputs ``[T, B, H]`` before and after dropout, and the state after it."""

    raw: list[Tensor]
    dropped: list[Tensor]
    state: State


class AWDModel(nn.Module):
    """Embedding, recurrent layers and decoder, with every dropout of the paper's section 4.

    The last layer has E units where the decoder shares the embedding's weight (``tied``), else ``hidden_size``.
    A vocabulary above 75,000 words is decoded by `SplitCrossEntropy`, whose parameters are the model's too.
    """

    def __init__(
        self,
        kind: Kind,
        vocabulary_size: int,
        *,
        embedding_size: int = 400,
        hidden_size: int = 1150,
        num_layers: int = 3,
        dropout: float = 0.4,
        dropout_hidden: float = 0.3,
        dropout_input: float = 0.65,
        dropout_words: float = 0.1,
        weight_drop: float = 0.5,
        tied: bool = True,
        splits: Sequence[int] | None = None,
    ) -> None:
        """Makes the parameters.

        Args:
            kind: The recurrent layers.
            vocabulary_size: V.
            embedding_size: E.
            hidden_size: Units of every layer but a tied last one.
            num_layers: How many.
            dropout: Of the last layer's outputs.
            dropout_hidden: Of the other layers' outputs.
            dropout_input: Of the embedded inputs.
            dropout_words: Of whole words of the embedding.
            weight_drop: Of the hidden-to-hidden weights; of a QRNN layer's one linear map.
            tied: Whether embedding and decoder have one weight.
            splits: Where the softmax is split; None decides by the vocabulary's size.
        """
        super().__init__()
        self.dropout_words = dropout_words
        sizes = [embedding_size, *[hidden_size] * (num_layers - 1), embedding_size if tied else hidden_size]
        self.sizes = sizes[1:]
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.layers = nn.ModuleList(
            _layer(kind, before, after, weight_drop, first=number == 0)
            for number, (before, after) in enumerate(itertools.pairwise(sizes))
        )
        self.decoder = nn.Linear(sizes[-1], vocabulary_size)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        if tied:
            self.decoder.weight = self.embedding.weight
        self.criterion = SplitCrossEntropy(sizes[-1], splits_for(vocabulary_size) if splits is None else splits)
        self.drop_input = LockedDropout(dropout_input)
        rates = [dropout_hidden] * (num_layers - 1) + [dropout]
        self.drop_outputs = nn.ModuleList(LockedDropout(rate) for rate in rates)

    def initial_state(self, batch_size: int) -> State:
        """Zeros."""
        weight = self.embedding.weight
        states: list[Any] = []
        for layer, size in zip(self.layers, self.sizes, strict=True):
            module, zeros = layer.module, weight.new_zeros(1, batch_size, size)
            if isinstance(module, QRNNLayer):
                previous = weight.new_zeros(batch_size, module.input_size) if module.window == 2 else None
                states.append((zeros[0], previous))
            else:
                states.append((zeros, zeros) if isinstance(module, LSTMLayer) else zeros)
        return states

    def forward(self, ids: Tensor, state: State) -> Outputs:
        """A window ``[T, B]`` through embedding and layers; the last of ``dropped`` is what the decoder takes."""
        x = embedded_dropout(self.embedding.weight, ids, self.dropout_words if self.training else 0.0)
        x, raw, dropped, last = self.drop_input(x), [], [], []
        for layer, drop, before in zip(self.layers, self.drop_outputs, state, strict=True):
            x, after = layer(x, before)
            raw.append(x)
            x = drop(x)
            dropped.append(x)
            last.append(after)
        return Outputs(raw, dropped, last)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The mean cross entropy of the decoded ``output [T, B, E]``, in nats per token; ``targets [T, B]``."""
        return self.criterion.loss(*self._rows(output, targets), autocast_dtype(output.device))

    @torch.no_grad()
    def loss_sum(self, ids: Tensor, targets: Tensor, state: State) -> tuple[Tensor, State]:
        """The summed loss of a window, in nats, and the state after it; for evaluation."""
        outputs = self(ids, state)
        rows = self._rows(outputs.dropped[-1], targets)
        return self.criterion.loss_sum(*rows, autocast_dtype(ids.device)), outputs.state

    @torch.no_grad()
    def loss_rows(self, output: Tensor, targets: Tensor) -> Tensor:
        """The cross entropy of each row of the decoded ``output [T, B, E]``, in nats: ``[T B]``; ``targets [T, B]``."""
        return self.criterion.loss_rows(*self._rows(output, targets), autocast_dtype(output.device))

    @torch.no_grad()
    def log_probabilities(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Log probabilities ``[T, B, V]`` of the token after each of ``ids [T, B]``, and the state after the last."""
        outputs = self(ids, state)
        last = outputs.dropped[-1].to(self.decoder.weight.dtype)
        rows = self.criterion.log_probabilities(last.flatten(0, 1), self.decoder.weight, self.decoder.bias)
        return rows.view(*ids.shape, -1), outputs.state

    def _rows(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        weight = self.decoder.weight
        return output.flatten(0, 1).to(weight.dtype), weight, self.decoder.bias, targets.flatten()


def _layer(kind: Kind, before: int, after: int, weight_drop: float, *, first: bool) -> WeightDrop:
    if kind == "QRNN":
        # The first layer sees two words at a time, as in the authors' models.
        return WeightDrop(QRNNLayer(before, after, window=2 if first else 1), ["linear.weight"], weight_drop)
    layer = LSTMLayer(before, after) if kind == "LSTM" else nn.GRU(before, after)
    return WeightDrop(layer, ["weight_hh_l0"], weight_drop)
