"""The types of settings, with their limits."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from paddlemae.model.shape import LARGEST_STATISTIC, MOST, MOST_PIXELS, SMALLEST_STD

STRICT = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
MOST_WORKERS = 4096


def _refuse_bool(value: Any) -> Any:
    """Refuse a boolean, as which YAML reads `yes` and `on`, and which Python takes for 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _check_labels(value: Any) -> Any:
    """Refuse all but a number of images, a share of them ("10%") or a number per class ("5/class")."""
    number = isinstance(value, int) and not isinstance(value, bool) and value > 0
    if number or (isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?%|\d+/class", value)):
        return value
    raise ValueError(f'expected a number of images, a share ("10%") or a number per class ("5/class"), got {value!r}')


def _check_mask_labels(value: Any) -> Any:
    """Refuse all but a number of images or a share of them ("10%")."""
    if isinstance(value, str) and value.endswith("/class"):
        raise ValueError(f'an image has pixels of several classes, so {value!r} has no meaning; use a number or "10%"')
    return _check_labels(value)


def setting(default: Any, description: str) -> Any:
    """Describe a setting: its default and its meaning, with the unit."""
    return Field(default=default, description=description)


NUMBER = BeforeValidator(_refuse_bool)
Positive = Annotated[int, NUMBER, Field(ge=1, le=MOST)]
NonNegative = Annotated[int, NUMBER, Field(ge=0, le=MOST)]
PositiveFloat = Annotated[float, NUMBER, Field(gt=0, le=MOST)]
NonNegativeFloat = Annotated[float, NUMBER, Field(ge=0, le=MOST)]
Seed = Annotated[int, NUMBER, Field(ge=0, lt=2**63)]
Share = Annotated[float, NUMBER, Field(ge=0, lt=1)]
ShareOrNone = Annotated[float, NUMBER, Field(ge=0, le=1)]
ShareOrAll = Annotated[float, NUMBER, Field(gt=0, le=1)]
Side = Annotated[int, NUMBER, Field(ge=1, le=MOST_PIXELS)]
Workers = Annotated[int, NUMBER, Field(ge=0, le=MOST_WORKERS)]
Threads = Annotated[int, NUMBER, Field(ge=1, le=MOST_WORKERS)]
Labels = Annotated[int | str, BeforeValidator(_check_labels)]
MaskLabels = Annotated[int | str, BeforeValidator(_check_mask_labels)]
Mean = tuple[Annotated[float, Field(ge=-LARGEST_STATISTIC, le=LARGEST_STATISTIC)], ...] | Literal["auto"]
Std = tuple[Annotated[float, NUMBER, Field(ge=SMALLEST_STD, le=LARGEST_STATISTIC)], ...] | Literal["auto"]
