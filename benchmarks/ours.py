"""Measure PaddleMAE: its own loop, loss and inference, as its tasks call them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np

from benchmarks.worker import Clock, NotAvailable, images_u8, labels, masks, resident_bytes
from benchmarks.works import AUXILIARY_WEIGHT, BETAS, LR, MEAN, NUM_CLASSES, PIXEL_CLASSES, STD, WEIGHT_DECAY, Job
from paddlemae.engine import device
from paddlemae.engine.cpus import usable_cpus
from paddlemae.engine.precision import check_precision

Options = dict[str, Any]
FOREVER = 10**9  # steps; the clock ends a run
WORKERS = 1  # processes that make batches, as in the recipe cifar10
# CrossMAE (arXiv 2401.14391), sec. 3.3 and 4.1: a quarter of the patches predicted, 12 decoder blocks where MAE has 8
CROSS_PREDICTION = 0.25


def pretrain(job: Job, options: Options, ranks: Any = None, stream: Any = None) -> dict[str, object]:
    """Time pretraining steps: uint8 images -> normalised -> loss -> gradients -> AdamW, as `tasks.pretrain` does them.

    Args:
        ranks: processes that share each batch (`train.parallel.ranks.Ranks`); None is this one alone.
        stream: batches; None takes them from memory.
    """
    precision = precision_of(options)
    started = prepare(job, precision)
    from paddlemae.tasks.models.build import describe
    from paddlemae.tasks.training.pretraining_loss import loss_function

    recipe, model = autoencoder(job, options)
    loss_fn = loss_function(recipe, describe(model, (MEAN, STD), eval_crop_ratio=1.0))
    return {**train(job, model, loss_fn, ranks, stream=stream, precision=precision), "start_bytes": started}


def end_to_end(job: Job, options: Options) -> dict[str, object]:
    """Time pretraining from JPEG files, which a worker process decodes, crops and flips, as in the recipe cifar10."""
    from benchmarks.input_pipeline import training_view
    from paddlemae.data.batches import train_batches
    from paddlemae.data.sources import open_source

    source, view = open_source(job.photos), training_view(job)
    with closing(
        train_batches(source, view, batch_size=job.batch, seed=0, num_steps=FOREVER, workers=WORKERS)
    ) as stream:
        return pretrain(job, options, stream=stream)


def classify(job: Job, options: Options) -> dict[str, object]:
    """Time training steps of a classifier on the cls token, as transformers' ViT does it."""
    started = prepare(job)
    import paddle
    import paddle.nn.functional as F

    from paddlemae.model.classifier import VisionTransformer
    from paddlemae.tasks.models.build import describe
    from paddlemae.tasks.models.preprocess import to_input

    paddle.seed(0)
    model = VisionTransformer(**encoder(job), num_classes=NUM_CLASSES, pool="cls")
    description = describe(model, (MEAN, STD), eval_crop_ratio=1.0)

    def loss_fn(network, batch):
        return F.cross_entropy(network(to_input(batch.images, description)), paddle.to_tensor(batch.targets))

    return {**train(job, model, loss_fn), "start_bytes": started}


def segment(job: Job, options: Options) -> dict[str, object]:
    """Time training steps of a segmenter with UPerNet and its auxiliary head, as `tasks.segment` does them."""
    started = prepare(job)
    from paddlemae.tasks.models.preprocess import to_input
    from paddlemae.tasks.training.segmentation_loss import masks_of, segmentation_loss

    model, description = segmenter(job)

    def loss_fn(network, batch):
        logits, auxiliary = network.forward_with_auxiliary(to_input(batch.images, description))
        classes = masks_of(batch)
        return segmentation_loss(logits, classes) + AUXILIARY_WEIGHT * segmentation_loss(auxiliary, classes)

    return {**train(job, model, loss_fn, targets=masks(job)), "start_bytes": started}


def predict_masks(job: Job, options: Options) -> dict[str, object]:
    """Time the class of every pixel, from uint8 images to a NumPy array."""
    started = prepare(job)
    from paddlemae.tasks.models.inference import LOGITS, forward_function

    model, description = segmenter(job)
    forward = forward_function(model, description, LOGITS, threads=job.threads)
    return {**timed(job, lambda images: forward(images).argmax(axis=1)), "start_bytes": started}


def segmenter(job: Job):
    """Return (model, description) of a segmenter."""
    import paddle

    from paddlemae.model.segmenter import Segmenter
    from paddlemae.tasks.models.build import describe

    paddle.seed(0)
    model = Segmenter(**encoder(job), num_classes=PIXEL_CLASSES, head="upernet", positions="learned")
    return model, describe(model, (MEAN, STD), eval_crop_ratio=1.0)


