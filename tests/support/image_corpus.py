"""Encode images of every kind that can go wrong, each with the pixels it must give or why it can't be read.

`CASES` is what docs/data-faults.md promises, kind by kind; tests write it into a folder and train on it.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

HEIGHT, WIDTH = 24, 32


@dataclass(frozen=True)
class Case:
    """One file of the corpus.

    Attributes:
        name: of the file, in bytes, since a name need not be text.
        make: writes it.
        pixels: uint8 [H, W, 3] that reading it as RGB must give; None where `reason` says why it is left out.
        tolerance: largest difference from `pixels`, for what is stored with loss.
        reason: a pattern of the reason; "" where the file must not even be listed.
    """

    name: bytes
    make: Callable[[bytes], object]
    pixels: np.ndarray | None = None
    tolerance: int = 0
    reason: str = ""


def smooth(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return colours that lossy compression changes little and that differ in every corner."""
    y, x = np.mgrid[:height, :width]
    planes = [40 + 160 * x / width, 40 + 160 * y / height, 200 - 80 * (x / width + y / height)]
    return np.stack(planes, axis=-1).astype(np.uint8)


RGB = smooth()
GRAY = np.repeat(RGB[..., :1], 3, axis=2)
SIXTEEN = RGB.astype(np.uint16) << 8 | 0x7F  # whatever is in the low byte is dropped


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photo(kind: str, **options: object) -> bytes:
    return saved(Image.fromarray(RGB), kind, **options)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    width: int, height: int, rows: bytes, *, depth: int = 8, colour: int = 2, before: bytes = b"", interlace: int = 0
) -> bytes:
    """Encode a PNG of rows that have their filter byte; `before` is put before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    parts = [chunk(b"IHDR", header), before, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_of(pixels: np.ndarray, colour: int = 2, **options: object) -> bytes:
    """Encode a PNG of [H, W, C] in 8 or 16 bit, without a library that could convert it."""
    depth = pixels.dtype.itemsize * 8
    big_endian = pixels.astype(pixels.dtype.newbyteorder(">"))
    rows = b"".join(b"\0" + row.tobytes() for row in big_endian)
    return png(pixels.shape[1], pixels.shape[0], rows, depth=depth, colour=colour, **options)


def interlaced_png(pixels: np.ndarray) -> bytes:
    """Encode an Adam7 PNG: seven smaller images, one after the other (PNG specification, sec. 8.2)."""
    passes = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
    parts = [pixels[top::down, left::right] for top, down, left, right in passes]
    rows = b"".join(b"\0" + row.tobytes() for part in parts for row in part)
    return png(pixels.shape[1], pixels.shape[0], rows, interlace=1)


def animated_png() -> bytes:
    """Encode an APNG: the picture, then a white frame that replaces it."""
    whole = png_of(RGB)
    place = whole.index(b"IDAT") - 4
    end = whole.index(b"IEND") - 4
    control = struct.pack(">IIIIIHHBB", 0, WIDTH, HEIGHT, 0, 0, 1, 10, 0, 0)
    second = struct.pack(">IIIIIHHBB", 1, WIDTH, HEIGHT, 0, 0, 1, 10, 0, 0)
    white = zlib.compress(b"".join(b"\0" + b"\xff" * 3 * WIDTH for _ in range(HEIGHT)))
    frames = chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", control)
    later = chunk(b"fcTL", second) + chunk(b"fdAT", struct.pack(">I", 2) + white)
    return whole[:place] + frames + whole[place:end] + later + whole[end:]


def tiff(pixels: np.ndarray, *, endian: str = "<", sample_format: int = 1, photometric: int = 2) -> bytes:
    """Encode an uncompressed TIFF of [H, W, C] in the array's own type."""
    height, width, samples = pixels.shape
    bits = pixels.dtype.itemsize * 8
    content = pixels.astype(pixels.dtype.newbyteorder(endian)).tobytes()
    start = 8
    extra = start + len(content)  # where what doesn't fit in an entry is kept
    tags = {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, samples, bits if samples == 1 else extra),
        259: (3, 1, 1),
        262: (3, 1, photometric if samples > 1 else 1),
        273: (4, 1, start),
        277: (3, 1, samples),
        278: (4, 1, height),
        279: (4, 1, len(content)),
        339: (3, samples, sample_format if samples == 1 else extra + 2 * samples),
    }
    kept = struct.pack(f"{endian}{2 * samples}H", *[bits] * samples, *[sample_format] * samples)
    directory = struct.pack(f"{endian}H", len(tags))
    for tag, (kind, count, value) in tags.items():
        short = kind == 3 and count == 1
        packed = struct.pack(f"{endian}HH", value, 0) if short else struct.pack(f"{endian}I", value)
        directory += struct.pack(f"{endian}HHI", tag, kind, count) + packed
    head = b"II*\0" if endian == "<" else b"MM\0*"
    place = struct.pack(f"{endian}I", extra + len(kept))
    return head + place + content + kept + directory + struct.pack(f"{endian}I", 0)


