"""Encoder and decoder with attention (Reversible RNNs, section 5 and 6.2): a sentence to the words of another.

The decoder starts from the encoder's last state. Its top hidden state attends to the context, and what comes of it is
decoded. Nothing of the attention goes back into the recurrence, so it is computed for all steps at once.

Shapes: S source and T target steps, B batch, E embedding sizes, H hidden units, C width of the context, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from rnncore.device import autocast_dtype
from rnncore.dropout import embedding_mask, locked_mask, weight_mask
from torch import Tensor, nn

from revrnn.embedding import embed
from revrnn.translation.attention import Attention, Memory, Score
from revrnn.translation.context import ContextShape
from revrnn.translation.criterion import Criterion
from revrnn.translation.reversible import ReversibleStack, used_bits
from revrnn.translation.vanilla import State, TorchStack, VanillaStack
from revrnn.window import Bits

#: Ids that every vocabulary begins with: an unknown word, padding, and the target's begin and end of a sentence.
UNKNOWN, PADDING, BEGIN, END = range(4)
AnyStack = VanillaStack | TorchStack | ReversibleStack


class Batch(NamedTuple):
    """Pairs of sentences, padded at their ends.

    ``source [S, B]``, ``lengths [B]`` of the sources; ``target [T + 1, B]`` from `BEGIN` to `END`.
    """

    source: Tensor
    lengths: Tensor
    target: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        return Batch(*(part.to(device) for part in self))


class Dropout(NamedTuple):
    """Probabilities; the masks hold for all time steps of a batch.

    ``words``: of whole words (``-dropoute``); ``inputs``: of embeddings (``-dropouti``); ``between``: of the outputs of
    all layers but the last (``-dropouth``); ``queries``: of the decoder's outputs and of a hidden context
    (``-dropouto``); ``slices``: of a context's slice (``-dropouts``); ``attended``: of what is decoded (``-dropout``);
    ``weights``: of hidden-to-hidden weights (``-wdrop``).
    """

    words: float = 0.0
    inputs: float = 0.0
    between: float = 0.0
    queries: float = 0.0
    slices: float = 0.0
    attended: float = 0.0
    weights: float = 0.0


class SideMasks(NamedTuple):
    """Of encoder or decoder: ``words [V, 1]``, ``inputs [1, B, E]``; ``between`` and ``weights`` of each layer."""

    words: Tensor | None
    inputs: Tensor | None
    between: Sequence[Tensor | None]
    weights: Sequence[Tensor | None]


class Masks(NamedTuple):
    """Of one batch: ``units`` of the context's hidden units, ``queries`` and ``attended [1, B, H]``."""

    encoder: SideMasks
    decoder: SideMasks
    units: Tensor | None
    queries: Tensor | None
    attended: Tensor | None


class Result(NamedTuple):
    """Of a batch: the loss summed over target tokens, in nats, and the hidden states' memory, where asked for."""

    loss: Tensor
    encoder_bits: Bits | None
    decoder_bits: Bits | None


