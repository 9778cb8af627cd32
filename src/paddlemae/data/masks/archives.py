"""Tars, shards of a WebDataset and zips with images and masks: folders of both, or `0001.jpg` with `0001.mask.png`."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from paddlemae.data.decode.images import EXTENSIONS
from paddlemae.data.decode.limits import MAX_IMAGE_BYTES
from paddlemae.data.masks.class_file import FILES, ListedClass, check_classes, parse_lines
from paddlemae.data.masks.colours import rgb_to_ids
from paddlemae.data.masks.folders import pair_rule
from paddlemae.data.masks.layout import MaskLayout
from paddlemae.data.masks.mask_file import StoredMask, decode_mask
from paddlemae.data.masks.options import MaskOptions
from paddlemae.data.masks.pairs import check_paired, pair_files
from paddlemae.data.sources.readers import ContentReader, Contents
from paddlemae.data.sources.source import BadMask
from paddlemae.data.sources.splits import files_of_split
from paddlemae.data.sources.string_table import StringTable
from paddlemae.data.sources.tar import Entry, TarContents, read_entries
from paddlemae.data.sources.zip import zip_contents, zip_entries

_ZIP = ".zip"


@dataclass(frozen=True, eq=False)
class ContentMasks:
    """Masks inside other files; `rgb` is as of `MaskOptions`."""

    contents: Contents
    rgb: str | None = None

    def __len__(self) -> int:
        return len(self.contents)

    def describe(self, i: int) -> str:
        return self.contents.describe(i)

    def read_stored(self, i: int) -> StoredMask:
        name = self.describe(i)
        try:
            content = self.contents.content(i, MAX_IMAGE_BYTES)
        except (OSError, ValueError) as fault:
            raise BadMask(f"cannot read mask {name!r}: {' '.join(str(fault).split())}") from fault
        stored = decode_mask(content, name)
        if stored.is_colour and self.rgb:
            return StoredMask(rgb_to_ids(stored.values, "gray" if self.rgb == "gray" else "voc", name))
        return stored

    def stamp(self, i: int) -> str:
        return self.contents.stamp(i)


def open_mask_archive(paths: Sequence[str], options: MaskOptions, split: str | None, name: str) -> MaskLayout:
    """Open the images of a zip, a tar, or several tars of which each is of a split, as its name says.

    Raises:
        MissingSplit, ValueError: no such split, no images with masks, files without a partner, a damaged archive.
    """
    if options.turn_masks:
        raise ValueError(f"{name!r}: turn_masks is for files in folders; unpack the archive")
    if len(paths) == 1 and paths[0].lower().endswith(_ZIP):
        return _open_zip(paths[0], options, split)
    root = os.path.commonpath([os.path.dirname(path) or "." for path in paths]) or "."
    entries = [(number, entry) for number, path in enumerate(paths) for entry in _list(path)]
    prefix = "" if len(paths) == 1 else "{:06}/"
    by_path = {prefix.format(number) + entry.name: (number, entry) for number, entry in entries}
    images = [path for path in by_path if path.lower().endswith(EXTENSIONS)]
    listed = _listed([(path, entry.content or b"") for path, (_, entry) in by_path.items()])
    if len(paths) > 1:
        chosen = set(files_of_split([os.path.relpath(path, root) for path in paths], split, repr(name), "tar"))
        kept = {number for number, path in enumerate(paths) if os.path.relpath(path, root) in chosen}
        own = [path for path in images if by_path[path][0] in kept]
        pairs, _ = pair_files(own, pair_rule(images, options), None, repr(name))
        every = [path for path in images if pair_rule(images, options).kind(path) == "mask"]
    else:
        inside = _common_folder(images)
        files = [path[len(inside) :] for path in images]
        pairs, every = pair_files(files, pair_rule(files, options), split, repr(name))
        by_path = {path[len(inside) :]: stored for path, stored in by_path.items()}
    check_paired(pairs, repr(name), options.skip_unpaired)

    def contents(files: Sequence[str]) -> TarContents:
        stored = [by_path[file] for file in files]
        return TarContents(
            root,
            tuple(paths),
            np.array([number for number, _ in stored], np.int32),
            np.array([entry.offset for _, entry in stored], np.int64),
            np.array([entry.size for _, entry in stored], np.int64),
            StringTable.of(entry.name for _, entry in stored),
        )

    masks, all_masks = (ContentMasks(contents(files), options.rgb) for files in (pairs.masks, every))
    return MaskLayout(name, ContentReader(contents(pairs.images)), masks, all_masks, listed)


def _list(path: str) -> Iterator[Entry]:
    return (entry for entry in read_entries(path, lambda name: os.path.basename(name) in FILES) if entry.kind == "file")


def _open_zip(path: str, options: MaskOptions, split: str | None) -> MaskLayout:
    infos = {name: info for name, kind, info in zip_entries(path) if kind == "file"}
    images = [name for name in infos if name.lower().endswith(EXTENSIONS)]
    inside = _common_folder(images)
    files = [name[len(inside) :] for name in images]
    pairs, every = pair_files(files, pair_rule(files, options), split, repr(path))
    check_paired(pairs, repr(path), options.skip_unpaired)
    lists = [name for name in infos if os.path.basename(name) in FILES]
    found = zip_contents(path, lists, [infos[name] for name in lists])
    listed = _listed([(name, found.content(i, MAX_IMAGE_BYTES)) for i, name in enumerate(lists)])

    def contents(files: Sequence[str]) -> Contents:
        names = [inside + file for file in files]
        return zip_contents(path, names, [infos[name] for name in names])

    masks, all_masks = (ContentMasks(contents(files), options.rgb) for files in (pairs.masks, every))
    return MaskLayout(path, ContentReader(contents(pairs.images)), masks, all_masks, listed)


def _listed(files: Sequence[tuple[str, bytes]]) -> list[ListedClass] | None:
    """Return the classes of the first class list among an archive's files."""
    for name, content in sorted(files):
        if os.path.basename(name) in FILES and name.endswith(".txt"):
            return check_classes(parse_lines(content.decode("utf-8-sig", "replace").splitlines()), name)
    return None


def _common_folder(files: Sequence[str]) -> str:
    """Return the folder, with a slash, that holds all files; one of images or masks alone is not counted."""
    first = {file.partition("/")[0] for file in files}
    return f"{first.pop()}/" if len(first) == 1 and all("/" in file for file in files) else ""
