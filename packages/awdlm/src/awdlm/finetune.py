"""``awdlm-finetune``: a trained model goes on with averaged SGD from the first step (Merity et al. 2017, section 5)."""

import dataclasses
from pathlib import Path

import torch
from rnncore.epochs import finished
from rnncore.flags import command
from rnncore.interrupts import Interrupt
from rnncore.run_options import describe
from rnncore.run_state import save_last
from rnncore.training_run import ready, reopened
from rnncore.vocabulary import Vocabulary

from awdlm.options import FINETUNE, FinetuneOptions, build_model
from awdlm.run_state import Training
from awdlm.saved_model import find, keep_model, load, load_corpus
from awdlm.training import CHANGEABLE, begin_epoch, texts_of, train_epoch, under_way, validate


@command(
    FinetuneOptions,
    name=FINETUNE,
    examples=[
        "awdlm-finetune --save PTB.pt --batch_size 20 --dropouti 0.4 --dropouth 0.25 --seed 141 --epochs 500",
        "awdlm-finetune --resume runs/awdlm-finetune/2030-01-31_12-00-00",
    ],
)
def main(options: FinetuneOptions) -> None:
    """Go on training a model with averaged SGD, until its validation loss stalls again (--nonmono).

    PTB.pt stays as it is, and the result goes beside it, to PTB.finetuned.pt, unless --in_place is given. What the
    model is (--model, --nhid and so on) and its data come from the checkpoint.
    """
    options, resumed = reopened(options, FINETUNE, CHANGEABLE)
    if resumed is not None:
        vocabulary, weights = Vocabulary(resumed.saved["vocabulary"]), resumed.saved["model"]
    else:
        source = load(find(options.save, flag="--save"))
        options = dataclasses.replace(keep_model(options, source), save=source.path)
        vocabulary, weights = source.vocabulary, source.model.state_dict()
    place = ready(options, seed=options.seed, cuda=options.cuda)
    corpus = load_corpus(options, vocabulary)
    model = build_model(options, len(vocabulary)).to(place)
    model.load_state_dict(weights)
    texts = texts_of(corpus, options, place)
    if options.dry_run:
        print(describe(options, model), end="")
        return
    rate, decay = options.learning_rate, options.weight_decay
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, weight_decay=decay, fused=True)
    with under_way(options, FINETUNE, corpus, texts, model, optimizer, copy=_result(options), resumed=resumed) as (
        training,
        interrupt,
    ):
        _train(training, interrupt)


def _train(training: Training, interrupt: Interrupt) -> None:
    """The epochs, averaged from the first step, until the validation loss stalls."""
    log = training.log
    if not training.averages.active:
        with log.outside_step():
            validate(training)  # what is to be improved; nothing worse is kept
            training.averages.start()
            save_last(training)
    while not (finished(training, training.options.epochs) or training.trigger.fired or interrupt):
        whole = train_epoch(training, interrupt)
        if interrupt and not whole:
            return
        with log.outside_step():
            loss = validate(training)
            if not whole:  # --max_steps: the epoch goes on from what was saved
                return
            if training.trigger.update(loss):
                log.say("the validation loss stalls: done")
            begin_epoch(training)


def _result(options: FinetuneOptions) -> Path:
    """Where the finetuned model goes: ``PTB.pt`` gives ``PTB.finetuned.pt``."""
    assert options.save is not None
    return options.save if options.in_place else options.save.with_name(f"{options.save.stem}.finetuned.pt")
