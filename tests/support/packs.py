"""Photographs and the packs of them."""

from pathlib import Path
from typing import Any

from paddlemae.tasks.data.pack import PackResult, pack
from tests.support.pictures import photo

SETTINGS: dict[str, Any] = {"size": 24, "shard_size": "3", "max_bad_images": 0.4, "workers": 0, "quiet": True}


def packed(spec: object, out: Path, **settings: Any) -> PackResult:
    return pack(str(spec), out, **{**SETTINGS, **settings})


def write_photos(root: Path) -> Path:
    """Write 10 training photos of two classes, the second and the last two unreadable, and 4 test photos."""
    for part, count in (("train", 5), ("test", 2)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                photo(30, 20 + 3 * number, number).save(root / part / name / f"{number}.jpg")
    for path in ("cat/1.jpg", "dog/3.jpg", "dog/4.jpg"):
        (root / "train" / path).write_bytes(b"no image")
    return root
