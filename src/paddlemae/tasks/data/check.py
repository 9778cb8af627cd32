"""Find what is wrong with a source of images before a training does: `paddlemae data check`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.pixel_format import default_bits
from paddlemae.data.inspect import duplicates
from paddlemae.data.masks.holds_masks import holds_masks
from paddlemae.data.sources import MissingSplit, Source
from paddlemae.data.sources.ignored_files import count_ignored_files
from paddlemae.data.sources.mask_folders import MASKS_LEFT_OUT
from paddlemae.data.sources.output_folders import check_outside
from paddlemae.system.atomic import replace_text
from paddlemae.system.locks import lock_folder
from paddlemae.tasks.data.check_masks import (
    FINDING_TEXTS,
    check_parts,
    mask_examples,
    mask_findings,
    mask_lines,
    masks_as_json,
    splits_of_masks,
)
from paddlemae.tasks.data.check_picture import draw_check
from paddlemae.tasks.data.check_result import CheckResult, class_counts
from paddlemae.tasks.data.compare import compare_images
from paddlemae.tasks.data.groups import describe_groups, series_across, shared_groups
from paddlemae.tasks.data.splits import (
    ALL_SPLITS,
    OpenedSplit,
    collect_notes,
    open_split,
    open_splits,
    open_three_splits,
)

JSON_FILE, PICTURE_FILE = "check.json", "check.png"
MOST_LISTED = 10_000  # groups or images of one kind that the JSON names; all are counted
MOST_OF_A_GROUP = 20  # images that it names of each: a million black ones are one group


def check(
    spec: str,
    *,
    split: str = ALL_SPLITS,
    test: str | None = None,
    channels: int = 3,
    workers: int | None = None,
    quiet: bool = False,
) -> CheckResult:
    """Look at every image that `spec` names, and compare them.

    Args:
        spec: as `open_source` takes it.
        split: train, test (the held-out one), or all: those of train, val and test that it has.
        test: other images, as `open_source` takes them, to be held out: all of them, or their test split if they have
            one. Of `spec` they are compared with the training split.
        channels: as images are read for a model.
        workers: processes that decode; None is one a core where the images are many.
    Raises:
        ValueError: another split, or no images.
        FileNotFoundError: no such path.
    """
    with collect_notes() as notes:
        splits = _open_splits(spec, split, test)
    if test is None and holds_masks(spec):
        notes = [text for text in notes if MASKS_LEFT_OUT not in text]
        with collect_notes() as mask_notes:
            parts = check_parts(spec, split, workers=workers, quiet=quiet)
        notes += mask_notes
        splits = _one_behind_the_other(splits_of_masks(parts, splits))
    else:
        parts = []
    others = count_ignored_files(spec, splits[0].source)
    sources = [split.source for split in splits]
    looks, exact, near = compare_images(sources, channels, workers, quiet)
    leaks = _leaks(exact, near, sources)
    shared = shared_groups(sources)
    series = series_across(sources, looks)
    result = CheckResult(spec, test, channels, splits, looks, exact, near, leaks, shared, series, notes, others, parts)
    findings = _findings(result) | mask_findings(parts)
    result.findings.update({name: number for name, number in findings.items() if number})
    return result


def _open_splits(spec: str, split: str, test: str | None) -> list[OpenedSplit]:
    if test is not None:
        opened = _with_test(spec, split, test)
    else:
        opened = open_three_splits(spec) if split == ALL_SPLITS else open_splits(spec, split, multi_label=True)
    return _one_behind_the_other(opened)


def _one_behind_the_other(splits: list[OpenedSplit]) -> list[OpenedSplit]:
    starts = accumulate((len(split.source) for split in splits), initial=0)
    return [split._replace(start=start) for split, start in zip(splits, starts)]


def _with_test(spec: str, split: str, test: str) -> list[OpenedSplit]:
    """Open a source's training split, and other images to hold out."""
    if split != ALL_SPLITS:
        raise ValueError(
            f"--test brings the images to hold out, so --split={split} has no meaning; leave one of them out"
        )
    train = open_split(spec, "train", "train", multi_label=True)
    try:
        held_out = open_split(test, "test", "test", multi_label=True)
    except MissingSplit:
        held_out = open_split(test, None, "test", multi_label=True)
    return [train, held_out]


