"""The folder that `paddlemae predict` writes for a segmenter: what is in it, and what of it is done.

DIR/masks/NAME.png      the class of each pixel (NAME.tif of a GeoTIFF)
DIR/classes.json        the names, values and colours of the classes
DIR/images.csv          a row for each image
DIR/predict.json        how it was made; once it is there, all is
DIR/overlays/NAME.png, probabilities/NAME.npy, polygons.json, polygons/NAME.geojson, images/NAME.*    if asked for

Until the end DIR/.progress lists what is done, so that a stopped command can be resumed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from paddlemae.data.sources.output_folders import check_outside
from paddlemae.system.atomic import append_text, replace_text
from paddlemae.system.display_names import say
from paddlemae.system.documents import read_object
from paddlemae.tasks.models.feature_file import MAX_ABOUT_BYTES

Polygons = Literal["coco", "geojson"]
POLYGONS: tuple[Polygons, ...] = ("coco", "geojson")
MASKS, OVERLAYS, PROBABILITIES, POLYGON_FOLDER, IMAGES = "masks", "overlays", "probabilities", "polygons", "images"
COCO_FILE, CLASS_FILE, TABLE_FILE, ABOUT_FILE = "polygons.json", "classes.json", "images.csv", "predict.json"
PROGRESS = ".progress"
ENTRIES = (MASKS, OVERLAYS, PROBABILITIES, POLYGON_FOLDER, IMAGES, COCO_FILE, CLASS_FILE, TABLE_FILE, ABOUT_FILE)


@dataclass(frozen=True)
class MaskOutputs:
    """The outputs that `predict` writes for each image.

    Args:
        folder: for all of it.
        overlays: pictures of the images below the colours of their classes.
        probabilities: of all classes, as arrays.
        polygons: of regions, in one COCO JSON or a GeoJSON an image.
        polygon_classes: names of the classes whose regions become polygons; None: all.
        link_images: put links to the images next to the masks, so that the folder is data to train on.
        min_confidence: a pixel whose class is less probable is ignored (255).
    """

    folder: Path
    overlays: bool = False
    probabilities: bool = False
    polygons: Polygons | None = None
    polygon_classes: tuple[str, ...] | None = None
    link_images: bool = False
    min_confidence: float = 0.0

    def check(self, images: Sequence[str]) -> None:
        """Raise a ValueError unless all of it can be written, and not among the images."""
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder} is a file; masks need a folder: name one with --out")
        if self.polygons is not None and self.polygons not in POLYGONS:
            raise ValueError(f"--polygons must be {' or '.join(POLYGONS)}; got {self.polygons!r}")
        if self.polygon_classes is not None and self.polygons is None:
            raise ValueError("--polygon-classes needs --polygons coco or --polygons geojson")
        if not 0 <= self.min_confidence < 1:
            raise ValueError(f"--min-confidence must be at least 0 and below 1; got {self.min_confidence:g}")
        check_outside(self.folder, images)

    def settings(self) -> dict[str, Any]:
        """Return what the files depend on."""
        classes = None if self.polygon_classes is None else list(self.polygon_classes)
        return {
            "overlays": self.overlays,
            "probabilities": self.probabilities,
            "polygons": self.polygons,
            "polygon classes": classes,
            "images linked": self.link_images,
            "min_confidence": self.min_confidence,
        }


def prepare_folder(folder: Path, about: dict[str, Any], *, overwrite: bool) -> None:
    """Make the folder, or find it as a stopped command with the same settings left it.

    Raises:
        ValueError: it holds something else, or is complete and not to be replaced.
    """
    if (folder / ABOUT_FILE).exists() and not overwrite:
        raise ValueError(f"{folder} holds predictions already; add --overwrite to replace them, or name another --out")
    progress, note = folder / PROGRESS, folder / PROGRESS / "about.json"
    if (folder / ABOUT_FILE).exists():
        _clear(folder)
    elif note.is_file():
        if different := _different(note, about):
            say(
                f"{folder} holds predictions that were made with another {', '.join(different)}; starting over",
                error=True,
            )
            _clear(folder)
    elif taken := [name for name in ENTRIES if (folder / name).exists()]:
        raise ValueError(f"{folder} has {taken[0]} that predict did not write; name an empty folder with --out")
    progress.mkdir(parents=True, exist_ok=True)
    if not note.is_file():
        replace_text(note, json.dumps(about))


def _different(note: Path, about: dict[str, Any]) -> list[str]:
    try:
        before = read_object(note, MAX_ABOUT_BYTES)
    except ValueError:
        return ["settings"]
    return [name for name, value in about.items() if before.get(name) != value and name != "model"]


def _clear(folder: Path) -> None:
    """Remove what `predict` wrote, and nothing else."""
    for name in (ABOUT_FILE, *ENTRIES, PROGRESS):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Done:
    """The outcome of one image.

    Attributes:
        image: its index in the source.
        error: why it could not be read; the rest is empty then.
        size: (height, width).
        pixels: of each class; the last number counts those that are ignored.
        confidence: mean probability of the pixels' classes, over those with data.
    """

    image: int
    error: str | None = None
    size: tuple[int, int] | None = None
    pixels: tuple[int, ...] = ()
    confidence: float | None = None


@dataclass(frozen=True)
class Record:
    """The list of what is done; every process writes lines to its own file, and reads all.

    Args:
        folder: the output's.
    """

    folder: Path

    def add(self, done: Done, rank: int) -> None:
        """Note an image whose files are all in place."""
        line = [done.image, done.error, done.size, done.pixels, done.confidence]
        append_text(self.folder / PROGRESS / f"{rank}.jsonl", json.dumps(line) + "\n")

    def read(self, images: int) -> dict[int, Done]:
        """Return what is done, by image; a line that was cut off by a stop does not count."""
        found: dict[int, Done] = {}
        for path in sorted((self.folder / PROGRESS).glob("*.jsonl")):
            for done in _lines(path):
                if 0 <= done.image < images:
                    found[done.image] = done
        return found

    def annotations_path(self, image: int) -> Path:
        """Return the file of an image's COCO annotations until all are joined."""
        return self.folder / PROGRESS / f"{image:08d}.json"

    def remove(self) -> None:
        """Remove the list."""
        shutil.rmtree(self.folder / PROGRESS)


def _lines(path: Path) -> Iterator[Done]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                image, error, size, pixels, confidence = json.loads(line)
                yield Done(int(image), error, None if size is None else (size[0], size[1]), tuple(pixels), confidence)
            except (ValueError, TypeError):
                continue


def output_path(folder: Path, kind: str, name: str, ending: str) -> Path:
    """Return the path of an image's file, whose folder is made."""
    path = folder / kind / (name + ending)
    os.makedirs(path.parent, exist_ok=True)
    return path
