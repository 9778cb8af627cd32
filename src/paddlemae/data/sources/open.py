"""Open a source of images by its name; the content of a path decides which kind it is."""

import os
from collections.abc import Callable
from dataclasses import replace

from paddlemae.data.decode.images import EXTENSIONS, has_ending
from paddlemae.data.decode.limits import LIMIT_OPTION, MAX_IMAGE_BYTES, parse_bytes
from paddlemae.data.decode.multichannel import ARRAY_START
from paddlemae.data.pack.reader import open_pack, read_index
from paddlemae.data.sources.archives import expand_braces, open_tars, open_zip
from paddlemae.data.sources.arrays import open_npy, open_npz
from paddlemae.data.sources.arrow_file import ARROW_START
from paddlemae.data.sources.cifar import open_cifar, version_of_archive, version_of_folder
from paddlemae.data.sources.digit_scenes import DIGIT_SCENES, open_digit_scenes
from paddlemae.data.sources.digits import open_digits
from paddlemae.data.sources.folder import TAR, list_tars, open_folder
from paddlemae.data.sources.lists import open_list
from paddlemae.data.sources.mnist import is_idx_images, open_idx
from paddlemae.data.sources.readers import ContentReader, FileReader
from paddlemae.data.sources.source import MultiLabelTargets, Source
from paddlemae.data.sources.splits import list_names
from paddlemae.data.sources.subsets import leave_out_unlabelled
from paddlemae.data.sources.table_files import PARQUET_START
from paddlemae.data.sources.tables import ARROW, PARQUET, list_tables, open_tables
from paddlemae.data.sources.tar import is_tar
from paddlemae.data.sources.zip import read_directory

_EXPECTED = "a folder, list, archive, shards, table or array of images, 'digit-scenes' or 'digits'"
_ZIP, _GZIP, _ARROW_STREAM, _IDX = b"PK", b"\x1f\x8b", b"\xff\xff\xff\xff", b"\0\0\x08\x03"
_COMPRESSED = (_GZIP, b"BZh", b"\xfd7zXZ")
_LISTS = (".txt", ".csv", ".tsv", ".lst", ".list")
_TEXT = (*_LISTS, "")


