"""Write what is predicted of one image, block of rows by block of rows: mask, overlay, probabilities, polygons.

Each writer is a context that yields a function which takes the blocks in their order. At its end the file is whole and
in its place; after an error there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paddlemae.data.decode.display import as_displayed
from paddlemae.data.decode.row_image import Place
from paddlemae.system.atomic import replace_file
from paddlemae.tasks.predictions.png_rows import PngRows
from paddlemae.tasks.predictions.segment_rows import IGNORED, Block, Feed

AddBlock = Callable[[Block], None]
IGNORED_COLOUR = (224, 224, 192)  # as PASCAL VOC draws it
SHARE = 0.5  # of a class's colour in an overlay
_GEO_BLOCK = 512  # pixels a side of a GeoTIFF's tiles
_MOST_COLOURS = 256


@contextmanager
def png_mask(path: Path, size: tuple[int, int], palette: NDArray[np.uint8]) -> Iterator[AddBlock]:
    """Write the classes as a PNG with a palette, or of more than 255 classes as 16-bit gray."""
    with replace_file(path) as temporary, temporary.open("wb") as file:
        rows = PngRows(file, size, full_palette(palette) if len(palette) <= IGNORED else None)
        yield lambda block: rows.add(block.classes_hW)
        rows.finish()


def full_palette(palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the colours of all 256 values of a mask: the classes', and that of ignored pixels."""
    colours = np.zeros((_MOST_COLOURS, 3), np.uint8)
    colours[: len(palette)] = palette
    colours[IGNORED] = IGNORED_COLOUR
    return colours


@contextmanager
def geotiff_mask(
    path: Path, size: tuple[int, int], palette: NDArray[np.uint8], place: Place, ignored: int
) -> Iterator[AddBlock]:
    """Write the classes as a GeoTIFF in the place of the image, with colours; pixels without a class are its nodata."""
    import rasterio
    from rasterio.windows import Window

    height, width = size
    profile: dict[str, Any] = {"driver": "GTiff", "height": height, "width": width, "count": 1, "nodata": ignored}
    profile |= {"dtype": "uint8" if ignored == IGNORED else "uint16", "compress": "deflate", "BIGTIFF": "IF_SAFER"}
    profile |= {"tiled": True, "blockxsize": _GEO_BLOCK, "blockysize": _GEO_BLOCK}
    if place.gcps:
        profile |= {"gcps": place.gcps[0], "crs": place.gcps[1]}
    else:
        profile |= {"crs": place.crs, "transform": place.transform}
    waiting: list[NDArray[Any]] = []  # rows of tiles that are not whole: a tile that is written twice takes space twice
    with replace_file(path) as temporary, rasterio.open(temporary, "w", **profile) as dataset:
        if len(palette) <= IGNORED:
            dataset.write_colormap(1, {value: (*colour.tolist(), 255) for value, colour in enumerate(palette)})

        def add(block: Block) -> None:
            waiting.append(block.classes_hW)
            bottom = block.top + len(block.classes_hW)
            rows_left = bottom % _GEO_BLOCK if bottom < height else 0
            rows = np.concatenate(waiting)
            top = bottom - len(rows)
            if len(ready := rows[: len(rows) - rows_left]):
                dataset.write(ready, 1, window=Window(0, top, width, len(ready)))
                rows = rows[len(ready) :].copy()
            waiting[:] = [rows]

        yield add


@contextmanager
def npy_probabilities(path: Path, size: tuple[int, int], classes: int) -> Iterator[AddBlock]:
    """Write the probabilities as float16 [K, H, W]; of pixels without data they are NaN."""
    (height, width), dtype = size, np.dtype("<f2")
    with replace_file(path) as temporary, temporary.open("wb") as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": (classes, height, width)}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()

        def add(block: Block) -> None:
            for number, probabilities_hW in enumerate(block.probabilities_KhW):
                values = probabilities_hW.astype(dtype)
                if block.valid is not None:
                    values[~block.valid] = np.nan
                file.seek(start + (number * height + block.top) * width * dtype.itemsize)
                file.write(values.tobytes())

        yield add


@contextmanager
def png_overlay(path: Path, feed: Feed, palette: NDArray[np.uint8]) -> Iterator[AddBlock]:
    """Write the image below the colours of its classes, at most `MOST_SHOWN` pixels a side, as RGB.

    Black leaves the image as it is, and so do pixels without a class.
    """
    kept: list[NDArray[Any]] = []
    step = feed.step or 1
    yield lambda block: kept.append(block.classes_hW[-block.top % step :: step, ::step].copy())
    pixels = np.concatenate(feed.kept, axis=1)
    picture = blend(pixels.transpose(1, 2, 0), np.concatenate(kept), palette)
    with replace_file(path) as temporary:
        Image.fromarray(picture).save(temporary, "png")


def blend(pixels_hwC: NDArray[Any], classes_hw: NDArray[Any], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image below the colours of its classes, uint8 [h, w, 3]; black and values of no class show nothing."""
    rgb = shown_rgb(pixels_hwC)
    colours = np.zeros((65536, 3), np.uint8)
    colours[: len(palette)] = palette
    tint = colours[classes_hw]
    mixed = ((1 - SHARE) * rgb + SHARE * tint + 0.5).astype(np.uint8)
    return np.where(tint.any(axis=2, keepdims=True), mixed, rgb)


def shown_rgb(pixels_hwC: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an image as RGB, uint8 [h, w, 3]: gray repeated; of more channels the first three, of two the first."""
    channels = pixels_hwC.shape[2]
    shown = as_displayed(pixels_hwC[..., : 3 if channels >= 3 else 1])
    return np.broadcast_to(shown, (*shown.shape[:2], 3)).copy()
