"""Where images come from: `open_source` names them, a `Source` lists them once and reads them by index."""

from paddlemae.data.sources.given import GivenSource, Images, given_source
from paddlemae.data.sources.labels import BadLabel, MissingPart, SourceNote
from paddlemae.data.sources.opening import open_source
from paddlemae.data.sources.parts import (
    balanced_subset,
    labelled_count,
    matched,
    split_off,
    subset,
    unknown_classes,
    with_classes,
)
from paddlemae.data.sources.source import ArraySource, EncodedSource, FolderSource, Source, add_stamps

__all__ = [
    "ArraySource",
    "BadLabel",
    "EncodedSource",
    "FolderSource",
    "GivenSource",
    "Images",
    "MissingPart",
    "Source",
    "SourceNote",
    "add_stamps",
    "balanced_subset",
    "given_source",
    "labelled_count",
    "matched",
    "open_source",
    "split_off",
    "subset",
    "unknown_classes",
    "with_classes",
]
