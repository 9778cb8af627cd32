"""Sources of images: `open_source` opens one by its name, and a `Source` reads its images by index."""

from paddlemae.data.sources.in_memory import Images, InMemoryReader, as_source
from paddlemae.data.sources.labels import BadLabel
from paddlemae.data.sources.open import open_source
from paddlemae.data.sources.source import (
    IGNORE,
    BadMask,
    ClassTargets,
    Mask,
    MaskTargets,
    MultiLabelTargets,
    Source,
    Targets,
    add_stamps,
)
from paddlemae.data.sources.splits import MissingSplit, SourceNote
from paddlemae.data.sources.subsets import (
    balanced_subset,
    labelled_count,
    match_classes,
    random_subset,
    split_off,
    subset,
    unknown_classes,
    with_classes,
)

__all__ = [
    "IGNORE",
    "BadLabel",
    "BadMask",
    "ClassTargets",
    "Images",
    "InMemoryReader",
    "Mask",
    "MaskTargets",
    "MissingSplit",
    "MultiLabelTargets",
    "Source",
    "SourceNote",
    "Targets",
    "add_stamps",
    "as_source",
    "balanced_subset",
    "labelled_count",
    "match_classes",
    "open_source",
    "random_subset",
    "split_off",
    "subset",
    "unknown_classes",
    "with_classes",
]