def _leaks(
    exact: NDArray[np.int64], near: NDArray[np.int64], sources: Sequence[Source]
) -> list[tuple[NDArray[Any], bool]]:
    """Return `CheckResult.leaks` of splits, one after the other."""
    split_of_N = np.repeat(np.arange(len(sources)), [len(source) for source in sources])
    spread, copied = _spread_over(near, split_of_N), _spread_over(exact, split_of_N)
    return [
        (group, bool(copied[exact[group]].any())) for group in duplicates.iterate_groups(near) if spread[near[group[0]]]
    ]


def _spread_over(firsts: NDArray[np.int64], split_of_N: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return, at each group's first image, whether the group has images of several splits: bool [N]."""
    others = firsts[split_of_N != split_of_N[firsts]]
    return np.bincount(others, minlength=len(firsts)) > 0


def _findings(result: CheckResult) -> dict[str, int]:
    labelled = [split for split in result.splits if split.unlabelled is None]
    return {
        "unreadable": len(result.looks.faults),
        "exact_duplicates": sum(len(group) - 1 for group in result.exact_duplicates()),
        "near_duplicates": sum(len(np.unique(result.exact[group])) - 1 for group in result.near_duplicates()),
        "leaks": sum(int((group >= result.splits[1].start).sum()) for group, _ in result.leaks),
        "groups_in_both_parts": len(result.shared),
        "series_in_both_parts": len(np.unique(result.series[:, 1])),
        "labels_differ": sum(1 for _ in _contradictions(result)),
        "classes_in_one_part_only": len(_classes_in_one_split(result)),
        "nearly_empty_high_byte": len(_shallow(result)),
        "parts_with_unusable_labels": sum(split.is_fault for split in result.splits),
        "parts_without_the_labels_of_others": len(result.splits) - len(labelled) if labelled else 0,
    }


def _shallow(result: CheckResult) -> NDArray[np.int64]:
    """Return images that would lose most of their bits, if training takes 8 of them."""
    return np.flatnonzero(result.looks.shallow_N if default_bits(result.channels) == 8 else [])


def _contradictions(result: CheckResult) -> Iterator[NDArray[np.int64]]:
    """Yield groups of exact duplicates with more than one label; these are compared by their names."""
    number_of: dict[tuple[str, ...], int] = {(): -1}
    labels = [
        np.array([number_of.setdefault(names, len(number_of)) for names in _class_names(split)], np.int64)
        for split in result.splits
    ]
    labels_N = np.concatenate(labels)
    for group in result.exact_duplicates():
        if (np.unique(labels_N[group]) >= 0).sum() > 1:
            yield group


def _class_names(split: OpenedSplit) -> Iterator[tuple[str, ...]]:
    """Yield the names of each image's classes, sorted; none without labels."""
    targets = split.source.targets
    return (() if targets is None else tuple(sorted(targets.names(i))) for i in range(len(split.source)))


def _classes_in_one_split(result: CheckResult) -> dict[str, list[int]]:
    """Return class -> images in each split, for the classes that have none in one of them."""
    counts = [class_counts(split) for split in result.splits if split.unlabelled is None]
    names = dict.fromkeys(name for each in counts for name in each)
    each = {name: [count.get(name, 0) for count in counts] for name in names}
    return {name: numbers for name, numbers in each.items() if len(numbers) > 1 and 0 in numbers}


def as_json(result: CheckResult) -> dict[str, Any]:
    """Return the whole result as JSON; at most `MOST_LISTED` groups or images of each kind are named."""
    sizes = result.looks.sizes_N2[result.looks.readable_N]
    return {
        "source": result.spec,
        **({"test_source": result.test} if result.test is not None else {}),
        "channels": result.channels,
        "images": {split.name: len(split.source) for split in result.splits},
        "classes": {split.name: class_counts(split) for split in result.splits},
        "unlabelled": {split.name: split.unlabelled for split in result.splits if split.unlabelled},
        "groups": {
            split.name: describe_groups(split.source) for split in result.splits if split.source.groups is not None
        },
        "height": _spread(sizes[:, 0]),
        "width": _spread(sizes[:, 1]),
        "width_to_height": _spread(sizes[:, 1] / sizes[:, 0]),
        "stored": [
            {"colours": colours, "bits": bits, "images": count}
            for (colours, bits), count in result.looks.forms.most_common()
        ],
        **({"masks": masks_as_json(result.masks, MOST_LISTED)} if result.masks else {}),
        "notes": result.notes,
        "not_read": dict(result.others.most_common()),
        "findings": result.findings,
        "unreadable": [
            {"image": result.describe(i), "reason": reason}
            for i, reason in list(result.looks.faults.items())[:MOST_LISTED]
        ],
        "exact_duplicates": _named(result, result.exact_duplicates()),
        "near_duplicates": _named(result, result.near_duplicates()),
        "leaks": [
            {"exact": is_exact, "images": _images_of_each_split(result, group)}
            for group, is_exact in result.leaks[:MOST_LISTED]
        ],
        "groups_in_both_parts": [
            {"group": group.name, **{split.name: count for split, count in zip(result.splits, group.counts)}}
            for group in result.shared[:MOST_LISTED]
        ],
        "series_in_both_parts": _named(result, result.series),
        "labels_differ": _named(result, _contradictions(result)),
        "classes_in_one_part_only": [
            {"class": name, **{split.name: count for split, count in zip(result.splits, counts)}}
            for name, counts in islice(_classes_in_one_split(result).items(), MOST_LISTED)
        ],
        "nearly_empty_high_byte": [result.describe(i) for i in _shallow(result)[:MOST_LISTED]],
        "rule": {
            "exact": "the same bytes of a file, or values of an array",
            "near": f"thumbnails correlate by {duplicates.LEAST_CORRELATION:g} or more, and at most "
            f"{duplicates.MOST_BITS} of 64 bits of a difference hash differ; groups are linked by such pairs",
        },
    }


def _spread(values: NDArray[Any]) -> dict[str, float] | None:
    if not values.size:
        return None
    return {"least": values.min().item(), "median": float(np.median(values)), "largest": values.max().item()}


def _named(result: CheckResult, groups: Iterable[NDArray[np.int64]]) -> list[list[str]]:
    return [[result.describe(i) for i in group[:MOST_OF_A_GROUP]] for group in islice(groups, MOST_LISTED)]


def _images_of_each_split(result: CheckResult, group: NDArray[np.int64]) -> list[str]:
    """Return the first images of a group in each split, with the split's name."""
    border = int(np.searchsorted(group, result.splits[1].start))
    shown = [*group[:border][: MOST_OF_A_GROUP // 2], *group[border:][: MOST_OF_A_GROUP // 2]]
    return [f"{result.place(i)[0].name}: {result.describe(i)}" for i in shown]


@contextmanager
def lock_output(out: Path, spec: str, test: str | None) -> Iterator[None]:
    """Hold a folder for `write_check` before the images are looked at, so that an unwritable folder fails early.

    Raise a ValueError if it is in a folder of images, a BlockingIOError if another command writes there, or an OSError.
    """
    check_outside(out, [spec, test])
    with lock_folder(out):
        yield


def write_check(result: CheckResult, out: Path) -> None:
    """Write the JSON and the picture into a folder that is there."""
    replace_text(out / JSON_FILE, json.dumps(as_json(result), indent=2) + "\n")
    draw_check(result, out / PICTURE_FILE)


_FINDING_TEXTS = FINDING_TEXTS | {
    "unreadable": "can't be read",
    "exact_duplicates": "exact duplicates of others",
    "near_duplicates": "near duplicates of others",
    "leaks": "held-out images have a duplicate, exact or near, in another split",
    "groups_in_both_parts": "groups (patients, tiles ...) have images in several splits",
    "series_in_both_parts": "held-out images follow one of another split by name, or precede it, and such neighbours "
    "look alike, as frames or exposures do; `data split` keeps series together",
    "labels_differ": "groups of exact duplicates have different labels",
    "classes_in_one_part_only": "classes have no image in one of the splits",
    "nearly_empty_high_byte": "have 16 bits with a nearly empty high byte: train with bits=16",
    "parts_with_unusable_labels": "split has a missing or unusable label",
    "parts_without_the_labels_of_others": "split has no labels although the other has",
}
MOST_EXAMPLES, MOST_ENDINGS = 3, 10  # of each kind, in the text


def summarize(result: CheckResult) -> str:
    """Format the result as text; names are escaped, as they may hold anything."""
    lines = [f"images     {', '.join(f'{split.name} {len(split.source):,}' for split in result.splits)}"]
    for split in result.splits:
        if not result.masks or class_counts(split):
            lines.append(f"classes    {split.name}: {_balance(split)}")
    for split in result.splits:
        if groups := describe_groups(split.source):
            largest = groups["largest"]
            lines.append(
                f"groups     {split.name}: {groups['groups']:,}, the largest {largest['group']!r} of "
                f"{largest['images']:,} images"
            )
    sizes = result.looks.sizes_N2[result.looks.readable_N]
    if len(sizes):
        height, width, ratio = (_range(values) for values in (sizes[:, 0], sizes[:, 1], sizes[:, 1] / sizes[:, 0]))
        lines.append(f"sizes      height {height}, width {width}, width / height {ratio}")
    forms = (f"{colours} of {bits} bits {count:,}" for (colours, bits), count in result.looks.forms.most_common())
    lines.append(f"stored as  {', '.join(forms) or 'nothing that can be read'}")
    if result.others:
        lines.append(f"not read   {_endings(result.others)}, files that are no images here")
    lines += mask_lines(result.masks)
    lines += [f"note       {text}" for text in result.notes]
    for name, count in result.findings.items():
        lines.append(f"found      {count:,} {_FINDING_TEXTS[name]}")
        lines += [f"           {example}" for example in _examples(result, name)]
    return "\n".join(lines if result.findings else [*lines, "found      nothing wrong"])


def _endings(others: Counter[str]) -> str:
    """Return how many files have which ending; endings may hold anything."""
    shown = [
        f"{(ending if ending.isprintable() else repr(ending)) or 'without an ending'} {count:,}"
        for ending, count in others.most_common(MOST_ENDINGS)
    ]
    more = len(others) - len(shown)
    return ", ".join([*shown, f"{more} more endings"] if more > 0 else shown)


def _balance(split: OpenedSplit) -> str:
    counts = class_counts(split)
    if not counts:
        return f"no labels ({split.unlabelled})"
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    why_not = f" ({split.unlabelled})" if split.unlabelled else ""
    if counts[least] == counts[most]:
        return f"{len(counts):,} of {counts[most]:,} images each{why_not}"
    return f"{len(counts):,}, of {counts[least]:,} ({least!r}) to {counts[most]:,} images ({most!r}){why_not}"


def _range(values: NDArray[Any]) -> str:
    least, median, largest = values.min(), np.median(values), values.max()
    return f"{least:.4g}" if least == largest else f"{least:.4g} to {largest:.4g} (median {median:.4g})"


def _examples(result: CheckResult, name: str) -> list[str]:
    if name in FINDING_TEXTS:
        return mask_examples(result.masks, name)
    if name == "unreadable":
        return [f"{result.describe(i)!r}: {reason}" for i, reason in list(result.looks.faults.items())[:MOST_EXAMPLES]]
    if name == "groups_in_both_parts":
        groups = result.shared[:MOST_EXAMPLES]
        return [f"{group.name!r}: {' and '.join(map(str, group.counts))} images" for group in groups]
    if name == "classes_in_one_part_only":
        classes = islice(_classes_in_one_split(result).items(), MOST_EXAMPLES)
        return [f"{label!r}: {' and '.join(map(str, counts))} images" for label, counts in classes]
    if name == "nearly_empty_high_byte":
        return [repr(result.describe(i)) for i in _shallow(result)[:MOST_EXAMPLES]]
    duplicate_groups: dict[str, Iterable[NDArray[np.int64]]] = {
        "exact_duplicates": result.exact_duplicates(),
        "near_duplicates": result.near_duplicates(),
        "leaks": (group for group, _ in result.leaks),
        "series_in_both_parts": result.series,
        "labels_differ": _contradictions(result),
    }
    pairs = (group[[0, -1]] for group in islice(duplicate_groups.get(name, ()), MOST_EXAMPLES))
    return [f"{result.describe(first)!r} = {result.describe(last)!r}" for first, last in pairs]
