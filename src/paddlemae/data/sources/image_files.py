"""Find the file of an image, where it has one of its own."""

import os

from paddlemae.data.sources.in_memory import InMemoryReader
from paddlemae.data.sources.readers import FileReader, Reader
from paddlemae.data.sources.subsets import SubsetReader


def file_of(reader: Reader, i: int) -> str | None:
    """Return the path of image i's own file; None where it is part of another file, or in memory."""
    if isinstance(reader, SubsetReader):
        return file_of(reader.whole, int(reader.indices[i]))
    if isinstance(reader, FileReader):
        return reader.describe(i)
    if isinstance(reader, InMemoryReader):
        image = reader.images[i]
        return os.fspath(image) if isinstance(image, str | os.PathLike) else None
    return None
