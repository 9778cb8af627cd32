"""Ignore, in masks, the pixels of GeoTIFFs that have no data in any band."""

import io
import os
from dataclasses import dataclass

from paddlemae.data.decode.images import UnreadableImage, read_content, read_image
from paddlemae.data.decode.tiff import read_nodata, read_tiff_form
from paddlemae.data.sources.source import IGNORE, Mask, MaskReader
from paddlemae.data.sources.string_table import StringTable

TIFF = (".tif", ".tiff")


@dataclass(frozen=True, eq=False)
class NodataMasks:
    """Masks in which pixels without data in the image are ignored.

    Args:
        whole: the masks as they are stored.
        root, images: files of the images, one a mask; those that are no TIFF have no such value.
    """

    whole: MaskReader
    root: str
    images: StringTable

    def __len__(self) -> int:
        return len(self.whole)

    def describe(self, i: int) -> str:
        return self.whole.describe(i)

    def read(self, i: int) -> Mask:
        mask, image = self.whole.read(i), os.path.join(self.root, self.images[i])
        if not image.lower().endswith(TIFF):
            return mask
        try:
            nodata, samples = _read_header(image)
            if nodata is None:
                return mask
            without_HW = (read_image(image, samples) == nodata).all(axis=2)
        except UnreadableImage:  # who reads the image learns why
            return mask
        if without_HW.shape == mask.shape:
            mask[without_HW] = IGNORE
        return mask

    def stamp(self, i: int) -> str:
        return self.whole.stamp(i)


def _read_header(path: str) -> tuple[int | None, int]:
    """Return (the value that means "no data", or None; number of bands) of a TIFF; raise an UnreadableImage."""
    content = io.BytesIO(read_content(path))
    try:
        nodata = read_nodata(content)
        return nodata, read_tiff_form(content).samples if nodata is not None else 0
    except Exception as fault:  # Pillow raises nearly anything on damaged bytes
        raise UnreadableImage(path, " ".join(str(fault).split())) from fault
