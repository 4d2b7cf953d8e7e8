"""Training by reversal, although attention looks at every encoder state (Reversible RNNs, section 5).

Forward in time nothing is kept but the last states, the information buffers and the slices that are attended to. Then
the decoder runs backward: its states are rebuilt, attended with and differentiated, some steps at a time, and the
gradient by the context is gathered. Last the encoder runs backward with that gradient.

Shapes: S source and T target steps, K of a chunk, B batch, E embedding size, H hidden units, N units of the slice.
"""

import torch
from rnncore.device import autocast_dtype
from torch import Tensor

from revrnn.embedding import embed, embed_backward
from revrnn.fixed_point import to_float
from revrnn.translation.attention import Memory
from revrnn.translation.model import Batch, Masks, Result, TranslationModel
from revrnn.translation.reversible import ReversibleStack, packed, used_bits
from revrnn.window import Bits, Window, spans

#: Most time steps of a chunk: sentences are short, so less than for texts, or a chunk would hold a whole sentence.
CHUNK = 12


@torch.no_grad()
def loss_and_backward(
    model: TranslationModel,
    batch: Batch,
    scale: float,
    *,
    masks: Masks | None = None,
    count_bits: bool = False,
) -> Result:
    """The loss of a batch and, added to the parameters' ``grad``, the gradient of ``scale`` times it.

    Args:
        model: With reversible encoder and decoder.
        batch: Sentences.
        scale: For example one over their number.
        masks: Drawn when absent.
        count_bits: Whether to report memory.

    Raises:
        UserError: A state leaves the fixed-point range.
    """
    run = _Reversal(model, batch, masks or model.draw_masks(batch.source.shape[1]), count_bits)
    units = run.forward()
    context = _Context(model, run.source(0, len(batch.source)), units, batch.lengths, run.masks)
    total = run.decoder_backward(context, scale)
    by_embedding, by_units = context.backward()
    run.encoder_backward(by_embedding, by_units)
    run.add_gradients()
    return Result(total, *run.bits)


class _Context:
    """The attention's memory, and the gradient by it, gathered over the decoder's steps."""

    def __init__(self, model: TranslationModel, x: Tensor, units: Tensor, lengths: Tensor, masks: Masks) -> None:
        self.x, self.units = x.requires_grad_(), units.requires_grad_()
        with torch.enable_grad():
            self.memory = model.memory(self.x, self.units, lengths, masks)
        self.leaf = None
        if self.memory is not None:
            values = self.memory.values.detach().requires_grad_()
            same = self.memory.keys is self.memory.values
            self.leaf = Memory(
                values, values if same else self.memory.keys.detach().requires_grad_(), self.memory.padding
            )

    def backward(self) -> tuple[Tensor | None, Tensor | None]:
        """The gradient by the embedded sources and by the units."""
        if self.memory is not None and self.leaf is not None:
            pairs = [(self.memory.values, self.leaf.values)]
            if self.memory.keys is not self.memory.values:
                pairs.append((self.memory.keys, self.leaf.keys))
            used = [(tensor, leaf.grad) for tensor, leaf in pairs if leaf.grad is not None and tensor.requires_grad]
            torch.autograd.backward([tensor for tensor, _ in used], [grad for _, grad in used])
        return self.x.grad, self.units.grad


