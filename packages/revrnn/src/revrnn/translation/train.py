"""``revrnn-nmt-train``: encoder-decoders with attention, reversible or plain.

The recipe is that of the paper's repository: batches of sentences of like lengths, the loss summed over words and
divided by sentences, the rate decayed when the validation loss does not fall. The best model is tested.

Shapes: S and T time steps, B batch.
"""

import dataclasses
import math
import secrets
from functools import partial
from pathlib import Path

import torch
from rnncore import device
from rnncore.divergence import numbered_step, require_finite_step
from rnncore.epochs import out_of_steps
from rnncore.errors import UserError
from rnncore.flags import command
from rnncore.interrupts import Interrupt
from rnncore.memory import peak_cuda_mb, peak_rss_mb, reset_peak_cuda, reset_peak_rss
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.run_options import describe
from rnncore.run_state import keep_best, save_last
from rnncore.training_run import draw_curves, load_best, ready, reopened, under_way
from torch import Tensor

from revrnn.translation.bleu import bleu
from revrnn.translation.building import build_model, load_model, load_vectors
from revrnn.translation.encoded import Pairs, TranslationData, load, pairs_of
from revrnn.translation.fields import epoch_batches, sorted_batches
from revrnn.translation.model import Batch, TranslationModel
from revrnn.translation.options import COMMAND, TranslationOptions
from revrnn.translation.parallel_text import write_lines
from revrnn.translation.reversal import loss_and_backward
from revrnn.translation.run_state import Training
from revrnn.translation.translator import Search, Translator

#: Options that a resumed run may change.
CHANGEABLE = {"data", "epochs", "gpuid", "report_every", "no_log_during_epoch", "checkpoint_interval", "beam_size"}
CHANGEABLE |= {"save_model", "save_dir"}
#: The sentence batch of the BLEU at the end.
TRANSLATED = 250


@command(
    TranslationOptions,
    name=COMMAND,
    examples=[
        f"{COMMAND} -data data/toy/toy.tok.low -encoder_model Rev -decoder_model Rev -encoder_rnn_type revgru "
        "-decoder_rnn_type revgru -context_type slice_emb -slice_dim 20 -use_reverse --run_dir runs/toy",
        f"{COMMAND} --resume --run_dir runs/toy",
    ],
)
def main(options: TranslationOptions) -> None:
    """Train an encoder and decoder with attention on pairs of sentences.

    With -use_reverse the hidden states of both are not stored: the decoder, then the encoder, are rebuilt exactly,
    backward in time. What is attended to (-context_type) is what has to be kept or computed again. At the end the best
    model translates the validation and test texts, and BLEU is told with its signature.
    """
    options, resumed = reopened(options, COMMAND, CHANGEABLE)
    options.check()
    if options.seed == -1:
        options = dataclasses.replace(options, seed=secrets.randbelow(2**31))
    gpu = f"cuda:{options.gpuid[0]}" if options.gpuid and options.device == "auto" else options.device
    place = ready(dataclasses.replace(options, device=gpu), seed=options.seed)
    data = load(Path(options.data))
    if resumed is not None:
        known = resumed.saved["vocabularies"]
        if list(data.vocabularies) != [known[side] for side in ("source", "target")]:
            raise UserError(f"{options.data} has another vocabulary than the run to resume; give its -data")
    model = build_model(options, data.vocabularies)
    if resumed is None:
        _begin_with(options, model, data.vocabularies)
        load_vectors(options, model)
    model.to(place)
    if options.dry_run:
        print(describe(options, model), end="")
        return
    with under_way(
        options,
        COMMAND,
        partial(_prepared, options, place, data, model),
        resumed=resumed,
        title=f"{options.encoder_model} {options.encoder_rnn_type} on {options.data}: "
        f"{len(data.pairs['train']):,} pairs",
        finish=_finish,
        log_interval=10**9 if options.no_log_during_epoch else options.report_every,
        unit="ppl",
        place=options.run_path,
    ) as (training, interrupt):
        _train(training, interrupt)


