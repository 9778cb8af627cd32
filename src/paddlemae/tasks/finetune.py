"""Fine-tune a classifier end to end, from a pretrained run or from scratch."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from functools import partial
from typing import Any

from paddlemae.data.batches import Batch
from paddlemae.data.sources import Source
from paddlemae.data.views.mixup import Mixing, mix_batches
from paddlemae.model.blocks import activations_of
from paddlemae.recipe import FinetuneRecipe, short_run
from paddlemae.tasks.models.build import parameter_count
from paddlemae.tasks.models.preprocess import evaluation_view
from paddlemae.tasks.training.best_weights import best_weights
from paddlemae.tasks.training.classification import Evaluation
from paddlemae.tasks.training.course import Course
from paddlemae.tasks.training.dry_run import model_text, schedule_plan, step_bytes
from paddlemae.tasks.training.evaluate_classifier import evaluate_classifier
from paddlemae.tasks.training.exhibits import fixed_images, show_attention
from paddlemae.tasks.training.finetuning_loss import loss_function
from paddlemae.tasks.training.finetuning_setup import build, choose_defaults, open_inputs
from paddlemae.tasks.training.finish_run import finish_run
from paddlemae.tasks.training.memory_trial import memory_plan
from paddlemae.tasks.training.multi_label import MultiLabelEvaluation
from paddlemae.tasks.training.optional_output import optional
from paddlemae.tasks.training.resolve import resolve, statistics_plan
from paddlemae.tasks.training.run_start import Start, enter_run
from paddlemae.tasks.training.run_training import run_training
from paddlemae.tasks.training.skipped_images import open_skipped
from paddlemae.tasks.training.training_batches import training_batches
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.checkpoint_folders import FOLDER, step_name
from paddlemae.train.ema import Ema
from paddlemae.train.optim import adamw
from paddlemae.weights.model_folder import Description, read_description


def finetune(recipe: FinetuneRecipe, start: Start, compared_run: str | None = None) -> dict[str, Any]:
    """Fine-tune as the recipe says and leave a run folder with the best and the last checkpoint.

    Args:
        compared_run: a pretraining run to whose results this one is also appended; by default the one that it starts
            from.
    Returns:
        the result, as in `result.json`: the metrics on the test part in [0, 1] with the weights that the validation
        part chose, the `primary` one's best value there (`best_top1` ...) and its step.
    Raises:
        ValueError, FileNotFoundError: a recipe, data, checkpoint or folder that can't be used; nothing is written.
        KeyboardInterrupt, Preempted, NonFiniteLoss, OSError: training ended early; the text says what was kept.
    """
    with start.held():
        return _finetune(recipe, start, compared_run)


def _finetune(recipe: FinetuneRecipe, start: Start, compared_run: str | None) -> dict[str, Any]:
    run, inputs = resolve(recipe, start, open_inputs, choose_defaults)
    recipe = run.recipe
    parts = build(recipe, inputs)
    training, model = recipe.training, parts.model
    optimizer = adamw(model, weight_decay=training.weight_decay, betas=recipe.betas, layer_decay=recipe.layer_decay)
    state = TrainState(model, optimizer, ema=None if recipe.ema_decay is None else Ema(model, recipe.ema_decay))
    enter_run(run, state, parts.description)
    splits, classes = parts.splits, parts.splits.train.classes
    start.say(
        f"fine-tuning {parameter_count(model) / 1e6:.2f} million parameters from {recipe.init} "
        f"on {splits.train.name}, {len(splits.train)} images, {len(classes)} classes; {splits.evaluations(recipe)}"
    )
    if note := short_run(recipe, len(splits.train), parts.views):
        start.say(note)
    listed = open_skipped(start, state, splits.parts, parts.view.channels)
    skipped = {id(part): listed.of(part, training.max_bad_images) for part in splits.parts}
    mixing = Mixing(recipe.mixup, recipe.cutmix, recipe.cutmix_probability)
    loss_fn = loss_function(recipe, parts.description, parts.class_weights)

    def batches() -> Generator[Batch, None, None]:
        plain = training_batches(
            splits.train, parts.view, training, state, skipped[id(splits.train)], start, parts.order
        )
        return mix_batches(plain, mixing, training.seed) if mixing else plain

    def evaluate(part: Source, description: Description = parts.description) -> Evaluation | MultiLabelEvaluation:
        return evaluate_classifier(
            model,
            description,
            part,
            batch_size=training.batch_size,
            workers=training.workers,
            on_skip=skipped[id(part)],
            threads=training.threads,
            ranks=start.ranks,
        )

    def evaluate_averaged(part: Source) -> Evaluation | MultiLabelEvaluation:
        with state.averaged():
            evaluation = evaluate(part)
        if isinstance(evaluation, MultiLabelEvaluation) and part is splits.validation:
            return evaluation.with_own_thresholds()
        return evaluation

    choosing = splits.choosing(recipe)
    every = None if choosing is None else partial(evaluate_averaged, choosing)
    course = Course("finetune", training, parts.views, every, recipe.evaluate_every, splits.primary)
    last = run_training(start, course, state, parts.description, batches, loss_fn)

    def attention() -> None:
        with optional("the attention maps"):
            if fixed := fixed_images(splits.held_out, parts.description):
                show_attention(start.out, model, parts.description, fixed[0])

    with best_weights(start, state, validated=splits.validation is not None) as step:
        # where the test part chose, in a run of an earlier version, its last evaluation counts as it did there
        if last and choosing is splits.held_out:
            tested = last
        else:
            thresholds = start.ranks.from_first(lambda: _stored_thresholds(start, step, parts.description))
            tested = evaluate(splits.held_out, replace(parts.description, thresholds=thresholds))

        def finish() -> dict[str, Any]:
            protocol = dict(labels=recipe.labels, trainable_blocks=recipe.trainable_blocks)
            return finish_run(
                start,
                state,
                tested,
                splits,
                evaluation_view(parts.description),
                recipe,
                protocol,
                step=step,
                num_train=len(splits.train),
                compared_run=compared_run,
                more=attention,
            )

        return start.ranks.from_first(finish)


def _stored_thresholds(start: Start, step: int, description: Description) -> list[float] | None:
    """Return the thresholds that a step's checkpoint has, which its evaluation chose; None of single classes."""
    if description.thresholds is None:
        return None
    try:
        return read_description(start.out / FOLDER / step_name(step)).thresholds
    except (OSError, ValueError):  # a full disk kept it out
        return description.thresholds


def dry_run(recipe: FinetuneRecipe, *, trust: bool = False) -> dict[str, str]:
    """Return what a fine-tuning would do, without doing it: name -> value, as text."""
    recipe, inputs, choices = choose_defaults(recipe, open_inputs(recipe, trust=trust))
    parts = build(recipe, inputs)
    shape, parameters = parts.model.config, parameter_count(parts.model)
    tokens = parts.model.grid[0] * parts.model.grid[1] + int(parts.model.encoder.has_cls)
    activations = shape["depth"] * activations_of(tokens, shape["embed_dim"], shape["num_heads"])
    return {
        **parts.splits.plan(),
        "model": f"{model_text(shape)}, from {recipe.init}",
        "parameters": f"{parameters:,}",
        **statistics_plan(recipe.mean, len(parts.splits.train)),
        **{choice.name: f"{choice.shown} ({choice.reason})" for choice in choices},
        **schedule_plan(recipe.training, parts.views),
        **({"note": note} if (note := short_run(recipe, len(parts.splits.train), parts.views)) else {}),
        **memory_plan(recipe, step_bytes(parameters, recipe.training.batch_size * activations)),
    }
