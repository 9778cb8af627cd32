"""Shards of a WebDataset: tars in which the files of a sample are named alike, as `0001.jpg` and `0001.cls`.

A tar is a shard if a `.cls` lies next to one of its images; or if its images are all in one folder and each has its
`.json` or `.txt`. Any other tar is an archive of folders, in which a file's whole name counts.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from paddlemae.data.images import ARRAY_EXTENSION, EXTENSIONS
from paddlemae.data.sources.labels import is_whole
from paddlemae.data.sources.tar import Entry

SIDECARS = (".cls", ".json", ".txt")  # where a sample's label is, the first that is there
_CLASS = SIDECARS[0]
_JSON_KEYS = ("label", "cls", "class")
_PICTURES = frozenset(EXTENSIONS)
_IMAGES = frozenset((*EXTENSIONS, ARRAY_EXTENSION))


@dataclass(eq=False)
class Samples:
    """The samples of a shard, in the order of their images.

    Attributes:
        images: of each sample the first picture, or the first array where it has no picture.
        beside: of each sample its sidecars: ending -> content.
        further: further pictures of the samples.
    """

    images: list[Entry] = field(default_factory=list)
    beside: list[dict[str, bytes | None]] = field(default_factory=list)
    further: list[str] = field(default_factory=list)


def ending_of(name: str) -> str:
    """Return the ending of a path in small letters, with its dot; "" if it has none."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > name.rfind("/") else ""


def key_of(name: str) -> str:
    """Return what names a sample's files: the path up to the file name's first dot."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def is_shard(names: Collection[str]) -> bool:
    """Return whether a tar with files of these names is a shard."""
    sidecars = [name for name in names if ending_of(name) in SIDECARS]
    if not sidecars:
        return False
    keys = {key_of(name): name.rpartition("/")[0] for name in names if ending_of(name) in _IMAGES}
    if any(ending_of(name) == _CLASS and key_of(name) in keys for name in sidecars):
        return True
    return len(set(keys.values())) == 1 and keys.keys() <= {name[: name.rindex(".")] for name in sidecars}


def samples_of(files: Mapping[str, Entry]) -> Samples:
    """Return the samples of a shard.

    Args:
        files: its files by name, as they are stored.
    """
    image_of: dict[str, Entry] = {}
    beside: dict[str, dict[str, bytes | None]] = {}
    found = Samples()
    for name, entry in files.items():
        key, ending = key_of(name), ending_of(name)
        if ending in SIDECARS:
            own = beside.setdefault(key, {})
            if ending not in own or len(name) == len(key) + len(ending):  # `1.json` counts more than `1.meta.json`
                own[ending] = entry.content
        elif ending in _IMAGES:
            first = image_of.setdefault(key, entry)
            if first is entry:
                continue
            if ending in _PICTURES and ending_of(first.name) not in _PICTURES:
                image_of[key] = entry
            elif ending in _PICTURES:
                found.further.append(name)
    found.images = list(image_of.values())
    found.beside = [beside.get(key, {}) for key in image_of]
    return found


def label_of(image: str, beside: Mapping[str, bytes | None]) -> str:
    """Return the label of a sample.

    Args:
        image: its name, for errors.
        beside: its sidecars.
    Raises:
        ValueError: it has none, or one that is no whole number.
    """
    for ending in SIDECARS:
        content = beside.get(ending)
        if content is None:
            continue
        text = content.decode("utf-8", "replace").strip()
        if ending == ".json":
            try:
                values = json.loads(text)
            except (ValueError, RecursionError):
                values = None
            label = (
                next((values[key] for key in _JSON_KEYS if key in values), None) if isinstance(values, dict) else None
            )
            if isinstance(label, str | int) and not isinstance(label, bool):
                return str(label)
        elif is_whole(text):
            return text
        raise ValueError(f"the label of {image!r} in its {ending} is no whole number: {text[:40]!r}; correct it")
    raise ValueError(f"labels need a file beside each image, as in 0001.jpg and 0001.cls, but {image!r} has none")
