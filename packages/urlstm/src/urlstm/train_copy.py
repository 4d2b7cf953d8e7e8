"""``urlstm-copy``: the copy task (section 4.1 of the paper). The loop is in `urlstm.synthetic`."""

import torch
from rnncore import device
from rnncore.flags import command
from rnncore.run_options import describe
from torch import Tensor
from torch.nn import functional as F

from urlstm.copying import CATEGORIES, LENGTH, copy_batch, memoryless_loss
from urlstm.models import CopyModel
from urlstm.options import CONFIGURATIONS, COPY, CopyOptions
from urlstm.random_streams import Purpose, stream
from urlstm.run_state import Training
from urlstm.synthetic import TEST_SEQUENCES, VALID_SEQUENCES, batches, train
from urlstm.training import Evaluation, begin, evaluating, finish, under_way


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
    options, place, resumed = begin(options, COPY)
    device.seed_everything(options.seed)
    model = build_model(options).to(place)
    if options.dry_run:
        print(describe(options, model), end="")
        return
    baseline = memoryless_loss(options.time_lag, recall_only=options.recall_only)
    extra = {"baseline": baseline}

    def loss_of_step(number: int) -> Tensor:
        logits, targets = _answers(options, model, Purpose.TRAIN, number, options.batch_size, place)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    title = f"copy over {options.time_lag} steps (without memory the loss is {baseline:.4f})"
    limit = min(options.n_steps, options.max_steps or options.n_steps)
    with under_way(options, COPY, place, model, model.recurrent, resumed=resumed, title=title, total_steps=limit) as (
        training,
        interrupt,
    ):
        train(
            training,
            options,
            interrupt,
            n_steps=options.n_steps,
            tokens=_counted(options) * options.batch_size,
            loss_of_step=loss_of_step,
            validate=lambda: _evaluate(training, options, model, Purpose.VALID, VALID_SEQUENCES),
        )
        if not interrupt:
            finish(training, lambda: _evaluate(training, options, model, Purpose.TEST, TEST_SEQUENCES, extra))


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


def _answers(
    options: CopyOptions, model: CopyModel, purpose: Purpose, number: int, size: int, place: torch.device
) -> tuple[Tensor, Tensor]:
    """Logits ``[L, B, categories]`` and targets ``[L, B]`` of the steps that the loss counts, for new sequences."""
    generator, counted = stream(options.seed, purpose, number), _counted(options)
    ids, targets = copy_batch(generator, options.time_lag, size, delimiter=options.delimiter)
    return model(ids.to(place), counted), targets[-counted:].to(place)


def _evaluate(
    training: Training,
    options: CopyOptions,
    model: CopyModel,
    purpose: Purpose,
    sequences: int,
    extra: dict[str, float] | None = None,
) -> Evaluation:
    """The mean loss of sequences that are not trained on, and the share of their symbols that are right."""
    total, right = torch.zeros(2, dtype=torch.float64, device=training.device).unbind()
    with evaluating(training):
        for number, size in enumerate(batches(sequences, options.batch_size)):
            logits, targets = _answers(options, model, purpose, number, size, training.device)
            total += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
            right += (logits[-LENGTH:].argmax(2) == targets[-LENGTH:]).sum()
    numbers = {"accuracy": float(right) / (sequences * LENGTH), **(extra or {})}
    return Evaluation(float(total) / (sequences * _counted(options)), numbers)
