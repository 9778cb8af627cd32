"""Write what `paddlemae predict` found: a table, sorted images, a contact sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddlemae.data.sources.output_folders import check_outside
from paddlemae.tasks.models.parts import Parts
from paddlemae.tasks.predictions.measure import measure
from paddlemae.tasks.predictions.rows import Layout, Prediction, predictions_in
from paddlemae.tasks.predictions.sheet import check_sheet, draw_least_sure
from paddlemae.tasks.predictions.sort_images import NO_CLASS, UNSURE, Sorter, folder_names
from paddlemae.tasks.predictions.table_file import check_table_format, write_table
from paddlemae.weights.model_folder import Description

DEFAULT_TOP = 3


@dataclass(frozen=True)
class Outputs:
    """The files and folders that `predict` writes.

    Args:
        table: a file that ends in .csv, .json or .parquet.
        top: classes that are listed for each image.
        unsure: probability in 0..1; images whose likeliest class is below it are marked.
        sort_into: a folder, in which each class gets a folder with links to its images; unsure ones are in `unsure`.
        copy: copy the images instead.
        sheet: a PNG of the least sure images.
    """

    table: Path
    top: int = DEFAULT_TOP
    unsure: float | None = None
    sort_into: Path | None = None
    copy: bool = False
    sheet: Path | None = None

    def check(self, images: Sequence[str]) -> None:
        """Raise a ValueError unless all of it can be written, and not among the images."""
        check_table_format(self.table)
        if self.top < 1:
            raise ValueError(f"--top must be 1 or more; got {self.top}")
        if self.unsure is not None and not 0 <= self.unsure <= 1:
            raise ValueError(f"--unsure must be a probability, 0 to 1; got {self.unsure:g}")
        if self.copy and self.sort_into is None:
            raise ValueError("--copy needs --sort-into DIR, the folder to copy the images to")
        if self.sort_into is not None:
            if self.sort_into.exists() and not self.sort_into.is_dir():
                raise ValueError(f"--sort-into {self.sort_into} is a file; name a folder")
            check_outside(self.sort_into, images, "--sort-into")
        if self.sheet is not None:
            check_sheet(self.sheet)
            check_outside(self.sheet, images, "--sheet")


@dataclass(frozen=True)
class Predicted:
    """The result of `predict`.

    Attributes:
        images: all of them; unreadable, unsure: how many are so.
        classes: likeliest class -> images, the commonest first; of several classes an image, each that it is said to
            have.
        metrics: of labelled images, see `measure`; None without labels that the classifier knows.
        sorted: how many images were linked, copied ... into the class folders; how -> images.
        drawn: images on the sheet.
    """

    images: int
    unreadable: int
    unsure: int
    classes: dict[str, int]
    metrics: dict[str, Any] | None = None
    sorted: dict[str, int] = field(default_factory=dict)
    drawn: int = 0


def write_outputs(parts: Parts, outputs: Outputs, description: Description, about: dict[str, Any]) -> Predicted:
    """Make the outputs of the parts, and remove these. The table comes last: once it is there, all is."""
    source, classes = parts.source, description.classes
    channels = description.architecture["channels"]
    images = parts.count()
    layout = Layout(source, classes, min(outputs.top, len(classes)), outputs.unsure, description.thresholds)
    unsure = sum(map(layout.is_unsure, predictions_in(parts)))
    readable = (one for one in predictions_in(parts) if one.error is None)
    likeliest_classes = Counter(number for one in readable for number in layout.said(one))
    counts = Counter[str]()
    for number, count in likeliest_classes.most_common():
        counts[classes[number]] += count
    ways: dict[str, int] = {}
    if outputs.sort_into is not None:
        ways = _sort(predictions_in(parts), layout, outputs.sort_into, channels, copy=outputs.copy)
    drawn = 0
    if outputs.sheet is not None:
        drawn = draw_least_sure(outputs.sheet, predictions_in(parts), layout, channels)
    metrics = measure(parts, description)
    write_table(outputs.table, layout.columns, map(layout.row, predictions_in(parts)), about)
    parts.remove()
    return Predicted(len(source), len(source) - images, unsure, dict(counts), metrics, ways, drawn)


def _sort(
    predictions: Iterator[Prediction], layout: Layout, into: Path, channels: int, *, copy: bool
) -> dict[str, int]:
    reserved = [*([] if layout.unsure is None else [UNSURE]), *([] if layout.thresholds is None else [NO_CLASS])]
    folders = folder_names(layout.classes, reserved)
    sorter = Sorter(layout.source, into, channels, copy)
    for prediction in predictions:
        if prediction.error is None:
            named = [folders[number] for number in layout.said(prediction)] or [NO_CLASS]
            for folder in [UNSURE] if layout.is_unsure(prediction) else named:
                sorter.put(prediction.image, folder)
    return dict(sorter.ways)