def features(job: Job, options: Options) -> dict[str, object]:
    """Time the cls token of whole images, from uint8 images to a NumPy array, as `tasks.models.features` does."""
    precision = precision_of(options)
    started = prepare(job, precision)
    from paddlemae.tasks.models.inference import FeatureKind, forward_function

    model, description = feature_model(job)
    forward = forward_function(model, description, FeatureKind("cls", precision=precision), threads=job.threads)
    return {**timed(job, forward), "start_bytes": started}


def timed(job: Job, forward: Callable[[np.ndarray], object]) -> dict[str, object]:
    """Time a function on batches, one after another."""
    clock, batches = Clock(job), itertools.cycle(images_u8(job))
    while not clock.done():
        forward(next(batches))
        clock.mark()
    return {"seconds": clock.seconds(), "threads": job.threads}


def feature_model(job: Job):
    """Return (model, description) of an encoder."""
    import paddle

    from paddlemae.model.classifier import VisionTransformer
    from paddlemae.tasks.models.build import describe

    paddle.seed(0)
    model = VisionTransformer(**encoder(job), num_classes=2, pool="cls")
    return model, describe(model, (MEAN, STD), eval_crop_ratio=1.0)


def precision_of(options: Options) -> Any:
    return options.get("precision", "float32")


def prepare(job: Job, precision: str = "float32") -> int:
    """Make Paddle ready, as a command would; returns the bytes that this process holds before it has a model.

    Raises:
        NotAvailable: a precision that this processor can't compute in.
    """
    device.prepare("cpu", "auto" if job.threads == usable_cpus() else job.threads)
    try:
        check_precision(precision)
    except ValueError as fault:
        raise NotAvailable(str(fault)) from fault
    return resident_bytes()


def encoder(job: Job) -> Options:
    """Return an encoder's shape under our names."""
    return {name: value for name, value in job.shape.items() if not name.startswith("decoder")}


def autoencoder(job: Job, options: Options):
    """Return (recipe, model): the paper's decoder, or CrossMAE's that predicts a quarter of the patches."""
    import paddle

    from paddlemae.model.mae import MaskedAutoencoder
    from paddlemae.recipe import build_recipe
    from paddlemae.tasks.models.build import arguments_of

    content: Options = {"mask_ratio": job.mask_ratio, "model": {**job.shape, "norm_pix_loss": True}}
    if options.get("cross"):
        content["prediction_ratio"] = CROSS_PREDICTION
        content["model"] |= {"decoder": "cross", "decoder_depth": job.shape["decoder_depth"] * 3 // 2}
    recipe = build_recipe("pretrain", content)
    paddle.seed(0)
    model = MaskedAutoencoder(**arguments_of(recipe.model))
    model.recompute = bool(options.get("recompute"))
    return recipe, model


def batches(job: Job, rank: int = 0, world: int = 1, targets: list[np.ndarray] | None = None):
    """Yield the loop's batches, or a rank's share of them, from memory."""
    from paddlemae.data.batches import Batch

    places = np.arange(job.batch)
    own = slice(rank * job.batch // world, (rank + 1) * job.batch // world)
    pairs = itertools.cycle(zip(images_u8(job), targets or labels(job)))
    for number, (images, target) in enumerate(pairs):
        yield Batch(images[own], target[own], places[own] + number * job.batch, np.zeros_like(places[own]))


def train(
    job: Job,
    model,
    loss_fn: Callable,
    ranks: Any = None,
    targets: list[np.ndarray] | None = None,
    stream: Any = None,
    precision: Any = "float32",
) -> dict[str, object]:
    """Time steps of the package's own loop from outside."""
    from paddlemae.recipe import Training
    from paddlemae.tasks.training.run_training import share_cpu
    from paddlemae.train.checkpoint import TrainState
    from paddlemae.train.loop import FitSettings, fit
    from paddlemae.train.optim import adamw
    from paddlemae.train.parallel.ranks import ALONE

    ranks = ranks or ALONE
    clock, losses = Clock(job), []

    def after_step(state, result) -> None:
        losses.append(result.loss)
        clock.mark()

    fit(
        TrainState(model, adamw(model, weight_decay=WEIGHT_DECAY, betas=BETAS)),
        stream or batches(job, ranks.rank, ranks.world, targets),
        loss_fn,
        lambda step: LR,
        share_cpu(
            FitSettings(
                FOREVER,
                precision=precision,
                ranks=ranks,
                after_step=[after_step],
                should_stop=lambda: ranks.from_first(clock.done),
            ),
            model,
            Training(batch_size=job.batch, threads=job.threads, recompute=model.recompute),
        ),
    )
    return {"seconds": clock.seconds(), "losses": [losses[0], losses[-1]], "threads": job.threads}


TASKS = {
    "pretrain": pretrain,
    "end-to-end": end_to_end,
    "memory": pretrain,
    "classify": classify,
    "features": features,
    "segment": segment,
    "predict-masks": predict_masks,
}
