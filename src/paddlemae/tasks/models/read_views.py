"""Read the images that a command names, as a model sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from paddlemae.data.decode.images import ARRAY_EXTENSION, EXTENSIONS, UnreadableImage, read_image
from paddlemae.data.sources import open_source
from paddlemae.data.sources.subsets import spread_over
from paddlemae.data.views.augment import eval_view
from paddlemae.system.display_names import say
from paddlemae.tasks.models.preprocess import evaluation_view
from paddlemae.weights.model_folder import Description


def read_views(
    images: list[str], description: Description, limit: int, split: str | None = None
) -> tuple[list[str], np.ndarray]:
    """Return (names, uint8 [B, C, H, W]) of the first `limit` images that `images` name, as the model sees them.

    Unreadable ones are named on stderr and left out.

    Args:
        split: of folders, lists ... with splits; None is all images, and "test" of the embedded ones.
    Raises:
        ValueError: none can be read.
    """
    view = evaluation_view(description)
    names: list[str] = []
    views: list[np.ndarray] = []
    faults: list[UnreadableImage] = []
    for item in images:
        for name, read in _readers(item, view.channels, limit, split):
            if len(views) == limit:
                break
            try:
                views.append(eval_view(read(), view))
                names.append(name)
            except UnreadableImage as fault:
                faults.append(fault.without_frames())
    if not views:
        more = f" (and {len(faults) - 1} more can't be read either)" if len(faults) > 1 else ""
        raise ValueError(f"{faults[0]}{more}")
    for unreadable in faults:
        say(f"skipped: {unreadable}", error=True)
    return names, np.stack(views)


def _readers(item: str, channels: int, limit: int, split: str | None) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """Yield (name, function that reads it) of each image that `item` names: an image file, or a source's images."""
    path = Path(item)
    if path.is_file() and path.suffix.lower() in (*EXTENSIONS, ARRAY_EXTENSION):
        yield path.name, partial(read_image, path, channels)
        return
    source = open_source(item, "test" if split is None and item in ("digits", "digit-scenes") else split)
    # spread over the source, since neighbours in a folder are often of one class
    for index in spread_over(len(source), limit):
        yield Path(source.describe(int(index))).name, partial(source.read, int(index), channels)
