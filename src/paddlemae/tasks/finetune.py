"""Fine-tune a classifier end to end, from a pretrained run or from scratch."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from typing import Any

from paddlemae.data.sources import Source
from paddlemae.data.views.mixup import Mixing, mix_batches
from paddlemae.model.blocks import activations_of
from paddlemae.recipe import SCRATCH, FinetuneRecipe, short_run
from paddlemae.tasks.models.build import parameter_count
from paddlemae.tasks.training import classification
from paddlemae.tasks.training.course import Evaluation
from paddlemae.tasks.training.dry_run import model_text, schedule_plan, step_bytes
from paddlemae.tasks.training.evaluate_classifier import evaluate_classifier
from paddlemae.tasks.training.exhibits import fixed_images, show_attention
from paddlemae.tasks.training.finetuning_loss import loss_function
from paddlemae.tasks.training.finetuning_setup import build, choose_defaults, open_inputs
from paddlemae.tasks.training.head_fit import fit_head
from paddlemae.tasks.training.memory_trial import memory_plan
from paddlemae.tasks.training.multi_label import MultiLabelEvaluation
from paddlemae.tasks.training.optional_output import optional
from paddlemae.tasks.training.resolve import resolve, statistics_plan
from paddlemae.tasks.training.run_start import Start
from paddlemae.tasks.training.skipped_images import SkippedImages
from paddlemae.tasks.training.supervised import Batches, Method, train_and_test
from paddlemae.train.checkpoint_folders import FOLDER, step_name
from paddlemae.weights.model_folder import Description, read_description

AnyEvaluation = classification.Evaluation | MultiLabelEvaluation


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
    if recipe.fit_head and recipe.init == SCRATCH:
        warnings.warn("fit_head has no effect: random features have nothing to fit", stacklevel=2)
    mixing = Mixing(recipe.mixup, recipe.cutmix, recipe.cutmix_probability)

    def mix(batches: Batches) -> Batches:
        return mix_batches(batches, mixing, training.seed) if mixing else batches

    def evaluate(part: Source, description: Description, on_skip: SkippedImages) -> AnyEvaluation:
        return evaluate_classifier(
            model,
            description,
            part,
            batch_size=training.batch_size,
            workers=training.workers,
            on_skip=on_skip,
            threads=training.threads,
            ranks=start.ranks,
        )

    def description_of(step: int) -> Description:
        thresholds = start.ranks.from_first(lambda: _stored_thresholds(start, step, parts.description))
        return replace(parts.description, thresholds=thresholds)

    def attention(tested: Evaluation) -> None:
        with optional("the attention maps"):
            if fixed := fixed_images(parts.splits.held_out, parts.description):
                show_attention(start.out, model, parts.description, fixed[0])

    method = Method(
        loss_fn=loss_function(recipe, parts.description, parts.class_weights),
        evaluate=evaluate,
        protocol=dict(labels=recipe.labels, trainable_blocks=recipe.trainable_blocks),
        mix=mix,
        suit=_with_own_thresholds,
        description_of=description_of,
        show=attention,
        begin=partial(fit_head, parts, recipe, start) if recipe.fit_head and inputs.initial else None,
        note=short_run(recipe, len(parts.splits.train), parts.views),
    )
    return train_and_test(run, parts, method, compared_run)


def _with_own_thresholds(evaluation: Evaluation) -> Evaluation:
    return evaluation.with_own_thresholds() if isinstance(evaluation, MultiLabelEvaluation) else evaluation


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
