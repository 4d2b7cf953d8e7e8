"""Training by reversal: recorded numbers, and the gradients of the stored path for everything that can be chosen."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from revrnn import gru_kernel
from revrnn.buffer import InformationBuffer
from revrnn.translation.context import context_shape
from revrnn.translation.model import PADDING, Batch, Dropout, TranslationModel
from revrnn.translation.reversal import loss_and_backward
from revrnn.translation.reversible import ReversibleStack
from revrnn.window import Layer
from torch import Tensor
from torch.nn import functional as F

Golden = Callable[[str], dict[str, Tensor]]
Gradients = dict[str, Tensor]


def make_model(
    kind: str = "gru",
    *,
    context: str = "slice_emb",
    slice_dim: int = 2,
    location: str = "start",
    num_layers: int = 1,
    sizes: tuple[int, int, int] = (5, 4, 8),
    vocabularies: tuple[int, int] = (11, 13),
    **options: Any,
) -> TranslationModel:
    """A model in double precision, its weights uniform in (-0.7, 0.7)."""
    source, target, hidden = sizes
    shape = context_shape(
        context, embedding_size=source, hidden_size=hidden, slice_dim=slice_dim, location=location  # type: ignore[arg-type]
    )  # fmt: skip
    options = {"attention": "general", **options}
    model = TranslationModel(
        source_size=vocabularies[0],
        target_size=vocabularies[1],
        target_embedding_size=target,
        shape=shape,
        encoder=ReversibleStack(kind, source, hidden, num_layers, slices=shape.slices, buffered=True),  # type: ignore[arg-type]
        decoder=ReversibleStack(kind, target, hidden, num_layers, buffered=True),  # type: ignore[arg-type]
        **options,
    ).double()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) * 1.4 - 0.7)
    return model


def make_batch(source_lengths: tuple[int, ...], target_lengths: tuple[int, ...]) -> Batch:
    """Sentences of these lengths, the targets between BEGIN and END."""
    generator = torch.Generator().manual_seed(5)
    source = torch.full((max(source_lengths), len(source_lengths)), PADDING)
    target = torch.full((max(target_lengths) + 2, len(target_lengths)), PADDING)
    for b, (length, words) in enumerate(zip(source_lengths, target_lengths, strict=True)):
        source[:length, b] = torch.randint(2, 11, (length,), generator=generator)
        target[0, b], target[words + 1, b] = 2, 3
        target[1 : words + 1, b] = torch.randint(4, 13, (words,), generator=generator)
    return Batch(source, torch.tensor(source_lengths), target)


def gradients(model: TranslationModel) -> Gradients:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_both_ways_agree(model: TranslationModel, batch: Batch) -> None:
    """By reversal the loss and all gradients are those of stored states."""
    masks = model.draw_masks(batch.source.shape[1])
    stored = model.loss(batch, masks=masks)
    (stored.loss / 3).backward()
    expected = gradients(model)
    reversed_ = loss_and_backward(model, batch, 1 / 3, masks=masks)
    torch.testing.assert_close(reversed_.loss, stored.loss.detach(), rtol=0, atol=1e-9)
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")
        assert grad.any() or "embedding" not in name


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
@pytest.mark.parametrize(
    ("context", "slice_dim", "location"),
    [
        ("hidden", 0, "start"), ("emb", 0, "start"),
        ("slice", 1, "start"), ("slice", 4, "end"), ("slice", 8, "start"), ("slice", 5, "both"),
        ("slice_emb", 0, "start"), ("slice_emb", 1, "both"), ("slice_emb", 4, "start"), ("slice_emb", 6, "end"),
        ("slice_emb", 8, "both"), ("linear", 0, "start"), ("linear", 3, "both"),
    ],
)  # fmt: skip
def test_gradients_are_those_of_stored_states(
    kind: str, context: str, slice_dim: int, location: str, num_layers: int
) -> None:
    model = make_model(kind, context=context, slice_dim=slice_dim, location=location, num_layers=num_layers)
    assert_both_ways_agree(model, make_batch((14, 3, 9, 1), (2, 26, 7, 13)))


@pytest.mark.parametrize(
    "options",
    [
        {"attention": "mlp"},
        {"attention": "mlp-conc"},
        {"attention": None},
        {"attention": "dot", "context": "hidden"},
        {"label_smoothing": 0.1},
        {"dropout": Dropout(0.2, 0.3, 0.2, 0.3, 0.4, 0.2, 0.3), "num_layers": 2},
        {"dropout": Dropout(slices=0.5), "context": "linear"},
        {"share_embeddings": True, "sizes": (8, 8, 8), "vocabularies": (13, 13), "share_decoder_embeddings": True},
    ],
    ids=str,
)
def test_gradients_with_options(options: dict[str, Any]) -> None:
    torch.manual_seed(6)
    assert_both_ways_agree(make_model("lstm", **options), make_batch((5, 3, 9), (20, 8, 12)))


@pytest.mark.parametrize("slice_dim", [0, 2, 8])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_shared_buffers_take_less_memory(kind: str, slice_dim: int) -> None:
    batch, results = make_batch((14, 3, 9), (20, 8, 12)), []
    for separate in (True, False):
        model = make_model(kind, slice_dim=slice_dim, num_layers=2, separate_buffers=separate)
        assert_both_ways_agree(model, batch)
        results.append(loss_and_backward(model, batch, 1.0, count_bits=True))
        stored = model.loss(batch, count_bits=True)
        assert stored.encoder_bits == pytest.approx(results[-1].encoder_bits)
        assert stored.decoder_bits == pytest.approx(results[-1].decoder_bits)
    apart, shared = results
    assert apart.encoder_bits is not None
    assert apart.decoder_bits is not None
    assert shared.encoder_bits == apart.encoder_bits
    assert shared.decoder_bits is not None
    assert shared.decoder_bits.used < apart.decoder_bits.used
    assert shared.decoder_bits.optimal == pytest.approx(apart.decoder_bits.optimal, rel=1e-2)


@pytest.mark.parametrize("name", ["source_embedding", "target_embedding"])
def test_what_is_frozen_gets_no_gradient(name: str) -> None:
    """The target's embedding decodes, too."""
    model, batch = make_model(sizes=(5, 8, 8), share_decoder_embeddings=True), make_batch((5, 3), (4, 6))
    frozen = model.get_parameter(name).requires_grad_(False)
    assert_both_ways_agree(model, batch)
    loss_and_backward(model, batch, 1.0)
    assert frozen.grad is None


