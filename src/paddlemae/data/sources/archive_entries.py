"""Read ranges of archives, and normalise the names of their entries as unpacking would write them."""

import io

# What macOS, NAS systems, Windows and file systems put next to images: resource forks, thumbnails, deleted files.
SYSTEM_FOLDERS = frozenset(
    ("__MACOSX", "@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
)

RUN_MARKS = ("recipe.yaml", "environment.json")  # a folder with both is that of a training


def read_range(path: str, offset: int, size: int) -> bytes:
    """Read `size` bytes of a file from `offset`, or raise an OSError, or a ValueError if it ends before.

    Each call opens the file, so no process or thread shares a position.
    """
    with open(path, "rb", buffering=0) as file:
        return read_from(file, offset, size)


def read_from(file: io.FileIO, offset: int, size: int) -> bytes:
    """Read `size` bytes of an open file from `offset`."""
    file.seek(offset)
    content = file.read(size)
    while len(content) < size:  # the system may give less than was asked for
        more = file.read(size - len(content))
        if not more:
            raise ValueError(f"{file.name} was cut short since it was listed")
        content += more
    return content


def leads_out(name: str) -> bool:
    """Return whether a path would leave the folder that an archive is unpacked in."""
    if name.startswith(("/", "\\")) or name[1:2] == ":":
        return True
    return ".." in name and ".." in name.replace("\\", "/").split("/")


def normalise_path(name: str) -> str:
    """Return an entry's path as it would be below the folder of unpacking: without "." and empty steps."""
    if name.startswith("./") or "//" in name or "/." in name or name.endswith("/"):
        return "/".join(step for step in name.split("/") if step not in ("", "."))
    return name


def is_hidden(name: str) -> bool:
    """Return whether a clean path (a folder's ends with "/") or a folder in it begins with ".", or is of the system."""
    return name.startswith(".") or "/." in name or not SYSTEM_FOLDERS.isdisjoint(name.split("/")[:-1])


def visible_folders(name: str) -> str:
    """Return the folders of a hidden path that are not hidden, with a "/" behind; "" where there are none."""
    steps = name.split("/")
    first = next((n for n, step in enumerate(steps) if step.startswith(".") or step in SYSTEM_FOLDERS), 0)
    return "".join(f"{step}/" for step in steps[:first])
