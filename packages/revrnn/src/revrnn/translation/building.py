"""From options and checkpoints to models."""

from pathlib import Path
from typing import Any

import torch
from rnncore import checkpoint
from rnncore.errors import UserError
from rnncore.flags import from_dict
from torch import nn

from revrnn.translation.context import context_shape
from revrnn.translation.model import AnyStack, Dropout, TranslationModel
from revrnn.translation.options import COMMAND, TranslationOptions
from revrnn.translation.reversible import ReversibleStack
from revrnn.translation.vanilla import TorchStack, VanillaStack

Vocabularies = tuple[list[str], list[str]]


def build_model(options: TranslationOptions, vocabularies: Vocabularies) -> TranslationModel:
    """The model that options describe, its parameters drawn. Raises UserError for options that do not fit the data."""
    if options.share_embeddings and vocabularies[0] != vocabularies[1]:
        raise UserError("-share_embeddings needs one vocabulary: run revrnn-nmt-preprocess with -share_vocab")
    source, target = options.sizes
    if options.share_embeddings and source != target:
        raise UserError("-share_embeddings needs -src_word_vec_size and -tgt_word_vec_size to be the same")
    shape = context_shape(
        options.context_type,
        embedding_size=source,
        hidden_size=options.rnn_size,
        slice_dim=options.slice_dim,
        location=options.slice_location,
    )
    model = TranslationModel(
        source_size=len(vocabularies[0]),
        target_size=len(vocabularies[1]),
        target_embedding_size=target,
        shape=shape,
        encoder=_stack(options, options.encoder_model, source, options.encoder_max_forget, shape.slices),
        decoder=_stack(options, options.decoder_model, target, options.decoder_max_forget, (0, 0)),
        attention=None if options.global_attention == "none" else options.global_attention,
        dropout=Dropout(
            words=options.dropout_words,
            inputs=options.dropout_input,
            between=options.dropout_hidden,
            queries=options.dropout_output,
            slices=options.dropout_slice,
            attended=options.dropout,
            weights=options.weight_drop,
        ),
        label_smoothing=options.label_smoothing,
        separate_buffers=options.separate_buffers,
        share_embeddings=options.share_embeddings,
        share_decoder_embeddings=options.share_decoder_embeddings,
    )
    if options.parameter_range:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.uniform_(-options.parameter_range, options.parameter_range)
    if options.fix_source_vectors:
        model.source_embedding.requires_grad_(False)
    if options.fix_target_vectors:
        model.target_embedding.requires_grad_(False)
    return model


def load_vectors(options: TranslationOptions, model: TranslationModel) -> None:
    """Puts embeddings of ``-pre_word_vecs_enc`` and ``_dec`` in place.

    Raises:
        UserError: A file cannot be read, or holds no tensor of the embedding's shape.
    """
    sides: list[tuple[str, str | None, nn.Parameter]] = [
        ("enc", options.source_vectors, model.source_embedding),
        ("dec", options.target_vectors, model.target_embedding),
    ]
    for side, path, embedding in sides:
        if path is None:
            continue
        try:
            vectors = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch has many ways to fail, and much to say
            reason = error.strerror if isinstance(error, OSError) else "it is not one that torch.save wrote"
            raise UserError(f"-pre_word_vecs_{side} {path} cannot be read as a tensor: {reason}") from None
        if not isinstance(vectors, torch.Tensor) or vectors.shape != embedding.shape:
            found = list(vectors.shape) if isinstance(vectors, torch.Tensor) else type(vectors).__name__
            raise UserError(f"-pre_word_vecs_{side} {path} is {found}, not a tensor {list(embedding.shape)}")
        with torch.no_grad():
            embedding.copy_(vectors)


def load_model(path: Path) -> tuple[TranslationModel, Vocabularies, TranslationOptions, dict[str, Any]]:
    """A trained model, its vocabularies, its options, and all else of the checkpoint.

    Args:
        path: A checkpoint, or a run directory, whose best model is taken.

    Raises:
        UserError: There is no such checkpoint, or it is another command's.
    """
    file = path / "best.pt" if path.is_dir() else path
    saved = checkpoint.load(file, kind=COMMAND)
    options = from_dict(TranslationOptions, saved["config"], source=str(file))
    vocabularies = saved["vocabularies"]["source"], saved["vocabularies"]["target"]
    model = build_model(options, vocabularies)
    model.load_state_dict(saved["model"])
    return model.eval(), vocabularies, options, saved


def _stack(
    options: TranslationOptions, family: str, input_size: int, max_forget: float, slices: tuple[int, int]
) -> AnyStack:
    kind, hidden, depth = options.kind, options.rnn_size, options.depth
    if family == "Rev":
        return ReversibleStack(
            kind, input_size, hidden, depth, max_forget=max_forget, slices=slices, buffered=options.use_buffers
        )
    return (VanillaStack if family == "Vanilla" else TorchStack)(kind, input_size, hidden, depth)
