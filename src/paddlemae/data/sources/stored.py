"""What archives of all kinds share: stretches of files, and names that no image may come from."""

import io


def read_range(path: str, offset: int, size: int) -> bytes:
    """A stretch of a file; opened anew each time, so no process or thread shares a place in it.

    Raises:
        OSError: it can't be read.
        ValueError: it ends before.
    """
    with open(path, "rb", buffering=0) as file:
        return read_from(file, offset, size)


def read_from(file: io.FileIO, offset: int, size: int) -> bytes:
    """The same of a file that is open."""
    file.seek(offset)
    content = file.read(size)
    while len(content) < size:  # the system may give less than was asked for
        more = file.read(size - len(content))
        if not more:
            raise ValueError(f"{file.name} was cut short since it was listed")
        content += more
    return content


def leads_out(name: str) -> bool:
    """Whether a path would leave the folder that an archive is unpacked in."""
    return name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or name[1:2] == ":"


def is_hidden(name: str) -> bool:
    """Whether it, or a folder above it, is hidden, as what macOS adds to archives is."""
    return name.startswith((".", "__MACOSX/")) or "/." in name