def _prepared(
    options: TranslationOptions,
    place: torch.device,
    data: TranslationData,
    model: TranslationModel,
    run: RunDirectory,
    log: RunLog,
) -> Training:
    """A run that has not begun."""
    return Training(
        options=options,
        device=place,
        data=data,
        model=model,
        optimizer=_optimizer(options, model),
        run=run,
        log=log,
        epoch=options.start_epoch,
    )


def _train(training: Training, interrupt: Interrupt) -> None:
    """The epochs: train, validate, keep the best model, decay the rate when the loss does not fall."""
    options, log, pairs = training.options, training.log, training.data.pairs["train"]
    words = [len(target) + 1 for target in pairs.target]
    while not (training.finished or interrupt):
        batches = epoch_batches(pairs, options.batch_size, seed=options.seed, epoch=training.epoch)
        sizes = [sum(words[number] for number in numbers) for numbers in batches]
        log.epoch(training.epoch, sum(sizes), done=sum(sizes[: training.row]))
        training.model.train()
        _reset_peaks(training)
        stop = out_of_steps(training)
        while training.row < len(batches) and not stop:
            batch = pairs.batch(batches[training.row]).to(training.device)
            saved = training.run.last.exists()
            with numbered_step(log, training.model, saved=saved):
                loss, extra = _step(training, batch)
            log.step(loss / sizes[training.row], sizes[training.row], extra=extra)
            training.row += 1
            stop = bool(interrupt) or out_of_steps(training)
            if stop or log.global_step % options.checkpoint_interval == 0:
                with log.outside_step():
                    save_last(training)
        whole = training.row == len(batches)
        if interrupt and not whole:
            return
        with log.outside_step():
            valid_loss = validate(training.model, training.data.pairs["valid"], options, training.device)
            log.evaluated("valid", valid_loss, extra=training.tally.savings)
            if not whole:  # --max_steps: the epoch goes on from what was saved
                keep_best(training, valid_loss, regular=False)
                return
            _report_memory(training)
            if valid_loss >= training.tally.before or training.epoch >= options.start_decay_at:
                _decay(training)
            if training.epoch >= options.start_checkpoint_at or training.trained:  # by a rate that is too small
                keep_best(training, valid_loss)
            training.epoch, training.row = training.epoch + 1, 0
            training.tally.begin(valid_loss)
            save_last(training)


def _step(training: Training, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """One optimizer step: the loss summed over words, and numbers for the log when a line is due."""
    options, model, log = training.options, training.model, training.log
    counted = options.use_reverse or options.use_buffers
    counted = counted and (log.due or training.row == 0)
    if options.decay_method == "noam":
        step, warmup = log.global_step + 1, options.warmup_steps
        rate = options.learning_rate * options.rnn_size**-0.5 * min(step**-0.5, step * warmup**-1.5)
        training.optimizer.param_groups[0]["lr"] = rate
    extra = {"lr": training.rate} if log.due else {}
    training.optimizer.zero_grad()
    scale = 1 / batch.source.shape[1]
    with device.autocast(training.device, options.amp):
        if options.use_reverse:
            result = loss_and_backward(model, batch, scale, count_bits=counted)
        else:
            result = model.loss(batch, count_bits=counted)
    if not options.use_reverse:
        (result.loss * scale).backward()  # type: ignore[no-untyped-call]
    if counted:
        memory = training.tally.count(result)
        extra |= memory if options.log_mem and log.due else {}
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options.max_grad_norm or math.inf)
    require_finite_step(result.loss.detach(), norm)
    training.optimizer.step()
    return result.loss.detach(), extra


@torch.no_grad()
def validate(model: TranslationModel, pairs: Pairs, options: TranslationOptions, place: torch.device) -> float:
    """The mean loss of pairs in nats per target word, without dropout and label smoothing."""
    model.eval()
    total, words = torch.zeros((), dtype=torch.float64, device=place), 0
    lengths = [len(source) for source in pairs.source]
    for numbers in sorted_batches(lengths, options.valid_batch_size):
        with device.autocast(place, options.amp):
            total += model.loss(pairs.batch(numbers).to(place)).loss
        words += sum(len(pairs.target[number]) + 1 for number in numbers)
    model.train()
    return float(total) / words


