"""Write files of features, and stop commands while they write them."""

from __future__ import annotations

from pathlib import Path

from paddlemae.tasks.embed import embed_source
from paddlemae.tasks.models import parts as module


class Killed(Exception):
    """Raised to stop a command in the middle."""


def written(run: Path, data: Path | str, out: Path, **settings) -> Path:
    embed_source(str(run), str(data), out, **{"batch_size": 2, "threads": 1, "quiet": True, **settings})
    return out


def stop_after(monkeypatch, parts: int) -> None:
    """Stop the command after `parts` parts."""
    write, left = module.replace_bytes, iter(range(parts))

    def once_too_often(path, content):
        if next(left, None) is None:
            raise Killed
        write(path, content)

    monkeypatch.setattr(module, "replace_bytes", once_too_often)
