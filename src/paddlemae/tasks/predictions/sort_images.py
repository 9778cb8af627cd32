"""Sort images into a folder per class: links to their files, or copies; nothing that is there is ever replaced.

An image that has no file of its own is written to one: as the bytes that its archive or table holds, where these are an
image file, else as a PNG (`.npy` where a PNG can't hold it). Sorting again leaves what was sorted before as it is.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paddlemae.data.decode.images import EXTENSIONS, has_ending
from paddlemae.data.pack.encoding import Encoding, encode_image
from paddlemae.data.sources import Source
from paddlemae.data.sources.image_files import file_of
from paddlemae.system.atomic import replace_file

UNSURE = "unsure"  # the folder of images whose class is unsure
NO_CLASS = "none"  # that of images for which a multi-label classifier gives no class
LONGEST_NAME = 255  # bytes of a file's name
_ANY_SIZE = 2**31  # pixels: images are written as large as they are


def folder_names(classes: Sequence[str], reserved: Iterable[str] = ()) -> list[str]:
    """Return a name of a folder for each class, the class's own where that is possible, all different.

    Slashes and a dot in front become "_", since a class of someone's weights may be called "../..", and long names are
    cut. The second of two equal names ends with "-2".

    Args:
        reserved: names that no class may have.
    """
    taken = {name.casefold() for name in reserved}  # some file systems do not distinguish "A" and "a"
    names = []
    for label in classes:
        plain = label.replace("/", "_").replace("\0", "_")
        plain = f"_{plain[1:]}" if plain[:1] in (".", "") else plain
        name = next(name for name in _numbered(plain, "") if name.casefold() not in taken)
        taken.add(name.casefold())
        names.append(name)
    return names


def _numbered(stem: str, ending: str, first: int = 1) -> Iterator[str]:
    """Yield names: "a.png", "a-2.png", "a-3.png" ..., no longer than a file's name may be."""
    number = first
    while True:
        end = f"-{number}{ending}" if number > 1 else ending
        room = LONGEST_NAME - len(os.fsencode(end))
        yield os.fsdecode(os.fsencode(stem)[:room]) + end
        number += 1


@dataclass
class Sorter:
    """Puts images of a source into folders.

    Args:
        channels: as images are read for a model, for those that are written as a PNG.
        copy: copy files instead of linking to them.

    Attributes:
        ways: how many images were linked ("links"), hard-linked, copied, written, or there already.
    """

    source: Source
    into: Path
    channels: int
    copy: bool = False
    ways: Counter[str] = field(default_factory=Counter)
    last_numbers: dict[tuple[str, str], int] = field(default_factory=dict)  # of a folder's names

    def put(self, i: int, folder: str) -> None:
        """Put image i into a folder, under its own name, or with a number behind it where that is taken."""
        place = self.into / folder
        place.mkdir(parents=True, exist_ok=True)
        file = file_of(self.source.reader, i)
        if file is None:
            name, content = self._content(i)
            self._put(place, name, lambda path: _is_file_of(path, content), lambda path: self._write(path, content))
        else:
            target = os.path.abspath(file)
            self._put(
                place,
                os.path.basename(target),
                lambda path: _is_same(path, target),
                lambda path: self._link_or_copy(target, path),
            )

    def _put(self, place: Path, name: str, is_same: Callable[[Path], bool], make: Callable[[Path], None]) -> None:
        stem, ending = os.path.splitext(name)
        key = place.name, name
        first = self.last_numbers.get(key, 0) + 1
        for number, candidate in enumerate(_numbered(stem, ending, first), first):
            path = place / candidate
            key_of_candidate = place.name, candidate
            if number > 1 and key_of_candidate in self.last_numbers:  # another image is called "a-2.png" itself
                continue
            if not os.path.lexists(path):
                make(path)
            elif is_same(path):
                self.ways["there already"] += 1
            else:
                continue
            self.last_numbers[key] = number
            self.last_numbers.setdefault(key_of_candidate, 1)
            return

    def _link_or_copy(self, target: str, path: Path) -> None:
        self.ways[link_or_copy(target, path, copy=self.copy)] += 1

    def _write(self, path: Path, content: bytes) -> None:
        with replace_file(path) as temporary:
            temporary.write_bytes(content)
        self.ways["files"] += 1

    def _content(self, i: int) -> tuple[str, bytes]:
        """Return the name and the content of a file for an image that has none."""
        name = os.path.basename(self.source.describe(i)).replace("\0", "_")
        ending, content = file_content(self.source, i, self.channels)
        return (name, content) if has_ending(name, EXTENSIONS) else (name + ending, content)


def file_content(source: Source, i: int, channels: int) -> tuple[str, bytes]:
    """Return (ending, content) of a file for an image that has none: as it is stored, else a PNG or TIFF of it."""
    stored, described = source.stored(i), source.describe(i)
    if isinstance(stored, bytes) and has_ending(described, EXTENSIONS):
        return os.path.splitext(described)[1], stored
    encoded = encode_image(stored, described, Encoding(_ANY_SIZE, channels, lossless=True), source.room(i))
    return f".{encoded.ending}", encoded.content


def link_or_copy(target: str, path: Path, *, copy: bool = False) -> str:
    """Link a file to a place where none is, or copy it where no link can be; return which of the two."""
    if not copy:
        for way, link in (("links", os.symlink), ("hard links", os.link)):
            with contextlib.suppress(OSError, NotImplementedError):  # copying raises it again if it can't be either
                link(target, path)
                return way
    with replace_file(path) as temporary:
        shutil.copy2(target, temporary)
    return "copies"


def _is_same(path: Path, target: str) -> bool:
    """Return whether a path is a link to a file, or a copy of it."""
    if path.is_symlink():
        return os.readlink(path) == target
    return path.is_file() and filecmp.cmp(path, target, shallow=False)


def _is_file_of(path: Path, content: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content