class TranslationModel(nn.Module):
    """Embeddings, encoder, decoder, attention and generator."""

    def __init__(
        self,
        *,
        source_size: int,
        target_size: int,
        target_embedding_size: int,
        shape: ContextShape,
        encoder: AnyStack,
        decoder: AnyStack,
        attention: Score | None = "general",
        dropout: Dropout | None = None,
        label_smoothing: float = 0.0,
        separate_buffers: bool = True,
        share_embeddings: bool = False,
        share_decoder_embeddings: bool = False,
    ) -> None:
        """Joins the parts.

        Args:
            source_size, target_size: Of the vocabularies.
            target_embedding_size: E of the decoder's; the encoder's is in ``shape``.
            shape: Of the context.
            encoder, decoder: Of one kind (GRU or LSTM), depth and width; both reversible or both not.
            attention: Its score; None decodes the hidden states as they are.
            dropout: Probabilities; none when absent.
            label_smoothing: In [0, 1).
            separate_buffers: Whether a reversible decoder has information buffers of its own; else it goes on in the
                encoder's.
            share_embeddings: One embedding for both languages, of one vocabulary.
            share_decoder_embeddings: The generator's weight is the decoder's embedding.
        """
        super().__init__()
        self.shape, self.encoder, self.decoder, self.dropout = shape, encoder, decoder, dropout or Dropout()
        self.separate_buffers, hidden = separate_buffers, decoder.hidden_size
        self.source_embedding = nn.Parameter(torch.empty(source_size, shape.embedding_size))
        self.target_embedding = nn.Parameter(torch.empty(target_size, target_embedding_size))
        if share_embeddings:
            self.target_embedding = self.source_embedding
        self.mix = nn.Linear(shape.raw_width, shape.width, bias=False) if shape.kind == "linear" else None
        self.attention = None if attention is None else Attention(hidden, shape.width, attention)
        self.generator_weight = nn.Parameter(torch.empty(target_size, hidden))
        self.generator_bias = nn.Parameter(torch.zeros(target_size))
        if share_decoder_embeddings:
            self.generator_weight = self.target_embedding
        self.criterion = Criterion(self.generator_weight, self.generator_bias, PADDING, label_smoothing)
        with torch.no_grad():
            for weight in (self.source_embedding, self.target_embedding, self.generator_weight):
                weight.uniform_(-0.1, 0.1)

    def draw_masks(self, batch_size: int) -> Masks:
        """Masks for one batch: none in evaluation."""
        rates, hidden = self.dropout if self.training else Dropout(), self.decoder.hidden_size
        of_units = rates.queries if self.shape.kind == "hidden" else rates.slices
        return Masks(
            self._side_masks(self.encoder, self.source_embedding, batch_size, rates),
            self._side_masks(self.decoder, self.target_embedding, batch_size, rates),
            self._locked(batch_size, sum(self.shape.slices), of_units),
            self._locked(batch_size, hidden, rates.queries),
            self._locked(batch_size, hidden, rates.attended),
        )

    def loss(self, batch: Batch, *, masks: Masks | None = None, count_bits: bool = False) -> Result:
        """The loss with stored states, for ``backward``; ``masks`` are drawn when absent."""
        masks = masks or self.draw_masks(batch.source.shape[1])
        inputs, targets = batch.target[:-1], batch.target[1:]
        x = embed(self.source_embedding, batch.source, *masks.encoder[:2])
        encoded = self.encoder(x, None, batch.lengths, *masks.encoder[2:], count_bits=count_bits)
        buffers = () if self.separate_buffers else encoded.buffers
        held = used_bits(buffers)
        memory = self.memory(x, self.shape.units(encoded.outputs), batch.lengths, masks)
        y = embed(self.target_embedding, inputs, *masks.decoder[:2])
        lengths = self.decoder_lengths(batch)
        decoded = self.decoder(y, encoded.state, lengths, *masks.decoder[2:], buffers, count_bits)
        features, _ = self.attend(decoded.outputs, memory, masks)
        dtype = autocast_dtype(features.device)
        criterion = self.criterion.loss if self.training else self.criterion.plain_loss
        bits = None if decoded.bits is None else decoded.bits._replace(used=decoded.bits.used - held)
        return Result(criterion(features, targets, dtype), encoded.bits, bits)

    def encode(self, source: Tensor, lengths: Tensor) -> tuple[State, Memory | None]:
        """For translation: the state that the decoder starts from, and what it attends to."""
        masks = self.draw_masks(source.shape[1])
        x = embed(self.source_embedding, source, *masks.encoder[:2])
        encoded = self.encoder(x, None, lengths, *masks.encoder[2:])
        return encoded.state, self.memory(x, self.shape.units(encoded.outputs), lengths, masks)

    def decode(self, inputs: Tensor, state: State, memory: Memory | None) -> tuple[Tensor, Tensor | None, State]:
        """For translation: runs the decoder, for K hypotheses of each sentence that the memory is of.

        Args:
            inputs: The words before, ``[T, B K]``.
            state: Of the hypotheses.
            memory: Of the B sentences: it is not repeated.

        Returns:
            What is decoded ``[T, B K, H]``, attention ``[T, B K, S]``, and the last state.
        """
        masks = self.draw_masks(inputs.shape[1])
        y = embed(self.target_embedding, inputs, *masks.decoder[:2])
        decoded = self.decoder(y, state, None, *masks.decoder[2:])
        outputs = decoded.outputs
        if memory is None or len(memory.values) == inputs.shape[1]:
            return *self.attend(outputs, memory, masks), decoded.state
        # The hypotheses of a sentence attend as its time steps do.
        steps, sentences = len(inputs), len(memory.values)
        apart = outputs.view(steps, sentences, -1, outputs.shape[2]).transpose(1, 2).flatten(0, 1)
        features, weights = self.attend(apart, memory, masks)
        assert weights is not None
        both = (features, weights)
        together = [part.view(steps, -1, *part.shape[1:]).transpose(1, 2).flatten(1, 2) for part in both]
        return together[0], together[1], decoded.state

    def memory(self, x: Tensor, units: Tensor, lengths: Tensor, masks: Masks) -> Memory | None:
        """The attention's memory from embedded sources ``[S, B, E]`` and sliced units; None without attention."""
        if self.attention is None:
            return None
        units = units if masks.units is None else units * masks.units
        context = torch.cat([x, units], dim=2) if self.shape.has_embedding else units
        return self.attention.memory(context if self.mix is None else self.mix(context), lengths)

    def attend(self, outputs: Tensor, memory: Memory | None, masks: Masks) -> tuple[Tensor, Tensor | None]:
        """The decoder's outputs ``[T, B, H]`` to what is decoded, ``[T, B, H]``, and the weights ``[T, B, S]``."""
        features, weights = outputs if masks.queries is None else outputs * masks.queries, None
        if self.attention is not None and memory is not None:
            features, weights = self.attention(features, memory)
            features = features.to(outputs.dtype)
        return features if masks.attended is None else features * masks.attended, weights

    def decoder_lengths(self, batch: Batch) -> Tensor | None:
        """How many steps each target takes, for reversible decoders: their buffers need not grow past its end."""
        reversible = isinstance(self.decoder, ReversibleStack)
        return (batch.target[1:] != PADDING).sum(0) if reversible else None

    def _locked(self, batch_size: int, features: int, p: float) -> Tensor | None:
        weight = self.generator_weight
        return (
            locked_mask(batch_size, features, p, device=weight.device, dtype=weight.dtype) if p and features else None
        )

    def _side_masks(self, stack: AnyStack, embedding: Tensor, batch_size: int, rates: Dropout) -> SideMasks:
        words = None
        if rates.words:
            words = embedding_mask(len(embedding), rates.words, device=embedding.device, dtype=embedding.dtype)
        return SideMasks(
            words,
            self._locked(batch_size, embedding.shape[1], rates.inputs),
            [self._locked(batch_size, stack.hidden_size, rates.between) for _ in range(stack.num_layers - 1)],
            [weight_mask(w, rates.weights) if rates.weights else None for w in stack.recurrent_weights()],
        )
