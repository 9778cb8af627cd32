"""Choose the fonts of a picture's letters: matplotlib's own, and for what it lacks those of the system."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from paddlemae.system.display_names import display_name

DEFAULT_FONT = "DejaVu Sans"  # comes with matplotlib
# fonts of many letters, by their families' names; those of coloured pictures can't be drawn in one colour
_LARGE = re.compile(
    "cjk|noto|hei|song|ming|kai|gothic|yahei|pingfang|gulim|malgun|fallback|unifont|unicode|emoji|symbol|wenquanyi|wqy"
    "|source han|han sans|han serif|freesans|freeserif|arial|segoe|quivira|code2000",
    re.IGNORECASE,
)
_UNDRAWABLE = re.compile("colou?r", re.IGNORECASE)
_MOST_TRIED = 24  # a font of all of Chinese takes milliseconds to open, and a system may have hundreds


@dataclass(frozen=True)
class Font:
    """A font: its family, its file, its number in there, and the characters that it has."""

    family: str
    path: str
    index: int
    letters: frozenset[int]


@dataclass(frozen=True)
class Lettering:
    """Fonts of some texts, later ones for letters that earlier ones lack, and the letters that all lack."""

    fonts: tuple[Font, ...]
    lacking: frozenset[str]

    @property
    def families(self) -> list[str]:
        return [font.family for font in self.fonts]

    def __call__(self, name: object, most: int | None) -> str:
        """Return a name as it is drawn, in at most `most` columns; what no font has is escaped."""
        return display_name(name, most, without=self.lacking)


def choose_fonts(texts: Iterable[object]) -> Lettering:
    """Find fonts for the letters of some texts."""
    letters = frozenset().union(*map(str, texts)) if texts else frozenset()
    return _lettering(frozenset(letter for letter in letters if not letter.isascii() and letter.isprintable()))


@cache
def _lettering(letters: frozenset[str]) -> Lettering:
    manager = fonts()
    chosen = [_font(DEFAULT_FONT, manager.findfont(DEFAULT_FONT), 0)]
    lacking = frozenset(letter for letter in letters if ord(letter) not in chosen[0].letters)
    for entry in _candidates(manager)[:_MOST_TRIED] if lacking else ():
        font = _font(entry.name, entry.fname, getattr(entry, "index", 0))
        has = {letter for letter in lacking if ord(letter) in font.letters}
        if has:
            chosen.append(font)
            lacking -= has
        if not lacking:
            break
    return Lettering(tuple(chosen), lacking)


def _candidates(manager: Any) -> list[Any]:
    """Return matplotlib's fonts that may have the letters of many scripts; upright and regular ones first."""
    large = (entry for entry in manager.fontManager.ttflist if _LARGE.search(entry.name))
    upright = (entry for entry in large if entry.style == "normal" and not _UNDRAWABLE.search(entry.name))
    return sorted(upright, key=lambda entry: (abs(_weight(entry.weight) - 400), entry.name))


def fonts() -> Any:
    """Import matplotlib's list of fonts, without what it has to say of its folders and caches."""
    with _quiet():
        from matplotlib import font_manager
    return font_manager


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.ERROR)  # Paddle's logging setup shows even its notes
    try:
        yield
    finally:
        logger.setLevel(before)


def _weight(weight: int | str) -> int:
    return weight if isinstance(weight, int) else {"bold": 700, "light": 200}.get(weight, 400)


def _font(family: str, path: str, index: int) -> Font:
    """Return a font with its letters: none if it can't be read, or has bitmaps instead of outlines."""
    from matplotlib import ft2font

    try:
        font = ft2font.FT2Font(path, face_index=index) if index else ft2font.FT2Font(path)
        letters = frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError, TypeError):
        letters = frozenset()
    return Font(family, path, index, letters)
