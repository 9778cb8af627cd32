"""Train a segmenter on images with masks, from a pretrained run or from scratch."""

from __future__ import annotations

from typing import Any

from paddlemae.data.sources import Source
from paddlemae.data.views.scenes import SceneView
from paddlemae.engine.safe_import import nn
from paddlemae.model.blocks import activations_of
from paddlemae.recipe import SegmentRecipe
from paddlemae.tasks.models.build import parameter_count
from paddlemae.tasks.models.segment_image import windows_of
from paddlemae.tasks.training.course import Evaluation
from paddlemae.tasks.training.dry_run import model_text, schedule_plan, step_bytes
from paddlemae.tasks.training.evaluate_segmenter import evaluate_segmenter
from paddlemae.tasks.training.memory_trial import memory_plan
from paddlemae.tasks.training.optional_output import optional
from paddlemae.tasks.training.patch_cache import cached_batches, cached_loss, compute_patches
from paddlemae.tasks.training.resolve import resolve, statistics_plan
from paddlemae.tasks.training.run_start import Start
from paddlemae.tasks.training.scene_exhibits import show_scenes
from paddlemae.tasks.training.segmentation import MapEvaluation
from paddlemae.tasks.training.segmentation_loss import loss_function
from paddlemae.tasks.training.segmentation_setup import build, choose_defaults, open_inputs
from paddlemae.tasks.training.skipped_images import SkippedImages
from paddlemae.tasks.training.supervised import Batches, Method, train_and_test
from paddlemae.train.checkpoint import TrainState
from paddlemae.weights.model_folder import Description


def segment(recipe: SegmentRecipe, start: Start, compared_run: str | None = None) -> dict[str, Any]:
    """Train as the recipe says and leave a run folder with the best and the last checkpoint.

    Args:
        compared_run: a pretraining run to whose results this one is also appended; by default the one that it starts
            from.
    Returns:
        the result, as in `result.json`: the metrics on the test part in [0, 1] with the weights that the validation
        part chose, the `primary` one's best value there (`best_miou` ...) and its step.
    Raises:
        ValueError, FileNotFoundError: a recipe, data, checkpoint or folder that can't be used; nothing is written.
        KeyboardInterrupt, Preempted, NonFiniteLoss, OSError: training ended early; the text says what was kept.
    """
    with start.held():
        return _segment(recipe, start, compared_run)


def _segment(recipe: SegmentRecipe, start: Start, compared_run: str | None) -> dict[str, Any]:
    run, inputs = resolve(recipe, start, open_inputs, choose_defaults)
    recipe = run.recipe
    parts = build(recipe, inputs)
    training, model, held_out = recipe.training, parts.model, parts.splits.held_out
    windows = windows_of(parts.description, recipe.overlap, recipe.blend, training.batch_size)

    def evaluate(part: Source, description: Description, on_skip: SkippedImages) -> MapEvaluation:
        return evaluate_segmenter(
            model,
            description,
            part,
            windows,
            workers=training.workers,
            on_skip=on_skip,
            threads=training.threads,
            ranks=start.ranks,
        )

    def show(tested: Evaluation) -> None:
        assert isinstance(tested, MapEvaluation)
        with optional("the pictures of predictions"):
            show_scenes(start.out, model, parts.description, held_out, windows, tested, f"test part, {held_out.name}")

    def batches(state: TrainState, on_skip: SkippedImages) -> Batches:
        assert isinstance(parts.view, SceneView)
        train = parts.splits.train
        table = compute_patches(model, parts.description, train, parts.view, training.batch_size, on_skip)
        start.say(f"computed the features of {len(table.masks_NHW):,} windows of {table.images:,} images")
        return cached_batches(table, recipe, state, start.ranks)

    weights = parts.class_weights
    method = Method(
        loss_fn=cached_loss(recipe, weights) if recipe.cached else loss_function(recipe, parts.description, weights),
        batches=batches if recipe.cached else None,
        evaluate=evaluate,
        protocol=dict(
            labels=recipe.labels,
            frozen=recipe.frozen,
            cached=recipe.cached or None,
            head=parts.description.architecture["head"],
        ),
        show=show,
        shares_cpu=may_share(model),
    )
    return train_and_test(run, parts, method, compared_run)


def may_share(model: nn.Layer) -> bool:
    """Return whether CPU threads may share a micro-batch: not where a norm takes the statistics of all of it."""
    return not any(name.endswith("running_mean") for name, _ in model.named_buffers())


def dry_run(recipe: SegmentRecipe, *, trust: bool = False) -> dict[str, str]:
    """Return what a training would do, without doing it: name -> value, as text."""
    recipe, inputs, choices = choose_defaults(recipe, open_inputs(recipe, trust=trust))
    parts = build(recipe, inputs)
    shape, parameters = parts.model.config, parameter_count(parts.model)
    tokens = parts.model.grid[0] * parts.model.grid[1] + int(parts.model.encoder.has_cls)
    activations = shape["depth"] * activations_of(tokens, shape["embed_dim"], shape["num_heads"])
    activations += 3 * shape["num_classes"] * shape["image_size"][0] * shape["image_size"][1]
    pixels = inputs.pixels
    assert pixels is not None
    total = max(1, int(pixels.classes.sum()))
    shares = ", ".join(f"{name} {count / total:.1%}" for name, count in zip(parts.splits.train.classes, pixels.classes))
    return {
        **parts.splits.plan(),
        "pixels": f"{shares}; ignored {pixels.ignored / (pixels.ignored + total):.1%}",
        "model": f"{model_text(shape)}, head {shape['head']}, from {recipe.init}",
        "parameters": f"{parameters:,}",
        **statistics_plan(recipe.mean, len(parts.splits.train)),
        **{choice.name: f"{choice.shown} ({choice.reason})" for choice in choices},
        **schedule_plan(recipe.training, parts.views),
        **memory_plan(recipe, step_bytes(parameters, recipe.training.batch_size * activations)),
    }