def _finish(training: Training) -> None:
    """Translates validation and test texts with the best model, and draws the curves.

    What ``--max_steps`` stopped is not translated: sentences of a model that has hardly learned do not end.
    """
    log, run, options, model = training.log, training.run, training.options, training.model
    load_best(training)
    wanted = options.beam_size and training.trained
    bleus = {split: _bleu(training, split) for split in training.data.texts} if wanted else {}
    if "test" in training.data.texts:
        test = pairs_of(training.data.texts["test"], training.data.vocabularies)
        extra = {"bleu": bleus["test"]} if bleus else {}
        log.evaluated("test", validate(model, test, options, training.device), extra=extra)
    log.end()
    log.say(f"run directory {run.path} | curves {draw_curves(run)} | revrnn-nmt-translate -model {run.path} -src FILE")
    if options.beam_size and not wanted:
        log.say("stopped by --max_steps: no BLEU; for that, add to the command above -tgt REFERENCE -report_bleu")


def _bleu(training: Training, split: str) -> float:
    """Translates a split, keeps the translations, and scores them."""
    texts, run = training.data.texts[split], training.run
    translator = Translator(training.model, training.data.vocabularies)
    sentences = [line.split() for line in texts.source]
    found = list(translator.best(sentences, Search(beam_size=training.options.beam_size), TRANSLATED))
    write_lines(run.path / f"{split}.translated.txt", found)
    score, signature = bleu(found, texts.target)
    training.log.say(f"{split} BLEU {score:.2f} ({signature})")
    return score


def _begin_with(
    options: TranslationOptions, model: TranslationModel, vocabularies: tuple[list[str], list[str]]
) -> None:
    """The weights of ``-train_from``."""
    if options.train_from:
        other, theirs, _, saved = load_model(Path(options.train_from))
        if theirs != vocabularies:
            raise UserError(f"-train_from {options.train_from} has another vocabulary than {options.data}")
        if {name: p.shape for name, p in other.named_parameters()} != {n: p.shape for n, p in model.named_parameters()}:
            raise UserError(f"-train_from {options.train_from} is another model; give its options")
        model.load_state_dict(saved["model"])


def _optimizer(options: TranslationOptions, model: TranslationModel) -> torch.optim.Optimizer:
    parameters, rate = [p for p in model.parameters() if p.requires_grad], options.learning_rate
    if options.optim == "sgd":
        return torch.optim.SGD(parameters, lr=rate, fused=True)
    if options.optim == "adagrad":
        start = options.adagrad_accumulator_init
        return torch.optim.Adagrad(parameters, lr=rate, initial_accumulator_value=start)
    if options.optim == "adadelta":
        return torch.optim.Adadelta(parameters, lr=rate)
    return torch.optim.Adam(parameters, lr=rate, betas=(options.adam_beta1, options.adam_beta2), eps=1e-9, fused=True)


def _decay(training: Training) -> None:
    if not training.options.decay_method:
        training.optimizer.param_groups[0]["lr"] *= training.options.learning_rate_decay
        training.log.say(f"learning rate {training.rate:g}")


def _reset_peaks(training: Training) -> None:
    reset_peak_rss()
    reset_peak_cuda(training.device)


def _report_memory(training: Training) -> None:
    """Says what the hidden states of the epoch took, and the process."""
    peak = f"{peak_rss_mb():.0f} MB"
    if training.device.type == "cuda":
        peak += f", on the GPU {peak_cuda_mb(training.device):.0f} MB"
    parts = []
    for side, each in (("encoder", training.tally.encoder), ("decoder", training.tally.decoder)):
        if each.normal:
            shown = f"{side} states {each.normal / 2**23:.1f} MB, in buffers {each.used / 2**23:.2f} MB"
            parts.append(f"{shown}: {each.saving:.1f} times less, {each.best_saving:.1f} at best")
    training.log.say(" | ".join([*parts, f"peak memory of the epoch {peak}"]))
