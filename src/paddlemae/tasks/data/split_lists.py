"""Split a set of images into train, test and val, written as a list: `paddlemae data split`."""

from __future__ import annotations

import csv
import io
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.inspect.duplicates import iterate_groups
from paddlemae.data.inspect.series import Series, find_series
from paddlemae.data.inspect.survey import Survey
from paddlemae.data.inspect.units import assign_units, group_firsts, join_units
from paddlemae.data.masks.folders import class_files
from paddlemae.data.sources.open import path_and_options
from paddlemae.data.sources.output_folders import check_outside
from paddlemae.system.atomic import replace_bytes
from paddlemae.system.display_names import display_name
from paddlemae.system.locks import lock_folder
from paddlemae.tasks.data.compare import compare_images
from paddlemae.tasks.data.listed_images import NO_CLASS, ListedImages, list_images
from paddlemae.tasks.data.splits import ALL_SPLITS, collect_notes

LIST_FILE = "split.csv"
_LARGE = 0.5  # share of all images in one unit that is reported


@dataclass(frozen=True, eq=False)
class SplitResult:
    """Images with their parts.

    Args:
        images: those that can be read.
        parts: names of the parts; part_of_N: int64 [N], the part of each image.
        units_N: int64 [N], equal for images that stay together.
        unreadable: names of images that are left out, and why.
        notes: how the source was read.
        has_series: whether series of images stay together.
    """

    spec: str
    images: ListedImages
    parts: tuple[str, ...]
    part_of_N: NDArray[np.int64]
    units_N: NDArray[np.int64]
    unreadable: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    has_series: bool = False


def split_images(
    spec: str,
    *,
    test: float = 0.2,
    val: float = 0.0,
    split: str = ALL_SPLITS,
    seed: int = 0,
    exact_only: bool = False,
    keep_series: bool = True,
    channels: int = 3,
    workers: int | None = None,
    quiet: bool = False,
) -> SplitResult:
    """Assign every image that `spec` names to train, test or val; each class has the requested shares in each.

    Images that are linked by duplicates or are of one group, such as a patient, are in the same part; without groups
    those of a series, such as frames.

    Args:
        spec: images in files, as `open_source` takes them: a folder, list or CSV.
        test, val: shares of the images; the rest is train.
        split: train or test: only images of this split; all: of all its splits, pooled.
        exact_only: near duplicates need not stay together.
        keep_series: images of a series stay together, if the source has no groups.
        channels: as images are read for a model.
        workers: processes that decode; None is one a core where the images are many.
    Raises:
        ValueError: shares that can't be, images that are in no files, too few images that are not duplicates.
        FileNotFoundError: no such path.
    """
    parts, shares = _choose_parts(test, val)
    with collect_notes() as notes:
        images = list_images(spec, split)
    looks, exact, near = compare_images([images.source], channels, workers, quiet)
    readable = np.flatnonzero(looks.readable_N)
    links = [exact if exact_only else near]
    if images.groups_N is not None:
        links.append(group_firsts(images.groups_N))
    series = series_of(images, looks) if keep_series and images.groups_N is None else None
    if series is not None:
        links.append(group_firsts(series.groups_N))
    units_N = np.unique(join_units(links)[readable], return_inverse=True)[1].astype(np.int64)
    if len(readable) == 0 or units_N.max() + 1 < len(parts):
        found = f"{len(readable)} images" if len(readable) < len(parts) else "images that are all linked"
        raise ValueError(f"{spec!r} has {found} by duplicates, groups or series, too few to make {' and '.join(parts)}")
    kept = images.subset(readable)
    drawn = np.random.default_rng(seed)
    part_of_N = assign_units(units_N, *kept.class_pairs(), len(kept.classes) + 1, shares, drawn)
    faults = {images.source.describe(i): reason for i, reason in looks.faults.items()}
    return SplitResult(spec, kept, parts, part_of_N, units_N, faults, notes, series is not None)


def series_of(images: ListedImages, looks: Survey) -> Series | None:
    """Return the series of images that were looked at; None without any."""
    numbers: dict[tuple[str, ...] | None, int] = {}
    classes_N = np.array([numbers.setdefault(names, len(numbers)) for names in images.labels], np.int64)
    names = map(images.source.describe, range(len(images.source)))
    has_classes = not images.multi_label and images.classes
    return find_series(names, classes_N if has_classes else None, lambda chosen: looks.thumbnails_NP[chosen])


def _choose_parts(test: float, val: float) -> tuple[tuple[str, ...], list[float]]:
    if not (0 <= test < 1 and 0 <= val < 1 and 0 < test + val < 1):
        raise ValueError(f"--test and --val are shares whose sum is above 0 and below 1; got {test:g} and {val:g}")
    shares = {"train": 1 - test - val, "test": test, "val": val}
    present = {name: share for name, share in shares.items() if share > 0}
    return tuple(present), list(present.values())


@contextmanager
def lock_output(out: Path, spec: str, overwrite: bool) -> Iterator[None]:
    """Hold the folder for `write_list` before the images are read, so that a list that is there is found early.

    Raises:
        ValueError: a folder inside of the images.
        FileExistsError: it has a list already.
        BlockingIOError: another command writes there.
    """
    check_outside(out, [spec])
    with lock_folder(out):
        if os.path.lexists(out / LIST_FILE) and not overwrite:
            raise FileExistsError(f"{out / LIST_FILE} exists; replace it with --overwrite, or choose another --out")
        yield


