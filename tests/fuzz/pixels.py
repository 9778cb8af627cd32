"""Images in many forms against what was written, and against readers that share no code with ours where they read them.

`check(seed, folder)` writes one image of a random form and size, and compares what is read with the values that went
into it, computed here by the formats' own rules. TIFFs are written by tifffile; PNGs, BMPs and PPMs byte by byte.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from paddlemae.data.decode.images import UnreadableImage, read_image

Rng = np.random.Generator
Case = tuple[Path, np.ndarray, int, int]  # file, what is to be read [H, W, C], channels, how far values may be apart


def check(seed: int, folder: Path) -> None:
    """Raise an AssertionError if case `seed`, written into the empty `folder`, is not read as it was written."""
    rng = np.random.default_rng(seed)
    make = FORMS[seed % len(FORMS)]
    path, expected, channels, apart = make(rng, folder)
    try:
        found = read_image(path, channels)
    except UnreadableImage as fault:
        raise AssertionError(f"seed {seed}, {make.__name__}: {fault.reason}") from fault
    assert found.dtype == expected.dtype and found.shape == expected.shape, (
        f"seed {seed}, {make.__name__}: {found.dtype} {found.shape}, not {expected.dtype} {expected.shape}"
    )
    distance = int(np.abs(found.astype(int) - expected.astype(int)).max())
    assert distance <= apart, f"seed {seed}, {make.__name__}: values are {distance} apart"


def _size(rng: Rng) -> tuple[int, int]:
    height, width = rng.integers(2, 20, 2)
    return int(height), int(width)


def _values(rng: Rng, bits: int, samples: int) -> np.ndarray:
    dtype = np.uint8 if bits <= 8 else np.uint16
    return rng.integers(0, 2**bits, (*_size(rng), samples), dtype)


def _scaled(values: np.ndarray, bits: int) -> np.ndarray:
    dtype, top = (np.uint8, 255) if bits <= 8 else (np.uint16, 65535)
    return np.floor(values.astype(np.float64) * top / (2**bits - 1) + 0.5).astype(dtype)


def _on_white(colours: np.ndarray, alpha: np.ndarray, associated: bool = False) -> np.ndarray:
    top = np.iinfo(colours.dtype).max
    share = alpha.astype(np.float64) / top
    shown = colours.astype(np.float64) * (1 if associated else share) + top * (1 - share)
    return np.minimum(np.floor(shown + 0.5), top).astype(colours.dtype)


def _as(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Gray or RGB as RGB, or RGB as gray by its luma."""
    if channels == 3:
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    if pixels.shape[2] == 1:
        return pixels
    return np.floor(pixels @ np.array([0.299, 0.587, 0.114]) + 0.5)[..., None].astype(pixels.dtype)


def _tiff(folder: Path, rng: Rng, values: np.ndarray, **settings: Any) -> Path:
    import tifffile

    layouts: list[dict[str, Any]] = [{}, {"tile": (16, 16)}, {"rowsperstrip": 3}, {"compression": "deflate"}]
    layouts += [{"compression": "lzw", "predictor": True}, {"compression": "packbits"}, {"bigtiff": True}]
    if values.shape[2] > 1 and settings.get("bitspersample") is None:
        layouts.append({"planarconfig": "separate"})
    layout = {"planarconfig": "contig", **layouts[int(rng.integers(len(layouts)))]}
    if layout["planarconfig"] == "separate":
        values = np.moveaxis(values, 2, 0)
    if settings.get("bitspersample"):  # packed values, which tifffile writes no other way
        layout = {"planarconfig": "contig"}
    if values.shape[-1] == 1:
        values, layout = values[..., 0], {key: value for key, value in layout.items() if key != "planarconfig"}
    tifffile.imwrite(folder / "a.tif", values, byteorder="<>"[int(rng.integers(2))], **layout, **settings)
    return folder / "a.tif"


def tiff_gray(rng: Rng, folder: Path) -> Case:
    bits, channels, inverted = int(rng.choice([8, 16])), int(rng.choice([1, 3])), bool(rng.integers(2))
    values = _values(rng, bits, 1)
    path = _tiff(folder, rng, values, photometric="miniswhite" if inverted else "minisblack")
    return path, _as(2**bits - 1 - values if inverted else values, channels), channels, 0


def tiff_colour(rng: Rng, folder: Path) -> Case:
    bits, channels = int(rng.choice([8, 16])), int(rng.choice([1, 3]))
    values = _values(rng, bits, 3)
    return _tiff(folder, rng, values, photometric="rgb"), _as(values, channels), channels, 1 if channels == 1 else 0


