"""Subsets of a source: chosen, balanced, held out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.images import NeedOf, Picture
from paddlemae.data.inspect.units import assign_units
from paddlemae.data.sources.readers import Reader
from paddlemae.data.sources.source import MultiLabelTargets, Source
from paddlemae.data.sources.splits import list_names, note

_Indices = NDArray[np.int64]


def spread_over(count: int, most: int) -> NDArray[np.int64]:
    """Return up to `most` of the counts below `count`, at even distances, the first and the last among them."""
    return np.linspace(0, count - 1, min(most, count)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class SubsetReader:
    """Some images of another reader, in the order of `indices`."""

    whole: Reader
    indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    def describe(self, i: int) -> str:
        return self.whole.describe(int(self.indices[i]))

    def read_picture(self, i: int, channels: int, need_of: NeedOf) -> Picture:
        return self.whole.read_picture(int(self.indices[i]), channels, need_of)

    def stored(self, i: int) -> bytes | NDArray[Any]:
        return self.whole.stored(int(self.indices[i]))

    def room(self, i: int) -> int:
        return self.whole.room(int(self.indices[i]))

    def stamp(self, i: int) -> str:
        return self.whole.stamp(int(self.indices[i]))


def subset(source: Source, indices: Sequence[int] | NDArray[np.int64]) -> Source:
    """Return the images at `indices`, in that order; labels and classes are kept."""
    return view_of(source, np.asarray(indices, dtype=np.int64), f"{len(indices)} of {source.name}")


def leave_out_unlabelled(source: Source, keep: bool) -> Source:
    """Note how many images of a labelled source have no label; return the others, or all if `keep` is set."""
    if source.targets is None or source.targets.known.all():
        return source
    known = np.flatnonzero(source.targets.known)
    count = len(source)
    use = "" if keep else ": used for pretraining only"
    note(f"{source.name!r}: {count - len(known):,} of {count:,} images have no label{use}")
    return source if keep else view_of(source, known, source.name)


def balanced_subset(source: Source, num_images: int, seed: int) -> Source:
    """Draw `num_images` with as many of each class as of any other, in the source's order.

    A remainder goes, one image each, to the first classes of an order drawn from `seed`. When
    `num_images` is a multiple of the classes, a smaller draw with the same seed is part of a larger.

    Raises:
        ValueError: an unlabelled source, or more images than it (or one of its classes) has.
    """
    if source.labels is None:
        lack = "one class per image, and" if source.targets else "labels, and"
        found = "has several" if source.targets else "has none"
        raise ValueError(f"a balanced subset needs {lack} {source.name} {found}")
    if not 1 <= num_images <= len(source):
        raise ValueError(f"labels: expected 1 to {len(source)} images of {source.name}, got {num_images}")
    rng = np.random.default_rng(seed)
    each, remainder = divmod(num_images, len(source.classes))
    counts = np.full(len(source.classes), each)
    counts[rng.permutation(len(counts))[:remainder]] += 1
    available = np.bincount(source.labels, minlength=len(counts))
    if (counts > available).any():
        label = int(np.argmax(counts > available))
        raise ValueError(
            f"labels: class {source.classes[label]!r} of {source.name} has {available[label]} images, "
            f"but {num_images} balanced ones need {counts[label]}; ask for fewer"
        )
    return subset(source, _draw(source.labels, counts, rng))


def random_subset(source: Source, num_images: int, seed: int) -> Source:
    """Draw `num_images` images from `seed`, in the source's order; a smaller draw is part of a larger one.

    Raises:
        ValueError: none, or more images than there are.
    """
    if not 1 <= num_images <= len(source):
        raise ValueError(f"labels: expected 1 to {len(source)} images of {source.name}, got {num_images}")
    return subset(source, np.sort(np.random.default_rng(seed).permutation(len(source))[:num_images]))


def draw_share(source: Source, most: int, seed: int) -> Source:
    """Draw about `most` images of a labelled source: the same share of each class, and at least one; else all."""
    if len(source) <= most:
        return source
    assert source.labels is not None
    counts = np.ceil(np.bincount(source.labels) * most / len(source)).astype(np.int64)
    return subset(source, _draw(source.labels, counts, np.random.default_rng(seed)))


def labelled_count(labels: int | str, source: Source) -> int:
    """Return how many images `labels` means: a number, a share such as "10%", or a number a class such as "5/class"."""
    if isinstance(labels, int):
        return labels
    if labels.endswith("%"):
        return round(float(labels.removesuffix("%")) / 100 * len(source))
    return int(labels.removesuffix("/class")) * len(source.classes)


def unknown_classes(source: Source, classes: Sequence[str]) -> list[str]:
    """Return the classes of a source's images that are not among others, in their order."""
    assert source.targets is not None
    image_counts, names = source.targets.counts(), set(classes)
    return [name for name, count in zip(source.classes, image_counts.tolist()) if count and name not in names]


