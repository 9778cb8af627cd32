"""A tenth of the embedded digits, for tests of commands that evaluate on all of them."""

from __future__ import annotations

from functools import lru_cache

import pytest

from paddlemae.data.sources import digit_scenes, digits

DIGITS = {"train": (0, 60), "fit": (0, 40), "val": (40, 60), "test": (400, 420)}  # images of each class
SCENES = {"train": ("train", 0, 120), "fit": ("train", 0, 100), "val": ("train", 100, 120), "test": ("test", 0, 20)}


def use_few_digits(patch: pytest.MonkeyPatch) -> None:
    """Let `digits` and `digit-scenes` have fewer images, in splits of the same names."""
    patch.setattr(digits, "_SPLITS", DIGITS)
    patch.setattr(digit_scenes, "_SPLITS", SCENES)
    for name in ("_digits_of", "make_scene"):  # what these keep is made of all digits, and stays for other tests
        patch.setattr(digit_scenes, name, lru_cache(maxsize=2500)(getattr(digit_scenes, name).__wrapped__))
