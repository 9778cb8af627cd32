"""The options behind a path of images with masks, `PATH::option=value`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from paddlemae.data.masks.class_file import Colour, ListedClass, check_classes, parse_lines, read_class_file
from paddlemae.data.sources.splits import list_names

_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_RGB = ("gray", "voc")


@dataclass(frozen=True)
class MaskOptions:
    """How masks are to be read.

    Args:
        classes: their list; None if it is to be found next to the masks.
        select: classes to keep, in their new order, as of `select_classes`; None for all.
        ignore: values, names of classes and colours that count nowhere; None for what is usual.
        zero_is_background: the listed classes have the ids from 1, and 0 is a class "background" (True) or ignored
            (False); None: they have the ids from 0.
        binary: masks are black and white (0 and 255); None to see it from the masks.
        rgb: what masks saved as RGB were: ids ("gray") or a palette image with VOC's colours ("voc").
        mask_suffix: behind a mask's name where it is not the image's: `_mask` of `a_mask.png`.
        images, masks: names of the folders that hold images and masks; None for the usual ones.
        turn_masks: masks are of the photos before their EXIF rotation.
        skip_unpaired: leave out images without a mask, and masks without an image.
    """

    classes: tuple[ListedClass, ...] | None = None
    select: tuple[str, ...] | None = None
    ignore: tuple[int | str | Colour, ...] | None = None
    zero_is_background: bool | None = None
    binary: bool | None = None
    rgb: Literal["gray", "voc"] | None = None
    mask_suffix: str = ""
    images: str | None = None
    masks: str | None = None
    turn_masks: bool = False
    skip_unpaired: bool = False


OF_FILES = ("mask_suffix", "images", "masks")  # which files are masks
LIST_OPTIONS = ("root", "image", "mask", "split", "group")  # of lists, in addition
NAMES = (
    *("classes", "select", "ignore", "zero_is_background", "binary", "rgb", "mask_suffix", "images", "masks"),
    *("turn_masks", "unpaired"),
)


def parse_options(options: Mapping[str, str], spec: str) -> MaskOptions:
    """Return the options of `PATH::option=value`; unknown names and values are a ValueError."""
    if unknown := sorted(options.keys() - set(NAMES)):
        raise ValueError(f"{spec!r}: no option {unknown[0]!r} of images with masks; there are {list_names(NAMES)}")
    rgb, unpaired = options.get("rgb"), options.get("unpaired")
    if rgb not in (None, *_RGB):
        raise ValueError(f"{spec!r}: expected rgb=gray or rgb=voc, got {rgb!r}")
    if unpaired not in (None, "skip"):
        raise ValueError(f"{spec!r}: expected unpaired=skip, got {unpaired!r}")
    return MaskOptions(
        classes=_parse_classes(options["classes"]) if "classes" in options else None,
        select=tuple(_split(options["select"])) if "select" in options else None,
        ignore=tuple(map(_parse_ignored, _split(options["ignore"]))) if "ignore" in options else None,
        zero_is_background=_parse_flag(options, "zero_is_background", spec),
        binary=_parse_flag(options, "binary", spec),
        rgb="gray" if rgb == "gray" else "voc" if rgb == "voc" else None,
        mask_suffix=options.get("mask_suffix", ""),
        images=options.get("images"),
        masks=options.get("masks"),
        turn_masks=_parse_flag(options, "turn_masks", spec) or False,
        skip_unpaired=unpaired == "skip",
    )


def _split(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _parse_flag(options: Mapping[str, str], name: str, spec: str) -> bool | None:
    if name not in options:
        return None
    if (flag := _FLAGS.get(options[name].lower())) is None:
        raise ValueError(f"{spec!r}: expected {name}=true or {name}=false, got {options[name]!r}")
    return flag


def _parse_classes(text: str) -> tuple[ListedClass, ...]:
    """Return the classes of a file, or of names with commas between them."""
    path = os.path.expanduser(text)
    if os.path.isfile(path) or text.lower().endswith((".txt", ".csv", ".json")):
        return tuple(read_class_file(path))
    return tuple(check_classes(parse_lines(_split(text)), f"classes={text}"))


def _parse_ignored(text: str) -> int | str | Colour:
    """Return a value, "none", the name of a class, or a colour such as "0 0 0"."""
    if text.isdecimal():
        return int(text)
    numbers = text.split()
    if len(numbers) == 3 and all(each.isdecimal() and int(each) < 256 for each in numbers):
        return int(numbers[0]), int(numbers[1]), int(numbers[2])
    return text
