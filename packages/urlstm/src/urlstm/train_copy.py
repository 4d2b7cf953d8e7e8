"""``urlstm-copy``: the copy task (section 4.1 of the paper). The loop is in `urlstm.synthetic`."""

import torch
from rnncore.flags import command
from rnncore.run_options import describe
from rnncore.training_run import ready, reopened
from torch import Tensor
from torch.nn import functional as F

from urlstm import synthetic
from urlstm.copying import CATEGORIES, LENGTH, copy_batch, memoryless_loss
from urlstm.models import CopyModel
from urlstm.options import CHANGEABLE, CONFIGURATIONS, COPY, CopyOptions
from urlstm.random_streams import Purpose, stream
from urlstm.run_state import Training
from urlstm.training import Evaluation, evaluating


@command(
    CopyOptions,
    name=COPY,
    examples=[
        "urlstm-copy --config quick",
        "urlstm-copy --config quick --model_type lstm",
        "urlstm-copy --time_lag 100 --delimiter --run_dir runs/copy100",
        "urlstm-copy --resume --run_dir runs/copy100",
    ],
    shipped=CONFIGURATIONS / "copy",
)
def main(options: CopyOptions) -> None:
    """Train on the copy task: repeat ten symbols after a long gap.

    The loss is the cross entropy in nats per step, over all steps (--recall_only: over the last ten); who remembers
    nothing has 10 log 8 / (time_lag + 20). Evaluations tell the share of the ten symbols that are right, too.
    """
    run(options)


def run(options: CopyOptions) -> None:
    """What the command does."""
    options, resumed = reopened(options, COPY, CHANGEABLE)
    place = ready(options, seed=options.seed)
    model = build_model(options).to(place)
    if options.dry_run:
        print(describe(options, model), end="")
        return
    baseline = memoryless_loss(options.time_lag, recall_only=options.recall_only)
    synthetic.run(
        options,
        COPY,
        place,
        model,
        model.recurrent,
        _Copy(options, model, place),
        resumed=resumed,
        title=f"copy over {options.time_lag} steps (without memory the loss is {baseline:.4f})",
        tokens=_counted(options),
        baseline=baseline,
    )


def build_model(options: CopyOptions) -> CopyModel:
    """The model that the options describe."""
    return CopyModel(
        options.model_type,
        CATEGORIES,
        options.hidden_size,
        forget_bias=options.forget_bias,
        trainable_bias=options.trainable_bias,
        t_max=options.t_max or options.time_lag + 2 * LENGTH,
    )


def _counted(options: CopyOptions) -> int:
    """How many steps of a sequence the loss counts, from its end."""
    return LENGTH if options.recall_only else options.time_lag + 2 * LENGTH


class _Copy:
    """The task: losses are cross entropies of the steps that count, L of them."""

    def __init__(self, options: CopyOptions, model: CopyModel, place: torch.device) -> None:
        self._options, self._model, self._place = options, model, place
        self._counted = _counted(options)

    def _answers(self, purpose: Purpose, number: int, size: int) -> tuple[Tensor, Tensor]:
        """Logits ``[L, B, categories]`` and targets ``[L, B]``, for new sequences."""
        options, generator = self._options, stream(self._options.seed, purpose, number)
        ids, targets = copy_batch(generator, options.time_lag, size, delimiter=options.delimiter)
        return self._model(ids.to(self._place), self._counted), targets[-self._counted :].to(self._place)

    def loss(self, number: int) -> Tensor:
        logits, targets = self._answers(Purpose.TRAIN, number, self._options.batch_size)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def evaluate(self, training: Training, purpose: Purpose, sequences: int) -> Evaluation:
        """The mean loss, and the share of the ten symbols that are right."""
        total, right = torch.zeros(2, dtype=torch.float64, device=self._place).unbind()
        with evaluating(training):
            for number, size in enumerate(synthetic.batches(sequences, self._options.batch_size)):
                logits, targets = self._answers(purpose, number, size)
                total += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
                right += (logits[-LENGTH:].argmax(2) == targets[-LENGTH:]).sum()
        accuracy = float(right) / (sequences * LENGTH)
        return Evaluation(float(total) / (sequences * self._counted), {"accuracy": accuracy})
