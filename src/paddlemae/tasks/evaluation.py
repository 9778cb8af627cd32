"""How well a classifier does on held-out images, and what a run says of it at its end."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from paddlemae.data.sources import Source
from paddlemae.recipe import FinetuneRecipe, ProbeRecipe
from paddlemae.report.figures import draw_confusion, draw_curves
from paddlemae.report.runlog import FIGURES, is_logged, log_result, mark_finished, read_metrics, replace_text
from paddlemae.tasks.start import Start, origin_of
from paddlemae.train.checkpoint import TrainState

RESULT_FILE = "result.json"
TITLES = {"finetune": "fine-tuning", "probe": "linear probing"}


@dataclass(frozen=True)
class Evaluation:
    """Predictions on held-out images: confusion counts [true, predicted], share of top-5 hits and mean loss."""

    confusion: np.ndarray
    top5: float
    loss: float

    @property
    def metrics(self) -> dict[str, float]:
        top1 = float(np.trace(self.confusion) / max(1, self.confusion.sum()))
        return {"top1": top1, "top5": self.top5, "eval_loss": self.loss}


def evaluation_of(predictions: Iterable[tuple[np.ndarray, np.ndarray]], num_classes: int) -> Evaluation:
    """Count (labels int64 [B], logits float32 [B, classes]) batches; the lowest class wins a tie."""
    confusion, hits, loss = np.zeros((num_classes, num_classes), np.int64), 0, 0.0
    for labels, logits in predictions:
        loss += float(F.cross_entropy(paddle.to_tensor(logits), paddle.to_tensor(labels), reduction="sum").numpy())
        ranked = np.argsort(-logits, axis=1, kind="stable")
        np.add.at(confusion, (labels, ranked[:, 0]), 1)
        hits += int((ranked[:, :5] == labels[:, None]).any(axis=1).sum())
    return Evaluation(confusion, hits / confusion.sum(), loss / confusion.sum())


def finish(
    start: Start,
    state: TrainState,
    last: Evaluation,
    train: Source,
    recipe: FinetuneRecipe | ProbeRecipe,
    protocol: dict[str, Any],
    *,
    num_train: int | None = None,
) -> dict[str, Any]:
    """Write `result.json` and the figures of a run that trained a classifier, and say the result.

    It is also appended to the results of the run that was started from, if there is one.

    Args:
        last: the evaluation after the last step.
        train: what it was trained on; `num_train` of these images, all unless given.
        protocol: what the result depends on besides the steps.
    Returns:
        the result.
    """
    result: dict[str, Any] = {
        **last.metrics,
        "best_top1": state.best["top1"],
        "best_step": int(state.best["step"]),
        "steps": state.step,
        "train_images": len(train) if num_train is None else num_train,
        "eval_images": int(last.confusion.sum()),
    }
    replace_text(start.out / RESULT_FILE, json.dumps(result, indent=2) + "\n")
    figures = start.out / FIGURES
    caption = f"top-1 {result['top1']:.1%} of {result['eval_images']} held-out images after {state.step} steps"
    draw_confusion(figures / "confusion.png", last.confusion, train.classes, caption)
    draw_curves(figures / "curves.png", list(read_metrics(start.out)), ["loss", "top1", "lr"], TITLES[recipe.task])
    start.say(
        f"top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%} after the last step; best top-1 "
        f"{result['best_top1']:.2%} at step {result['best_step']} (chosen on these same images); "
        f"see {figures / 'confusion.png'}"
    )
    if origin := origin_of(recipe.init):
        kept = {name: result[name] for name in ("top1", "top5", "best_top1", "train_images", "eval_images")}
        made = {"protocol": {**protocol, "steps": state.step}, "data": train.name, "run": str(start.out)}
        line = {"task": recipe.task, **kept, **made, "checkpoint": origin.checkpoint.name}
        if not is_logged(origin.run, line):  # by a session that was killed right after
            log_result(origin.run, [line])
    mark_finished(start.out)
    return result
