"""Share a given time out among the stages of a plan."""

from __future__ import annotations

import math
from dataclasses import dataclass

PRETRAIN_SHARE, PRETRAIN_SHARE_ALONE = 0.64, 0.92  # of the time, with labels and without
FINETUNE_SHARE, MOST_FINETUNE_SHARE = 0.27, 0.4  # the latter where it would have too few steps
START_SECONDS, FINISH_SECONDS = 8.0, 6.0  # of a command: imports and first pictures; last pictures and checkpoint
AROUND_SECONDS = START_SECONDS + FINISH_SECONDS


class TimeTooShort(ValueError):
    """A time in which nothing can be learnt.

    Attributes:
        minutes: the least that makes sense.
    """

    def __init__(self, text: str, minutes: float):
        super().__init__(text)
        self.minutes = minutes


@dataclass(frozen=True)
class TimeSplit:
    """Seconds of each stage; those of training include its start and end.

    Attributes:
        opening: to list the images, which each training does.
        before: of planning.
    """

    pretrain: float
    finetune: float
    opening: float = 0.0
    before: float = 0.0

    @property
    def around(self) -> float:
        """Return the seconds of a training's start and end."""
        return AROUND_SECONDS + self.opening

    @property
    def pretrain_steps(self) -> float:
        """Return the seconds that are left for steps of pretraining."""
        return max(0.0, self.pretrain - self.around)

    @property
    def finetune_steps(self) -> float:
        """Return the seconds that are left for steps and evaluations of fine-tuning."""
        return max(0.0, self.finetune - self.around)

    def least_minutes(self, seconds: float) -> float:
        """Return the minutes that would leave `seconds` for steps of pretraining, rounded up to half minutes."""
        share = PRETRAIN_SHARE if self.finetune else PRETRAIN_SHARE_ALONE
        return math.ceil(2 * ((seconds + self.around) / share + self.before) / 60) / 2

    @property
    def most_finetune_steps(self) -> float:
        """Return the same where fine-tuning takes as much of the time as it may."""
        return max(0.0, MOST_FINETUNE_SHARE / FINETUNE_SHARE * self.finetune - self.around)


def split_time(seconds: float, *, has_labels: bool, opening: float = 0.0, before: float = 0.0) -> TimeSplit:
    """Return the seconds of pretraining and fine-tuning; what is left is a reserve.

    Args:
        seconds: of everything.
        opening, before: see `TimeSplit`.
    """
    left = seconds - before
    if not has_labels:
        return TimeSplit(PRETRAIN_SHARE_ALONE * left, 0.0, opening, before)
    return TimeSplit(PRETRAIN_SHARE * left, FINETUNE_SHARE * left, opening, before)
