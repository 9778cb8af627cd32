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
    """Seconds of each stage; those of training include its start and end."""

    pretrain: float
    finetune: float

    @property
    def pretrain_steps(self) -> float:
        """Return the seconds that are left for steps of pretraining."""
        return max(0.0, self.pretrain - AROUND_SECONDS)

    @property
    def finetune_steps(self) -> float:
        """Return the seconds that are left for steps and evaluations of fine-tuning."""
        return max(0.0, self.finetune - AROUND_SECONDS)

    @property
    def most_finetune_steps(self) -> float:
        """Return the same where fine-tuning takes as much of the time as it may."""
        return max(0.0, MOST_FINETUNE_SHARE / FINETUNE_SHARE * self.finetune - AROUND_SECONDS)


def split_time(seconds: float, *, has_labels: bool) -> TimeSplit:
    """Return the seconds of pretraining and fine-tuning; what is left is for planning and a reserve."""
    if not has_labels:
        return TimeSplit(PRETRAIN_SHARE_ALONE * seconds, 0.0)
    return TimeSplit(PRETRAIN_SHARE * seconds, FINETUNE_SHARE * seconds)


def least_minutes(seconds_of_steps: float, *, has_labels: bool) -> float:
    """Return the minutes that give pretraining so many seconds of steps, rounded up to half minutes."""
    share = PRETRAIN_SHARE if has_labels else PRETRAIN_SHARE_ALONE
    return math.ceil(2 * (seconds_of_steps + AROUND_SECONDS) / share / 60) / 2
