"""Compare the colours of masks: packed to one number each, counted, and named where they are of no class."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.masks.palette import VOC_COLOURS
from paddlemae.data.sources.source import BadMask

_MOST_NAMED = 5
_MANY = 50  # colours that no one lists by hand
_VOC_BORDER, _BORDER_VALUE = (224, 224, 192), 255


def pack(values_HW3: NDArray[Any]) -> NDArray[np.int64]:
    """Return red, green and blue of each pixel as one number: [H, W]."""
    red, green, blue = (values_HW3[..., channel].astype(np.int64) for channel in range(3))
    return red << 16 | green << 8 | blue


def pack_one(colour: tuple[int, int, int]) -> int:
    """Return a colour as `pack` does."""
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def unpack(packed: int) -> tuple[int, int, int]:
    """Return the colour that `pack` made a number of."""
    return packed >> 16, packed >> 8 & 255, packed & 255


def rgb_to_ids(values_HW3: NDArray[Any], was: Literal["gray", "voc"], name: str) -> NDArray[np.uint8]:
    """Return the ids, uint8 [H, W], of a mask that was saved as RGB; `name` is for errors.

    Args:
        was: ids as gray ("gray"), or a palette image with VOC's colours ("voc"), whose borders become 255.
    Raises:
        BadMask: other colours.
    """
    if was == "gray":
        if (values_HW3[..., :1] != values_HW3).any():
            raise BadMask(f"mask {name!r} has colours that are not gray; remove ::rgb=gray")
        return np.ascontiguousarray(values_HW3[..., 0])
    ids_of = {pack_one((*colour,)): number for number, colour in enumerate(VOC_COLOURS.tolist())}
    ids_of[pack_one(_VOC_BORDER)] = _BORDER_VALUE
    colours = np.array(sorted(ids_of), np.int64)
    ids = np.array([ids_of[colour] for colour in colours.tolist()], np.uint8)
    packed = pack(values_HW3)
    places = np.searchsorted(colours, packed).clip(max=len(colours) - 1)
    is_known = colours[places] == packed
    if not is_known.all():
        raise BadMask(unknown_colours(packed[~is_known], packed.size, name))
    return ids[places]


def unknown_colours(unknown: NDArray[np.int64], total: int, name: str) -> str:
    """Return the error of a mask with colours of no class, `unknown` (packed), among a total of pixels."""
    colours, counts = np.unique(unknown, return_counts=True)
    most = [int(colours[place]) for place in np.argsort(-counts, kind="stable")[:_MOST_NAMED]]
    named = ", ".join("{} {} {}".format(*unpack(colour)) for colour in most)
    more = f" and {len(colours) - len(most):,} more" if len(colours) > len(most) else ""
    cause = " (a number like this comes from JPEG or from resizing)" if len(colours) > _MANY else ""
    return (
        f"mask {name!r}: {unknown.size:,} of {total:,} pixels have colours of no class: {named}{more}{cause}; add them "
        "to the class list, or ignore them with ::ignore=R G B"
    )


def colours_for_ids(values_HW3: NDArray[Any], name: str) -> str:
    """Return the error of a mask that stores colours where ids are expected: what it probably was before."""
    text = f"mask {name!r} is an RGB image where class ids (gray or palette) are expected"
    if (values_HW3[..., :1] == values_HW3).all():
        return f"{text}: gray saved as RGB; convert it to gray, or add ::rgb=gray"
    colours = {unpack(packed) for packed in np.unique(pack(values_HW3)).tolist()}
    if colours <= {_VOC_BORDER, *((*colour,) for colour in VOC_COLOURS.tolist())}:
        return f"{text}: a palette PNG with VOC's colours, saved again as RGB; add ::rgb=voc"
    return f"{text}; give the colours of the classes with ::classes=FILE, a line 'NAME R G B' for each"
