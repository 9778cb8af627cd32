"""Shards of a WebDataset: tars in which the files of a sample are named alike, as `0001.jpg` and `0001.cls`.

A tar is a shard if a `.cls` lies next to one of its images; or if its images are all in one folder and each has its
`.json` or `.txt`. Any other tar is an archive of folders, in which a file's whole name counts.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from paddlemae.data.decode.images import EXTENSIONS, has_ending
from paddlemae.data.sources.labels import as_labels, is_whole
from paddlemae.data.sources.tar import Entry

SIDECARS = (".cls", ".json", ".txt")  # where a sample's label is, the first that is there
_JSON_KEYS = ("label", "cls", "class")


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of a shard, in the order of their images.

    Attributes:
        images: of each sample the first picture, or the first array where it has no picture.
        sidecars: of each sample its sidecars: ending -> content.
        further: further pictures of the samples.
    """

    images: list[Entry]
    sidecars: list[dict[str, bytes | None]]
    further: Sequence[str] = ()


def ending_of(name: str) -> str:
    """Return the ending of a path in small letters, with its dot; "" if it has none."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > name.rfind("/") else ""


def key_of(name: str) -> str:
    """Return what names a sample's files: the path up to the file name's first dot."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def is_sidecar(name: str) -> bool:
    """Return whether a file may hold a sample's label."""
    return has_ending(name, SIDECARS)


def samples_of(images: Mapping[str, Entry], others: Mapping[str, Entry]) -> Samples | None:
    """Return the samples of a shard's images and other files; None of a tar that is an archive of folders."""
    names = [name for name in others if is_sidecar(name)]
    keys = [key_of(name) for name in images] if names else []
    if not _is_shard(images, keys, names):
        return None
    sidecars: dict[str, dict[str, bytes | None]] = {}
    for name in names:
        key, ending = key_of(name), ending_of(name)
        contents = sidecars.setdefault(key, {})
        if ending not in contents or len(name) == len(key) + len(ending):  # `1.json` counts more than `1.meta.json`
            contents[ending] = others[name].content
    image_of: dict[str, Entry] = {}
    further = []
    for key, (name, entry) in zip(keys, images.items()):
        first = image_of.setdefault(key, entry)
        if first is not entry and has_ending(name, EXTENSIONS):
            if has_ending(first.name, EXTENSIONS):
                further.append(name)
            else:
                image_of[key] = entry
    return Samples(list(image_of.values()), [sidecars.get(key, {}) for key in image_of], further)


def _is_shard(images: Collection[str], keys: Sequence[str], sidecars: Sequence[str]) -> bool:
    """Return whether the rule at the top of this module holds."""
    image_keys = set(keys)
    if any(has_ending(name, (".cls",)) and key_of(name) in image_keys for name in sidecars):
        return True
    folders = {name[: name.rfind("/") + 1] for name in images}
    return bool(sidecars) and len(folders) == 1 and image_keys <= {name[: name.rindex(".")] for name in sidecars}


def label_of(image: str, sidecars: Mapping[str, bytes | None]) -> str:
    """Return the label in a sample's sidecars; none, or one that is no whole number, is a ValueError that names it."""
    for ending in SIDECARS:
        content = sidecars.get(ending)
        if content is None:
            continue
        text = content.decode("utf-8", "replace").strip()
        if ending == ".json":
            try:
                values = json.loads(text)
            except (ValueError, RecursionError):  # also of a number of more than 4,300 digits
                values = None
            key = next((key for key in _JSON_KEYS if key in values), None) if isinstance(values, dict) else None
            if key:
                return as_labels([values[key]], lambda _: f"{image!r} and its .json")[0]
        elif is_whole(text):
            return text
        raise ValueError(f"the label of {image!r} in its {ending} is no whole number: {text[:40]!r}; correct it")
    raise ValueError(f"labels need a file next to each image, as in 0001.jpg and 0001.cls, but {image!r} has none")
