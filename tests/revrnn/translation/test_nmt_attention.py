"""Attention against recorded numbers and against one query, one sentence at a time; contexts and their sizes."""

import math
from collections.abc import Callable

import pytest
import torch
from revrnn.translation.attention import Attention
from revrnn.translation.context import context_shape
from rnncore.errors import UserError
from torch import Tensor

Golden = Callable[[str], dict[str, Tensor]]
RECORDED = ["global.dot", "global.general", "global.mlp", "multi.dot", "multi.mlp", "multi.general", "multi.mlp-conc"]


def close(actual: Tensor | None, expected: Tensor, tolerance: float = 1e-12) -> None:
    assert actual is not None
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.shared
@pytest.mark.parametrize("name", RECORDED)
def test_attention_is_the_recorded_one(name: str, golden: Golden) -> None:
    numbers = golden("nmt_attention")
    wide = name in ("multi.general", "multi.mlp-conc")
    context = numbers["context_wide" if wide else "context"].requires_grad_()
    query = numbers["query"].requires_grad_()
    attention = Attention(6, context.shape[2], name.split(".")[1]).double()  # type: ignore[arg-type]
    prefix = f"{name}.param."
    attention.load_state_dict({key[len(prefix) :]: numbers[key] for key in numbers if key.startswith(prefix)})
    memory = attention.memory(context.transpose(0, 1), numbers["lengths"])
    out, weights = attention(query.transpose(0, 1), memory)
    close(out.detach(), numbers[f"{name}.out"])
    close(weights.detach(), numbers[f"{name}.attn"])
    (out * numbers["R"]).sum().backward()
    close(query.grad, numbers[f"{name}.grad_query"])
    close(context.grad, numbers[f"{name}.grad_context"])
    for key, parameter in attention.named_parameters():
        close(parameter.grad, numbers[f"{name}.grad.{key}"])
    if f"{name}.onestep.out" in numbers:
        one, at = attention(query[:, :1].transpose(0, 1), memory)
        close(one[0].detach(), numbers[f"{name}.onestep.out"])
        close(at[0].detach(), numbers[f"{name}.onestep.attn"])


@pytest.mark.parametrize("score", ["general", "mlp", "mlp-conc"])
def test_wide_contexts_by_the_formula(score: str) -> None:
    torch.manual_seed(1)
    attention = Attention(3, 5, score).double()  # type: ignore[arg-type]
    queries, context, lengths = torch.randn(2, 2, 3).double(), torch.randn(4, 2, 5).double(), torch.tensor([4, 2])
    out, weights = attention(queries, attention.memory(context, lengths))
    p = {name: value.detach() for name, value in attention.named_parameters()}
    for t in range(2):
        for b in range(2):
            q, scores = queries[t, b], []
            for k in context[: lengths[b], b]:
                if score == "general":
                    scores.append(float((p["linear_in.weight"] @ q) @ k))
                elif score == "mlp":
                    inner = p["linear_query.weight"] @ q + p["linear_query.bias"] + p["linear_context.weight"] @ k
                    scores.append(float(p["v.weight"][0] @ inner.tanh()))
                else:
                    scores.append(float(p["mlp_conc.weight"][0] @ torch.cat([q, k])))
            powers = [math.exp(each) for each in scores]
            expected = torch.tensor(powers, dtype=torch.float64) / sum(powers)
            close(weights[t, b, : len(scores)].detach(), expected)
            assert not weights[t, b, len(scores) :].any()
            average = sum(w * k for w, k in zip(expected, context[:, b], strict=False))
            joined = p["linear_out.weight"] @ torch.cat([average, q])  # type: ignore[list-item]
            joined = joined + p["linear_out.bias"] if score == "mlp" else joined
            close(out[t, b].detach(), joined.tanh() if score == "general" else joined)


def test_dot_needs_equal_widths() -> None:
    with pytest.raises(UserError, match="as wide as the hidden state, 6, not 4; use general"):
        Attention(6, 4, "dot")


@pytest.mark.parametrize(
    ("location", "slice_dim", "expected"),
    [
        ("start", 0, (0, 0)), ("start", 3, (3, 0)), ("start", 6, (4, 2)), ("start", 8, (4, 4)),
        ("end", 3, (0, 3)), ("end", 6, (2, 4)), ("end", 8, (4, 4)), ("both", 1, (1, 0)), ("both", 5, (3, 2)),
    ],
)  # fmt: skip
def test_slices(location: str, slice_dim: int, expected: tuple[int, int]) -> None:
    shape = context_shape(
        "slice_emb", embedding_size=5, hidden_size=8, slice_dim=slice_dim, location=location  # type: ignore[arg-type]
    )  # fmt: skip
    assert shape.slices == expected
    assert shape.width == 5 + slice_dim
    hidden = torch.arange(16.0).view(2, 8)
    units = shape.units(hidden)
    assert units.tolist() == [[*row[: expected[0]], *row[4 : 4 + expected[1]]] for row in hidden.tolist()]
    assert torch.equal(shape.spread(units), torch.where(torch.isin(hidden, units), hidden, 0))


@pytest.mark.parametrize(("kind", "width"), [("hidden", 7), ("emb", 5), ("slice", 2), ("slice_emb", 7), ("linear", 7)])
def test_widths_of_contexts(kind: str, width: int) -> None:
    shape = context_shape(kind, embedding_size=5, hidden_size=7, slice_dim=2, location="start")  # type: ignore[arg-type]
    assert shape.width == width
    assert shape.units(torch.ones(1, 7)).shape[1] == {"hidden": 7, "emb": 0}.get(kind, 2)


@pytest.mark.parametrize(("kind", "slice_dim", "match"), [
    ("slice_emb", 9, "-slice_dim must be from 0 to -rnn_size 8, not 9"),
    ("slice", 0, "needs a -slice_dim above 0"),
])  # fmt: skip
def test_bad_slices(kind: str, slice_dim: int, match: str) -> None:
    with pytest.raises(UserError, match=match):
        context_shape(kind, embedding_size=5, hidden_size=8, slice_dim=slice_dim, location="start")  # type: ignore[arg-type]
