"""How well a classifier does on held-out images, and what a run says of it at its end."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paddlemae.data.disk.errors import DataFault
from paddlemae.data.sources import Source
from paddlemae.data.views.augment import View
from paddlemae.engine.safe_import import F
from paddlemae.engine.tensors import tensor_of
from paddlemae.recipe import SCRATCH, FinetuneRecipe, ProbeRecipe
from paddlemae.runs.confusion import Confusion
from paddlemae.runs.figures import draw_confusion, draw_curves
from paddlemae.runs.runlog import (
    FIGURES,
    RESULT_FILE,
    is_logged,
    log_result,
    mark_finished,
    read_metrics,
)
from paddlemae.system.atomic import replace_text
from paddlemae.tasks.training.exhibits import Mistake, show_mistakes
from paddlemae.tasks.training.optional_output import optional
from paddlemae.tasks.training.run_start import Start, origin_of
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.parallel.ranks import ALONE, Ranks

TITLES = {"finetune": "fine-tuning", "probe": "linear probing"}
# what a classifier or its features started from
PRETRAINED, RANDOM = "pretrained", "random"
SHOWN_MISTAKES = 24


@dataclass(frozen=True)
class Evaluation:
    """Predictions on held-out images.

    Attributes:
        confusion: how often each class was taken for which.
        top5: share of the images whose class is among the five likeliest.
        loss: mean cross-entropy.
        mistakes: the surest ones, the surest first.
    """

    confusion: Confusion
    top5: float
    loss: float
    mistakes: list[Mistake] = field(default_factory=list)

    @property
    def metrics(self) -> dict[str, float]:
        top1 = self.confusion.right / max(1, self.confusion.images)
        return {"top1": top1, "top5": self.top5, "eval_loss": self.loss}


_KINDS = (np.int64, np.int64, np.int64, np.float64, np.bool_, np.float64)  # of what is kept of an image
Predictions = Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]


def evaluation_of(predictions: Predictions, num_classes: int, ranks: Ranks = ALONE) -> Evaluation:
    """Count batches of (indices int64 [B], labels int64 [B], logits float32 [B, classes]).

    The lowest class wins a tie.

    Args:
        ranks: processes that each have other images; all get the evaluation of all.
    Raises:
        DataFault: no image at all.
    """
    own: list[list[np.ndarray]] = [[np.empty(0, kind)] for kind in _KINDS]
    for indices, labels, logits in predictions:
        losses = F.cross_entropy(tensor_of(logits), tensor_of(labels), reduction="none").numpy().ravel()
        predicted, places = _ranked(logits, labels)
        likelihood = np.exp(logits - logits.max(axis=1, keepdims=True))
        confidence = likelihood.max(axis=1) / likelihood.sum(axis=1)
        for seen, column in zip(own, (indices, labels, predicted, confidence, places < 5, losses)):
            seen.append(column)
    indices, labels, predicted, confidence, hits, losses = _of_all(own, ranks)
    if not len(indices):
        raise DataFault("no image to evaluate on can be read; fix them")
    confusion = Confusion.of(labels, predicted, num_classes)
    mistakes = surest_mistakes(indices, labels, predicted, confidence)
    return Evaluation(confusion, float(hits.mean()), math.fsum(losses) / len(losses), mistakes)


def _ranked(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the likeliest class of each image, how many classes come before its own); of equals the lowest comes first."""
    logits = np.where(np.isnan(logits), -np.inf, logits)
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    equal = (logits == own) & (np.arange(logits.shape[1]) < labels[:, None])
    return logits.argmax(axis=1), ((logits > own) | equal).sum(axis=1)


def _of_all(own: Sequence[Sequence[np.ndarray]], ranks: Ranks) -> list[np.ndarray]:
    """The columns of all processes' images, ascending by the first of them and then by the next."""
    columns = [np.concatenate(seen) for seen in own]
    if ranks.lines:
        found = ranks.gather([column.tolist() for column in columns])
        columns = [np.concatenate([np.array(one, kind) for one in each]) for each, kind in zip(zip(*found), _KINDS)]
    order = np.lexsort(columns[::-1])
    return [column[order] for column in columns]


def surest_mistakes(
    indices: np.ndarray, labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray
) -> list[Mistake]:
    """The wrong predictions of highest confidence, the surest first."""
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")[:SHOWN_MISTAKES]]
    return [Mistake(int(indices[i]), int(labels[i]), int(predicted[i]), float(confidence[i])) for i in surest]


def finish(
    start: Start,
    state: TrainState,
    last: Evaluation,
    sources: tuple[Source, Source],
    view: View,
    recipe: FinetuneRecipe | ProbeRecipe,
    protocol: dict[str, Any],
    *,
    num_train: int,
    beside: str | None = None,
    more: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Write result, figures and exhibits of a run that trained a classifier, and say the result.

    It is also appended to the results of the run that it started from, or that it is compared with, if there is one.

    Args:
        last: the evaluation after the last step.
        sources: what was trained on, and the held-out images of the evaluation, which looked at them through `view`.
        protocol: what the result depends on besides the steps.
        num_train: images that were trained on, without unreadable ones where these are known.
        beside: the run that it is compared with.
        more: writes further exhibits, which nothing depends on.
    Returns:
        the result.
    """
    train, held_out = sources
    result: dict[str, Any] = {
        **last.metrics,
        "best_top1": state.best.get("top1", last.metrics["top1"]),  # none if its evaluations ended the run before
        "best_step": int(state.best.get("step", state.step)),
        "steps": state.step,
        "train_images": num_train,
        "eval_images": last.confusion.images,
    }
    begun = SCRATCH if recipe.init == SCRATCH else RANDOM if recipe.task == "probe" and recipe.random else PRETRAINED
    logged = {
        "task": recipe.task,
        "start": begun,
        **{name: result[name] for name in ("top1", "top5", "best_top1", "train_images", "eval_images")},
        "train": train.name,
        "eval": held_out.name,
        "protocol": {**protocol, "steps": state.step, "seed": recipe.training.seed},
    }
    replace_text(start.out / RESULT_FILE, json.dumps(result, indent=2) + "\n")
    _log_once(start.out, logged)
    figures = start.out / FIGURES
    start.say(
        f"top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%} after the last step; best top-1 "
        f"{result['best_top1']:.2%} at step {result['best_step']} (chosen on these same images); "
        f"see {figures / 'confusion.png'}"
    )
    title = f"{TITLES[recipe.task]}, {state.step} steps"
    with optional("the mistakes"):
        show_mistakes(start.out, held_out, view, last.confusion, last.mistakes, title)
    caption = f"top-1 {result['top1']:.1%} of {result['eval_images']} held-out images after {state.step} steps"
    with optional("the confusion matrix"):
        draw_confusion(figures / "confusion.png", last.confusion, held_out.classes, caption)
    with optional("the curves"):
        draw_curves(figures / "curves.png", list(read_metrics(start.out)), ["loss", "top1", "lr"], TITLES[recipe.task])
    if more:
        more()
    mark_finished(start.out)
    with optional("the line in the results of the run that this one started from"):
        if origin := origin_of(beside or recipe.init, trust=start.trust):
            where = {"checkpoint": origin.checkpoint.name, "run": os.path.relpath(start.out, origin.run)}
            _log_once(origin.run, {**logged, **where})
    return result


def _log_once(run: Path, line: dict[str, Any]) -> None:
    """Log a result, unless a session that was killed right after has done it."""
    if not is_logged(run, line):
        log_result(run, [line])
