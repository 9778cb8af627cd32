"""Where images come from: `open_source` names them, a `Source` lists them once and reads them by index."""

from paddlemae.data.sources.given import GivenSource, Images, given_source
from paddlemae.data.sources.labels import MissingPart
from paddlemae.data.sources.opening import open_source
from paddlemae.data.sources.parts import balanced_subset, check_same_classes, labelled_count, split_off, subset
from paddlemae.data.sources.source import ArraySource, EncodedSource, FolderSource, Source, add_stamps

__all__ = [
    "ArraySource",
    "EncodedSource",
    "FolderSource",
    "GivenSource",
    "Images",
    "MissingPart",
    "Source",
    "add_stamps",
    "balanced_subset",
    "check_same_classes",
    "given_source",
    "labelled_count",
    "open_source",
    "split_off",
    "subset",
]
