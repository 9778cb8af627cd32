"""Show progress: a bar on a terminal, occasional lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from paddlemae.system.display_names import display_name, escape_output, say

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_EVERY_SECONDS = 10.0


@contextmanager
def progress(label: str, total: int, done: int = 0, show: bool = True) -> Iterator[Callable[..., None]]:
    """Show how far `total` steps are.

    Yields:
        a function of (steps done, text such as "loss 0.41"), to be called as often as one likes.
    """
    label = display_name(label)
    if not show or sys.stderr is None:  # of a program without a terminal
        yield lambda done, text="": None
    elif sys.stderr.isatty():
        with _bar() as bar, escape_output():  # a bar prints what is printed meanwhile
            task = bar.add_task(label, total=total, completed=done, text="")
            yield lambda done, text="": bar.update(task, completed=done, text=text)
    else:
        yield _lines(label, total, done)


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TimeRemainingColumn(),
        # explicitly what is below a stream that escapes: rich looks through one such stream only, and puts up its own
        console=Console(file=getattr(sys.stderr, "rich_proxied_file", sys.stderr)),
    )


def _lines(label: str, total: int, first: int) -> Callable[..., None]:
    started = last = time.monotonic()

    def update(done: int, text: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if done >= total or now - last >= LINE_EVERY_SECONDS:
            last = now
            left = (now - started) / max(1, done - first) * (total - done)
            say(f"{label} {done}/{total}  {text}  {left:.0f} s left", error=True)

    return update
