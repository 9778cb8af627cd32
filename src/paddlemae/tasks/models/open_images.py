"""Open the images that a command names, with their labels where they have any."""

from __future__ import annotations

from paddlemae.data.sources import BadLabel, Source, open_source


def labelled_if_possible(data: str, split: str | None) -> Source:
    """Open the images with their labels, or without where they have none.

    Raises:
        BadLabel: one of their labels is missing or unusable.
    """
    plain = open_source(data, split)
    try:
        labelled = open_source(data, split, labelled=True)
    except BadLabel:
        raise
    except ValueError:
        return plain
    return labelled if len(labelled) == len(plain) else plain
