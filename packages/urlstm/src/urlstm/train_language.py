"""``urlstm-language``: language modelling (section 4.3 of the paper)."""

from rnncore import device
from rnncore.corpus import Corpus
from rnncore.datasets import locate, loss_unit
from rnncore.errors import UserError
from rnncore.evaluation import evaluate
from rnncore.flags import command
from rnncore.interrupts import Interrupt
from rnncore.run_options import describe
from rnncore.run_state import save_last
from rnncore.windows import detach, window
from torch import Tensor

from urlstm.language_model import LanguageModel
from urlstm.options import CONFIGURATIONS, LANGUAGE, LanguageOptions
from urlstm.run_state import Training
from urlstm.training import Evaluation, begin, finish, optimizer_step, under_way, validated

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
    options, place, resumed = begin(options, LANGUAGE)
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
        total_steps=options.max_steps or None,
        vocabulary=corpus.vocabulary,
    ) as (training, interrupt):
        _train(training, options, model, texts, interrupt)
        if not interrupt:
            finish(training, lambda: _evaluate(options, model, texts["test"]))


def _train(
    training: Training,
    options: LanguageOptions,
    model: LanguageModel,
    texts: dict[str, Tensor],
    interrupt: Interrupt,
) -> None:
    """The epochs: windows one after the other, the state carried; validate; keep the best model."""
    log, text = training.log, texts["train"]
    rows = len(text) - 1

    def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
        loss, state = model.loss(inputs, targets, training.state)
        training.state = detach(state)
        return loss

    while not (training.finished(options.n_epochs) or interrupt):
        log.epoch(training.epoch, rows * options.batch_size, done=training.row * options.batch_size)
        model.train()
        stop = training.out_of_steps
        while training.row < rows and not stop:
            inputs, targets = window(text, training.row, min(options.seq_length, rows - training.row))
            loss = optimizer_step(training, lambda pair=(inputs, targets): loss_of(*pair))  # type: ignore[misc]
            training.row += len(inputs)
            log.step(loss, inputs.numel())
            stop = bool(interrupt) or training.out_of_steps
            if stop or log.global_step % options.checkpoint_interval == 0:
                with log.outside_step():
                    save_last(training)
        if interrupt and training.row < rows:
            return
        with log.outside_step():
            whole = training.row == rows
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
