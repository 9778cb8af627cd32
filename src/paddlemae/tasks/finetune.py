"""Fine-tune a classifier end to end, from a pretrained run or from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paddle
import paddle.nn.functional as F

from paddlemae.data.batches import ERASING_STREAM, Batch, batch_rngs, eval_batches
from paddlemae.data.sources import (
    Source,
    balanced_subset,
    labelled_count,
    matched,
    open_source,
    split_off,
    with_classes,
)
from paddlemae.data.views.augment import View
from paddlemae.data.views.erasing import Erasing, draw_erasing
from paddlemae.data.views.mixup import MixedBatch, Mixing, mixed_batches, mixed_labels
from paddlemae.engine import device
from paddlemae.engine.device import tensor_of
from paddlemae.model.vit import VisionTransformer, freeze
from paddlemae.recipe import SCRATCH, FinetuneRecipe, ProbeRecipe
from paddlemae.tasks.models.build import (
    build_classifier,
    check_memory,
    classifier_arguments,
    describe,
    fitted,
    named,
    parameter_count,
)
from paddlemae.tasks.models.inference import LOGITS, forward_function
from paddlemae.tasks.models.preprocess import evaluation_view, path_noise, statistics_of, to_input, training_view
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.training.auto_statistics import Measure, measured, recalled, statistics_plan, with_those_of
from paddlemae.tasks.training.classification import Evaluation, evaluation_of, finish
from paddlemae.tasks.training.dry_run import block_numbers, schedule_plan, step_bytes
from paddlemae.tasks.training.exhibits import fixed_images, show_attention
from paddlemae.tasks.training.memory_trial import memory_plan
from paddlemae.tasks.training.optional_output import optional
from paddlemae.tasks.training.run_start import Start, check_start, enter_run
from paddlemae.tasks.training.run_training import Course, run_training, training_batches
from paddlemae.tasks.training.skipped_images import SkippedImages, open_skipped
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.ema import Ema
from paddlemae.train.loop import check_precision
from paddlemae.train.optim import adamw
from paddlemae.train.parallel.loss_layer import LossFn
from paddlemae.train.parallel.ranks import ALONE, Ranks
from paddlemae.weights.model_folder import Description, read_description


def finetune(recipe: FinetuneRecipe, start: Start, *, beside: str | None = None) -> dict[str, Any]:
    """Fine-tune as the recipe says and leave a run folder with the best and the last checkpoint.

    Args:
        beside: a pretraining run that gets the result into its own ones, for comparison; by default the one that
            this starts from.
    Returns:
        the result, as in `result.json`: top-1 and top-5 of the last step in [0, 1], the best top-1 and its step.
    Raises:
        ValueError, FileNotFoundError: a recipe, data, checkpoint or folder that can't be used; nothing is written.
        KeyboardInterrupt, Preempted, NonFiniteLoss, OSError: training ended early; the text says what was kept.
    """
    with start.held():
        return _finetune(recipe, start, beside)


def _finetune(recipe: FinetuneRecipe, start: Start, beside: str | None) -> dict[str, Any]:
    recipe = recalled(recipe, start)
    start = check_start(start, recipe, recipe.init)
    parts = prepare(recipe, start.checkpoint, partial(measured, start), trust=start.trust)
    recipe = with_those_of(recipe, parts.description)
    training, model = recipe.training, parts.model
    optimizer = adamw(
        model,
        weight_decay=training.weight_decay,
        betas=recipe.betas,
        layer_decay=recipe.layer_decay,
    )
    state = TrainState(model, optimizer, ema=None if recipe.ema_decay is None else Ema(model, recipe.ema_decay))
    enter_run(start, recipe, state, parts.description)
    start.say(
        f"fine-tuning {parameter_count(model) / 1e6:.2f} million parameters from {recipe.init} "
        f"on {parts.train.name}, {len(parts.train)} images, {len(parts.train.classes)} classes; "
        f"evaluating on {parts.held_out.name}, {len(parts.held_out)} images"
    )
    listed = open_skipped(start, state, [parts.train, parts.held_out], parts.view.channels)
    skipped, held_out_skipped = (listed.of(part, training.max_bad_images) for part in (parts.train, parts.held_out))
    mixing = Mixing(recipe.mixup, recipe.cutmix, recipe.cutmix_probability)
    loss_fn = loss_function(recipe, parts.description)
    last: Evaluation | None = None

    def batches():
        plain = training_batches(parts.train, parts.view, training, state, skipped, start)
        return mixed_batches(plain, mixing, training.seed) if mixing else plain

    def evaluation() -> Evaluation:
        with state.averaged():
            return evaluate_classifier(
                model, parts, training.batch_size, training.workers, held_out_skipped, training.threads, start.ranks
            )

    def evaluate(state: TrainState) -> dict[str, float]:
        nonlocal last
        last = evaluation()
        return last.metrics

    course = Course("finetune", training, len(parts.train), evaluate, recipe.evaluate_every, best_by="top1")
    run_training(start, course, state, parts.description, batches, loss_fn)
    last = last or evaluation()

    def attention() -> None:
        with optional("the attention maps"), state.averaged():
            if fixed := fixed_images(parts.held_out, parts.description):
                show_attention(start.out, model, parts.description, fixed[0])

    def finished() -> dict[str, Any]:
        protocol = dict(labels=recipe.labels, trainable_blocks=recipe.trainable_blocks)
        sources, view = (parts.train, parts.held_out), evaluation_view(parts.description)
        settings: dict[str, Any] = dict(num_train=len(parts.train), beside=beside, more=attention)
        return finish(start, state, last, sources, view, recipe, protocol, **settings)

    return start.ranks.from_first(finished)


def loss_function(recipe: FinetuneRecipe, description: Description) -> LossFn:
    """(model, batch) -> mean loss; all randomness is each image's own, so a batch may be cut and shared out."""
    seed = recipe.training.seed
    erasing = Erasing(recipe.augment.erasing) if recipe.augment.erasing else None

    def loss_fn(model, batch: Batch) -> paddle.Tensor:
        noise = path_noise(seed, batch, len(model.blocks)) if recipe.model.drop_path else None
        logits = model(input_of(batch, description, erasing, seed), noise)
        targets = targets_of(batch, logits.shape[1], recipe.label_smoothing)
        return F.cross_entropy(logits, targets, soft_label=True)

    return loss_fn


