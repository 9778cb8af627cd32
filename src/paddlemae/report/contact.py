"""A contact sheet: small pictures in labelled rows, under headings, in one image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from paddlemae.atomic import replace_bytes

TILE, GAP, WIDTH = 96, 8, 1080  # pixels; ten tiles in a row, or five pairs
_HEADING, _TEXT, _LINE = 18, 11, 15  # sizes of letters; and the height of a line of text
_INK, _FAINT = "#1d2733", "#69737e"


@dataclass(frozen=True, eq=False)
class Block:
    """Pictures side by side, uint8 [H, W] or [H, W, 3], below a line of text; or only the text."""

    text: str
    pictures: Sequence[np.ndarray] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        if not self.pictures:
            return WIDTH - 2 * GAP, _LINE
        return len(self.pictures) * (TILE + GAP) - GAP, _LINE + TILE


def draw_sheet(path: Path, sections: Sequence[tuple[str, Sequence[Block]]]) -> None:
    """Draw sections, each a heading and its blocks; as many blocks stand in a row as there is room for."""
    places: list[tuple[int, int, Block]] = []
    headings: list[tuple[int, str]] = []
    y = GAP
    for heading, blocks in sections:
        headings.append((y, heading))
        y += _HEADING + GAP
        x, row_height = GAP, 0
        for block in blocks:
            width, height = block.size
            if x > GAP and x + width > WIDTH - GAP:
                x, y, row_height = GAP, y + row_height + GAP, 0
            places.append((x, y, block))
            x, row_height = x + width + 2 * GAP, max(row_height, height)
        y += row_height + 2 * GAP
    sheet = Image.new("RGB", (WIDTH, y), "white")
    pen = ImageDraw.Draw(sheet)
    for top, heading in headings:
        pen.text((GAP, top), heading, _INK, _font(_HEADING))
    for left, top, block in places:
        pen.text((left, top), _fitting(block.text, block.size[0]), _FAINT, _font(_TEXT))
        for number, picture in enumerate(block.pictures):
            tile = _tile(picture)
            corner = left + number * (TILE + GAP) + (TILE - tile.width) // 2, top + _LINE + (TILE - tile.height) // 2
            sheet.paste(tile, corner)
    content = io.BytesIO()
    sheet.save(content, "PNG")
    replace_bytes(path, content.getbuffer())


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fitting(text: str, width: int) -> str:
    """One line of the text's printable characters, its middle left out where it is too long."""
    text = "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in text)
    font, cut = _font(_TEXT), text
    while font.getlength(cut) > width:
        kept = (len(cut.replace("...", "")) - 1) // 2
        cut = f"{text[:kept]}...{text[-kept:]}" if kept else ""
    return cut


def _tile(picture: np.ndarray) -> Image.Image:
    """As large as fits: small pictures whole numbers of times, larger ones averaged."""
    image = Image.fromarray(picture).convert("RGB")
    longest = max(image.size)
    if longest <= TILE:
        times = TILE // longest
        return image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
    width, height = (max(1, round(side * TILE / longest)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)
