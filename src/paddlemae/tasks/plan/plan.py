"""A plan: the settings of a pretraining and a fine-tuning with a reason for each, and how long they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from paddlemae.recipe import load_recipe
from paddlemae.tasks.plan.data_survey import DataSurvey


class Choice(NamedTuple):
    """The value of a setting, and why it was chosen, in one short line."""

    value: Any
    reason: str


Settings = Mapping[str, Choice]  # full key, such as "model.depth" -> choice


@dataclass(frozen=True)
class Plan:
    """A plan of trainings on some images in a given time.

    Attributes:
        data: the images, as `open_source` takes them.
        minutes: the time that was given, of which `times` take no more.
        device: what was measured: "cpu", "gpu:0" ...
        survey: what was found in the images.
        settings: "pretrain" and, with labels, "finetune" or, with masks, "segment": the settings of each recipe.
        times: stage -> seconds: "plan" (this far), those of `settings` (each with its start, its evaluations and its
            pictures), "reserve".
        notes: what the user should know, one line each.
        has_spare_time: pretraining is as long as it should be with so few images, and could take more time.
        evaluating: seconds of a fine-tuning or a segmentation that are for evaluations.
    """

    data: str
    minutes: float
    device: str
    survey: DataSurvey
    settings: Mapping[str, Settings]
    times: Mapping[str, float]
    notes: tuple[str, ...] = ()
    has_spare_time: bool = False
    evaluating: float = 0.0

    def recipe(self, task: str) -> Any:
        """Return the recipe of a task, a key of `settings`; one that starts from the pretraining names no weights.

        Raises:
            ValueError: there is none, as there are no labels or masks.
        """
        if task not in self.settings:
            raise ValueError(f"the plan has no recipe for {task!r}; it has {', '.join(self.settings)}")
        return load_recipe(task, None, {key: choice.value for key, choice in self.settings[task].items()})
