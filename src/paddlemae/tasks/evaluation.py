"""How well a classifier does on held-out images, and what a run says of it at its end."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle.nn.functional as F

from paddlemae.data.augment import View
from paddlemae.data.faults import DataFault
from paddlemae.data.sources import Source
from paddlemae.device import tensor_of
from paddlemae.recipe import SCRATCH, FinetuneRecipe, ProbeRecipe
from paddlemae.report.figures import draw_confusion, draw_curves
from paddlemae.report.runlog import (
    FIGURES,
    RESULT_FILE,
    is_logged,
    log_result,
    mark_finished,
    read_metrics,
    replace_text,
)
from paddlemae.tasks.gallery import Mistake, show_mistakes
from paddlemae.tasks.start import Start, origin_of
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.distributed import ALONE, Ranks

TITLES = {"finetune": "fine-tuning", "probe": "linear probing"}
# what a classifier or its features started from
PRETRAINED, RANDOM = "pretrained", "random"
SHOWN_MISTAKES = 24


@dataclass(frozen=True)
class Evaluation:
    """Predictions on held-out images.

    Attributes:
        confusion: how often each class [true, predicted].
        top5: share of the images whose class is among the five likeliest.
        loss: mean cross-entropy.
        mistakes: the surest ones, the surest first.
    """

    confusion: np.ndarray
    top5: float
    loss: float
    mistakes: list[Mistake] = field(default_factory=list)

    @property
    def metrics(self) -> dict[str, float]:
        top1 = float(np.trace(self.confusion) / max(1, self.confusion.sum()))
        return {"top1": top1, "top5": self.top5, "eval_loss": self.loss}


Predictions = Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]


def evaluation_of(predictions: Predictions, num_classes: int, ranks: Ranks = ALONE) -> Evaluation:
    """Count batches of (indices int64 [B], labels int64 [B], logits float32 [B, classes]).

    The lowest class wins a tie.

    Args:
        ranks: processes that each have other images; all get the evaluation of all.
    Raises:
        DataFault: no image at all.
    """
    own: list[tuple[int, int, int, float, bool, float]] = []
    for indices, labels, logits in predictions:
        losses = F.cross_entropy(tensor_of(logits), tensor_of(labels), reduction="none").numpy().ravel()
        ranked = np.argsort(-logits, axis=1, kind="stable")
        hits = (ranked[:, :5] == labels[:, None]).any(axis=1)
        likelihood = np.exp(logits - logits.max(axis=1, keepdims=True))
        confidence = likelihood.max(axis=1) / likelihood.sum(axis=1)
        columns = (indices, labels, ranked[:, 0], confidence, hits, losses)
        own += zip(*(column.tolist() for column in columns), strict=True)
    seen = sorted(tuple(image) for found in ranks.gather(own) for image in found)
    if not seen:
        raise DataFault("no image to evaluate on can be read, mend them")
    indices, labels, predicted, confidence, hits, losses = (np.array(column) for column in zip(*seen))
    confusion = confusion_of(labels, predicted, num_classes)
    mistakes = surest_mistakes(indices, labels, predicted, confidence)
    return Evaluation(confusion, float(hits.mean()), math.fsum(losses) / len(losses), mistakes)


def confusion_of(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """How often each class was taken for which: int64 [true, predicted]."""
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    return confusion


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
) -> dict[str, Any]:
    """Write result, figures and exhibits of a run that trained a classifier, and say the result.

    It is also appended to the results of the run that it started from, or that it is compared with, if there is one.

    Args:
        last: the evaluation after the last step.
        sources: what was trained on, and the held-out images of the evaluation, which looked at them through `view`.
        protocol: what the result depends on besides the steps.
        num_train: images that were trained on, without unreadable ones where these are known.
        beside: the run that it is compared with.
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
        "eval_images": int(last.confusion.sum()),
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
    title = f"{TITLES[recipe.task]}, {state.step} steps"
    show_mistakes(start.out, held_out, view, last.confusion, last.mistakes, title)
    figures = start.out / FIGURES
    caption = f"top-1 {result['top1']:.1%} of {result['eval_images']} held-out images after {state.step} steps"
    draw_confusion(figures / "confusion.png", last.confusion, held_out.classes, caption)
    draw_curves(figures / "curves.png", list(read_metrics(start.out)), ["loss", "top1", "lr"], TITLES[recipe.task])
    start.say(
        f"top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%} after the last step; best top-1 "
        f"{result['best_top1']:.2%} at step {result['best_step']} (chosen on these same images); "
        f"see {figures / 'confusion.png'}"
    )
    lines = [(start.out, logged)]
    if origin := origin_of(beside or recipe.init, trust=start.trust):
        where = {"checkpoint": origin.checkpoint.name, "run": os.path.relpath(start.out, origin.run)}
        lines.append((origin.run, {**logged, **where}))
    for folder, line in lines:
        if not is_logged(folder, line):  # by a session that was killed right after
            log_result(folder, [line])
    mark_finished(start.out)
    return result
