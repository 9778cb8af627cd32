"""The course of a training run: its length in steps and epochs, its lr, and what is due after which step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from paddlemae.data.sources import Source
from paddlemae.data.views.augment import View
from paddlemae.recipe import Training
from paddlemae.runs.metrics import CLASSIFICATION, Metrics
from paddlemae.train.optim import lr_at, peak_lr
from paddlemae.weights.model_folder import Description


class Evaluation(Protocol):
    """Predictions on held-out images."""

    kind: ClassVar[Metrics]
    picture: ClassVar[str]

    @property
    def images(self) -> int:
        """Return the number of images."""

    @property
    def metrics(self) -> dict[str, float]:
        """Return the metrics and the loss, as in `metrics.jsonl`."""

    def describe(self, description: Description) -> Description:
        """Return a model's description with what these answers add to it."""

    def result(self, classes: Sequence[str], primary: str) -> dict[str, Any]:
        """Return the metrics and the loss, as in `result.json`, which names its `primary` metric."""

    def show(self, run: Path, source: Source, view: View, title: str, caption: str) -> None:
        """Draw the pictures of a run, `picture` in its figures among them."""


@dataclass(frozen=True)
class Course:
    """The course of a training run: its length in steps and epochs, and its evaluations.

    Attributes:
        task: the command that runs it.
        num_images: images of an epoch.
        evaluate: called every `evaluate_every` epochs and at the end.
        primary: the key of the metric that chooses the best checkpoint.
    """

    task: str
    training: Training
    num_images: int
    evaluate: Callable[[], Evaluation] | None = None
    evaluate_every: float = 1.0
    primary: str = CLASSIFICATION.primary

    @property
    def total_steps(self) -> int:
        return self.training.total_steps(self.num_images)

    def epoch(self, step: int) -> float:
        return step * self.training.effective_batch_size / self.num_images

    def is_due(self, step: int, every_epochs: float) -> bool:
        """Return whether something due every `every_epochs` epochs, and at the end, is due after this step."""
        every_steps = max(1, round(every_epochs * self.num_images / self.training.effective_batch_size))
        return step >= self.total_steps or step % every_steps == 0

    def is_lasting(self, step: int) -> bool:
        """Return whether the checkpoint after this step is kept for good."""
        return self.training.keep_every is not None and self.is_due(step, self.training.keep_every)

    def lr(self, step: int) -> float:
        return lr_at(
            step,
            peak=peak_lr(self.training.base_lr, self.training.effective_batch_size),
            total_steps=self.total_steps,
            warmup_steps=self.training.warmup_steps(self.num_images),
            min_lr=self.training.min_lr,
            schedule=self.training.schedule,
        )