def turned(orientation: int) -> np.ndarray:
    """Return the picture as a camera stores it under an EXIF orientation."""
    return np.ascontiguousarray(
        {
            1: RGB,
            2: RGB[:, ::-1],
            3: RGB[::-1, ::-1],
            4: RGB[::-1],
            5: RGB.swapaxes(0, 1),
            6: np.rot90(RGB),
            7: RGB[::-1, ::-1].swapaxes(0, 1),
            8: np.rot90(RGB, -1),
        }[orientation]
    )


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def turned_file(kind: str, orientation: int, **options: object) -> bytes:
    return saved(Image.fromarray(turned(orientation)), kind, exif=exif(orientation), **options)


def uniform_cmyk_jpeg(*, ycck: bool) -> bytes:
    """Encode CMYK as Photoshop writes it, inverted; with `ycck` its first three inks are marked as YCbCr."""
    content = saved(Image.new("CMYK", (WIDTH, HEIGHT), (200, 120, 60, 20)), "JPEG", quality=100, subsampling=0)
    place = content.index(b"Adobe") + 11  # after version and two flag words: the colour transform
    return content[:place] + bytes([2 if ycck else 0]) + content[place + 1 :]


def ink_rgb(cyan: float, magenta: float, yellow: float, black: float) -> np.ndarray:
    """Convert inks of 0..255 by Pillow's plain formula, to one colour over the whole picture."""
    colour = [(255 - ink) * (255 - black) / 255 for ink in (cyan, magenta, yellow)]
    return np.broadcast_to(np.round(colour).astype(np.uint8), RGB.shape)


def ycck_rgb() -> np.ndarray:
    """Convert stored, inverted inks taken for Y, Cb and Cr by JFIF's formulas; YCCK inverts once more."""
    luma, blue, red = (255 - ink for ink in (200, 120, 60))
    cyan = luma + 1.402 * (red - 128)
    magenta = luma - 0.344136 * (blue - 128) - 0.714136 * (red - 128)
    return ink_rgb(cyan, magenta, luma + 1.772 * (blue - 128), 20)