def open_source(
    spec: str,
    split: str | None = None,
    labelled: bool = False,
    *,
    keep_unlabelled: bool = False,
    multi_label: bool = False,
    masks: bool = False,
) -> Source:
    """List the images that `spec` names.

    Args:
        spec: "digits" (embedded, always labelled) or "digit-scenes" (embedded, with masks); or a path, perhaps with
            options behind it, `PATH::option=value::option=value`:
            a folder (searched to any depth for files with one of `images.EXTENSIONS`; hidden files and folders are
            skipped, a folder linked to is followed once, and the order is that of the paths' characters);
            a list of files, `.txt` or `.csv` (options root, image, label, split, group: see `sources.lists`);
            a tar or zip; shards of a WebDataset, as a folder or as `data-{000..099}.tar`; a pack that `data pack`
            made; Parquet or Arrow tables or a folder of them (options image, label, group); `.npy` or `.npz` arrays;
            CIFAR-10 or -100 (option label) and MNIST as published, packed or not. The option max_image_bytes of any
            kind ("2GB") is the memory that reading an image may take in addition to twice its stored bytes.
        split: for digits "train" (4000 images, also None), "test" (1000), or "fit" (3500) and "val"
            (500), which together are "train". For a folder, "train" is its subfolder train, and
            "test" its subfolder val or else test, in any of the spellings and by the rule at the top of
            `sources.splits`; if it has no splits, "train" is the folder itself and "test" an error. None: the folder
            itself. An archive's folders, the names of shards, tables and arrays, and the values of a column are splits
            in the same way; CIFAR and MNIST have both, and None means "train".
        labelled: labels are needed. A folder's classes are then the names of its (or of its training
            split's) subfolders, each holding its class's images at any depth; whole numbers are in numeric order.
            Images without a label (an empty cell of a CSV or table, a folder `unlabelled` next to class folders) are
            left out, and a `SourceNote` counts them.
        keep_unlabelled: keep these images where labels are needed; their label is -1.
        multi_label: images may have several classes, as `MultiLabelTargets`; otherwise that is an error.
        masks: a class for each pixel is needed, as `MaskTargets`, from one of the layouts of `data.masks`, with the
            options of `masks.options`. Otherwise a folder's masks are left out, and its images read alone.
    Raises:
        FileNotFoundError: no such path.
        ValueError: nothing that is known, an unknown split, names that leave open what is meant, no images, or no
            labels. A `SourceNote` is a warning of how the source was understood: of images that are left out, say.
    """
    if spec == "digits" and not masks:
        return open_digits(split)
    if spec.partition("::")[0] == DIGIT_SCENES:
        if labelled:
            raise ValueError(
                f"{spec!r} have masks, not one class per image; expected 'digits' or other labelled images"
            )
        return _open_digit_scenes(spec, split, masks)
    path, options = path_and_options(spec)
    limit = MAX_IMAGE_BYTES
    if (text := options.pop(LIMIT_OPTION, None)) is not None and not (limit := parse_bytes(text)):
        raise ValueError(f"expected {LIMIT_OPTION} as bytes, such as 2GB or 500MB, got {text!r}")
    only_with_masks = not masks and _only_with_masks(path, options)
    if labelled and only_with_masks:
        raise ValueError(f"{spec!r} has masks, not a class per image; expected labelled images")
    if masks or only_with_masks:
        opened = _open_with_masks(path, options, spec, split)
        opened = opened if masks else replace(opened, targets=None)
    elif "{" in path and not os.path.exists(path):
        opened = _open_many(expand_braces(path), spec, split, labelled, options)
    elif not os.path.exists(path):
        raise FileNotFoundError(f"{spec!r} does not exist; expected {_EXPECTED}")
    elif os.path.isdir(path):
        opened = _open_in_folder(path, spec, split, labelled, options, limit)
    else:
        opened = _open_file(path, spec, split, labelled, options, limit)
    if limit != MAX_IMAGE_BYTES and isinstance(opened.reader, FileReader | ContentReader):
        opened = replace(opened, reader=replace(opened.reader, max_image_bytes=limit))
    if isinstance(opened.targets, MultiLabelTargets) and not multi_label:
        raise ValueError(
            f"{spec!r} has images of several classes (multi-label), and this needs one class per image; name a column "
            "of such classes with ::label=COLUMN"
        )
    return leave_out_unlabelled(opened, keep_unlabelled)


def _open_digit_scenes(spec: str, split: str | None, masks: bool) -> Source:
    """Open the embedded scenes, whose classes the option `select` may merge and drop."""
    from paddlemae.data.masks.options import parse_options
    from paddlemae.data.masks.select_classes import select_classes

    _, options = path_and_options(spec)
    _refuse_options(spec, {name: value for name, value in options.items() if name != "select"})
    source, wanted = open_digit_scenes(split, masks), parse_options(options, spec).select
    return select_classes(source, wanted) if masks and wanted else source


def _only_with_masks(path: str, options: dict[str, str]) -> bool:
    """Remove options of masks, which images alone do not need; return whether the images can't be found without them.

    These are COCO's JSON, lists with a column or options of masks, and images whose masks have other usual names.
    """
    from paddlemae.data.masks.options import NAMES, OF_FILES

    given = options.keys() & set(NAMES)
    if given & set(OF_FILES):
        return True
    if path.lower().endswith((".json", *_LISTS)) and (given or "mask" in options or path.lower().endswith(".json")):
        return True
    for name in given:
        del options[name]
    return False


def _open_with_masks(path: str, options: dict[str, str], spec: str, split: str | None) -> Source:
    from paddlemae.data.masks.open_masks import open_masks  # which needs this package

    if not os.path.exists(path) and "{" not in path:
        raise FileNotFoundError(
            f"{spec!r} does not exist; expected images with masks, such as folders images/ and masks/"
        )
    return open_masks(path, options, split, spec)


def path_and_options(spec: str) -> tuple[str, dict[str, str]]:
    """Split a source's specification into its path, with `~` expanded, and its options."""
    if os.path.exists(os.path.expanduser(spec)):
        return os.path.expanduser(spec), {}
    path, *texts = spec.split("::")
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise ValueError(f"expected PATH::option=value, got {text!r} in {spec!r}")
        options[name] = value
    return os.path.expanduser(path), options


def _refuse_options(spec: str, options: dict[str, str]) -> None:
    if options:
        raise ValueError(f"{spec!r}: images of this kind take no options, got {list_names(sorted(options))}")


