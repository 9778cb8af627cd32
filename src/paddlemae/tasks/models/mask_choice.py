"""Choose which patches are removed: at random, by a map, by a picture, by boxes, or none.

All choices apply to what the model sees, its view: a map or picture covers all of it, and boxes are in its pixels.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from paddlemae.data.decode.images import EXTENSIONS, UnreadableImage, has_ending, read_image
from paddlemae.data.decode.pixel_format import convert_depth
from paddlemae.model.masking import MASKS, Mask, draw_mask, given_mask

DEFAULT_RATIO = 0.75  # the paper's
NONE = "none"
BOXES = "boxes:"
MAPS = (".npy", ".txt")
WHITE_ENOUGH = 0.5  # the mean brightness, of 1, from which a patch is removed
EXPECTED = (
    f"{', '.join(MASKS)}, none, boxes:LEFT,TOP,RIGHT,BOTTOM;..., a map (.npy, .txt) or a picture (white = removed)"
)

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class MaskChoice:
    """How the patches to remove are chosen.

    Args:
        kind: a key of `masking.MASKS` or "none", unless a file, boxes or a map are given.
        ratio: of the patches to remove; None is 0.75.
        seed: of what is drawn.
        file: a map of the patches, `.npy` or `.txt` (1 = removed), or a picture of the view, brought to the grid by
            averaging: patches are removed that are half white or more.
        boxes: (left, top, right, bottom) in pixels of the view, right and bottom not included; every patch that one of
            them touches is removed.
        removed: a map of the patches, [rows, columns] or [B, rows, columns], True or 1 where one is removed.
    """

    kind: str = "random"
    ratio: float | None = None
    seed: int = 0
    file: Path | None = None
    boxes: tuple[Box, ...] = ()
    removed: np.ndarray | None = None

    @property
    def name(self) -> str:
        if self.removed is not None:
            return "a given map"
        return str(self.file or ("boxes" if self.boxes else self.kind))


def parse_mask(text: str, ratio: float | None = None, seed: int = 0) -> MaskChoice:
    """Return the choice that a value of `--mask` stands for.

    Raises:
        ValueError: an unknown value.
    """
    if text.startswith(BOXES):
        return MaskChoice(ratio=ratio, seed=seed, boxes=_parse_boxes(text.removeprefix(BOXES)))
    if has_ending(text, (*MAPS, *EXTENSIONS)):
        return MaskChoice(ratio=ratio, seed=seed, file=Path(text))
    if text not in (*MASKS, NONE):
        raise ValueError(f"mask must be {EXPECTED}; got {text!r}")
    return MaskChoice(text, ratio, seed)


def _parse_boxes(text: str) -> tuple[Box, ...]:
    boxes = []
    for word in filter(None, (word.strip() for word in text.split(";"))):
        try:
            left, top, right, bottom = map(int, word.split(","))
        except ValueError as fault:
            raise ValueError(
                f"boxes must be LEFT,TOP,RIGHT,BOTTOM in whole pixels, separated by ';'; got {word!r}"
            ) from fault
        boxes.append((left, top, right, bottom))
    if not boxes:
        raise ValueError("boxes: needs at least one box, such as boxes:10,20,60,80")
    return tuple(boxes)


def choose_mask(
    choice: MaskChoice, grid: tuple[int, int], batch_size: int, patch_size: tuple[int, int] = (1, 1)
) -> Mask:
    """Return the mask of each image.

    Args:
        grid: (rows, columns) of patches.
        patch_size: (height, width) in pixels, which boxes are measured in.
    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown kind, a ratio, map, picture or box that does not fit the model's patches.
    """
    removed = _given(choice, grid, patch_size)
    if choice.ratio is not None and (removed is not None or MASKS[choice.kind].fixed_ratio):
        warnings.warn(f"--mask-ratio has no effect with --mask {choice.name}", stacklevel=2)
    if removed is not None:
        one_for_all = removed.ndim < 3
        try:
            return given_mask(np.broadcast_to(removed, (batch_size, *removed.shape)) if one_for_all else removed, grid)
        except ValueError as fault:
            if choice.file is None:
                raise
            raise ValueError(f"mask file {choice.file}: {fault}") from fault
    ratio = DEFAULT_RATIO if choice.ratio is None else choice.ratio
    return draw_mask(choice.kind, [np.random.default_rng(choice.seed)] * batch_size, grid, ratio)


def _given(choice: MaskChoice, grid: tuple[int, int], patch_size: tuple[int, int]) -> np.ndarray | None:
    """Return the map of a choice without randomness; None of a random one."""
    if choice.removed is not None:
        return np.asarray(choice.removed)
    if choice.boxes:
        return _under_boxes(choice.boxes, grid, patch_size)
    if choice.file is None:
        return np.zeros(grid, bool) if choice.kind == NONE else None
    if not choice.file.is_file():
        raise FileNotFoundError(f"mask file {choice.file} does not exist")
    return _read_map(choice.file) if choice.file.suffix in MAPS else _read_picture(choice.file, grid)


def _under_boxes(boxes: tuple[Box, ...], grid: tuple[int, int], patch_size: tuple[int, int]) -> np.ndarray:
    (rows, columns), (height, width) = grid, patch_size
    removed = np.zeros(grid, bool)
    for left, top, right, bottom in boxes:
        if not (0 <= left < right <= columns * width and 0 <= top < bottom <= rows * height):
            raise ValueError(
                f"a box must lie in the resized image, {columns * width} pixels wide and {rows * height} high, with "
                f"left < right and top < bottom; got {left},{top},{right},{bottom}"
            )
        removed[top // height : -(-bottom // height), left // width : -(-right // width)] = True
    if removed.all():
        raise ValueError("the boxes touch every patch, but at least one must stay visible; make them smaller")
    return removed


def _read_map(path: Path) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # NumPy only warns of an empty file
            return np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, ndmin=2)
    except (ValueError, EOFError, UserWarning) as fault:
        raise ValueError(f"{path} is not a mask; expected rows of 0 (kept) and 1 (removed)") from fault


def _read_picture(path: Path, grid: tuple[int, int]) -> np.ndarray:
    """Return where a picture, averaged over each patch, is half white or more."""
    try:
        pixels_HW = convert_depth(read_image(path, 1), 8)[..., 0]
    except UnreadableImage as fault:
        raise ValueError(f"{path} is not a mask; expected a picture, white = removed ({fault.reason})") from fault
    brightness = Image.fromarray(pixels_HW.astype(np.float32)).resize(grid[::-1], Image.Resampling.BOX)
    removed = np.asarray(brightness) >= WHITE_ENOUGH * 255
    if removed.all():
        raise ValueError(f"{path} is white in every patch, but at least one must stay visible (black)")
    return removed
