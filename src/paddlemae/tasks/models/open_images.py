"""Open the images that a command names, with their labels where they have any."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from paddlemae.data.decode.images import ARRAY_EXTENSION, EXTENSIONS, has_ending
from paddlemae.data.sources import BadLabel, Source, as_source, open_source
from paddlemae.data.sources.folder import list_images

FILES = (*EXTENSIONS, ARRAY_EXTENSION)


def labelled_if_possible(
    data: str, split: str | None, *, keep_unlabelled: bool = False, multi_label: bool = False
) -> Source:
    """Open the images with their labels, or without where they have none.

    Args:
        data, split: see `open_source`.
        keep_unlabelled: of images of which only some have a label, return the labels, -1 where there is none; else
            these images have no labels either.
        multi_label: return the labels of images that have several classes, too.
    Raises:
        BadLabel: one of their labels is missing or unusable.
    """
    plain = open_source(data, split)
    try:
        labelled = open_source(data, split, labelled=True, keep_unlabelled=keep_unlabelled, multi_label=multi_label)
    except BadLabel:
        raise
    except ValueError:
        return plain
    return labelled if len(labelled) == len(plain) else plain


def open_images(images: Sequence[str], split: str | None, *, multi_label: bool = False) -> Source:
    """Open one source of any kind with what labels it has, or several image files and folders of them.

    Raises:
        FileNotFoundError, ValueError: no such images, or several sources of other kinds.
    """
    if len(images) > 1 or _is_image(images[0]):
        if split:
            raise ValueError(f"--split {split} needs one folder, list, archive, table or array; got image files")
        return as_source([path for item in images for path in _files_of(item)])
    return labelled_if_possible(images[0], split, keep_unlabelled=True, multi_label=multi_label)


def _is_image(item: str) -> bool:
    path = os.path.expanduser(item)
    return os.path.isfile(path) and has_ending(path, EXTENSIONS)


def _files_of(item: str) -> Iterator[str]:
    path = os.path.expanduser(item)
    if os.path.isdir(path):
        files, _ = list_images(path)
        if not files:
            raise ValueError(f"no images in {item!r}; expected names ending in {' '.join(FILES)}")
        yield from (os.path.join(path, file) for file in files)
    elif not os.path.lexists(path):
        raise FileNotFoundError(f"{item!r} does not exist; expected image files and folders of images")
    elif has_ending(path, FILES):
        yield path
    else:
        raise ValueError(f"{item!r} is neither an image file nor a folder; name any other kind of images alone")
