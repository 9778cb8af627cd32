"""Files of a folder, tar or zip that are no images here, such as `.heic` and `.dcm`: counted by their endings."""

import os
from collections import Counter
from collections.abc import Iterator

from paddlemae.data.decode.images import ARRAY_EXTENSION, EXTENSIONS, has_ending
from paddlemae.data.sources.archive_entries import is_hidden
from paddlemae.data.sources.open import path_and_options
from paddlemae.data.sources.readers import ContentReader, FileReader
from paddlemae.data.sources.shards import is_sidecar
from paddlemae.data.sources.source import Source
from paddlemae.data.sources.tar import TarContents, read_entries
from paddlemae.data.sources.zip import ZipContents, zip_entries


def count_ignored_files(spec: str, source: Source) -> Counter[str]:
    """Return how many files with each ending lie among the images that `spec` names and are not read.

    Hidden files don't count. `source` is any split of `spec`.
    """
    path, _ = path_and_options(spec)
    reader = source.reader
    contents = reader.contents if isinstance(reader, ContentReader) else None
    if isinstance(reader, FileReader) and os.path.isdir(path):
        names, first = _files_below(path), reader.files[0]
    elif isinstance(contents, ZipContents):
        names, first = (name for name, kind, _ in zip_entries(path) if kind == "file"), contents.files[0]
    elif isinstance(contents, TarContents) and os.path.isfile(path):
        files = (entry.name for entry in read_entries(path, lambda name: False) if entry.kind == "file")
        names, first = (name for name in files if not is_sidecar(name)), contents.files[0]
    else:
        return Counter()
    arrays = has_ending(first, (ARRAY_EXTENSION,))  # next to pictures they are none
    read = (*EXTENSIONS, ARRAY_EXTENSION) if arrays else EXTENSIONS
    return Counter(
        os.path.splitext(name)[1].lower() for name in names if not has_ending(name, read) and not is_hidden(name)
    )


def _files_below(root: str) -> Iterator[str]:
    for _, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not is_hidden(f"{name}/")]
        yield from files