def tiff_transparency(rng: Rng, folder: Path) -> Case:
    bits, colours = int(rng.choice([8, 16])), int(rng.choice([1, 3]))
    associated = bool(rng.integers(2))
    values = _values(rng, bits, colours + 1)
    if associated:
        values[..., :-1] = np.minimum(values[..., :-1], values[..., -1:])
    settings = {"photometric": "rgb" if colours == 3 else "minisblack"}
    path = _tiff(folder, rng, values, extrasamples=["assocalpha" if associated else "unassalpha"], **settings)
    # Pillow divides 8-bit colours by their alpha before it multiplies them again
    apart = 0 if bits == 16 else 128 if associated and values[..., -1].min() < 64 else 2
    return path, _as(_on_white(values[..., :-1], values[..., -1:], associated), 3), 3, apart


def tiff_rgba(rng: Rng, folder: Path) -> Case:
    bits, extra = int(rng.choice([8, 16])), str(rng.choice(["unassalpha", "unspecified"]))
    values = _values(rng, bits, 4)
    return _tiff(folder, rng, values, photometric="rgb", extrasamples=[extra]), values, 4, 0


def tiff_bands(rng: Rng, folder: Path) -> Case:
    bits, channels, inverted = int(rng.choice([8, 16])), int(rng.choice([2, 5, 13])), bool(rng.integers(2))
    values = _values(rng, bits, channels)
    path = _tiff(folder, rng, values, photometric="miniswhite" if inverted else "minisblack")
    return path, 2**bits - 1 - values if inverted else values, channels, 0


def tiff_packed(rng: Rng, folder: Path) -> Case:
    bits, inverted = int(rng.choice([1, 2, 4, 10, 12, 14])), bool(rng.integers(2))
    values = _values(rng, bits, 1)
    path = _packed_tiff(folder, rng, values[..., 0], bits, inverted)
    return path, _scaled(2**bits - 1 - values if inverted else values, bits), 1, 0


def _packed_tiff(folder: Path, rng: Rng, values: np.ndarray, bits: int, inverted: bool) -> Path:
    """A TIFF of one strip whose values are packed bit by bit, each row from a byte on."""
    mark, order = [("<", b"II*\0"), (">", b"MM\0*")][int(rng.integers(2))]
    height, width = values.shape
    strip = b"".join(_packed(row, bits) for row in values)
    fields = [(256, width), (257, height), (258, bits), (259, 1), (262, int(not inverted)), (273, 8)]
    fields += [(277, 1), (278, height), (279, len(strip))]
    entries = b"".join(struct.pack(mark + "HHII", tag, 4, 1, value) for tag, value in fields)
    strip += bytes(len(strip) % 2)
    directory = struct.pack(mark + "H", len(fields)) + entries + bytes(4)
    (folder / "a.tif").write_bytes(order + struct.pack(mark + "I", 8 + len(strip)) + strip + directory)
    return folder / "a.tif"


def _packed(row: np.ndarray, bits: int) -> bytes:
    digits = (row[..., None].astype(np.uint32) >> np.arange(bits - 1, -1, -1, dtype=np.uint32)) & 1
    return np.packbits(digits.astype(np.uint8).ravel()).tobytes()


def png_plain(rng: Rng, folder: Path) -> Case:
    bits, kind = [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2)][int(rng.integers(7))]
    values = _values(rng, bits, 3 if kind == 2 else 1)
    key = values[0, 0] if rng.integers(2) else None
    chunk = b"" if key is None else _chunk(b"tRNS", b"".join(struct.pack(">H", int(value)) for value in key))
    expected = _scaled(values, bits)
    if key is not None:
        expected = np.where((values == key).all(axis=2, keepdims=True), np.iinfo(expected.dtype).max, expected)
    return _png(folder, rng, values, bits, kind, chunk), _as(expected, 3), 3, 0


def png_transparency(rng: Rng, folder: Path) -> Case:
    bits, kind = int(rng.choice([8, 16])), int(rng.choice([4, 6]))
    values = _values(rng, bits, 2 if kind == 4 else 4)
    path = _png(folder, rng, values, bits, kind)
    if rng.integers(2):
        return path, np.concatenate([_as(values[..., :-1], 3), values[..., -1:]], axis=2), 4, 0
    return path, _as(_on_white(values[..., :-1], values[..., -1:]), 3), 3, 1


