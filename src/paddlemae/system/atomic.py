"""Write files whole or not at all: under a temporary name next to their place, then renamed.

A good file that was there stays until the new one is complete, and an error names the file that was meant.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PARTIAL = ".partial"  # the end of temporary names


def partial_path(path: Path) -> Path:
    """Return the name of a file or folder while it is not whole, where one process writes at a time."""
    return path.with_name(f".{path.name}{PARTIAL}")


def is_partial(name: str, of: str) -> bool:
    """Return whether a file's name is a temporary one of the file named `of`."""
    return name.startswith(f".{of}.") and name.endswith(PARTIAL)


@contextlib.contextmanager
def replace_file(path: Path, *, flush: bool = False) -> Iterator[Path]:
    """Yield the temporary path to write; renamed to `path` at the end, and removed after an error.

    The name is another one each time, so two processes that write the same file do not write into each other's.

    Args:
        flush: bring the file and its name to the disk, so that it outlives a crash of the machine.
    Raises:
        OSError: as writing raised it, with the name of `path`.
    """
    place = Path(os.path.realpath(path))  # a link stays one
    temporary = place.with_name(f".{place.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with name_in_errors(path):
            yield temporary
            if flush:
                flush_path(temporary)
            rename(temporary, place, flush=flush)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def replace_bytes(path: Path, content: bytes | memoryview, *, flush: bool = False) -> None:
    """Write a file whole or not at all; arguments and errors are those of `replace_file`."""
    with replace_file(path, flush=flush) as temporary:
        temporary.write_bytes(content)


def replace_text(path: Path, text: str, *, flush: bool = False) -> None:
    """Write UTF-8 text whole or not at all; arguments and errors are those of `replace_file`."""
    replace_bytes(path, text.encode(), flush=flush)


def append_text(path: Path, text: str) -> None:
    """Append lines to a file, all of them or none; half a line that a killed process left gets an end first.

    Raises:
        OSError: no space or no permission, with the name of `path`.
    """
    with name_in_errors(path), path.open("ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        content = (b"\n" if file.read(1) not in (b"", b"\n") else b"") + text.encode()
        try:
            left = memoryview(content)
            while left:
                left = left[file.write(left) :]
        except OSError:
            with contextlib.suppress(OSError):
                if os.stat(path).st_size < size + len(content):  # nobody else has appended
                    os.truncate(path, size)
            raise


@contextlib.contextmanager
def name_in_errors(path: Path) -> Iterator[None]:
    """Give OSErrors of the system, which often name no file or a temporary one, the name of what is written."""
    try:
        yield
    except OSError as fault:
        if fault.errno is None:
            raise
        raise OSError(fault.errno, fault.strerror, str(path)) from fault


def rename(temporary: Path, final: Path, *, flush: bool = False) -> None:
    """Rename a file into place, over one that is there; `flush` brings the new name to the disk."""
    os.replace(temporary, final)
    if flush:
        flush_folder(final.parent)


def move_into_place(temporary: Path, final: Path) -> None:
    """Rename a whole folder or file into place; what was there is removed then, and is back there if that fails."""
    old = set_aside(final) if os.path.lexists(final) else None
    try:
        os.replace(temporary, final)
    except OSError:
        if old:
            os.replace(old, final)
        raise
    if old:
        remove(old)


def set_aside(path: Path) -> Path:
    """Give what is to be removed another name first, so that no half of it is taken for a whole one."""
    aside = path.with_name(f".{path.name}.old{PARTIAL}")
    remove(aside)
    os.replace(path, aside)
    return aside


def remove(path: Path) -> None:
    """Remove a folder with all that is in it, a file, or a link, whose target stays; nothing where nothing is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flush_file(file: IO[bytes]) -> None:
    """Bring what was written to an open file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def flush_path(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk; some systems can't."""
    with contextlib.suppress(OSError):
        flush_path(folder)
