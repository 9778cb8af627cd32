"""Write regions of masks as COCO JSON or GeoJSON.

COCO: an annotation is a connected region of a class; one with holes is written as run lengths, any other as a polygon.
GeoJSON: a feature is a connected region, a polygon whose further rings are its holes, in pixels (x to the right, y
down) or where `to_world` says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.system.atomic import replace_file
from paddlemae.tasks.predictions.polygons import Region, Ring, run_lengths

ToWorld = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # (x, y) [n, 2] in pixels -> (longitude, latitude)


def coco_annotation(region: Region, size: tuple[int, int]) -> dict[str, Any]:
    """Return a region of an image of size (H, W) as a COCO annotation without its ids."""
    left, top, right, bottom = region.box
    segmentation: Any = [region.rings[0].ravel().tolist()]
    if len(region.rings) > 1:
        segmentation = {"size": list(size), "counts": run_lengths(region, *size)}
    return {
        "category_id": region.label + 1,
        "segmentation": segmentation,
        "area": region.area,
        "bbox": [left, top, right - left, bottom - top],
        "iscrowd": 0,
    }


def write_coco(
    path: Path, images: Iterable[tuple[dict[str, Any], Iterable[dict[str, Any]]]], classes: Sequence[str]
) -> int:
    """Write a COCO file, piece by piece, and return the number of annotations.

    Args:
        images: of each one `file_name`, `height` and `width`, and its annotations without ids.
        classes: names; the category of class 0 has the id 1.
    """
    entries: list[dict[str, Any]] = []
    count = 0
    with replace_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        categories = [{"id": number + 1, "name": name} for number, name in enumerate(classes)]
        file.write(f'{{"categories": {json.dumps(categories, ensure_ascii=False)},\n"annotations": [')
        for image, annotations in images:
            entries.append({"id": len(entries) + 1, **image})
            for annotation in annotations:
                file.write(",\n" if count else "\n")
                count += 1
                file.write(json.dumps({"id": count, "image_id": len(entries), **annotation}))
        file.write("\n],\n")
        file.write(f'"images": {json.dumps(entries, ensure_ascii=False)}}}\n')
    return count


def write_geojson(
    path: Path, regions: Iterable[Region], classes: Sequence[str], to_world: ToWorld | None = None
) -> int:
    """Write a GeoJSON file and return the number of features.

    Args:
        to_world: from pixels to longitude and latitude (RFC 7946); None: coordinates are pixels.
    """
    count = 0
    with replace_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for region in regions:
            file.write(",\n" if count else "\n")
            count += 1
            file.write(json.dumps(_feature(region, classes, to_world), ensure_ascii=False))
        file.write("\n]}\n")
    return count


def _feature(region: Region, classes: Sequence[str], to_world: ToWorld | None) -> dict[str, Any]:
    rings = list(_world_rings(region.rings, to_world))
    return {
        "type": "Feature",
        "properties": {"class": classes[region.label], "class_id": region.label, "pixels": region.area},
        "geometry": {"type": "Polygon", "coordinates": rings},
    }


def _world_rings(rings: Sequence[Ring], to_world: ToWorld | None) -> Iterator[list[list[float]]]:
    """Yield closed rings, the outer one counter-clockwise in its coordinates, the holes clockwise."""
    turned = False
    for number, ring in enumerate(rings):
        points = ring if to_world is None else to_world(ring.astype(np.float64))
        if number == 0:
            x, y = (points - points[0]).T
            turned = bool((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() < 0)
        points = points[::-1] if turned else points
        yield np.concatenate([points, points[:1]]).tolist()