def png_palette(rng: Rng, folder: Path) -> Case:
    bits = int(rng.choice([1, 2, 4, 8]))
    values = _values(rng, bits, 1)
    colours = rng.integers(0, 256, (2**bits, 3), np.uint8)
    alpha = rng.integers(0, 256, (int(rng.integers(1, 2**bits + 1)), 1), np.uint8) if rng.integers(2) else None
    chunks = _chunk(b"PLTE", colours.tobytes())
    expected = colours[values[..., 0]]
    if alpha is not None:
        chunks += _chunk(b"tRNS", alpha.tobytes())
        padded = np.concatenate([alpha, np.full((2**bits - len(alpha), 1), 255, np.uint8)])
        expected = _on_white(expected, padded[values[..., 0]])
    return _png(folder, rng, values, bits, 3, chunks), expected, 3, 1


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(folder: Path, rng: Rng, values: np.ndarray, bits: int, kind: int, chunks: bytes = b"") -> Path:
    """A PNG whose rows are filtered by nothing, by the value to the left, or by the row above."""
    height, width, samples = values.shape
    distance, above, filtered = max(1, bits * samples // 8), None, b""
    for row in values:
        stored = np.frombuffer(row.astype(">u2").tobytes() if bits == 16 else _packed(row.ravel(), bits), np.uint8)
        choice = int(rng.integers(3))
        left = np.concatenate([np.zeros(distance, np.uint8), stored])[: len(stored)]
        before = [np.zeros_like(stored), left, np.zeros_like(stored) if above is None else above][choice]
        filtered, above = filtered + bytes([choice]) + (stored - before).tobytes(), stored
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    content = _chunk(b"IHDR", header) + chunks + _chunk(b"IDAT", zlib.compress(filtered)) + _chunk(b"IEND", b"")
    (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return folder / "a.png"


def bmp(rng: Rng, folder: Path) -> Case:
    bits, is_upside_down = int(rng.choice([24, 32])), bool(rng.integers(2))
    alpha = bits == 32 and bool(rng.integers(2))
    values = _values(rng, 8, 4)
    if alpha and rng.integers(2):
        values[..., 3] = 0  # which other programs take for opaque
    height, width = values.shape[:2]
    stored = values[..., [2, 1, 0, 3][: bits // 8]]
    rows = [row.tobytes() + bytes(-row.size % 4) for row in (stored if is_upside_down else stored[::-1])]
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + bytes(52) if alpha else b""
    size, head = sum(map(len, rows)), 40 + len(masks)
    header = struct.pack("<IiiHHIIiiII", head, width, -height if is_upside_down else height, 1, bits,
                         3 if alpha else 0, size, 2835, 2835, 0, 0)  # fmt: skip
    start = b"BM" + struct.pack("<IHHI", 14 + head + size, 0, 0, 14 + head)
    (folder / "a.bmp").write_bytes(start + header + masks + b"".join(rows))
    is_shown = alpha and values[..., 3].any()
    return folder / "a.bmp", _on_white(values[..., :3], values[..., 3:]) if is_shown else values[..., :3], 3, 1


def netpbm(rng: Rng, folder: Path) -> Case:
    largest, samples = int(rng.choice([1, 15, 255, 1023, 4095, 65535])), int(rng.choice([1, 3]))
    values = rng.integers(0, largest + 1, (*_size(rng), samples), np.uint16)
    height, width = values.shape[:2]
    is_text = bool(rng.integers(2))
    number = {1: 2, 3: 3}[samples] + (0 if is_text else 3)
    head = f"P{number}\n# a comment\n{width} {height}\n{largest}\n".encode()
    body = " ".join(map(str, values.ravel().tolist())).encode() if is_text else None
    (folder / "a.ppm").write_bytes(head + (body or values.astype(">u2" if largest > 255 else "u1").tobytes()))
    dtype, top = (np.uint16, 65535) if largest > 255 else (np.uint8, 255)
    expected = np.floor(values.astype(np.float64) * top / largest + 0.5).astype(dtype)
    return folder / "a.ppm", _as(expected, 3), 3, 1


def array(rng: Rng, folder: Path) -> Case:
    channels = int(rng.choice([1, 3, 4, 6]))
    dtype = str(rng.choice(["u1", "<u2", ">u2", "<i2", ">i4", "<i8", ">u8", "?"]))
    largest = {"u1": 256, "<i2": 32768, "?": 2}.get(dtype, 65536)
    values = rng.integers(0, largest, (*rng.integers(7, 20, 2), channels)).astype(dtype)
    expected = (
        values.astype(np.uint8) * 255 if dtype == "?" else values.astype(np.uint8 if dtype == "u1" else np.uint16)
    )
    stored = np.moveaxis(values, 2, 0) if rng.integers(2) else values
    np.save(folder / "a.npy", np.asfortranarray(stored) if rng.integers(2) else np.ascontiguousarray(stored))
    return folder / "a.npy", expected, channels, 0


FORMS: tuple[Callable[[Rng, Path], Case], ...] = (
    tiff_gray, tiff_colour, tiff_transparency, tiff_rgba, tiff_bands, tiff_packed,
    png_plain, png_transparency, png_palette, bmp, netpbm, array,
)  # fmt: skip