def input_of(batch: Batch, description: Description, erasing: Erasing | None, seed: int) -> paddle.Tensor:
    """Normalised images, each with its rectangle erased, then mixed (in the order of MAE, appendix A.2)."""
    images = to_input(batch.images, description)
    if erasing:
        images = erased(images, erasing, batch_rngs(seed, ERASING_STREAM, batch))
    if not isinstance(batch, MixedBatch):
        return images
    partners = input_of(batch.partner_batch, description, erasing, seed)
    top, bottom, left, right = batch.regions[0].tolist()
    if bottom > top and right > left:
        taken_HW = np.zeros(images.shape[2:], bool)
        taken_HW[top:bottom, left:right] = True
        return paddle.where(tensor_of(taken_HW), partners, images)
    kept = float(batch.kept[0])
    return images * kept + partners * (1 - kept)


def erased(images_BCHW, erasing: Erasing, rngs: Sequence[np.random.Generator]):
    """Images with noise in the rectangles that are drawn for them."""
    batch, channels, height, width = images_BCHW.shape
    drawn = [draw_erasing(erasing, channels, height, width, rng) for rng in rngs]
    if not any(drawn):
        return images_BCHW
    noise_BCHW = np.zeros(images_BCHW.shape, np.float32)
    taken_B1HW = np.zeros((batch, 1, height, width), bool)
    for image, one in enumerate(drawn):
        if one:
            (top, bottom, left, right), fill = one
            noise_BCHW[image, :, top:bottom, left:right] = fill
            taken_B1HW[image, :, top:bottom, left:right] = True
    return paddle.where(tensor_of(taken_B1HW), tensor_of(noise_BCHW), images_BCHW)


def targets_of(batch: Batch, num_classes: int, smoothing: float) -> paddle.Tensor:
    """Smoothed targets, float32 [B, classes]; of mixed images the mixture of both."""
    if not isinstance(batch, MixedBatch):
        return soft_targets(labels_of(batch), num_classes, smoothing)
    parts = [
        soft_targets(labels, num_classes, smoothing) * tensor_of(share[:, None])
        for labels, share in mixed_labels(batch)
    ]
    return parts[0] + parts[1]


@dataclass(frozen=True)
class Parts:
    """What a fine-tuning is made of."""

    train: Source
    held_out: Source
    view: View
    model: VisionTransformer
    description: Description


def prepare(
    recipe: FinetuneRecipe, own: Path | None = None, measure: Measure | None = None, *, trust: bool = False
) -> Parts:
    """Build a recipe's parts, with every check that needs no training; arguments as of `pretrain.prepare`."""
    if recipe.data is None:
        raise ValueError("no images named; add --data FOLDER with one folder a class, or --data digits")
    if recipe.init is None:
        raise ValueError("name what to start from: --init RUN (a pretraining run) or --init scratch")
    device.prepare(recipe.training.device, recipe.training.threads)
    check_precision(recipe.training.precision)
    begins = recipe.init != SCRATCH and not own
    checkpoint = fitted(read_checkpoint(recipe.init, trust=trust), named(recipe.model)) if begins else None
    train, held_out = open_parts(recipe, recipe.data, own)
    if own:
        model, statistics, bits = _saved_shape(own)
    else:
        arguments = classifier_arguments(recipe.model, checkpoint, len(train.classes))
        if measure:
            check_memory("classifier", arguments)
        model = build_classifier(arguments, checkpoint, recipe.training.seed)
        bits = checkpoint.description.bits if checkpoint else None
        plain = training_view(recipe.augment, model.config["image_size"], model.config["channels"], (), bits)
        look = partial(measure, recipe.training.workers, train, plain) if measure else None
        statistics = statistics_of(recipe, plain.channels, checkpoint, look)
    if recipe.trainable_blocks is not None:
        freeze(model, recipe.trainable_blocks)
    model.recompute = recipe.training.recompute
    shape = model.config
    view = training_view(recipe.augment, shape["image_size"], shape["channels"], statistics[0], bits)
    description = describe(
        model,
        statistics,
        eval_crop_ratio=recipe.augment.eval_crop_ratio,
        bits=view.depth,
        classes=train.classes,
        provenance={"task": "finetune", "data": train.name, "images": len(train), "init": recipe.init},
    )
    return Parts(train, held_out, view, model, description)