def test_no_state_of_a_step_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two ways there are ids, last states, buffers and slices: no layer keeps a trace."""
    kept, before = [], {id(each) for each in gc.get_objects() if type(each) is Layer}
    real = TranslationModel.memory

    def spied(model: TranslationModel, *words: Any) -> Any:
        layers = [each for each in gc.get_objects() if type(each) is Layer and id(each) not in before]
        kept.extend(layer.kept for layer in layers)
        return real(model, *words)

    monkeypatch.setattr(TranslationModel, "memory", spied)
    loss_and_backward(make_model(), make_batch((5, 3), (4, 6)), 1.0)
    assert kept == [[], []]


# The recorded model.


def rows(numbers: dict[str, Tensor], prefix: str, suffix: str) -> Tensor:
    """A recorded layer's rows in our order: z, r, g of group 1, then of group 2."""
    return torch.cat(
        [numbers[f"{prefix}{part}{suffix}"] for part in ("ih2_to_zr1", "irh2_to_g1", "ih1_to_zr2", "irh1_to_g2")]
    )


def recorded(numbers: dict[str, Tensor], name: str, what: str) -> dict[str, Tensor]:
    """Recorded weights or gradients under our names."""
    prefix, values = f"{name}.{what}", {}
    for side, layer, weight in (("encoder", "rnns.0.", ".weight"), ("decoder", "rnns.0.rnn.", ".raw_weight")):
        whole = rows(numbers, f"{prefix}{side}.{layer}", weight)
        values[f"{side}.layers.weight_ih_l0"], values[f"{side}.layers.weight_hh_l0"] = whole[:, :8], whole[:, 8:]
        values[f"{side}.layers.bias_l0"] = rows(numbers, f"{prefix}{side}.{layer}", ".bias")
    values["source_embedding"] = numbers[f"{prefix}encoder.encoder.weight"]
    values["target_embedding"] = numbers[f"{prefix}decoder.embedding.weight"]
    values["generator_weight"] = numbers[f"{prefix}decoder.generator.weight"]
    values["generator_bias"] = numbers[f"{prefix}decoder.generator.bias"]
    for part in ("linear_in", "linear_out"):
        values[f"attention.{part}.weight"] = numbers[f"{prefix}decoder.attn.{part}.weight"]
    return values


