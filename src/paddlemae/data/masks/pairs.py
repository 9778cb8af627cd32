"""Pair images and masks by their paths: equal ones, but for folders `images` and `masks`, endings and a suffix."""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass

from paddlemae.data.sources.mask_folders import IMAGE_FOLDERS, MASK_FOLDERS
from paddlemae.data.sources.splits import choose_split, list_names, note, split_of

MASK_ENDINGS = ("_masks", "_mask", "_labels", "_label", "_annotations", "annot")
Key = tuple[str, ...]  # the folders below the root without those of images or masks, and the name without its ending


@dataclass(frozen=True)
class Pairs:
    """Images with their masks, as paths below a root.

    Args:
        images, masks: in the order of the images' paths.
        lonely_images, lonely_masks: those without a partner.
    """

    images: tuple[str, ...]
    masks: tuple[str, ...]
    lonely_images: tuple[str, ...] = ()
    lonely_masks: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairRule:
    """How a path says whether it is an image or a mask, and which belong together.

    Args:
        images, masks: names of folders, in lower case.
        suffix: behind a mask's name.
        endings: of folders of masks whose images are in a folder without it, as in `train` and `train_labels`.
    """

    images: tuple[str, ...] = IMAGE_FOLDERS
    masks: tuple[str, ...] = MASK_FOLDERS
    suffix: str = ""
    endings: tuple[str, ...] = MASK_ENDINGS

    def kind(self, path: str) -> str:
        """Return "mask", "image" (in a folder of that name) or "other"."""
        kind = _read_folder(self, path.rpartition("/")[0])[0]
        return "mask" if self.suffix and os.path.splitext(path)[0].endswith(self.suffix) else kind

    def key(self, path: str, is_mask: bool) -> Key:
        """Return what an image and its mask have in common."""
        folder, _, name = path.rpartition("/")
        stem = os.path.splitext(name)[0]
        return (*_read_folder(self, folder)[1 + is_mask], stem.removesuffix(self.suffix) if is_mask else stem)


@functools.lru_cache(maxsize=4096)  # a hundred thousand files may lie in a few folders
def _read_folder(rule: PairRule, folder: str) -> tuple[str, Key, Key]:
    """Return (kind of the files in a folder, its part of an image's key, its part of a mask's key)."""
    names = folder.split("/") if folder else []
    lower = [name.lower() for name in names]
    is_mask = any(name in rule.masks or name.endswith(rule.endings) for name in lower)
    kind = "mask" if is_mask else "image" if any(name in rule.images for name in lower) else "other"
    of_image = [name for name in names if name.lower() not in rule.images]
    of_mask = [_without_ending(name, rule.endings) for name in names if name.lower() not in rule.masks]
    return kind, tuple(of_image), tuple(of_mask)


def _without_ending(folder: str, endings: Sequence[str]) -> str:
    ending = next((ending for ending in endings if folder.lower().endswith(ending)), "")
    return folder[: len(folder) - len(ending)]


def pair_files(files: Sequence[str], rule: PairRule, split: str | None, where: str) -> tuple[Pairs, list[str]]:
    """Return (the pairs of a split, all masks of all splits).

    Raises:
        MissingSplit, ValueError: no such split, no images or no masks at all, or two files for one place.
    """
    kinds = [rule.kind(file) for file in files]
    wanted = "image" if "image" in kinds else "other"
    images = _by_key([file for file, kind in zip(files, kinds) if kind == wanted], rule, False, where)
    masks = _by_key([file for file, kind in zip(files, kinds) if kind == "mask"], rule, True, where)
    if not images or not masks:
        raise ValueError(
            f"{where} has {len(images):,} images and {len(masks):,} masks; expected folders 'images' and 'masks' (or "
            "'annotations') with files of the same names, or ::mask_suffix=_mask for masks next to their images"
        )
    everything = [masks[key] for key in sorted(masks)]
    images, masks = _of_split(images, masks, split, where)
    both = [key for key in sorted(images) if key in masks]
    return Pairs(
        tuple(images[key] for key in both),
        tuple(masks[key] for key in both),
        tuple(images[key] for key in sorted(images) if key not in masks),
        tuple(masks[key] for key in sorted(masks) if key not in images),
    ), everything


def _by_key(files: Sequence[str], rule: PairRule, is_mask: bool, where: str) -> dict[Key, str]:
    by_key: dict[Key, str] = {}
    for file in files:
        if (other := by_key.setdefault(rule.key(file, is_mask), file)) != file:
            kind = "masks" if is_mask else "images"
            raise ValueError(f"{where}: {other!r} and {file!r} are two {kind} of one name; keep one of them")
    return by_key


def _of_split(
    images: dict[Key, str], masks: dict[Key, str], split: str | None, where: str
) -> tuple[dict[Key, str], dict[Key, str]]:
    """Return the images and masks of a split, whose folder may have other spellings of it for the two."""
    counts: dict[str, int] = {}
    for key in images:
        if len(key) > 1:
            counts[key[0]] = counts.get(key[0], 0) + 1
    if split is None or not any(map(split_of, counts)):
        choose_split({}, split, where, "subfolder")
        return images, masks
    folder = choose_split(counts, split, where, "subfolder")
    if folder is None:
        return images, masks
    word = split_of(folder)
    chosen = {(word or "", *key[1:]): file for key, file in images.items() if len(key) > 1 and key[0] == folder}
    names = {key[0] for key in masks if len(key) > 1}
    mask_folder = (
        folder if folder in names else next((name for name in sorted(names) if split_of(name) == word), folder)
    )
    partners = {(word or "", *key[1:]): file for key, file in masks.items() if len(key) > 1 and key[0] == mask_folder}
    return chosen, partners


class UnpairedFiles(ValueError):
    """Images without a mask, or masks without an image.

    Args:
        pairs: all files of the split.
    """

    def __init__(self, text: str, pairs: Pairs) -> None:
        super().__init__(text, pairs)
        self.text, self.pairs = text, pairs

    def __str__(self) -> str:
        return self.text


def check_paired(pairs: Pairs, where: str, skip: bool) -> None:
    """Raise an `UnpairedFiles` for files without a partner, or note them if they are to be skipped."""
    if not pairs.lonely_images and not pairs.lonely_masks:
        if not pairs.images:
            raise ValueError(f"{where} has no image with a mask")
        return
    texts = []
    if pairs.lonely_images:
        texts.append(f"{_count(pairs.lonely_images, 'image')} no mask ({list_names(pairs.lonely_images[:3])})")
    if pairs.lonely_masks:
        texts.append(f"{_count(pairs.lonely_masks, 'mask')} no image ({list_names(pairs.lonely_masks[:3])})")
    if not skip or not pairs.images:
        text = f"{where}: {' and '.join(texts)}; add them, or leave them out with ::unpaired=skip"
        raise UnpairedFiles(text, pairs)
    note(f"{where}: {' and '.join(texts)}: left out")


def _count(names: Sequence[str], what: str) -> str:
    return f"1 {what} has" if len(names) == 1 else f"{len(names):,} {what}s have"
