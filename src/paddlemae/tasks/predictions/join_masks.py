"""Write what belongs to all images of a folder of masks: classes, table, COCO polygons, and how it was made."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.disk.errors import DataFault
from paddlemae.data.sources import Source
from paddlemae.system.atomic import replace_text
from paddlemae.system.display_names import escape_surrogates
from paddlemae.tasks.predictions.mask_outputs import (
    ABOUT_FILE,
    CLASS_FILE,
    COCO_FILE,
    MASKS,
    TABLE_FILE,
    Done,
    MaskOutputs,
    Record,
)
from paddlemae.tasks.predictions.polygon_files import write_coco
from paddlemae.tasks.predictions.table_file import Value, write_table
from paddlemae.tasks.predictions.write_masks import GEOTIFF, PNG


@dataclass(frozen=True)
class Segmented:
    """The result of `predict` with a segmenter.

    Attributes:
        images: all of them; unreadable: how many could not be read.
        shares: class -> share of the pixels that have a class.
        ignored: share of all pixels without a class.
        polygons: number of regions written; None if they were not asked for.
    """

    images: int
    unreadable: int
    shares: dict[str, float]
    ignored: float
    polygons: int | None = None


def write_together(
    source: Source,
    names: Sequence[str],
    outputs: MaskOutputs,
    classes: Sequence[str],
    palette: NDArray[np.uint8],
    about: Mapping[str, Any],
) -> Segmented:
    """Write these files, `predict.json` last, and remove the list of what is done.

    Raises:
        DataFault: no image could be read.
    """
    folder, record = outputs.folder, Record(outputs.folder)
    done = record.read(len(source))
    if all(one.error is not None for one in done.values()):
        raise DataFault(f"no image of {source.name} can be read; fix or replace them; first: {source.describe(0)}")
    listed = [
        {"name": name, "id": number, "color": colour}
        for number, (name, colour) in enumerate(zip(classes, palette.tolist(), strict=True))
    ]
    replace_text(folder / CLASS_FILE, json.dumps(listed, ensure_ascii=False, indent=1) + "\n")
    columns = dict.fromkeys(("path", "mask"), str) | dict.fromkeys(("height", "width", "confidence", "ignored"), float)
    columns |= dict.fromkeys((f"share of {name}" for name in classes), float) | {"error": str}
    masks = (_mask_name(folder, name) for name in names)
    rows = (_row(source.describe(i), mask, done[i], len(classes)) for i, mask in enumerate(masks))
    write_table(folder / TABLE_FILE, columns, rows, {})
    polygons = None
    if outputs.polygons == "coco":
        polygons = write_coco(folder / COCO_FILE, _annotated(source, names, done, record), classes)
    totals = np.zeros(len(classes) + 1, np.int64)
    for one in done.values():
        if one.error is None:
            totals += one.pixels
    found = Segmented(
        images=len(source),
        unreadable=sum(one.error is not None for one in done.values()),
        shares=dict(zip(classes, (totals[:-1] / max(1, totals[:-1].sum())).tolist())),
        ignored=float(totals[-1] / max(1, totals.sum())),
        polygons=polygons,
    )
    replace_text(folder / ABOUT_FILE, json.dumps(dict(about), ensure_ascii=False, indent=1) + "\n")
    record.remove()
    return found


def _mask_name(folder: Path, name: str) -> str:
    ending = GEOTIFF if (folder / MASKS / (name + GEOTIFF)).exists() else PNG
    return f"{MASKS}/{name}{ending}"


def _row(path: str, mask: str, done: Done, classes: int) -> list[Value]:
    path = escape_surrogates(path)
    if done.size is None:
        return [path, *[None] * (classes + 5), done.error]
    height, width = done.size
    shares = [count / (height * width) for count in done.pixels]
    confidence = done.confidence
    return [path, escape_surrogates(mask), float(height), float(width), confidence, shares[-1], *shares[:-1], None]


def _annotated(
    source: Source, names: Sequence[str], done: Mapping[int, Done], record: Record
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    for i, name in enumerate(names):
        if (size := done[i].size) is not None:
            file_name = escape_surrogates(name + os.path.splitext(source.describe(i))[1])
            annotations = json.loads(record.annotations_path(i).read_text())
            yield {"file_name": file_name, "height": size[0], "width": size[1]}, annotations
