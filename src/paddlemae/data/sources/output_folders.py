"""Keep outputs out of the folders of images that a command reads: the next command would read them as images."""

import os
from collections.abc import Iterable

from paddlemae.data.sources.open import path_and_options


def check_outside(out: str | os.PathLike[str], specs: Iterable[str | None], option: str = "--out") -> None:
    """Refuse an output in a folder of images, whatever links lead there.

    Args:
        specs: images, as `open_source` takes them; only folders can have anything in them.
        option: what the output is named with.
    Raises:
        ValueError: in one line.
    """
    for spec in specs:
        folder = path_and_options(spec)[0] if spec else ""
        if not os.path.isdir(folder):
            continue
        inner, outer = os.path.realpath(os.path.expanduser(out)), os.path.realpath(folder)
        if os.path.commonpath([inner, outer]) == outer:
            raise ValueError(
                f"{option} {os.fspath(out)} is in the folder of the images, {folder}, and would later be read as "
                "images; name a place outside of it"
            )
