"""Decode one image file to an array of pixels, or say in one line why it can't be.

Shapes: H height, W width of the whole image; h, w of the decoded pixels; C channels.

How pixels become gray (C = 1), RGB (3) or RGBA (4), in uint8 or, where the file has more bits, uint16:
    orientation      turned upright as the EXIF tag says; damaged EXIF data is ignored
    animation        the first frame
    palette, CMYK    to RGB by Pillow's plain formulas; colour profiles and gamma are not applied
    transparency     a channel of RGBA, opaque where the image has none; else composited on white
    colour to gray   ITU-R 601-2 luma; gray to RGB repeats the channel
    integers > 8 bit values up to 65535; larger or negative ones are refused
    floating point   refused: such a file does not say which value is white
Any other number of channels is that of the file, a TIFF (`tiff` says what its tags mean) or a NumPy array.

Ordinary JPEGs are decoded by simplejpeg, whose libjpeg-turbo gives the same bits as Pillow's in less time; whatever it
complains of is left to Pillow, so the verdict on a damaged file is always Pillow's. All else Pillow opens.
"""

import contextlib
import io
import math
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from paddlemae.data.decode.limits import MAX_IMAGE_BYTES, check_room, room_for
from paddlemae.data.decode.multichannel import ARRAY_START, read_array
from paddlemae.data.decode.orientation import read_orientation, turn_upright
from paddlemae.data.decode.pillow import open_with_pillow, read_pixels
from paddlemae.data.decode.pixel_format import Pixels, as_channels, check_channels, convert_in_blocks
from paddlemae.data.decode.png import PNG_START, read_deep_png, scale_transparent_gray
from paddlemae.data.decode.ppm import PPM_STARTS, read_deep_ppm
from paddlemae.data.decode.stored_format import JPEG_START
from paddlemae.data.decode.tiff import TIFF_STARTS, read_tiff

EXTENSIONS = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
ARRAY_EXTENSION = ".npy"  # an image too, but not where pictures are: there it may hold anything

# MPO is Pillow's name for a JPEG that more pictures follow, as phones write them; only the first is read.
_JPEG_FORMATS = ("JPEG", "MPO")
_LONGEST_START = 8
_MOST_BYTES = 1 << 32  # no array that is decoded takes as much
# What a JPEG holds, in Pillow's words and in simplejpeg's; the rest (CMYK) is Pillow's to convert.
_JPEG_COLOURS = {"L": "GRAY", "RGB": "RGB"}
_JPEG_MODES = {"Gray": "L", "YCbCr": "RGB", "RGB": "RGB"}  # by how simplejpeg says that a JPEG stores it

# A JPEG is marked segments up to its first scan: 0xff, the kind, the length in two bytes, and so much content.
_FIRST_SCAN = 0xDA
_METADATA = 0xE1  # Exif and XMP, which may say that the image is turned
_FRAMES = (0xC0, 0xC1, 0xC2)  # the last: progressive
_SEQUENTIAL_FRAMES = _FRAMES[:2]  # what most cameras write: rows are coded from top to bottom
_HEIGHT, _NUM_COLOURS = 5, 9  # where such a frame's segment has its height, two bytes, and its colours
_NUM_IN_SCAN = 4  # where a scan's segment has the number of colours in it
_JPEG_END = b"\xff\xd9"
# Colours of half the height are smoothed over neighbouring rows; this many above a cut differ from the whole image's.
_ROWS_OF_A_CUT = 4
_ROWS_TOGETHER = 8  # no reduced row may lie across a cut

# How many times smaller libjpeg decodes in less time than the whole: it transforms fewer coefficients then.
REDUCTIONS = (8, 4, 2, 1)
# simplejpeg takes a smallest size, and can't distinguish these factors below this many pixels.
_SMALLEST_REDUCED = 16


class UnreadableImage(Exception):
    """An image that can't be decoded: `path` as it was asked for, `reason` in a few words.

    `errno` is the system's number for the fault when the bytes could not be read, None when they are no good.
    """

    def __init__(self, path: str, reason: str, errno: int | None = None) -> None:
        super().__init__(path, reason, errno)  # all, because unpickling calls the class with these
        self.path = path
        self.reason = reason
        self.errno = errno

    def without_frames(self) -> "UnreadableImage":
        """Return it without its traceback and causes, whose frames would keep the image's bytes in memory."""
        self.__traceback__ = self.__cause__ = self.__context__ = None
        return self

    def __str__(self) -> str:
        return f"cannot read image {self.path!r}: {self.reason}"


