"""Split cross entropy against the original code's numbers."""

from collections.abc import Callable

import pytest
import torch
from rnncore.split_cross_entropy import SplitCrossEntropy
from torch import Tensor


@pytest.mark.shared
@pytest.mark.parametrize("file", ["awd_lstm", "awd_qrnn"])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_original_losses_and_gradients(golden: Callable[[str], dict[str, Tensor]], file: str, mode: str) -> None:
    """The recorded gradients hold penalties and the embedding's too; those of the criterion and the bias do not."""
    numbers = golden(file)
    decoder = numbers["param.encoder.weight"], numbers["param.decoder.bias"].requires_grad_()
    result, targets = numbers[f"{mode}.result"], numbers["tgt"]
    for kind, splits in [("nosplit", ()), ("split", (5, 12))]:
        criterion = SplitCrossEntropy(6, splits).double()
        if splits:
            criterion.load_state_dict({name: numbers[name] for name in ("tail_vectors", "tail_bias")})
        expected = numbers[f"{mode}.{kind}.f64.loss"]
        loss = criterion.loss(result, *decoder, targets)
        torch.testing.assert_close(loss.detach(), expected, rtol=0, atol=1e-12)
        total = criterion.loss_sum(result, *decoder, targets)
        torch.testing.assert_close(total, len(targets) * expected, rtol=0, atol=1e-11)
        names = [f"grad_crit.{name}" for name, _ in criterion.named_parameters()]
        got = torch.autograd.grad(loss, [decoder[1], *criterion.parameters()])
        recorded = [numbers[f"{mode}.{kind}.{name}"] for name in ["grad.decoder.bias", *names]]
        torch.testing.assert_close(list(got), recorded, rtol=0, atol=1e-12)
    if mode == "eval":
        got = criterion.log_probabilities(result, *decoder)
        torch.testing.assert_close(got, numbers["split.logprob"], rtol=0, atol=1e-12)
