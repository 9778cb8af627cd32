"""Settings of a model that files state next to its tensors, or that the caller states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from paddlemae.system.display_names import display_name
from paddlemae.weights.formats.state_dict import Opaque

Size = tuple[int, int]


@dataclass
class Settings:
    """Settings that tensors alone do not show; None where nothing states them.

    Attributes:
        image_size: (height, width) in pixels.
        heads, decoder_heads: of attention.
        norm_pix_loss: whether the decoder predicts normalised pixels.
        mean, std, classes: see `Imported`.
        declared: name of a setting -> what the configuration says that the tensors show too, to be compared.
        biasless: whether queries, keys and values may have no bias at all.
        taps: of a segmenter, see `SegmenterShape`.
        palette: see `Imported`.
    """

    image_size: Size | None = None
    heads: int | None = None
    decoder_heads: int | None = None
    norm_pix_loss: bool | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    classes: list[str] = field(default_factory=list)
    declared: dict[str, Any] = field(default_factory=dict)
    biasless: bool = False
    taps: list[int] | None = None
    palette: list[list[int]] | None = None

    def overrule(self, other: Settings) -> Settings:
        """Return these settings, replaced by the other's wherever those are set."""
        values = {one.name: getattr(other, one.name) or getattr(self, one.name) for one in fields(self)}
        if other.norm_pix_loss is not None:
            values["norm_pix_loss"] = other.norm_pix_loss
        return Settings(**values)


def size_of(value: Any, what: str) -> Size | None:
    """Return (height, width) from one number, two, or timm's (channels, height, width).

    Raises:
        ValueError: something else.
    """
    if value is None:
        return None
    values = [value, value] if isinstance(value, (int, float)) else list(value)[-2:] if _is_list(value) else []
    if len(values) != 2 or not all(_is_size(one) for one in values):
        raise ValueError(f"{what} must be one or two whole numbers of pixels, got {display_name(repr(value))}")
    return int(values[0]), int(values[1])


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(one, (int, float)) for one in value)


def _is_size(value: Any) -> bool:
    return not isinstance(value, bool) and value >= 1 and (isinstance(value, int) or value.is_integer())


def whole(value: Any, what: str) -> int | None:
    """Return a positive integer, or None for anything else.

    Raises:
        ValueError: something else.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{what} must be a whole number from 1, got {display_name(repr(value))}")
    return value


def numbers(value: Any, what: str) -> list[float] | None:
    """Return a list of numbers, or None for anything else.

    Raises:
        ValueError: something else.
    """
    if value is None:
        return None
    if not _is_list(value) or not value or not all(abs(one) < 1e30 for one in value):
        raise ValueError(f"{what} must be a list of numbers, got {display_name(repr(value))}")
    return [float(one) for one in value]


def from_arguments(extras: Mapping[str, Any] | None) -> Settings:
    """Read settings from the `args` of an official or MAE-pytorch checkpoint, if its file holds them."""
    args = (extras or {}).get("args")
    if isinstance(args, Opaque):
        args = args.state
    if not isinstance(args, Mapping):
        return Settings()
    target = args.get("norm_pix_loss", args.get("normlize_target"))  # the second is MAE-pytorch's own spelling
    return Settings(
        image_size=size_of(args.get("input_size"), "the checkpoint's args.input_size"),
        norm_pix_loss=target if isinstance(target, bool) else None,
    )


def from_preprocessor(extras: Mapping[str, Any] | None) -> Settings:
    """Read settings from a Hugging Face folder's `preprocessor_config.json`, if there is one."""
    content = (extras or {}).get("preprocessor_config.json")
    if not isinstance(content, Mapping) or content.get("do_normalize") is False:
        return Settings()
    return Settings(
        mean=numbers(content.get("image_mean"), "preprocessor_config.json's image_mean"),
        std=numbers(content.get("image_std"), "preprocessor_config.json's image_std"),
    )