@dataclass(frozen=True, eq=False)
class Picture:
    """An image, perhaps made smaller than it is, perhaps without its bottom.

    Args:
        pixels_hwC: uint8 or uint16, upright, not necessarily writable.
        size: (H, W) of the whole image, upright.
        scale: (of rows, of columns) pixels here for one pixel of the whole image, at most 1.
    """

    pixels_hwC: Pixels
    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Need:
    """The part of an image that is needed.

    Args:
        reduction: how many times smaller it may be decoded, one of `REDUCTIONS`.
        rows: of the whole image, from the top; those below may be left out. None: all.
    """

    reduction: int = 1
    rows: int | None = None


NeedOf = Callable[[int, int], Need]  # of an image's (H, W)


def has_ending(name: str, endings: tuple[str, ...]) -> bool:
    """Return whether a file name has one of the endings, in any case: `.jpg` of "A.JPG"."""
    return name[-8:].lower().endswith(endings)


def read_image(path: str | os.PathLike[str], channels: int, max_image_bytes: int = MAX_IMAGE_BYTES) -> Pixels:
    """Decode an image file by the rules at the top of this module.

    Args:
        path: a file in one of the formats of `EXTENSIONS`, or a NumPy array; judged by its content.
        channels: 1 for gray, 3 for RGB, 4 for RGBA, or the file's own number.
        max_image_bytes: memory that it may take in addition to twice the file's bytes.
    Returns:
        uint8 or uint16 [H, W, channels], not necessarily writable.
    Raises:
        ValueError: a number of channels below 1.
        UnreadableImage: the file is missing, empty, forbidden, damaged, too large, no image or of other channels.
    """
    return read_picture(path, channels, need_all, max_image_bytes).pixels_hwC


def read_picture(
    path: str | os.PathLike[str], channels: int, need_of: NeedOf, max_image_bytes: int = MAX_IMAGE_BYTES
) -> Picture:
    """Decode an image file, or as much of it as is needed where that saves time, as it does with JPEGs.

    Damage below the rows that are needed is not always seen.

    Args:
        path, channels, max_image_bytes: as for `read_image`.
        need_of: asked once, with the whole image's size; a JPEG is decoded after it, so it may choose what to show.
    Raises:
        ValueError, UnreadableImage: as `read_image`.
    """
    check_channels(channels)
    with _report_unreadable(path):
        file, size = _open_file(path)
        room = room_for(size, max_image_bytes)
        with file:
            opened = _recognise(file, channels, room)
    return _make_picture(opened, path, channels, need_of, room)


