"""Errors that end a run because of its data: once the data is repaired, the run can be resumed."""

import math
import os
from collections.abc import Mapping

from paddlemae.system.display_names import say

MOST_NAMED = 5  # images that are named on stderr, and in the error that ends a run


class DataFault(ValueError):
    """Data that is not available any more; the message says what to fix."""


def report_unreadable(number: int, image: Exception) -> None:
    """Print the name of the `number`-th unreadable image on stderr, if it is one of the first."""
    if number <= MOST_NAMED:
        say(f"skipped: {image}", error=True)
    elif number == MOST_NAMED + 1:
        say("skipped: more images, not listed here", error=True)


def allowed_unreadable(limit: float, images: int) -> int:
    """Return how many of a source's images may be unreadable: a share, rounded up."""
    return math.ceil(limit * images - 1e-9)  # 0.07 x 100 is a little more than 7


def check_unreadable(
    reasons: Mapping[str, str], limit: float, images: int, name: str, listed: str | os.PathLike[str] | None = None
) -> None:
    """Raise a DataFault if more than the share `limit` of the images can't be read.

    Args:
        reasons: path -> why.
        images, name: of their source.
        listed: the file that lists them, if there is one.
    Raises:
        DataFault: it names the first of them.
    """
    allowed = allowed_unreadable(limit, images)
    if len(reasons) <= allowed:
        return
    named = [f"{path!r} ({reason})" for path, reason in list(reasons.items())[:MOST_NAMED]]
    raise DataFault(
        f"{len(reasons)} of {images} images of {name} can't be read{f', listed in {listed}' if listed else ''}, and "
        f"max_bad_images={limit:g} allows {allowed}; fix or remove them, or raise the limit; first: {', '.join(named)}"
    )
