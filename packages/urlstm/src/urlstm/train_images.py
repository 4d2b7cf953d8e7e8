"""``urlstm-images``: pictures pixel by pixel (section 4.2 of the paper)."""

from functools import partial

import torch
from rnncore import device
from rnncore.divergence import numbered_step
from rnncore.epochs import finished, out_of_steps
from rnncore.flags import command
from rnncore.interrupts import Interrupt
from rnncore.run_options import describe
from rnncore.run_state import save_last
from rnncore.training_run import ready, reopened
from torch import Tensor
from torch.nn import functional as F

from urlstm.images import CLASSES, Pictures, PictureSplits, load_pictures
from urlstm.models import ImageModel
from urlstm.options import CHANGEABLE, CONFIGURATIONS, IMAGES, ImagesOptions
from urlstm.random_streams import Purpose, stream
from urlstm.run_state import Training
from urlstm.training import Evaluation, evaluating, optimizer_step, under_way, validated


@command(
    ImagesOptions,
    name=IMAGES,
    examples=[
        "urlstm-images --config quick",
        "urlstm-images --dataset_type p-mnist --run_dir runs/p-mnist",
        "urlstm-images --dataset_type mnist --data path/to/mnist --readout all",
        "urlstm-images --resume --run_dir runs/p-mnist",
    ],
    shipped=CONFIGURATIONS / "images",
)
def main(options: ImagesOptions) -> None:
    """Train on pictures, read pixel by pixel: MNIST, MNIST with its pixels permuted, CIFAR-10, or small digits.

    The loss is the cross entropy in nats per picture; evaluations tell the accuracy, too. --dataset_type digits comes
    with scikit-learn: 1,797 pictures of 8 x 8 pixels, no download.
    """
    run(options)


def run(options: ImagesOptions) -> None:
    """What the command does."""
    options, resumed = reopened(options, IMAGES, CHANGEABLE)
    place = ready(options)
    pictures = load_pictures(options.dataset_type, options.data, options.seed)
    device.seed_everything(options.seed)
    model = build_model(options, pictures).to(place)
    if options.dry_run:
        print(describe(options, model), end="")
        return
    title = f"{options.dataset_type}: {len(pictures.train):,} pictures of {pictures.steps} pixels"
    with under_way(
        options,
        IMAGES,
        place,
        model,
        model.recurrent,
        resumed=resumed,
        title=title,
        test=lambda training: _evaluate(training, model, pictures.test, options.batch_size),
    ) as (training, interrupt):
        _train(training, options, model, pictures, interrupt)


def _train(
    training: Training, options: ImagesOptions, model: ImageModel, pictures: PictureSplits, interrupt: Interrupt
) -> None:
    """The epochs: each picture once, in a new order; validate; keep the best model."""
    log, train, steps = training.log, pictures.train, pictures.steps

    def loss_of(which: Tensor) -> Tensor:
        pixels, labels = train.batch(which, training.device)
        return F.cross_entropy(model(pixels), labels)

    while not (finished(training, options.n_epochs) or interrupt):
        log.epoch(training.epoch, len(train) * steps, done=training.row * steps)
        model.train()
        stop = out_of_steps(training)
        order = torch.from_numpy(stream(options.seed, Purpose.ORDER, training.epoch).permutation(len(train)))
        while training.row < len(train) and not stop:
            which = order[training.row : training.row + options.batch_size]
            with numbered_step(log, model, saved=training.run.last.exists()):
                loss = optimizer_step(training, partial(loss_of, which))
            training.row += len(which)
            log.step(loss, len(which) * steps)
            stop = bool(interrupt) or out_of_steps(training)
            if stop or log.global_step % options.checkpoint_interval == 0:
                with log.outside_step():
                    save_last(training)
        if interrupt and training.row < len(train):
            return
        with log.outside_step():
            whole = training.row == len(train)
            result = _evaluate(training, model, pictures.valid, options.batch_size)
            validated(training, result, keep=options.save_model, regular=whole)
            if not whole:  # --max_steps: the epoch goes on from what was saved
                return
            training.epoch, training.row = training.epoch + 1, 0
            save_last(training)


def _evaluate(training: Training, model: ImageModel, pictures: Pictures, batch_size: int) -> Evaluation:
    """The mean loss in nats per picture, and the accuracy."""
    total, right = torch.zeros(2, dtype=torch.float64, device=training.device).unbind()
    with evaluating(training):
        for start in range(0, len(pictures), batch_size):
            pixels, labels = pictures.batch(slice(start, start + batch_size), training.device)
            logits = model(pixels)
            total += F.cross_entropy(logits, labels, reduction="sum")
            right += (logits.argmax(1) == labels).sum()
    return Evaluation(float(total) / len(pictures), {"accuracy": float(right) / len(pictures)})


def build_model(options: ImagesOptions, pictures: PictureSplits) -> ImageModel:
    """The model that the options describe, for these pictures."""
    return ImageModel(
        options.model_type,
        pictures.channels,
        pictures.steps,
        options.hidden_size_lstm,
        options.hidden_size_relu,
        CLASSES,
        readout=options.readout,
        forget_bias=options.forget_bias,
        trainable_bias=options.trainable_bias,
        t_max=options.t_max or max(3, pictures.steps),
    )