def read_content(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of an image file; if it is missing, forbidden or too large, raise an UnreadableImage."""
    with _report_unreadable(path), _open_file(path)[0] as file:
        if os.fstat(file.fileno()).st_size > _MOST_BYTES:
            raise ValueError(f"a file of more than {_MOST_BYTES} bytes")
        return file.read()


def decode_picture(content: bytes, name: str, channels: int, need_of: NeedOf, room: int) -> Picture:
    """Decode a file's content in memory as `read_picture` does; the two may take `room` bytes. `name` is for errors."""
    check_channels(channels)
    with _report_unreadable(name):
        opened = _recognise(io.BytesIO(content), channels, room - len(content))
    return _make_picture(opened, name, channels, need_of, room - len(content))


def need_all(height: int, width: int) -> Need:
    """Return the need of a whole image, whatever its size."""
    return Need()


def _make_picture(
    opened: "_Jpeg | Pixels", name: str | os.PathLike[str], channels: int, need_of: NeedOf, room: int
) -> Picture:
    if isinstance(opened, _Jpeg):
        need = need_of(*opened.size)
        with _report_unreadable(name):
            return _decode(opened, channels, need, room)
    picture = Picture(opened, opened.shape[:2])
    need_of(*picture.size)
    return picture


@dataclass(frozen=True, eq=False)
class _Jpeg:
    """A JPEG of one of `_JPEG_COLOURS`, whose header is in order; `size` is (H, W), upright.

    `frame` is where its frame's segment is, if the image may be cut off below a row.
    """

    content: bytes
    mode: str
    size: tuple[int, int]
    orientation: int = 1
    frame: int | None = None


@contextlib.contextmanager
def _report_unreadable(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Pillow raises nearly anything on damaged bytes
        errno = error.errno if isinstance(error, OSError) else None
        raise UnreadableImage(os.fspath(path), _describe_fault(error), errno) from error


def _open_file(path: str | os.PathLike[str]) -> tuple[io.FileIO, int]:
    """Return an open file and its size in bytes; anything else than a file is refused."""
    info = os.stat(path)
    kind = info.st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):  # opening a folder says so; opening a pipe may never end
        raise ValueError("a pipe or a device, not a file")
    return open(path, "rb", buffering=0), info.st_size


def _recognise(file: io.FileIO | io.BytesIO, channels: int, room: int) -> _Jpeg | Pixels:
    """Return the file's JPEG, still to be decoded, or its pixels."""
    start = file.read(_LONGEST_START)
    if not start:
        raise ValueError("the file is empty")
    file.seek(0)
    if not start.startswith(JPEG_START):
        with io.BufferedReader(file) if isinstance(file, io.FileIO) else file as buffered:
            return _read_other(buffered, start, channels, room)
    content = file.read()  # at once: Pillow reads a header in dozens of small pieces
    plain = _parse_plain_jpeg(content)
    if plain:
        return plain
    with open_with_pillow(io.BytesIO(content)) as image:
        if image.format not in _JPEG_FORMATS or image.mode not in _JPEG_COLOURS:
            return read_pixels(image, channels, room)
        orientation, (width, height) = read_orientation(image), image.size
        size = (width, height) if orientation >= 5 else (height, width)
        return _Jpeg(content, image.mode, size, orientation)


def _read_other(file: IO[bytes], start: bytes, channels: int, room: int) -> Pixels:
    """Return the pixels of what is no JPEG."""
    if start.startswith(ARRAY_START):
        return as_channels(read_array(file, channels, room), channels)
    if start.startswith(TIFF_STARTS) and (read := read_tiff(file, channels, room)) is not None:
        pixels, orientation = read
        return turn_upright(pixels, orientation)
    if start == PNG_START and (deep := read_deep_png(file, channels, room)) is not None:
        return deep
    if start.startswith(PPM_STARTS) and (deep := read_deep_ppm(file, room)) is not None:
        return as_channels(deep, channels)
    with open_with_pillow(file) as image:
        if start == PNG_START:
            scale_transparent_gray(image)
        return read_pixels(image, channels, room)


def _parse_plain_jpeg(content: bytes) -> _Jpeg | None:
    """Return the JPEG if its header shows that it is upright and ordinary.

    Pillow would say the same in several times the time. None: it is to be asked.
    """
    segments = _find_segments(content)
    if segments is None or _METADATA in segments:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    if colours not in _JPEG_MODES or height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
        return None
    return _Jpeg(content, _JPEG_MODES[colours], (height, width), frame=_find_frame_to_cut(content, segments))


def _find_frame_to_cut(content: bytes, segments: dict[int, int]) -> int | None:
    """Return where the frame's segment is, if one scan holds all colours row by row and the file was not cut short.

    (A decoder that ignores what follows the last row can't notice data that ends too early.)
    """
    frames = [segments[kind] for kind in _SEQUENTIAL_FRAMES if kind in segments]
    if len(frames) != 1 or not content.endswith(_JPEG_END):
        return None
    num_colours, in_scan = content[frames[0] + _NUM_COLOURS], content[segments[_FIRST_SCAN] + _NUM_IN_SCAN]
    return frames[0] if in_scan == num_colours else None


def _find_segments(content: bytes) -> dict[int, int] | None:
    """Return kind -> offset of the last segment of each kind, up to the first scan; None if something else comes."""
    places: dict[int, int] = {}
    place = len(JPEG_START) - 1
    while len(content) > place + 4 and content[place] == 0xFF:
        kind = content[place + 1]
        places[kind] = place
        if kind == _FIRST_SCAN:
            return places
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return None


def _decode(jpeg: _Jpeg, channels: int, need: Need, room: int) -> Picture:
    reduction = need.reduction
    while reduction > 1 and not _can_reduce(jpeg, reduction):
        reduction //= 2
    height, width = jpeg.size[::-1] if jpeg.orientation >= 5 else jpeg.size
    rows = _rows_to_decode(jpeg, need, reduction)
    content = jpeg.content if rows == height else _cut_below(jpeg, rows)
    h, w = -(-rows // reduction), -(-width // reduction)
    if h * w * (len(jpeg.mode) + channels) + 6 * height * width > room:
        check_room(h * w * (len(jpeg.mode) + channels) + _coefficient_bytes(jpeg.content), room)
    try:
        # without `strict` it ignores, as Pillow does, what is merely odd: here that data continues after the last row
        pixels = simplejpeg.decode_jpeg(
            content, _JPEG_COLOURS[jpeg.mode], min_height=h, min_width=w, strict=rows == height
        )
        if pixels.shape[:2] != (h, w):
            raise ValueError("its size differs from the one in its header")
    except Exception:  # its words for damage are as many as Pillow's, and the verdict is Pillow's
        with open_with_pillow(io.BytesIO(jpeg.content)) as image:
            return Picture(read_pixels(image, channels, room), jpeg.size)
    if channels == 1 and pixels.shape[2] == 3:  # Pillow's way takes half the time
        pixels = convert_in_blocks(lambda block: np.asarray(Image.fromarray(block).convert("L"))[..., None], pixels)
    pixels = turn_upright(as_channels(pixels, channels), jpeg.orientation)
    return Picture(pixels, jpeg.size, (1 / reduction, 1 / reduction))


def _rows_to_decode(jpeg: _Jpeg, need: Need, reduction: int) -> int:
    """Return how many of a JPEG's stored rows to decode for the rows that are needed."""
    height = jpeg.size[1] if jpeg.orientation >= 5 else jpeg.size[0]
    if jpeg.frame is None or need.rows is None:
        return height
    rows = max(_SMALLEST_REDUCED, need.rows + _ROWS_OF_A_CUT * reduction)
    return min(height, -(-rows // _ROWS_TOGETHER) * _ROWS_TOGETHER)


def _cut_below(jpeg: _Jpeg, rows: int) -> bytearray:
    """Return the JPEG with its height set to `rows`, where a decoder stops."""
    assert jpeg.frame is not None
    content = bytearray(jpeg.content)
    place = jpeg.frame + _HEIGHT
    content[place : place + 2] = rows.to_bytes(2, "big")
    return content


def _coefficient_bytes(content: bytes) -> int:
    """Return the bytes of all coefficients, which a decoder keeps unless one scan holds all colours row by row."""
    segments = _find_segments(content) or {}
    frames = [segments[kind] for kind in _FRAMES if kind in segments]
    if not frames or _find_frame_to_cut(content + _JPEG_END, segments) is not None:
        return 0
    place = frames[0] + _HEIGHT
    height, width = (int.from_bytes(content[place + k : place + k + 2], "big") for k in (0, 2))
    first = frames[0] + _NUM_COLOURS + 2
    samplings = [(content[at] >> 4, content[at] & 15) for at in range(first, first + 3 * content[first - 2], 3)]
    largest = max(h for h, _ in samplings) * max(v for _, v in samplings)
    return 2 * height * width * sum(h * v for h, v in samplings) // max(1, largest)


def _can_reduce(jpeg: _Jpeg, reduction: int) -> bool:
    """Return whether a JPEG can be decoded smaller: a shorter last row or column must stay last when it is turned."""
    whole_pixels = all(side % reduction == 0 for side in jpeg.size)
    return min(jpeg.size) >= _SMALLEST_REDUCED and (whole_pixels or jpeg.orientation == 1)


def _describe_fault(error: Exception) -> str:
    """Return why decoding failed, on one line and without the path, which the message already has."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a format that is read here"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"more than {Image.MAX_IMAGE_PIXELS} pixels; cut it into tiles"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