def with_classes(source: Source, classes: Sequence[str]) -> Source:
    """Return a source with its labels numbered as `classes`, which have those of all its images, are."""
    if source.targets is None or source.classes == tuple(classes):
        return source
    return replace(source, targets=source.targets.renumber(tuple(classes)))


def match_classes(train: Source, held_out: Source) -> Source:
    """Return held-out images with labels numbered as those to train on; a class that these lack is a ValueError."""
    if only := unknown_classes(held_out, train.classes):
        raise ValueError(
            f"{held_out.name} has labels that no training image has: {list_names(only)}; change them or train on them"
        )
    held_out = with_classes(held_out, train.classes)
    note_absent(train, "image to train on")
    note_absent(held_out, "held-out image")
    return held_out


def note_absent(source: Source, what: str) -> None:
    """Warn of classes that have no image; `what` would be one, such as "held-out image"."""
    assert source.targets is not None
    absent = np.flatnonzero(source.targets.counts() == 0)
    if absent.size:
        names = list_names([source.classes[number] for number in absent.tolist()])
        note(f"{absent.size} of {len(source.classes)} classes have no {what}: {names}")


def split_off(source: Source, fraction: float, seed: int) -> tuple[Source, Source]:
    """Split into (rest, held_out), drawn from `seed`, both in the source's order.

    `held_out` gets the rounded `fraction` of each class when the source is labelled, of all images otherwise. Where the
    source has groups, whole groups are held out instead, as many as come closest to the fraction of all images. Of
    images of several classes, each class has about that fraction, groups or not.

    Raises:
        ValueError: a fraction outside 0..1, or one that leaves either side without images.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"expected a fraction between 0 and 1 to hold out, got {fraction}")
    rng = np.random.default_rng(seed)
    if isinstance(source.targets, MultiLabelTargets):
        held_out = _of_several_classes(source, source.targets, fraction, rng)
    elif source.groups is not None:
        held_out = _whole_groups(source, source.groups, fraction, rng)
    else:
        strata = np.zeros(len(source), np.int64) if source.labels is None else source.labels
        counts = np.floor(fraction * np.bincount(strata) + 0.5).astype(np.int64)
        if not 0 < counts.sum() < len(source):
            raise ValueError(
                f"holding out {fraction} of {source.name} takes {counts.sum()} of its {len(source)} images; "
                "choose a fraction that leaves images in both parts"
            )
        held_out = _draw(strata, counts, rng)
    rest = np.setdiff1d(np.arange(len(source)), held_out)
    return subset(source, rest), subset(source, held_out)


def _of_several_classes(
    source: Source, targets: MultiLabelTargets, fraction: float, rng: np.random.Generator
) -> _Indices:
    """Return the indices, ascending, of images, or whole groups, with about the fraction of each class."""
    groups = np.arange(len(source)) if source.groups is None else source.groups
    units = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    if not len(units) or units.max() < 1:
        raise ValueError(f"{source.name} has too few images or groups to hold {fraction} of them out")
    images, classes = np.nonzero(targets.labels)
    parts = assign_units(units, images, classes, len(targets.classes), [1 - fraction, fraction], rng)
    return np.flatnonzero(parts == 1)


def validation_part(source: Source, share: float, seed: int) -> tuple[Source, Source]:
    """Split labelled images into (rest, validation part), drawn from `seed`, both in the source's order.

    The part gets the rounded share of each class, at least one image and never all of them. Where the source has
    groups, whole groups are drawn, with which each class comes near that number.

    Raises:
        ValueError: no class has two images, or no group can be drawn.
    """
    rng = np.random.default_rng(seed)
    if isinstance(source.targets, MultiLabelTargets):
        chosen = _of_several_classes(source, source.targets, share, rng)
        return subset(source, np.setdiff1d(np.arange(len(source)), chosen)), subset(source, chosen)
    assert source.labels is not None
    images = np.bincount(source.labels, minlength=len(source.classes))
    wanted = np.clip(np.floor(share * images + 0.5).astype(np.int64), 1, np.maximum(images - 1, 0))
    if source.groups is None:
        chosen = _draw(source.labels, wanted, rng)
    else:
        chosen = _groups_with(source.labels, source.groups, wanted, rng)
    if not len(chosen):
        raise ValueError(
            f"no validation part can be carved out of the {len(source)} images of {source.name}; add images, or set "
            "validation=0"
        )
    rest = np.setdiff1d(np.arange(len(source)), chosen)
    return subset(source, rest), subset(source, chosen)


def _groups_with(labels: _Indices, groups: _Indices, wanted: _Indices, rng: np.random.Generator) -> _Indices:
    """Return the indices, ascending, of whole groups with about as many images of each class as are wanted.

    Groups come in a random order. One is drawn if more of its images are wanted than not, and every class keeps images;
    then the smallest one for each class that has none yet, where a group leaves images of every class.
    """
    _, group_of = np.unique(groups, return_inverse=True)
    members = np.split(np.argsort(group_of, kind="stable"), np.cumsum(np.bincount(group_of))[:-1])
    images = np.bincount(labels, minlength=len(wanted))
    taken = np.zeros_like(images)
    drawn = np.zeros(len(members), bool)

    def draw_if_left(number: int, only_useful: bool) -> None:
        present, counts = np.unique(labels[members[number]], return_counts=True)
        useful = np.minimum(counts, np.maximum(wanted - taken, 0)[present]).sum()
        is_left = (images[present] - taken[present] - counts > 0).all()
        if is_left and (not only_useful or 2 * useful > counts.sum()):
            drawn[number] = True
            taken[present] += counts

    for number in rng.permutation(len(members)):
        if (taken >= wanted).all():
            break
        draw_if_left(number, only_useful=True)
    for label in np.flatnonzero((wanted > 0) & (taken == 0)):
        for number in sorted(np.unique(group_of[labels == label]), key=lambda number: len(members[number])):
            if not taken[label]:
                draw_if_left(number, only_useful=False)
    return np.flatnonzero(drawn[group_of])


def _whole_groups(source: Source, groups: _Indices, fraction: float, rng: np.random.Generator) -> _Indices:
    """Return the indices, ascending, of whole groups, drawn until they come closest to the fraction."""
    groups, group_of = np.unique(groups, return_inverse=True)
    if len(groups) < 2:
        raise ValueError(f"all images of {source.name} are of one group, which can't be on both sides of a split")
    drawn = rng.permutation(len(groups))
    held = np.cumsum(np.bincount(group_of)[drawn])[:-1]
    count = 1 + int(np.argmin(np.abs(held - fraction * len(source))))
    return np.flatnonzero(np.isin(group_of, drawn[:count]))


def _draw(groups: _Indices, counts: _Indices, rng: np.random.Generator) -> _Indices:
    """Return the indices, ascending, of `counts[g]` random members of each group g."""
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups, minlength=len(counts)))[:-1])
    draws = [rng.permutation(group)[:count] for group, count in zip(members, counts)]
    return np.sort(np.concatenate(draws))


def view_of(source: Source, indices: NDArray[np.int64], name: str) -> Source:
    if indices.size and not 0 <= indices.min() <= indices.max() < len(source):
        raise ValueError(f"expected indices in 0..{len(source) - 1} of {source.name}")
    targets = None if source.targets is None else source.targets.subset(indices)
    groups = None if source.groups is None else source.groups[indices]
    return Source(name, SubsetReader(source.reader, indices), targets, groups, source.group_names)