def write_list(result: SplitResult, out: Path) -> Path:
    """Write `split.csv` into a folder that is there; paths in it are relative to the folder. Return its path.

    Raises:
        ValueError: labels that no list can hold.
    """
    base, images = os.path.realpath(out), result.images
    paths = [os.path.relpath(images.source.describe(i), base) for i in range(len(images.source))]
    masks = {} if images.masks is None else {"mask": [os.path.relpath(mask, base) for mask in images.masks]}
    columns = {
        "path": paths,
        **masks,
        **images.label_columns(),
        "split": [result.parts[part] for part in result.part_of_N],
    }
    names = _unit_names(result)
    if images.groups_N is not None or len(names) < len(result.units_N):
        columns["group"] = [names[unit] for unit in result.units_N]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values()))
    if masks and (class_file := _class_file(result.spec)):
        replace_bytes(out / os.path.basename(class_file), Path(class_file).read_bytes())
    replace_bytes(out / LIST_FILE, text.getvalue().encode("utf-8", "surrogateescape"))
    return out / LIST_FILE


def _class_file(spec: str) -> str | None:
    """Return the class list of images with masks, which the list needs next to it."""
    root, options = path_and_options(spec)
    folder = root if os.path.isdir(root) else os.path.dirname(root) or "."
    return None if "classes" in options else next(iter(class_files(folder)), None)


def _mask_options(spec: str) -> str:
    """Return the options of masks behind a source's name, which its list needs too."""
    _, options = path_and_options(spec)
    kept = {name: value for name, value in options.items() if name in ("rgb", "ignore", "zero_is_background", "binary")}
    if (classes := options.get("classes")) is not None:
        kept["classes"] = os.path.abspath(classes) if os.path.isfile(classes) else classes
    kept |= {name: options[name] for name in ("select", "turn_masks") if name in options}
    return "".join(f"::{name}={value}" for name, value in kept.items())


def _unit_names(result: SplitResult) -> list[str]:
    """Return a name of each unit: its first image's group where the source has groups, which is of no other unit."""
    firsts = np.unique(result.units_N, return_index=True)[1]
    names = result.images.group_names
    return [str(unit) if names is None else names[i] for unit, i in enumerate(firsts.tolist())]


def summarize(result: SplitResult, path: Path) -> str:
    """Format the counts of each class in each part, what stays together, and the commands that use the list."""
    lines = [f"note: {display_name(text, None)}" for text in result.notes]
    lines += _count_table(result)
    lines += _kept_together(result)
    if scarce := _scarce_classes(result):
        lines.append(
            f"not in every part: {', '.join(scarce)}, whose images are too few that are not duplicates, or of one "
            "group or series"
        )
    if result.unreadable:
        name, reason = next(iter(result.unreadable.items()))
        lines.append(f"left out: {len(result.unreadable):,} unreadable images, first {name!r}: {reason}")
    has_masks = result.images.masks is not None
    data = shlex.quote(f"{path}{_mask_options(result.spec) if has_masks else result.images.label_option()}")
    task = "segment" if has_masks else "finetune"
    use = f"{task} --init RUN --data {data} --out NEW_RUN" if result.images.classes else f"pretrain --data {data}"
    lines += [
        f"wrote {path}",
        f"check it:  paddlemae data check {data}",
        f"use it:    paddlemae {use}",
    ]
    return "\n".join(lines)


def _count_table(result: SplitResult) -> list[str]:
    """Return lines: a row a class with its images in all, and in each part."""
    images, classes = result.images, [*result.images.classes, NO_CLASS]
    image_E, class_E = images.class_pairs()
    counts = np.zeros((len(classes), len(result.parts)), np.int64)
    np.add.at(counts, (class_E, result.part_of_N[image_E]), 1)
    totals = np.bincount(result.part_of_N, minlength=len(result.parts))
    rows = [["class", "images", *result.parts]]
    if images.classes:
        rows += [
            [display_name(name, 40), *(f"{number:,}" for number in (row.sum(), *row))]
            for name, row in zip(classes, counts)
            if row.sum() or name != NO_CLASS
        ]
    rows.append(["all", *(f"{number:,}" for number in (totals.sum(), *totals))])
    rows.append(["", "", *(f"{share:.1%}" for share in totals / totals.sum())])
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]).rstrip()
        for row in rows
    ]


def _kept_together(result: SplitResult) -> list[str]:
    sizes = np.bincount(result.units_N)
    several = sizes[sizes > 1]
    if not several.size:
        return []
    kinds = [] if result.images.groups_N is None else [" or groups"]
    what = "".join(["duplicates", *kinds, " or series (frames, exposures: names that count)" * result.has_series])
    sets = "1 set" if several.size == 1 else f"{several.size:,} sets"
    lines = [f"kept together: {several.sum():,} images in {sets} of {what}, the largest of {sizes.max():,}"]
    if sizes.max() > _LARGE * sizes.sum():
        unit = next(iterate_groups(group_firsts(np.where(result.units_N == sizes.argmax(), 0, result.units_N + 1))))
        examples = " and ".join(repr(result.images.source.describe(i)) for i in unit[[0, -1]])
        lines.append(
            f"note: {sizes.max() / sizes.sum():.0%} of the images are linked into one set, such as {examples}; if they "
            "are not copies, --exact-only keeps only exact duplicates together, and --no-series no series"
        )
    return lines


def _scarce_classes(result: SplitResult) -> list[str]:
    image_E, class_E = result.images.class_pairs()
    present = np.zeros((len(result.images.classes) + 1, len(result.parts)), np.bool_)
    present[class_E, result.part_of_N[image_E]] = True
    return [display_name(repr(name), 40) for name, row in zip(result.images.classes, present) if not row.all()]
