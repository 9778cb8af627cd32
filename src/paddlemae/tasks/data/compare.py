"""Look at every image of several sources, and find those that are the same."""

from __future__ import annotations

from collections.abc import Sequence

from paddlemae.data.inspect.duplicates import NEAR_STEPS, Firsts, find_exact_groups, find_near_groups
from paddlemae.data.inspect.survey import Survey, survey_sources
from paddlemae.data.sources import Source
from paddlemae.data.workers import workers_for
from paddlemae.runs.progress import progress


def compare_images(
    sources: Sequence[Source], channels: int, workers: int | None, quiet: bool
) -> tuple[Survey, Firsts, Firsts]:
    """Return (survey, exact duplicates, near duplicates) of all images, one source after the other.

    Args:
        channels: as images are read for a model.
        workers: processes that decode; None is one a core where the images are many.
    """
    count = sum(map(len, sources))
    with progress("images", count, show=not quiet) as show:
        looks = survey_sources(sources, channels, workers=workers_for(count, workers), on_images=show)
    exact = find_exact_groups(looks.digests_N2, looks.readable_N)
    with progress("comparisons", NEAR_STEPS, show=not quiet) as show:
        near = find_near_groups(looks.thumbnails_NP, exact, looks.readable_N, show)
    return looks, exact, near
