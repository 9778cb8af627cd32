"""What pixels mean, and that sizes are checked before memory is taken."""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
import sys
import zipfile
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.batches import eval_batches
from paddlemae.data.decode import tiff
from paddlemae.data.decode.images import UnreadableImage, read_image
from paddlemae.data.decode.limits import parse_bytes
from paddlemae.data.sources import open_source
from paddlemae.data.views.augment import View
from tests.fuzz.pixels import FORMS, check

needs_tifffile = pytest.mark.skipif(not find_spec("tifffile"), reason="needs tifffile, of the extra 'tiff'")
needs_pyarrow = pytest.mark.skipif(not find_spec("pyarrow"), reason="needs pyarrow, of the extra 'tables'")


@needs_tifffile
@pytest.mark.parametrize("part", range(2))
def test_every_form_is_read_as_it_was_written(tmp_path: Path, part: int) -> None:
    for seed in range(part * 40 * len(FORMS), (part + 1) * 40 * len(FORMS)):
        for path in tmp_path.iterdir():
            path.unlink()
        check(seed, tmp_path)


@needs_tifffile
def test_white_is_zero_is_turned_over_in_16_bits_too(tmp_path: Path) -> None:
    import tifffile

    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint16) << 8, (8, 1))
    tifffile.imwrite(tmp_path / "a.tif", 65535 - ramp, photometric="miniswhite")
    assert read_image(tmp_path / "a.tif", 1)[0, :3, 0].tolist() == [0, 2048, 4096]


@needs_tifffile
@pytest.mark.parametrize("samples", [2, 4])
def test_transparency_of_16_bits_is_composited_on_white(tmp_path: Path, samples: int) -> None:
    import tifffile

    values = np.full((8, 8, samples), 1000, np.uint16)
    values[4:, :, -1] = 65535
    photometric = "rgb" if samples == 4 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", values, photometric=photometric, extrasamples=["unassalpha"], planarconfig=1)
    pixels = read_image(tmp_path / "a.tif", 3)
    assert pixels.shape == (8, 8, 3) and (pixels[4:] == 1000).all() and pixels[0, 0, 0] == 64550


def test_transparency_of_four_bits_of_gray(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header, rows = struct.pack(">IIBBBBB", 4, 4, 4, 0, 0, 0, 0), zlib.compress(b"\0\x33\x00" * 4)
    chunks = chunk(b"IHDR", header) + chunk(b"tRNS", b"\0\3") + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    assert read_image(tmp_path / "a.png", 1)[0, :, 0].tolist() == [255, 255, 0, 0]


@needs_tifffile
def test_the_extra_changes_no_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(20 * len(FORMS)):
        make = FORMS[seed % len(FORMS)]
        if not make.__name__.startswith("tiff"):
            continue
        path, _, channels, _ = make(np.random.default_rng(seed), tmp_path)
        expected = read_image(path, channels)
        with monkeypatch.context() as without:
            without.setattr(tiff, "_HAS_TIFFFILE", False)
            try:
                assert (read_image(path, channels) == expected).all()
            except UnreadableImage as fault:
                assert "paddlemae[tiff]" in fault.reason


@needs_tifffile
@pytest.mark.parametrize(
    ("values", "settings", "reason"),
    [
        (np.zeros((4, 4), np.int8), {}, "signed 8-bit"),
        (np.zeros((4, 4), np.float32), {}, "floating-point"),
        (np.zeros((4, 4), np.complex64), {}, "complex"),
        (np.zeros((4, 4, 3), np.float32), {"photometric": "rgb"}, "floating-point"),
        (np.zeros((4, 4), np.uint8), {"photometric": "cfa"}, "raw sensor"),
    ],
)
def test_tiffs_that_say_no_brightness_are_refused(
    tmp_path: Path, values: np.ndarray, settings: dict, reason: str
) -> None:
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", values, **({"photometric": "minisblack"} | settings))
    with pytest.raises(UnreadableImage, match=reason):
        read_image(tmp_path / "a.tif", 3)


@pytest.mark.parametrize("ending", [".jfif", ".jpe"])
def test_other_endings_of_jpegs_are_listed(tmp_path: Path, ending: str) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / f"a{ending}", "JPEG")
    source = open_source(str(tmp_path))
    assert len(source) == 1 and source.read(0, 3).shape == (8, 8, 3)


def test_arrays_of_signed_bytes_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((8, 8), np.int8))
    with pytest.raises(UnreadableImage, match="signed 8-bit"):
        read_image(tmp_path / "a.npy", 1)


def test_an_array_of_a_negative_shape_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((8, 80), np.uint8))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content.replace(b"(8, 80)", b"(-1, 8)"))
    with pytest.raises(UnreadableImage, match="damaged"):
        read_image(tmp_path / "a.npy", 1)


