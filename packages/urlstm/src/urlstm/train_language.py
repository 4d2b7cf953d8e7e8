"""``urlstm-language``: language modelling (section 4.3 of the paper)."""

from functools import partial

from rnncore import device
from rnncore.corpus import Corpus
from rnncore.datasets import locate, loss_unit
from rnncore.epochs import finished, train_epoch
from rnncore.errors import UserError
from rnncore.evaluation import evaluate
from rnncore.flags import command
from rnncore.interrupts import Interrupt
from rnncore.run_options import describe
from rnncore.run_state import save_last
from rnncore.training_run import ready, reopened
from rnncore.windows import detach
from torch import Tensor

from urlstm.language_model import LanguageModel
from urlstm.options import CHANGEABLE, CONFIGURATIONS, LANGUAGE, LanguageOptions
from urlstm.run_state import Training
from urlstm.training import Evaluation, optimizer_step, under_way, validated

VALID_BATCH, TEST_BATCH = 10, 1


@command(
    LanguageOptions,
    name=LANGUAGE,
    examples=[
        "urlstm-language --config quick",
        "urlstm-language --data wikitext-103 --batch_size 64 --run_dir runs/wt103",
        "urlstm-language --data path/to/text --level character",
        "urlstm-language --resume --run_dir runs/wt103",
    ],
    shipped=CONFIGURATIONS / "language",
)
def main(options: LanguageOptions) -> None:
    """Train a language model: one gated layer, with one weight for embedding and decoder.

    The state goes on from window to window, in training and evaluation; --reset_state begins each from zeros. Losses
    are in nats per token.
    """
    run(options)


def run(options: LanguageOptions) -> None:
    """What the command does."""
    options, resumed = reopened(options, LANGUAGE, CHANGEABLE)
    place = ready(options)
    corpus = Corpus.load(locate(options.data), level=options.level)
    if resumed is not None and list(corpus.vocabulary.tokens) != resumed.saved["vocabulary"]:
        raise UserError(f"{options.data} has another vocabulary than the run to resume; give its --data")
    device.seed_everything(options.seed)
    model = build_model(options, len(corpus.vocabulary)).to(place)
    columns = {"train": options.batch_size, "valid": VALID_BATCH, "test": TEST_BATCH}
    texts = {split: corpus.columns(split, count, place) for split, count in columns.items()}
    if options.dry_run:
        print(describe(options, model), end="")
        return
    with under_way(
        options,
        LANGUAGE,
        place,
        model,
        model.recurrent,
        resumed=resumed,
        title=f"{options.data}: {len(corpus.vocabulary):,} types",
        unit=loss_unit(options.level, options.data),
        test=lambda training: _evaluate(options, model, texts["test"]),
        vocabulary=corpus.vocabulary,
    ) as (training, interrupt):
        _train(training, options, model, texts, interrupt)


def _train(
    training: Training,
    options: LanguageOptions,
    model: LanguageModel,
    texts: dict[str, Tensor],
    interrupt: Interrupt,
) -> None:
    """The epochs: windows one after the other, the state carried; validate; keep the best model."""
    log = training.log

    def step(inputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, float]]:
        def loss_of_window() -> Tensor:
            loss, state = model.loss(inputs, targets, training.state)
            training.state = detach(state)
            return loss

        return optimizer_step(training, loss_of_window), {}

    while not (finished(training, options.n_epochs) or interrupt):
        whole = train_epoch(training, texts["train"], interrupt, step, partial(min, options.seq_length))
        if interrupt and not whole:
            return
        with log.outside_step():
            result = _evaluate(options, model, texts["valid"])
            validated(training, result, keep=options.save_model, regular=whole)
            if not whole:  # --max_steps: the epoch goes on from what was saved
                return
            training.epoch, training.row, training.state = training.epoch + 1, 0, None
            save_last(training)


def _evaluate(options: LanguageOptions, model: LanguageModel, text: Tensor) -> Evaluation:
    """The mean loss of a text. The length of the windows matters only where each begins from zeros."""
    length = options.seq_length if options.reset_state else 140
    return Evaluation(evaluate(model, text, options.amp, length=length), {})


def build_model(options: LanguageOptions, vocabulary_size: int) -> LanguageModel:
    """The model that the options describe."""
    return LanguageModel(
        options.model_type,
        vocabulary_size,
        options.embedding_size,
        options.hidden_size,
        dropout=options.dropout_rate,
        reset_state=options.reset_state,
        forget_bias=options.forget_bias,
        trainable_bias=options.trainable_bias,
        t_max=options.t_max or max(3, options.seq_length),
    )
