"""The form that an image is stored in, from its header."""

import io

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.decode.stored_format import read_form


def encoded(mode: str, kind: str, **settings: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (5, 4)).save(file, kind, **settings)
    return file.getvalue()


def array(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def test_files_tell_their_colours_and_bits() -> None:
    for mode, kind, form in [
        ("L", "PNG", ("gray", 8)),
        ("1", "PNG", ("gray", 1)),
        ("P", "PNG", ("palette", 8)),
        ("RGBA", "PNG", ("RGBA", 8)),
        ("I;16", "PNG", ("gray", 16)),
        ("RGB", "JPEG", ("RGB", 8)),
        ("L", "JPEG", ("gray", 8)),
        ("CMYK", "JPEG", ("CMYK", 8)),
        ("I;16", "TIFF", ("gray", 16)),
        ("RGB", "TIFF", ("RGB", 8)),
        ("RGB", "WEBP", ("RGB", 8)),
        ("RGB", "BMP", ("RGB", 8)),
        ("I;16", "PPM", ("gray", 16)),
        ("1", "PPM", ("gray", 1)),
        ("P", "GIF", ("palette", 8)),
    ]:
        image = encoded(mode, kind)
        assert read_form(image, 3) == form


def test_arrays_tell_their_channels_from_their_rows() -> None:
    assert read_form(array(np.zeros((13, 8, 9), np.uint16)), 13) == ("13 channels", 16)
    assert read_form(np.zeros((8, 9, 13), np.uint16), 13) == ("13 channels", 16)
    assert read_form(np.zeros((8, 9), np.uint8), 3) == ("gray", 8)
    assert read_form(np.zeros((3, 8, 9), np.uint8), 3) == ("RGB", 8)
    assert read_form(np.zeros((8, 9), np.bool_), 1) == ("gray", 1)


@pytest.mark.parametrize("shape, settings", [((8, 9, 13), {}), ((13, 8, 9), {"photometric": "minisblack"})])
def test_tiffs_of_bands_tell_their_number(shape: tuple[int, ...], settings: dict) -> None:
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros(shape, np.uint16), **(settings or {"planarconfig": "contig"}))
    assert read_form(file.getvalue(), 13) == ("13 channels", 16)