def bomb_of_a_table(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = pa.array([bytes(10_000_000)] * 100)  # stored once: 1 GB of 0.1 MB
    pq.write_table(pa.table({"image": image}), folder / "a.parquet", compression="zstd")
    return folder / "a.parquet"


def bomb_of_mnist(folder: Path) -> Path:
    with gzip.open(folder / "train-images-idx3-ubyte.gz", "wb", 1) as file:
        file.write(bytes((0, 0, 8, 3)) + struct.pack(">III", 3000, 1000, 1000) + bytes(1000))
    with gzip.open(folder / "train-labels-idx1-ubyte.gz", "wb") as file:
        file.write(bytes((0, 0, 8, 1)) + struct.pack(">I", 3000) + bytes(3000))
    return folder


def bomb_of_a_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a.png", bytes(600_000_000))
    return folder / "a.zip"


def bomb_of_arrays(folder: Path) -> Path:
    content = io.BytesIO()
    np.save(content, np.zeros((600, 1000, 1000), np.uint8))
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("images.npy", content.getbuffer())
    return folder / "a.npz"


_READ = """
import sys
from paddlemae.data.views.augment import View
from paddlemae.data.batches import eval_batches
from paddlemae.data.sources import open_source
reasons = []
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
if sys.argv[1].endswith(".parquet"):
    import pyarrow.parquet
before = peak()
try:
    source = open_source(sys.argv[1])
    for batch in eval_batches(source, View((32, 32), 3), batch_size=64, on_skip=lambda it: reasons.append(it.reason)):
        pass
except Exception as fault:
    reasons.append(str(fault))
print(peak() - before)
print(reasons[0])
"""


def read_in_a_process(path: Path) -> tuple[int, str]:
    """(bytes of memory at the peak, the first reason that something can't be read) of reading a source."""
    done = subprocess.run([sys.executable, "-c", _READ, str(path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    peak, reason = done.stdout.splitlines()
    return int(peak), reason


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "bomb", [pytest.param(bomb_of_a_table, marks=needs_pyarrow), bomb_of_mnist, bomb_of_a_zip, bomb_of_arrays]
)
def test_what_claims_to_be_large_takes_no_memory(tmp_path: Path, bomb) -> None:
    path = bomb(tmp_path)
    peak, reason = read_in_a_process(path)
    files = [path] if path.is_file() else list(path.iterdir())
    assert "max_image_bytes" in reason
    assert peak < 500_000_000 + 2 * sum(file.stat().st_size for file in files)


def test_a_limit_is_a_part_of_the_source_s_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("c/a.npy", "c/b.npy"):
            content = io.BytesIO()
            np.save(content, np.zeros((1000, 1000), np.uint8))
            archive.writestr(name, content.getbuffer())
    path = str(tmp_path / "a.zip")
    assert open_source(path).read(0, 1).shape == (1000, 1000, 1)
    with pytest.raises(UnreadableImage, match="max_image_bytes"):
        open_source(f"{path}::max_image_bytes=1MB").read(0, 1)
    with pytest.raises(ValueError, match="such as 2GB"):
        open_source(f"{path}::max_image_bytes=much")


def test_the_limit_holds_for_files_and_arrays(tmp_path: Path) -> None:
    Image.new("RGB", (500, 500)).save(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="max_image_bytes"):
        open_source(f"{tmp_path}::max_image_bytes=1MB").read(0, 3)
    assert open_source(f"{tmp_path}::max_image_bytes=2MB").read(0, 3).shape == (500, 500, 3)
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((2, 1000, 1000), np.uint8))
    with pytest.raises(ValueError, match="max_image_bytes"):
        open_source(f"{tmp_path / 'a.npz'}::max_image_bytes=1MB")
    assert len(open_source(str(tmp_path / "a.npz"))) == 2


@needs_pyarrow
def test_rows_that_share_a_stored_value_count_one_by_one(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": pa.array([bytes(100_000)] * 50)}), tmp_path / "a.parquet", compression="zstd")
    with pytest.raises(UnreadableImage, match="max_image_bytes"):
        open_source(f"{tmp_path / 'a.parquet'}::max_image_bytes=1MB").read(0, 3)
    with pytest.raises(UnreadableImage, match="not an image"):
        open_source(str(tmp_path / "a.parquet")).read(0, 3)


def test_progressive_jpegs_count_their_coefficients(tmp_path: Path) -> None:
    Image.new("RGB", (400, 400)).save(tmp_path / "a.jpg", progressive=True, subsampling=0)
    with pytest.raises(UnreadableImage, match="max_image_bytes"):
        read_image(tmp_path / "a.jpg", 3, 1_000_000)
    Image.new("RGB", (400, 400)).save(tmp_path / "b.jpg")
    assert read_image(tmp_path / "b.jpg", 3, 1_000_000).shape == (400, 400, 3)


def test_images_that_can_t_be_read_keep_no_bytes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", b"no image")
        buffer = io.BytesIO()
        Image.new("L", (4, 4)).save(buffer, "PNG")
        archive.writestr("b.png", buffer.getvalue())
    faults: list[UnreadableImage] = []
    list(eval_batches(open_source(str(tmp_path / "a.zip")), View((4, 4), 3), batch_size=2, on_skip=faults.append))
    (fault,) = faults
    assert fault.__traceback__ is None and fault.__cause__ is None and fault.__context__ is None


def test_bytes_are_named_with_their_units(tmp_path: Path) -> None:
    assert parse_bytes("2GB") == 2 * 10**9 and parse_bytes("500 mb") == 5 * 10**8 and parse_bytes("123") == 123
    with pytest.raises(ValueError, match="expected max_image_bytes as bytes, such as 2GB or 500MB, got '2 stones'"):
        open_source(f"{tmp_path}::max_image_bytes=2 stones")
