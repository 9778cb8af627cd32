"""Embed pictures in the report's page: a run's sprites as data URIs, shown whole or tile by tile."""

from __future__ import annotations

import base64
import io
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from PIL import Image

SEEN, LOOKED_AT = 64, 96  # a picture's side in pixels of the screen: at least, and about where details matter
FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}

Json = dict[str, Any]


@dataclass(frozen=True)
class Sheet:
    """Pictures of one size in one image; shown with `height` x `width` pixels each."""

    name: str  # its class in the page's style; none if it can't be shown
    uri: str
    height: int
    width: int
    columns: int
    count: int
    magnified: bool


LOST = Sheet("", "", SEEN, SEEN, 1, 0, False)


@dataclass
class Pictures:
    """The images that the page holds."""

    rules: list[str] = field(default_factory=list)  # of the style, one a sheet that is shown tile by tile
    sheets: int = 0

    def hold(self, folder: Path, sprite: Json, problems: list[str], side: int = SEEN, tiled: bool = True) -> Sheet:
        """Add a sprite to the page.

        Args:
            problems: takes the reason if it can't be read.
            side: in pixels, that tiles are magnified to; SEEN at the least.
            tiled: whether single tiles are shown; else the whole sheet is, as an image.
        """
        try:
            sheet, size = _sheet(folder, sprite, side, f"sheet-{self.sheets}")
        except ValueError as fault:
            problems.append(str(fault))
            return LOST
        self.sheets += 1
        if tiled:
            self.rules.append(
                f".{sheet.name}{{width:{sheet.width}px;height:{sheet.height}px;background-size:{size[0]}px {size[1]}px;"
                f'background-image:url("{sheet.uri}")}}'
            )
        return sheet


def _sheet(folder: Path, sprite: Json, side: int, name: str) -> tuple[Sheet, tuple[int, int]]:
    """Read a sprite; return it with its width and height on the screen."""
    (height, width), columns, count = sprite["tile"], sprite["columns"], sprite["count"]
    if not all(isinstance(one, int) and one > 0 for one in (height, width, columns, count)):
        raise ValueError(f"{sprite['file']}: tiles of {height} x {width}, {columns} columns and {count} tiles")
    rows = math.ceil(count / columns)
    uri, size = _data_uri(folder, sprite["file"])
    if size != (columns * width, rows * height):
        raise ValueError(
            f"{sprite['file']} is of {size[0]} x {size[1]} pixels, not {columns * width} x {rows * height}"
        )
    longest = max(height, width)
    scale = max(1, math.ceil(SEEN / longest), side // longest)
    shown = Sheet(name, uri, scale * height, scale * width, columns, count, scale > 1)
    return shown, (scale * size[0], scale * size[1])


def _data_uri(folder: Path, file: Any) -> tuple[str, tuple[int, int]]:
    """Return (an image as a data URI, its width, its height).

    Raises:
        ValueError: it is no image that a browser shows.
    """
    if not isinstance(file, str) or PurePath(file).is_absolute():
        raise ValueError(f"{file} is not the name of a picture in the run's folder")
    try:
        content = (folder / file).read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=list(FORMATS)) as image:
                image.load()  # a file that breaks off shows only now
                size, media = image.size, FORMATS[str(image.format)]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) and fault.strerror else "no whole picture"
        raise ValueError(f"{file} can't be read ({reason})") from fault
    return f"data:{media};base64,{base64.b64encode(content).decode()}", size


def position(sheet: Sheet, tile: int) -> str:
    """Return the CSS style that shows one tile of a sheet."""
    row, column = divmod(tile, sheet.columns)
    return f"background-position:-{column * sheet.width}px -{row * sheet.height}px"