def recorded_model(numbers: dict[str, Tensor], name: str) -> tuple[TranslationModel, Batch]:
    model = make_model(context=name, slice_dim=0 if name == "emb" else 2, sizes=(8, 8, 8))
    model.load_state_dict(recorded(numbers, name, "param."))
    return model, Batch(numbers["src"], numbers["src_lengths"], numbers["tgt"])


def buffer_each_encoder_group(patch: pytest.MonkeyPatch) -> None:
    """As the original: the encoder's first group has a buffer of its own even where nothing is sliced."""
    real, encoder = Layer.__init__, []

    def init(layer: Layer, *words: Any, **options: Any) -> None:
        real(layer, *words, **options)
        if not encoder:
            encoder.append(layer)
            layer.buffers[0] = InformationBuffer(3, 4, max_forget=0.875)

    patch.setattr(Layer, "__init__", init)


@pytest.mark.shared
@pytest.mark.parametrize("way", ["stored", "reversed"])
@pytest.mark.parametrize("name", ["slice_emb", "slice", "emb"])
def test_recorded_batch(name: str, way: str, golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact gradients; those that were recorded of a reversal lack the restored bits of the states."""
    numbers = golden("nmt_revgru")
    model, batch = recorded_model(numbers, name)
    # The original's decoder runs on past a target's end, and its bits are counted past the end of a source.
    monkeypatch.setattr(model, "decoder_lengths", lambda batch: None)
    counted = gru_kernel.forgotten_bits
    monkeypatch.setattr(gru_kernel, "forgotten_bits", lambda gates, m, active: counted(gates, m, None))
    if name == "emb":
        buffer_each_encoder_group(monkeypatch)
    if way == "stored":
        result = model.loss(batch, count_bits=True)
        (result.loss / 3).backward()
    else:
        result = loss_and_backward(model, batch, 1 / 3, count_bits=True)
    torch.testing.assert_close(result.loss.detach(), numbers[f"{name}.fwd.loss"], rtol=0, atol=1e-11)
    found = gradients(model)
    for embedding in ("source_embedding", "target_embedding"):
        found[embedding][PADDING] = 0  # an original embedding's row of padding has no gradient, even in a sentence
    for key, expected in recorded(numbers, name, "fwd.grad.").items():
        torch.testing.assert_close(found[key], expected, rtol=0, atol=1e-10)
    for key, expected in recorded(numbers, name, "rev.grad.").items():
        torch.testing.assert_close(found[key], expected, rtol=0, atol=2e-3)
    assert result.encoder_bits is not None
    assert result.decoder_bits is not None
    for side, bits in (("enc", result.encoder_bits), ("dec", result.decoder_bits)):
        assert bits.normal == int(numbers[f"{name}.rev.{side}_normal_bits"])
        assert bits.optimal == pytest.approx(float(numbers[f"{name}.rev.{side}_optimal_bits"]), rel=1e-9)
        assert bits.used == int(numbers[f"{name}.rev.{side}_used_bits"])


@pytest.mark.shared
@pytest.mark.parametrize("name", ["slice_emb", "slice", "emb"])
def test_recorded_translation_step(name: str, golden: Golden) -> None:
    numbers = golden("nmt_revgru")
    model, batch = recorded_model(numbers, name)
    model.eval()
    with torch.no_grad():
        state, memory = model.encode(batch.source, batch.lengths)
        assert torch.equal(torch.cat([part[0] for part in state], dim=1), numbers[f"{name}.enc_h"])
        assert memory is not None
        torch.testing.assert_close(memory.values.transpose(0, 1), numbers[f"{name}.context"], rtol=0, atol=1e-12)
        features, weights, last = model.decode(batch.target[:-1], state, memory)
        scores = F.linear(features, model.generator_weight, model.generator_bias)
    assert torch.equal(torch.cat([part[0] for part in last], dim=1), numbers[f"{name}.test.dec_h"])
    expected = torch.log_softmax(numbers[f"{name}.test.logits"], 1)
    torch.testing.assert_close(scores.log_softmax(2).flatten(0, 1), expected, rtol=0, atol=1e-11)
    assert weights is not None
    torch.testing.assert_close(weights, numbers[f"{name}.test.attn"], rtol=0, atol=1e-12)