class _Reversal:
    """One batch on its way through encoder and decoder, and back."""

    def __init__(self, model: TranslationModel, batch: Batch, masks: Masks, count_bits: bool) -> None:
        assert isinstance(model.encoder, ReversibleStack)
        assert isinstance(model.decoder, ReversibleStack)
        self.model, self.batch, self.masks, self.count_bits = model, batch, masks, count_bits
        self.inputs, self.targets = batch.target[:-1], batch.target[1:]
        self.dtype = autocast_dtype(batch.source.device)
        self.source_spans, self.target_spans = spans(len(batch.source), CHUNK), spans(len(self.inputs), CHUNK)
        self.encoder = model.encoder.window(
            model.encoder.initial_state(batch.source.shape[1]),
            batch.lengths,
            len(batch.source),
            *masks.encoder[2:],
            count_bits=count_bits,
        )
        self.decoder: Window
        self.bits: tuple[Bits | None, Bits | None] = (None, None)

    def source(self, first: int, last: int) -> Tensor:
        """The embedded source words of some steps."""
        return embed(self.model.source_embedding, self.batch.source[first:last], *self.masks.encoder[:2])

    def target(self, first: int, last: int) -> Tensor:
        """The embedded target words of some steps."""
        return embed(self.model.target_embedding, self.inputs[first:last], *self.masks.decoder[:2])

    def forward(self) -> Tensor:
        """Encodes, and runs the decoder to its last state; returns the sliced units ``[S, B, N]``."""
        for span in self.source_spans:
            self.encoder.forward(span, self.source(*span))
        self.encoder.check()
        bits = self.encoder.bits() if self.count_bits else None
        decoder = self.model.decoder
        buffers = () if self.model.separate_buffers else [layer.buffer for layer in self.encoder.layers]
        held = used_bits(buffers)
        assert isinstance(decoder, ReversibleStack)
        self.decoder = decoder.window(
            packed([layer.state for layer in self.encoder.layers]),
            self.model.decoder_lengths(self.batch),
            len(self.inputs),
            *self.masks.decoder[2:],
            buffers=buffers,
            count_bits=self.count_bits,
        )
        for span in self.target_spans:
            self.decoder.forward(span, self.target(*span))
        self.decoder.check()
        if self.count_bits:
            decoder_bits = self.decoder.bits()
            self.bits = bits, decoder_bits._replace(used=decoder_bits.used - held)
        like = self.model.source_embedding
        if not any(self.model.shape.slices):
            return like.new_zeros(*self.batch.source.shape, 0)
        return to_float(self.encoder.layers[-1].slices_after(), like.dtype)

    def decoder_backward(self, context: _Context, scale: float) -> Tensor:
        """Takes the decoder back to its first state, with gradients; returns the loss."""
        model, total = self.model, self.model.generator_bias.new_zeros(())
        for span in reversed(self.target_spans):
            outputs = self.decoder.reverse(span, self.target(*span)).requires_grad_()
            with torch.enable_grad():
                features, _ = model.attend(outputs, context.leaf, self.masks)
            loss, by_features = model.criterion.loss_backward(features, self.targets[slice(*span)], scale, self.dtype)
            torch.autograd.backward(features, by_features)
            assert outputs.grad is not None
            total += loss
            by_inputs = self.decoder.backward(outputs.grad)
            ids = self.inputs[slice(*span)]
            if model.target_embedding.requires_grad:
                embed_backward(model.target_embedding, ids, *self.masks.decoder[:2], by_inputs)
        for above, below in zip(self.decoder.layers, self.encoder.layers, strict=True):
            below.grad_state = above.grad_state
        return total

    def encoder_backward(self, by_embedding: Tensor | None, by_units: Tensor | None) -> None:
        """Takes the encoder back to its first state, with what the context got of gradients."""
        model = self.model
        if by_units is None:
            by_units = model.source_embedding.new_zeros(*self.batch.source.shape, sum(model.shape.slices))
        for span in reversed(self.source_spans):
            rows = slice(*span)
            self.encoder.reverse(span, self.source(*span))
            by_inputs = self.encoder.backward(model.shape.spread(by_units[rows]))
            if by_embedding is not None:
                by_inputs = by_inputs + by_embedding[rows]
            if model.source_embedding.requires_grad:
                embed_backward(model.source_embedding, self.batch.source[rows], *self.masks.encoder[:2], by_inputs)

    def add_gradients(self) -> None:
        """Adds what the recurrent parameters of both got to their gradients."""
        model, masks = self.model, self.masks
        both = (model.encoder, self.encoder, masks.encoder), (model.decoder, self.decoder, masks.decoder)
        for stack, window, own in both:
            assert isinstance(stack, ReversibleStack)
            window.add_gradients(stack.layers.weights(), own.weights)
