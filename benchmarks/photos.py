"""Write JPEG files to train from, or find those that an option names."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

COUNT, SIZE, QUALITY = 5000, 32, 90  # files of about 1 kB, as CIFAR-10's are


def photo_folder(source: Path) -> str:
    """Return a folder of photos; a tar is unpacked once.

    Raises:
        FileNotFoundError: there is no such folder or tar.
    """
    if not source.exists():
        raise FileNotFoundError(f"--photos names {source}, which does not exist")
    if source.is_dir():
        return str(source.resolve())

    def unpack(folder: Path) -> None:
        with tarfile.open(source) as archive:
            archive.extractall(folder, filter="data")

    return _made_once(f"paddlemae-bench-{source.stem}", unpack)


def small_jpegs() -> str:
    """Return a folder of `COUNT` JPEG files with `SIZE` pixels a side, which are written once."""
    return _made_once(f"paddlemae-bench-jpegs-{COUNT}-{SIZE}-{QUALITY}", write_jpegs)


def write_jpegs(folder: Path, count: int = COUNT, size: int = SIZE) -> None:
    """Write smooth random colours with some noise, the same ones each time."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        smooth = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC), np.float32)
        noisy = np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:06}.jpg", quality=QUALITY)


def _made_once(name: str, make: Callable[[Path], None]) -> str:
    """Return a folder of the system's temporary files, made whole or not at all."""
    folder = Path(tempfile.gettempdir()) / name
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
            make(Path(fresh, "photos"))
            Path(fresh, "photos").rename(folder)
    return str(folder)
