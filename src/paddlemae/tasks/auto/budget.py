"""Share the time of an `auto` run out among its stages."""

from __future__ import annotations

from dataclasses import dataclass

BASELINES_SHARE, MOST_BASELINES = 0.04, 90.0
FEATURES_SHARE, MOST_FEATURES = 0.04, 120.0
REPORT_SHARE, MOST_REPORT = 0.03, 10.0
LEAST_SHARE = 0.3  # of the planned fine-tuning, also where the time is used up
CHECK_SHARE = 0.05  # a check that takes longer is left to `paddlemae data check`


@dataclass(frozen=True)
class Budget:
    """Seconds of the stages around both trainings."""

    baselines: float
    features: float
    report: float

    @property
    def around(self) -> float:
        """Return the seconds of all of them."""
        return self.baselines + self.features + self.report

    @classmethod
    def of(cls, seconds: float, *, has_labels: bool) -> Budget:
        """Return the shares of `seconds`; without labels there are no baselines."""
        baselines = min(MOST_BASELINES, BASELINES_SHARE * seconds) if has_labels else 0.0
        features = min(MOST_FEATURES, FEATURES_SHARE * seconds) / (1 if has_labels else 2)
        return cls(baselines, features, min(MOST_REPORT, REPORT_SHARE * seconds))

    def pretrain_seconds(self, left: float, finetune: float) -> float:
        """Return the time of pretraining: all that is `left` before it, less what comes after it."""
        return left - self.features - self.report - finetune

    def finetune_seconds(self, left: float, planned: float, is_short: bool) -> float:
        """Return the time of fine-tuning: what was planned, or what is left, but no less than a part of the plan.

        Args:
            is_short: the plan is shorter than the labels ask for, so more time is of use.
        """
        left = max(left - self.report, LEAST_SHARE * planned)
        return left if is_short else min(planned, left)


def most_images(seconds: float, seconds_an_image: float, least: int, most: int) -> int:
    """Return how many images can be processed in a time."""
    return int(min(most, max(least, seconds / seconds_an_image)))