def _saved_shape(own: Path) -> tuple[VisionTransformer, tuple[list[float], list[float]], Literal[8, 16] | None]:
    """(a new model of the saved one's shape, its mean and std, its images' bits)."""
    saved = read_description(own)
    return VisionTransformer(**saved.architecture), (saved.mean, saved.std), saved.bits


def open_parts(recipe: FinetuneRecipe | ProbeRecipe, data: str, own: Path | None = None) -> tuple[Source, Source]:
    """Return (training images, held-out images), both labelled, with the same classes in the same order.

    Args:
        own: this run's own checkpoint when it is resumed; the order of the classes is that of its classifier.
    Raises:
        ValueError: unlabelled images, or held-out ones of classes that no training image has.
    """
    train = open_source(data, recipe.train_split, labelled=True)
    if own and sorted(order := read_description(own).classes) == sorted(train.classes):
        train = with_classes(train, order)
    if recipe.val_fraction:
        train, held_out = split_off(train, recipe.val_fraction, recipe.training.seed)
    else:
        held_out = open_source(data, recipe.eval_split, labelled=True)
    held_out = matched(train, held_out)
    if recipe.labels:
        train = balanced_subset(train, labelled_count(recipe.labels, train), recipe.training.seed)
    return train, held_out


def labels_of(batch: Batch) -> np.ndarray:
    """The labels of a batch of labelled images."""
    assert batch.targets is not None
    return batch.targets


def soft_targets(labels: np.ndarray, num_classes: int, smoothing: float) -> paddle.Tensor:
    """Label-smoothed targets, float32 [B, classes] (Szegedy et al., "Rethinking Inception", sec. 7)."""
    soft = np.full((len(labels), num_classes), smoothing / num_classes, np.float32)
    soft[np.arange(len(labels)), labels] += 1 - smoothing
    return tensor_of(soft)


def evaluate_classifier(
    model: VisionTransformer,
    parts: Parts,
    batch_size: int,
    workers: int = 0,
    on_skip: SkippedImages | None = None,
    threads: int | str = "auto",
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Evaluate on the held-out images, each counted once; unreadable ones are left out.

    Args:
        workers: processes that decode the images to come; 0 decodes here.
        on_skip: called with each image that can't be read; by default they are named, and as many as usual allowed.
        threads: as in `device.prepare`.
        ranks: processes that share the images.
    """
    settings: dict[str, Any] = dict(
        batch_size=batch_size, workers=workers, on_skip=on_skip, threads=threads, ranks=ranks
    )
    return evaluate_on(model, parts.description, parts.held_out, **settings)


def evaluate_on(
    model: VisionTransformer,
    description: Description,
    source: Source,
    *,
    batch_size: int,
    workers: int = 0,
    on_skip: SkippedImages | None = None,
    threads: int | str = "auto",
    ranks: Ranks = ALONE,
) -> Evaluation:
    """The same on any labelled images, which are seen as `description` says."""
    forward = forward_function(model, description, LOGITS, threads=threads)
    view, on_skip = evaluation_view(description), on_skip or SkippedImages(source)
    share: dict[str, Any] = dict(batch_size=batch_size, rank=ranks.rank, world=ranks.world, workers=workers)
    batches = eval_batches(source, view, **share, on_skip=on_skip)
    predictions = ((batch.indices, labels_of(batch), forward(batch.images)) for batch in batches)
    found = evaluation_of(predictions, len(source.classes), ranks)
    on_skip.share()
    return found


def dry_run(recipe: FinetuneRecipe, *, trust: bool = False) -> dict[str, str]:
    """What a fine-tuning would do, without doing it: name -> value, for people."""
    parts = prepare(recipe, trust=trust)
    shape, parameters = parts.model.config, parameter_count(parts.model)
    tokens = parts.model.grid[0] * parts.model.grid[1] + int(parts.model.has_cls)
    activations = shape["depth"] * block_numbers(tokens, shape["embed_dim"], shape["num_heads"])
    return {
        "training images": f"{len(parts.train)} from {parts.train.name}, {len(parts.train.classes)} classes",
        "held-out images": f"{len(parts.held_out)} from {parts.held_out.name}",
        "parameters": f"{parameters:,}",
        **statistics_plan(recipe, len(parts.train)),
        **schedule_plan(recipe.training, len(parts.train)),
        **memory_plan(recipe, step_bytes(parameters, recipe.training.batch_size * activations)),
    }
