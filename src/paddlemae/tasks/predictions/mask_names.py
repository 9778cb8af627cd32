"""Name the masks of images: the images' own names relative to their folder, each once."""

from __future__ import annotations

import os
from collections.abc import Iterable

from paddlemae.data.sources import Source
from paddlemae.data.sources.image_files import file_of

_ENTRY = ", entry "  # between an archive and the name of an image in it, see `Source.describe`
_LONGEST = 200  # bytes of a name without its folders, which leaves room for endings


def mask_names(source: Source) -> list[str]:
    """Return a path without an ending for each image, with "/" between folders, all different in any case.

    Of two images with one name, such as a.jpg and a.png, the second is "a-2".
    """
    files = [file_of(source.reader, i) for i in range(len(source))]
    folder = _common_folder(file for file in files if file is not None)
    taken: set[str] = set()
    names = []
    for i, file in enumerate(files):
        plain = _plain(os.path.relpath(file, folder) if file is not None else _described(source.describe(i)))
        name, number = plain, 2
        while name.casefold() in taken:
            name, number = f"{plain}-{number}", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names


def _common_folder(files: Iterable[str]) -> str:
    folders = {os.path.dirname(os.path.abspath(file)) for file in files}
    try:
        return os.path.commonpath(folders) if folders else ""
    except ValueError:  # on several drives
        return ""


def _described(text: str) -> str:
    """Return the name of an image that has no file: an archive's entry, or "digits image 17" as "digits-image-17"."""
    _, is_entry, entry = text.rpartition(_ENTRY)
    return entry if is_entry else os.path.basename(text).replace(" ", "-") + "."


def _plain(path: str) -> str:
    """Return a path without its ending, below a folder whatever it says."""
    parts = [part for part in path.replace(os.sep, "/").replace("\0", "_").split("/") if part not in ("", ".", "..")]
    *folders, name = parts or ["image"]
    stem = os.path.splitext(name)[0] or "image"
    return "/".join([*folders, os.fsdecode(os.fsencode(stem)[:_LONGEST])])
