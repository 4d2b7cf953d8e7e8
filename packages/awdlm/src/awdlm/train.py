"""``awdlm-train``: AWD-LSTM, AWD-GRU and AWD-QRNN language models of words or characters.

The recipe is algorithm 1 of the paper: SGD on windows of random length, the rate scaled by the length, until the
validation loss stalls; from then on the weights are averaged, and the averages are evaluated. Or Adam, with a rate that
is divided by 10 after given epochs.
"""

import torch
from rnncore.epochs import finished, learning_rate
from rnncore.flags import command
from rnncore.interrupts import Interrupt
from rnncore.run_options import describe
from rnncore.run_state import save_model
from rnncore.training_run import ready, reopened
from rnncore.vocabulary import Vocabulary

from awdlm.model import AWDModel
from awdlm.options import TRAIN, TrainOptions, build_model
from awdlm.run_state import Training
from awdlm.saved_model import load_corpus
from awdlm.training import CHANGEABLE, begin_epoch, texts_of, train_epoch, under_way, validate


@command(
    TrainOptions,
    name=TRAIN,
    examples=[
        "awdlm-train --batch_size 20 --dropouti 0.4 --dropouth 0.25 --seed 141 --epochs 500 --save PTB.pt",
        "awdlm-train --model QRNN --batch_size 20 --wdrop 0.1 --nhid 1550 --nlayers 4 --save PTB.pt",
        "awdlm-train --data enwik8 --optimizer adam --lr 1e-3 --when 25 35 --alpha 0 --beta 0 --dropoute 0",
        "awdlm-train --resume runs/awdlm-train/2030-01-31_12-00-00",
    ],
)
def main(options: TrainOptions) -> None:
    """Train a language model of LSTM, GRU or QRNN layers, regularised everywhere, on words or characters.

    With SGD, the weights are averaged from the epoch in which the validation loss no longer falls (--nonmono), and the
    averages are what is evaluated and saved. Losses are in nats per token.
    """
    options, resumed = reopened(options, TRAIN, CHANGEABLE | {"when"})
    place = ready(options, seed=options.seed, cuda=options.cuda)
    corpus = load_corpus(options, Vocabulary(resumed.saved["vocabulary"]) if resumed else None)
    model = build_model(options, len(corpus.vocabulary)).to(place)
    texts = texts_of(corpus, options, place)
    if options.dry_run:
        print(describe(options, model), end="")
        return
    optimizer = _optimizer(options, model)
    with under_way(options, TRAIN, corpus, texts, model, optimizer, copy=options.save, resumed=resumed) as (
        training,
        interrupt,
    ):
        _train(training, options, interrupt)


def _train(training: Training, options: TrainOptions, interrupt: Interrupt) -> None:
    """The epochs: train, validate, keep the best model, go over to averaging, divide the rate."""
    log, averages = training.log, training.averages
    while not (finished(training, options.epochs) or interrupt):
        whole = train_epoch(training, interrupt)
        if interrupt and not whole:
            return
        with log.outside_step():
            loss = validate(training, regular=whole)
            if not whole:  # --max_steps: the epoch goes on from what was saved
                return
            if options.optimizer == "sgd" and not averages.active and training.trigger.update(loss):
                averages.start()
                log.say("the validation loss stalls: from now on the weights are averaged")
            if training.epoch in options.when:
                _save_epoch(training)
                training.optimizer.param_groups[0]["lr"] /= 10
                log.say(f"learning rate {learning_rate(training.optimizer):g}")
            begin_epoch(training)


def _save_epoch(training: Training) -> None:
    """Write the model as it is to ``epoch<N>.pt``, and beside the copy of the best model if there is one."""
    save_model(training, training.run.path / f"epoch{training.epoch}.pt")
    if (copy := training.copy) is not None:
        save_model(training, copy.with_name(f"{copy.stem}.e{training.epoch}{copy.suffix}"))


def _optimizer(options: TrainOptions, model: AWDModel) -> torch.optim.Optimizer:
    rate, decay = options.learning_rate, options.weight_decay
    if options.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=rate, weight_decay=decay)
    return torch.optim.SGD(model.parameters(), lr=rate, weight_decay=decay, fused=True)  # one pass over the weights
