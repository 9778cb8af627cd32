"""The course of a training run: its length in steps and epochs, its lr, and what is due after which step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paddlemae.recipe import Training
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.optim import lr_at, peak_lr


@dataclass(frozen=True)
class Course:
    """What a training run is measured by: its length in steps and epochs, and who evaluates it when.

    Attributes:
        task: the command that runs it.
        num_images: images of an epoch.
        evaluate: called every `evaluate_every` epochs and at the end; its numbers are logged.
        best_by: the number of `evaluate` whose highest value moves the `best` pointer.
    """

    task: str
    training: Training
    num_images: int
    evaluate: Callable[[TrainState], dict[str, float]] | None = None
    evaluate_every: float = 1.0
    best_by: str | None = None

    @property
    def total_steps(self) -> int:
        return self.training.total_steps(self.num_images)

    def epoch(self, step: int) -> float:
        return step * self.training.effective_batch_size / self.num_images

    def is_due(self, step: int, every_epochs: float) -> bool:
        """Whether something that happens every so many epochs, and at the end, happens after this step."""
        every_steps = max(1, round(every_epochs * self.num_images / self.training.effective_batch_size))
        return step >= self.total_steps or step % every_steps == 0

    def is_lasting(self, step: int) -> bool:
        """Whether the checkpoint after this step is kept for good."""
        return self.training.keep_every is not None and self.is_due(step, self.training.keep_every)

    def lr(self, step: int) -> float:
        return lr_at(
            step,
            peak=peak_lr(self.training.base_lr, self.training.effective_batch_size),
            total_steps=self.total_steps,
            warmup_steps=self.training.warmup_steps(self.num_images),
            min_lr=self.training.min_lr,
        )
