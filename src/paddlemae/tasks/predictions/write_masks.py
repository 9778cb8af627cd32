"""Segment images of a source, and write what is asked for of each."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.row_image import (
    HAS_RASTERIO,
    Place,
    RowImage,
    is_georeferenced,
    open_in_rows,
    whole_image,
)
from paddlemae.data.sources import Source
from paddlemae.data.sources.image_files import file_of
from paddlemae.system.atomic import replace_bytes, replace_text
from paddlemae.system.display_names import say
from paddlemae.tasks.models.preprocess import evaluation_view
from paddlemae.tasks.models.segment_image import fit_windows
from paddlemae.tasks.models.windows import Forward, Windows
from paddlemae.tasks.predictions.mask_files import (
    AddBlock,
    geotiff_mask,
    npy_probabilities,
    png_mask,
    png_overlay,
)
from paddlemae.tasks.predictions.mask_outputs import (
    IMAGES,
    MASKS,
    OVERLAYS,
    POLYGON_FOLDER,
    PROBABILITIES,
    Done,
    MaskOutputs,
    Record,
    output_path,
)
from paddlemae.tasks.predictions.polygon_files import ToWorld, coco_annotation, write_geojson
from paddlemae.tasks.predictions.polygons import RegionTracer
from paddlemae.tasks.predictions.segment_rows import Block, Feed, ignored_value, reduction, segment_rows
from paddlemae.tasks.predictions.sort_images import file_content, link_or_copy
from paddlemae.weights.model_folder import Description

PNG, GEOTIFF = ".png", ".tif"
WORLD = "EPSG:4326"  # longitude and latitude, as RFC 7946 asks of GeoJSON


@dataclass
class MaskWriter:
    """Segments images and writes the files of each.

    Args:
        names: of the images' files, see `mask_names`.
        forward: of the segmenter that `description` is of.
        palette: of its classes, uint8 [K, 3].
    """

    source: Source
    names: Sequence[str]
    outputs: MaskOutputs
    forward: Forward
    description: Description
    windows: Windows
    palette: NDArray[np.uint8]
    has_said: bool = False  # that GeoTIFFs lose their place

    @property
    def classes(self) -> list[str]:
        """Return the names of the classes."""
        return self.description.classes

    def write(self, i: int) -> Done:
        """Segment image i; its mask is the last of its files to appear.

        Raises:
            UnreadableImage: it can't be read; it has no files then.
        """
        with self._open(i) as image, contextlib.ExitStack() as stack:
            feed = Feed(image, reduction(image.size) if self.outputs.overlays else None)
            tally = Tally(np.zeros(ignored_value(len(self.classes)) + 1, np.int64))
            writers = [tally.add, *map(stack.enter_context, self._writers(i, image, feed))]
            windows = fit_windows(self.windows, self.description, image.size)
            for block in segment_rows(self.forward, feed, windows, self.outputs.min_confidence):
                for add in writers:
                    add(block)
            if self.outputs.link_images:
                self._link(i)
        pixels = (*tally.counts[: len(self.classes)].tolist(), int(tally.counts[-1]))
        return Done(i, None, image.size, pixels, tally.confidence / max(1, tally.with_data))

    @contextmanager
    def _open(self, i: int) -> Iterator[RowImage]:
        path, view = file_of(self.source.reader, i), evaluation_view(self.description)
        with contextlib.nullcontext() if path is None else open_in_rows(path, view.channels, view.depth) as image:
            if image is None:
                if path is not None and not HAS_RASTERIO and not self.has_said and is_georeferenced(path):
                    self.has_said = True
                    say(
                        f"{path} is a GeoTIFF; its mask will be a PNG without place and CRS: for a GeoTIFF pip install "
                        "'paddlemae[geo]'",
                        error=True,
                    )
                image = whole_image(self.source.read(i, view.channels), view.depth)
            yield image

    def _writers(self, i: int, image: RowImage, feed: Feed) -> Iterator[contextlib.AbstractContextManager[AddBlock]]:
        """Yield the writers of an image's files, that of its mask first."""
        outputs, size, name = self.outputs, image.size, self.names[i]
        if image.place is None:
            yield png_mask(output_path(outputs.folder, MASKS, name, PNG), size, self.palette)
        else:
            path = output_path(outputs.folder, MASKS, name, GEOTIFF)
            yield geotiff_mask(path, size, self.palette, image.place, ignored_value(len(self.classes)))
        if outputs.overlays:
            yield png_overlay(output_path(outputs.folder, OVERLAYS, name, PNG), feed, self.palette)
        if outputs.probabilities:
            path = output_path(outputs.folder, PROBABILITIES, name, ".npy")
            yield npy_probabilities(path, size, len(self.classes))
        if outputs.polygons == "geojson":
            path = output_path(outputs.folder, POLYGON_FOLDER, name, ".geojson")
            yield self._geojson(path, size, image.place)
        elif outputs.polygons == "coco":
            yield self._coco(Record(outputs.folder).annotations_path(i), size)

    @contextmanager
    def _geojson(self, path: Path, size: tuple[int, int], place: Place | None) -> Iterator[AddBlock]:
        tracer = self._tracer(size[1])
        yield lambda block: tracer.add(self._traced(block))
        write_geojson(path, tracer.regions(), self.classes, None if place is None else to_world(place))

    @contextmanager
    def _coco(self, path: Path, size: tuple[int, int]) -> Iterator[AddBlock]:
        tracer = self._tracer(size[1])
        yield lambda block: tracer.add(self._traced(block))
        replace_text(path, json.dumps([coco_annotation(region, size) for region in tracer.regions()]))

    def _tracer(self, width: int) -> RegionTracer:
        return RegionTracer(width, background=ignored_value(len(self.classes)))

    def _traced(self, block: Block) -> NDArray[np.unsignedinteger]:
        """Return the classes of a block, those without polygons ignored."""
        wanted = self.outputs.polygon_classes
        if wanted is None:
            return block.classes_hW
        table = np.full(ignored_value(len(self.classes)) + 1, ignored_value(len(self.classes)), block.classes_hW.dtype)
        for number, name in enumerate(self.classes):
            if name in wanted:
                table[number] = number
        return table[block.classes_hW]

    def _link(self, i: int) -> None:
        """Put a link to the image, or its content, next to its mask."""
        path = file_of(self.source.reader, i)
        if path is None:
            channels = evaluation_view(self.description).channels
            ending, content = file_content(self.source, i, channels)
            replace_bytes(output_path(self.outputs.folder, IMAGES, self.names[i], ending), content)
            return
        place = output_path(self.outputs.folder, IMAGES, self.names[i], Path(path).suffix)
        place.unlink(missing_ok=True)
        link_or_copy(str(Path(path).absolute()), place)


@dataclass
class Tally:
    """Counts what is predicted.

    Attributes:
        counts: int64, pixels of each value of a mask.
        confidence: sum of the probabilities of the pixels' classes, over those with data.
        with_data: their number.
    """

    counts: NDArray[np.int64]
    confidence: float = 0.0
    with_data: int = 0

    def add(self, block: Block) -> None:
        """Count a block."""
        self.counts += np.bincount(block.classes_hW.ravel(), minlength=len(self.counts))
        confidence = block.confidence_hW if block.valid is None else block.confidence_hW[block.valid]
        self.confidence += float(confidence.sum(dtype=np.float64))
        self.with_data += confidence.size


def to_world(place: Place) -> ToWorld | None:
    """Return the function from pixels to longitude and latitude; None where the image does not say its CRS."""
    if place.crs is None or place.gcps is not None:
        return None
    from rasterio.warp import transform

    def world(points_n2: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b, c, d, e, f = place.transform[:6]
        column, row = points_n2.T
        longitude, latitude = transform(place.crs, WORLD, a * column + b * row + c, d * column + e * row + f)
        return np.stack([longitude, latitude], axis=1)

    return world
