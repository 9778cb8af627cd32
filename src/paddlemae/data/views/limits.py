"""The rules that crops and shifts of a view must keep, for a recipe and for a view alike."""

from __future__ import annotations


def check_crops(
    crop_scale: tuple[float, float] | None, crop_ratio: tuple[float, float], shift: int, eval_crop_ratio: float
) -> None:
    """Raise a ValueError if the random crops or shifts of training views make no sense. Arguments as of `View`."""
    if crop_scale and not 0 < crop_scale[0] <= crop_scale[1] <= 1:
        raise ValueError(f"crop_scale must be [smallest, largest], above 0 and at most 1, got {list(crop_scale)}")
    if not 0 < crop_ratio[0] <= crop_ratio[1]:
        raise ValueError(f"crop_ratio must be [smallest, largest], above 0, got {list(crop_ratio)}")
    if not 0 < eval_crop_ratio <= 1:
        raise ValueError(f"eval_crop_ratio must be above 0 and at most 1, got {eval_crop_ratio}")
    if crop_scale and shift:
        raise ValueError("crop_scale and shift exclude each other; set crop_scale=null to use shift")
