"""The mixture of softmaxes against its equation written out, in blocks of any size; and the model around it."""

from typing import Any

import pytest
import torch
from rnncore.errors import UserError
from selfish import mixture
from selfish.mixture import mixture_log_probabilities, mixture_loss, mixture_loss_rows
from selfish.mos_model import MoSModel
from torch import Tensor

ROWS, EXPERTS, FEATURES, WORDS = 7, 3, 4, 9
TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def leaves() -> list[Tensor]:
    """latent, log_prior, weight, bias."""
    torch.manual_seed(1)
    shapes = (ROWS, EXPERTS, FEATURES), (ROWS, EXPERTS), (WORDS, FEATURES), (WORDS,)
    latent, prior, weight, bias = (torch.randn(shape).double() for shape in shapes)
    return [part.requires_grad_() for part in (latent, prior.log_softmax(1), weight, bias)]


TARGETS = torch.tensor([0, 8, 3, 3, 5, 1, 7])


def written_out(latent: Tensor, log_prior: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Log probabilities ``[N, V]``."""
    p = (log_prior.exp()[:, :, None] * torch.softmax(latent @ weight.t() + bias, 2)).sum(1)
    return torch.log(p + epsilon)


@pytest.fixture(params=[1, 2 * EXPERTS * WORDS, 1000])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "BLOCK", request.param)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("epsilon", [0.0, 1e-2])
def test_losses_and_gradients_are_those_of_the_equation(epsilon: float) -> None:
    results = []
    for loss in (
        lambda *parts: mixture_loss(*parts, TARGETS, epsilon=epsilon),
        lambda *parts: torch.nn.functional.nll_loss(written_out(*parts, epsilon), TARGETS),
    ):
        parts = leaves()
        value = loss(*parts)
        (3 * value).backward()
        results.append([value, *(part.grad for part in parts)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, **TIGHT)
    expected = written_out(*parts, epsilon).detach()
    found = mixture_loss_rows(*parts, TARGETS, epsilon=epsilon)
    torch.testing.assert_close(found, -expected[range(ROWS), TARGETS], **TIGHT)
    torch.testing.assert_close(mixture_log_probabilities(*parts, epsilon=epsilon), expected, **TIGHT)
    with torch.no_grad():
        torch.testing.assert_close(mixture_loss(*parts, TARGETS, epsilon=epsilon), results[0][0].detach(), **TIGHT)


@pytest.mark.usefixtures("block")
def test_gradients_are_those_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(lambda *parts: mixture_loss(*parts, TARGETS), leaves())


@pytest.mark.parametrize("grad", [True, False])
def test_no_more_logits_at_once_than_a_block(grad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, inside = [], mixture._logits

    def counted(*arguments: Any) -> Tensor:
        logits = inside(*arguments)
        sizes.append(logits.numel())
        return logits

    monkeypatch.setattr(mixture, "_logits", counted)
    monkeypatch.setattr(mixture, "BLOCK", 3 * EXPERTS * WORDS)
    with torch.set_grad_enabled(grad):
        mixture_loss(*leaves(), TARGETS)
    assert max(sizes) <= 3 * EXPERTS * WORDS
    assert sum(sizes) == ROWS * EXPERTS * WORDS


def test_improbable_words_have_finite_losses_and_gradients() -> None:
    parts = [part.detach().float() for part in leaves()]
    parts[2] *= 1e3
    parts = [part.requires_grad_() for part in parts]
    loss = mixture_loss(*parts, TARGETS)
    loss.backward()
    assert 100 < loss.item() < 1e5
    assert all(part.grad is not None and part.grad.isfinite().all() for part in parts)


def test_bfloat16_stays_near() -> None:
    parts = [part.detach().float().requires_grad_() for part in leaves()]
    exact = mixture_loss(*parts, TARGETS)
    exact.backward()
    grads = [part.grad.clone() for part in parts if part.grad is not None]
    for part in parts:
        part.grad = None
    near = mixture_loss(*parts, TARGETS, dtype=torch.bfloat16)
    near.backward()
    assert near.dtype == torch.float32
    assert 1e-6 < abs(near.item() - exact.item()) < 0.05
    for part, grad in zip(parts, grads, strict=True):
        torch.testing.assert_close(part.grad, grad, rtol=0.1, atol=0.02)


def small(**changes: Any) -> MoSModel:
    torch.manual_seed(2)
    sizes = {"embedding_size": 6, "hidden_size": 8, "num_layers": 2, "n_experts": 3}
    return MoSModel(11, **{**sizes, **changes})


def test_probabilities_sum_to_one_and_the_loss_is_theirs() -> None:
    model, ids = small().eval(), torch.randint(11, (6, 2))
    state = model.initial_state(2)
    log_p, _ = model.log_probabilities(ids[:-1], state)
    torch.testing.assert_close(log_p.exp().sum(2), torch.ones(5, 2))
    total, _ = model.loss_sum(ids[:-1], ids[1:], state)
    expected = -log_p.gather(2, ids[1:, :, None]).sum()
    torch.testing.assert_close(total, expected)
    loss = model.loss(model(ids[:-1], state).dropped[-1], ids[1:])
    torch.testing.assert_close(loss * 10, expected)


def test_one_expert_is_an_ordinary_decoder() -> None:
    model, ids = small(n_experts=1).eval(), torch.randint(11, (6, 2))
    state = model.initial_state(2)
    latent = torch.tanh(model.latent(model(ids[:-1], state).dropped[-1]))
    torch.testing.assert_close(
        model.loss(model(ids[:-1], state).dropped[-1], ids[1:]), model.decoder.loss(latent, ids[1:])
    )


def test_the_contexts_have_one_mask_for_all_steps() -> None:
    model = small(dropout_latent=0.5).train()
    latent, _ = model._contexts(torch.ones(5, 2, 6))
    gone = (latent.view(5, 2, -1) == 0).double()
    assert 0 < gone.mean() < 1
    assert torch.equal(gone, gone[:1].expand_as(gone))
    assert small(dropout_hidden=0.125).drop_latent.p == 0.125


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="experts must be positive, not 0"):
        small(n_experts=0)
    with pytest.raises(UserError, match="probability"):
        small(dropout_latent=1.0)