def _open_many(paths: list[str], spec: str, split: str | None, labelled: bool, options: dict[str, str]) -> Source:
    """Open the shards or tables that a pattern means."""
    for path in paths:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path!r}, which {spec!r} expands to, does not exist")
    root = os.path.commonpath([os.path.dirname(path) or "." for path in paths]) or "."
    if all(has_ending(path, (PARQUET, ARROW)) for path in paths):
        return open_tables(root, [os.path.relpath(path, root) for path in paths], spec, split, labelled, options)
    _refuse_options(spec, options)
    return open_tars(paths, spec, split, labelled, root)


def _open_in_folder(
    root: str, spec: str, split: str | None, labelled: bool, options: dict[str, str], limit: int
) -> Source:
    try:
        names = [name for name in os.listdir(root) if not name.startswith(".")]
    except OSError as error:
        raise ValueError(f"cannot list the folder {root!r}: {error.strerror}; fix or move it") from error
    if version := version_of_folder(names):
        return open_cifar(root, version, split, options, limit)
    if index := read_index(root, names):
        _refuse_options(spec, options)
        return open_pack(root, index, split, labelled)
    if not any(has_ending(name, EXTENSIONS) for name in names):  # a million are not looked at one by one
        if idx := [name for name in names if is_idx_images(name)]:
            _refuse_options(spec, options)
            return open_idx(root, idx, spec, split, limit)
        tables = list_tables(root)
        if tables and not all(_describes_shard(os.path.join(root, table)) for table in tables):
            return open_tables(root, tables, root, split, labelled, options)
        if tars := list_tars(root):
            _refuse_options(spec, options)
            return open_tars([os.path.join(root, tar) for tar in tars], root, split, labelled, root)
    _refuse_options(spec, options)
    return open_folder(root, split, labelled)


def _describes_shard(table: str) -> bool:
    """Return whether a table says what is in the tar next to it, as img2dataset writes them."""
    return os.path.isfile(os.path.splitext(table)[0] + TAR)


def _open_file(path: str, spec: str, split: str | None, labelled: bool, options: dict[str, str], limit: int) -> Source:
    folder, name = os.path.split(path)
    ending = os.path.splitext(name)[1].lower()
    if not os.path.isfile(path):  # opening a pipe may never end
        raise ValueError(f"{spec!r} is a pipe or a device; expected {_EXPECTED}")
    try:
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError as fault:
        raise ValueError(f"cannot read {path!r}: {fault.strerror}") from fault
    if start.startswith((PARQUET_START, ARROW_START, _ARROW_STREAM)) or ending in (PARQUET, ARROW):
        return open_tables(folder or ".", [name], path, split, labelled, options)
    if start.startswith(_COMPRESSED) and not is_idx_images(name):
        if version := version_of_archive(path):
            return open_cifar(path, version, split, options, limit)
        raise ValueError(
            f"{path!r} is compressed as a whole, so no image of it can be read alone; unpack it, or make it a plain "
            "tar (gunzip)"
        )
    if ending in _TEXT and not start.startswith((_ZIP, ARRAY_START, _IDX)) and not is_tar(path):
        return open_list(path, split, labelled, options)
    _refuse_options(spec, options)
    if is_idx_images(name) or start.startswith(_IDX):
        return open_idx(folder, [name], path, split, limit)
    kinds: list[tuple[bool, Callable[[], Source]]] = [
        (start.startswith(ARRAY_START), lambda: open_npy(path, split, labelled)),
        (start.startswith(_ZIP) and _is_npz(path), lambda: open_npz(path, split, labelled, limit)),
        (start.startswith(_ZIP), lambda: open_zip(path, split, labelled)),
        (is_tar(path), lambda: open_tars([path], path, split, labelled)),
    ]
    for matches, open_it in kinds:
        if matches:
            return open_it()
    raise ValueError(f"{spec!r} is not {_EXPECTED}; for a single image, name its folder")


def _is_npz(path: str) -> bool:
    """Return whether a zip is an `.npz`: by its name, or because it holds nothing but arrays."""
    return has_ending(path, (".npz",)) or all(
        info.filename.endswith(".npy") and not {"/", "\\"} & set(info.filename) for info in read_directory(path)
    )