def palette() -> Image.Image:
    image = Image.new("P", (WIDTH, HEIGHT))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (0, 0, WIDTH // 2, HEIGHT))
    return image


def halves(left: tuple[int, int, int], right: tuple[int, int, int]) -> np.ndarray:
    pixels = np.empty_like(RGB)
    pixels[:, : WIDTH // 2], pixels[:, WIDTH // 2 :] = left, right
    return pixels


def on_white(alpha: int) -> np.ndarray:
    return np.round(RGB * (alpha / 255) + 255 * (1 - alpha / 255)).astype(np.uint8)


def with_alpha(alpha: int) -> np.ndarray:
    return np.concatenate([RGB, np.full_like(RGB[..., :1], alpha)], axis=2)


def animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("white", "black")]
    return saved(Image.fromarray(GRAY), kind, save_all=True, append_images=frames, **ANIMATION.get(kind, {}))


ANIMATION: dict[str, dict[str, object]] = {"WEBP": {"lossless": True}}
LOSSLESS = {"lossless": True, "exact": True}
JPEG = {"quality": 95, "subsampling": 0}
JPEG_LOSS = 6
TWO_TIMES_CMYK = 3


def content_cases() -> Iterator[tuple[str, bytes, np.ndarray, int]]:
    """Yield (name, bytes, pixels, tolerance) of files that are converted."""
    for kind, name in (("PNG", "png"), ("TIFF", "tiff"), ("BMP", "bmp"), ("PPM", "ppm")):
        yield f"plain.{name}", photo(kind), RGB, 0
    yield "plain.webp", photo("WEBP", **LOSSLESS), RGB, 0
    yield "plain.jpg", photo("JPEG", **JPEG), RGB, JPEG_LOSS
    yield "progressive.jpg", photo("JPEG", progressive=True, **JPEG), RGB, JPEG_LOSS
    yield "gray.jpg", saved(Image.fromarray(GRAY[..., 0]), "JPEG", quality=95), GRAY, JPEG_LOSS
    yield "arithmetic.jpg", arithmetic_jpeg(), np.full_like(RGB, 128), 0
    yield "garbage behind.jpg", photo("JPEG", **JPEG) + b"\xff\xd8 what a phone put here" * 20, RGB, JPEG_LOSS
    yield "two pictures.jpg", photo("JPEG", **JPEG) + photo("JPEG"), RGB, JPEG_LOSS
    yield "cmyk inverted.jpg", uniform_cmyk_jpeg(ycck=False), ink_rgb(200, 120, 60, 20), TWO_TIMES_CMYK
    yield "ycck inverted.jpg", uniform_cmyk_jpeg(ycck=True), ycck_rgb(), TWO_TIMES_CMYK
    yield "cmyk.tif", saved(Image.new("CMYK", (WIDTH, HEIGHT), (9, 80, 0, 40)), "TIFF"), ink_rgb(9, 80, 0, 40), 1
    yield "16 bit gray.png", png_of(SIXTEEN[..., :1], colour=0), GRAY, 0
    yield "16 bit rgb.png", png_of(SIXTEEN), RGB, 0
    yield "16 bit opaque.png", png_of(np.concatenate([SIXTEEN, np.full_like(SIXTEEN[..., :1], 0xFFFF)], 2), 6), RGB, 0
    yield "16 bit gray.tif", tiff(SIXTEEN[..., :1]), GRAY, 0
    yield "16 bit gray big-endian.tif", tiff(SIXTEEN[..., :1], endian=">"), GRAY, 0
    yield "16 bit rgb.tif", tiff(SIXTEEN), RGB, 0
    key = chunk(b"tRNS", struct.pack(">H", int(SIXTEEN[0, 0, 0])))
    yield "16 bit gray transparent.png", png_of(SIXTEEN[..., :1], 0, before=key), keyed_gray(), 0
    yield "palette.png", saved(palette(), "PNG"), halves((200, 100, 50), (10, 20, 30)), 0
    yield "palette transparent.png", saved(palette(), "PNG", transparency=0), halves((200, 100, 50), (255,) * 3), 0
    yield "palette transparent.gif", saved(palette(), "GIF", transparency=0), halves((200, 100, 50), (255,) * 3), 0
    yield "alpha.png", png_of(with_alpha(51), colour=6), on_white(51), 1
    yield "alpha.webp", saved(Image.fromarray(with_alpha(51)), "WEBP", **LOSSLESS), on_white(51), 1
    yield "gray alpha.png", png_of(with_alpha(0)[..., 2:], colour=4), np.full_like(RGB, 255), 0
    bits = GRAY > 100
    yield "one bit.png", saved(Image.fromarray(bits[..., 0]), "PNG"), np.where(bits, 255, 0).astype(np.uint8), 0
    yield "one bit.tif", saved(Image.fromarray(bits[..., 0]), "TIFF"), np.where(bits, 255, 0).astype(np.uint8), 0
    yield "interlaced.png", interlaced_png(RGB), RGB, 0
    for kind, name in (("GIF", "gif"), ("WEBP", "webp"), ("TIFF", "tif")):
        yield f"animated.{name}", animated(kind), GRAY, 0 if kind != "GIF" else 1
    yield "animated.png", animated_png(), RGB, 0
    for orientation in range(1, 9):
        yield f"turned {orientation}.jpg", turned_file("JPEG", orientation, **JPEG), RGB, JPEG_LOSS
        yield f"turned {orientation}.png", turned_file("PNG", orientation), RGB, 0
    yield "turned 6.webp", turned_file("WEBP", 6, **LOSSLESS), RGB, 0
    yield "turned 8.tif", turned_file("TIFF", 8), RGB, 0
    yield "png called.jpg", photo("PNG"), RGB, 0
    yield "jpeg called.png", photo("JPEG", **JPEG), RGB, JPEG_LOSS
    yield "webp called.gif", photo("WEBP", **LOSSLESS), RGB, 0
    yield "column.png", png_of(smooth(3000, 1)), smooth(3000, 1), 0
    yield "row.png", png_of(smooth(1, 3000)), smooth(1, 3000), 0
    yield "one pixel.png", png_of(smooth(1, 1)), smooth(1, 1), 0
    yield "bad exif.jpg", photo("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff", **JPEG), RGB, JPEG_LOSS
    yield "bad exif.png", photo("PNG", exif=b"Exif\0\0garbage"), RGB, 0
    yield "bad profile.png", photo("PNG", icc_profile=b"no profile at all"), RGB, 0
    yield "unpackable profile.png", png_of(RGB, before=chunk(b"iCCP", b"profile\0\0" + b"no zlib data")), RGB, 0
    yield "bad profile.jpg", photo("JPEG", icc_profile=b"\0" * 40, **JPEG), RGB, JPEG_LOSS
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield "good profile.png", photo("PNG", icc_profile=profile), RGB, 0
    yield "bad text.png", png_of(RGB, before=chunk(b"iTXt", b"key\0\1\0\0\0no zlib data")), RGB, 0
    yield "text of bytes.png", png_of(RGB, before=chunk(b"iTXt", b"key\0\0\0\0\0\xff\xfe\xff")), RGB, 0


def keyed_gray() -> np.ndarray:
    return np.where(SIXTEEN[..., :1] == SIXTEEN[0, 0, 0], np.uint8(255), GRAY)


def arithmetic_jpeg() -> bytes:
    """Return a uniform gray JPEG in arithmetic code, which Pillow can't write.

    One scan of a progressive file, for the blocks' means alone: three bytes, found by trying, that decode to zeros.
    """
    content = saved(Image.new("L", (WIDTH, HEIGHT), 128), "JPEG")
    head = content[: content.index(b"\xff\xda")].replace(b"\xff\xc0", b"\xff\xca")
    return head + b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00" + b"ZoP" + b"\xff\xd9"


def fault_cases() -> Iterator[tuple[str, bytes, str]]:
    """Yield (name, bytes, pattern of the reason) of files that are left out."""
    for kind, name in (
        ("JPEG", "jpg"),
        ("PNG", "png"),
        ("TIFF", "tif"),
        ("WEBP", "webp"),
        ("BMP", "bmp"),
        ("PPM", "ppm"),
    ):
        content = saved(Image.fromarray(noise()), kind)
        for share in (0.1, 0.5, 0.9):
            yield f"cut at {share}.{name}", content[: int(share * len(content))], "."
    for share in (0.05, 0.95):
        yield f"cut at {share}.gif", photo("GIF")[: int(share * len(photo("GIF")))], "."
    for name in ("jpg", "png", "tif"):
        yield f"empty.{name}", b"", "the file is empty"
    yield "text.jpg", b"<html>404: no such picture</html>", "not an image"
    yield "postscript.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"
    yield "zeros.png", bytes(5000), "not an image"
    yield "head only.jpg", b"\xff\xd8\xff", "."
    yield "claims 60000 x 60000.png", png(60_000, 60_000, b""), "more than 89478485 pixels"
    yield "really 10000 x 10000.png", bomb(), "more than 89478485 pixels"
    yield "claims 60000 x 60000.jpg", claiming_jpeg(), "more than 89478485 pixels"
    yield "text bomb.png", png_of(RGB, before=chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(2_000_000)))), "."
    yield "floats.tif", tiff(RGB[..., :1].astype(np.float32) / 255, sample_format=3), "floating-point"
    yield "32 bit.tif", tiff(RGB[..., :1].astype(np.int32) << 16, sample_format=2), r"outside 0\.\.65535"
    yield "no width.png", png(0, 10, b""), "."
    damaged = bytearray(png_of(noise()))
    damaged[len(damaged) // 2] ^= 0xFF
    yield "flipped byte.png", bytes(damaged), "."


def noise() -> np.ndarray:
    """Return pixels that hardly compress, so that a truncated file lacks some of them."""
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def bomb() -> bytes:
    """Return 100 million white pixels in some 12 KB, which must not be decoded in full."""
    row = b"\0" + b"\xff" * 1250
    return png(10_000, 10_000, row * 10_000, depth=1, colour=0)


def claiming_jpeg() -> bytes:
    content = bytearray(photo("JPEG"))
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", 60_000, 60_000)
    return bytes(content)


def _writer(content: bytes) -> Callable[[bytes], object]:
    def write(path: bytes) -> None:
        with open(path, "wb") as file:
            file.write(content)

    return write


def all_cases() -> Iterator[Case]:
    for name, content, pixels, tolerance in content_cases():
        yield Case(name.encode(), _writer(content), pixels, tolerance)
    for name, content, reason in fault_cases():
        yield Case(name.encode(), _writer(content), reason=reason)
    for name in (b"two\nlines.png", "ünï 📷.png".encode(), b"raw caf\xe9.png", b" -x & 'y' \"z\".png"):
        yield Case(name, _writer(photo("PNG")), RGB)
        yield Case(b"empty " + name, _writer(b""), reason="the file is empty")
    yield Case(b"dangling.png", lambda path: os.symlink(b"nowhere.png", path), reason="No such file")
    yield Case(b"circle.png", lambda path: os.symlink(path, path), reason="Too many levels of symbolic links")
    yield Case(b"folder.jpg", os.mkdir)
    yield Case(b"pipe.png", os.mkfifo)
    yield Case(b"linked pipe.png", lambda path: os.symlink(b"pipe.png", path))
    yield Case(b"notes.txt", _writer(b"no picture"))


CASES = tuple(all_cases())
READABLE = tuple(case for case in CASES if case.pixels is not None)
UNREADABLE = tuple(case for case in CASES if case.reason)


def write_corpus(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        case.make(os.path.join(os.fsencode(folder), case.name))
