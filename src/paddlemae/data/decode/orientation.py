"""Turn images upright, as the EXIF tag of their orientation says (EXIF 2.3, tag 274)."""

from collections.abc import Callable

from PIL import Image

from paddlemae.data.decode.pixel_format import Pixels

_TAG = 0x0112
_UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}


def read_orientation(image: Image.Image) -> int:
    """Return the tag: 1 for upright, or 2 to 8."""
    try:
        orientation = image.getexif().get(_TAG)
        return orientation if orientation in _UPRIGHT else 1
    except Exception:  # damaged metadata is no reason to lose good pixels
        return 1


def turn_upright(pixels: Pixels, orientation: int) -> Pixels:
    """Return the pixels [H, W, C] turned upright, as a view; as they are for a tag that means nothing."""
    return _UPRIGHT[orientation](pixels) if orientation in _UPRIGHT else pixels
