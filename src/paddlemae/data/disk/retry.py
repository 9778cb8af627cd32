"""Read again what a disk may give a moment later, and distinguish a lost file from a lost folder."""

import errno
import os
import time
from collections.abc import Callable
from typing import TypeVar

from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.disk.errors import DataFault

# What network file systems and tired cables answer for a while; any other answer is final.
TRANSIENT_ERRORS = frozenset(
    {
        errno.EIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.EAGAIN,
        errno.EBUSY,
        errno.ENODEV,
        errno.ENXIO,
        errno.ENOTCONN,
        errno.ECONNRESET,
        errno.ECONNREFUSED,
        errno.ECONNABORTED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENFILE,
        errno.EMFILE,
        errno.ENOMEM,
    }
)
WAITS_SECONDS = (1, 2, 4, 8, 15, 30)  # before each new try at a file: a minute in all
FOLDER_WAITS_SECONDS = (*WAITS_SECONDS, *8 * (30,))  # while the whole folder is away: five minutes in all

_Read = TypeVar("_Read")

_given_up: set[str] = set()  # paths that this process waited for in vain, lest a bad sector cost a minute every epoch


def retry_read(read: Callable[[], _Read], folder: str, sleep: Callable[[float], object] = time.sleep) -> _Read:
    """Call `read`, again after each error that may be temporary, and return its result.

    Args:
        read: reads one file below `folder`.
        folder: the images' root. While it is gone or empty, as a lost disk's mount point is, no file counts as bad.
        sleep: waits the given number of seconds.
    Raises:
        UnreadableImage: damaged bytes or a file that is gone, at once; a fault that did not pass.
        DataFault: the folder did not come back.
    """
    file_waits, folder_waits = iter(WAITS_SECONDS), iter(FOLDER_WAITS_SECONDS)
    while True:
        try:
            return read()
        except UnreadableImage as fault:
            if fault.errno is None:
                raise
            away = _why_away(folder)
            if not away and fault.errno not in TRANSIENT_ERRORS:
                raise
            if not away and fault.path in _given_up:
                raise
            seconds = next(folder_waits if away else file_waits, None)
            if seconds is None:
                if not away:
                    _given_up.add(fault.path)
                    raise
                raise DataFault(
                    f"the images' folder {folder!r} was away for {sum(FOLDER_WAITS_SECONDS) // 60} minutes ({away}); "
                    "reconnect its disk"
                ) from fault
        sleep(seconds)


def _why_away(folder: str) -> str | None:
    """Return why nothing can be read below the folder; None while it is there."""
    try:
        with os.scandir(folder) as entries:
            return None if next(entries, None) else "it is empty"
    except OSError as fault:
        return fault.strerror or str(fault)
