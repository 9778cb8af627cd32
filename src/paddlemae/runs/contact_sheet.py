"""Draw a contact sheet: small pictures in labelled rows, under headings, in one image."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from paddlemae.runs.fonts import choose_fonts
from paddlemae.system.atomic import replace_bytes
from paddlemae.system.display_names import display_name

TILE, GAP, WIDTH = 96, 8, 1080  # pixels; ten tiles in a row, or five pairs
_HEADING, _TEXT, _LINE = 18, 11, 15  # sizes of letters; and the height of a line of text
_INK, _FAINT = "#1d2733", "#69737e"
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, eq=False)
class Block:
    """Pictures side by side, uint8 [H, W] or [H, W, 3], below a line of text and above others; or only the text."""

    text: str
    pictures: Sequence[np.ndarray] = ()
    captions: Sequence[str] = ()

    def size(self, tile: int) -> tuple[int, int]:
        """Return (width, height) with pictures of `tile` pixels."""
        if not self.pictures:
            return WIDTH - 2 * GAP, _LINE
        return len(self.pictures) * (tile + GAP) - GAP, self.top + tile + _LINE * len(self.captions)

    @property
    def top(self) -> int:
        """Return where the pictures begin."""
        return _LINE if self.text else 0


def draw_sheet(path: Path, sections: Sequence[tuple[str, Sequence[Block]]], tile: int = TILE) -> None:
    """Draw sections, each a heading and its blocks; as many blocks stand in a row as there is room for.

    Args:
        tile: largest height and width of a picture, pixels.
    """
    places: list[tuple[int, int, Block]] = []
    headings: list[tuple[int, str]] = []
    y = GAP
    for heading, blocks in sections:
        headings.append((y, heading))
        y += _HEADING + GAP
        x, row_height = GAP, 0
        for block in blocks:
            width, height = block.size(tile)
            if x > GAP and x + width > WIDTH - GAP:
                x, y, row_height = GAP, y + row_height + GAP, 0
            places.append((x, y, block))
            x, row_height = x + width + 2 * GAP, max(row_height, height)
        y += row_height + 2 * GAP
    sheet = Image.new("RGB", (WIDTH, y), "white")
    pen = ImageDraw.Draw(sheet)
    texts = [text for *_, block in places for text in (block.text, *block.captions)]
    letters = _Letters([*(heading for heading, _ in sections), *texts])
    for top, heading in headings:
        letters.write(pen, (GAP, top), heading, WIDTH - 2 * GAP, _INK, _HEADING)
    for left, top, block in places:
        width, height = block.size(tile)
        letters.write(pen, (left, top), block.text, width, _FAINT, _TEXT)
        for number, picture in enumerate(block.pictures):
            image = _resized(picture, tile)
            corner = left + number * (tile + GAP) + (tile - image.width) // 2, (tile - image.height) // 2
            sheet.paste(image, (corner[0], top + block.top + corner[1]))
        for line, caption in enumerate(block.captions):
            place = left, top + height - _LINE * (len(block.captions) - line)
            letters.write(pen, place, caption, width, _FAINT if line else _INK, _TEXT)
    content = io.BytesIO()
    sheet.save(content, "PNG")
    replace_bytes(path, content.getbuffer())


class _Letters:
    """Writes texts, each on one line: ASCII in Pillow's own font, other letters in the first font that has them."""

    def __init__(self, texts: Iterable[str]):
        others = [text for text in texts if not text.isascii()]  # matplotlib is slow to import
        self.lettering = choose_fonts(others) if others else None
        self.fonts: dict[tuple[tuple[str, int], int], _Font] = {}

    def write(
        self, pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width: int, colour: str, size: int
    ) -> None:
        """Write a text, its middle left out where it is wider than `width` pixels."""
        x, y = place
        for font, piece in self._pieces(self._fitting(text, width, size), size):
            pen.text((x, y + size), piece, colour, font, anchor="ls")
            x += round(font.getlength(piece))

    def _fitting(self, text: str, width: int, size: int) -> str:
        most = width  # no letter is narrower than a pixel
        while True:
            line = display_name(text, most) if self.lettering is None else self.lettering(text, most)
            wide = sum(font.getlength(piece) for font, piece in self._pieces(line, size))
            if wide <= width or most <= 0:
                return line
            most = max(0, min(int(most * width / wide), len(line) - 1))

    def _pieces(self, line: str, size: int) -> Iterator[tuple[_Font, str]]:
        """Yield a line in pieces of one font each."""
        for place, letters in groupby(line, self._place_of):
            yield self._font(place, size), "".join(letters)

    def _place_of(self, letter: str) -> tuple[str, int]:
        """Return (file of the font, its number there) for a letter; no file for Pillow's own."""
        if self.lettering is None or letter.isascii():
            return "", 0
        return next((font.path, font.index) for font in self.lettering.fonts if ord(letter) in font.letters)

    def _font(self, place: tuple[str, int], size: int) -> _Font:
        if (place, size) not in self.fonts:
            path, index = place
            self.fonts[place, size] = ImageFont.truetype(path, size, index) if path else ImageFont.load_default(size)
        return self.fonts[place, size]


def _resized(picture: np.ndarray, tile: int) -> Image.Image:
    """Resize a picture to fit a tile: small ones by a whole factor, larger ones by area means."""
    image = Image.fromarray(picture).convert("RGB")
    longest = max(image.size)
    if longest <= tile:
        times = tile // longest
        return image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
    width, height = (max(1, round(side * tile / longest)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)
