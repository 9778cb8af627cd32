"""JSON from strangers: one object, of limited size, whose parsing costs little whatever it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paddlemae.display_names import shown

# A header of 300 tensors takes 30 KB. Parsed, a text can take 30 times its own size (measured: rows of small objects).
MAX_BYTES = 2**20
MAX_DIGITS = 40


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON object, or beyond the limits.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if not path.is_file():
        raise ValueError(f"{path} is no file; a JSON file was expected")
    with path.open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    try:
        return parse_object(raw)
    except ValueError as fault:
        raise ValueError(f"{path} cannot be read: {shown(fault, 300)}") from fault


def parse_object(raw: bytes) -> dict[str, Any]:
    """The object that a JSON text is.

    Raises:
        ValueError: it is none, too long, nested too deep, or names a key twice.
    """
    if len(raw) > MAX_BYTES:
        raise ValueError(f"its JSON is longer than {MAX_BYTES:,} bytes; no weights file needs so much")
    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_number, parse_int=_integer
        )
    except RecursionError:
        raise ValueError("its JSON is nested too deep") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as fault:
        raise ValueError(f"its JSON is damaged ({shown(fault)}); download or copy the file again") from fault
    if not isinstance(value, dict):
        raise ValueError(f"its JSON is no object but a {type(value).__name__}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"its JSON names {shown(next(name for name in value if names.count(name) > 1))} twice")
    return value


def _no_number(text: str) -> Any:
    raise ValueError(f"its JSON holds {text}, which is no number")


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"its JSON holds a number of {len(text)} digits")
    return int(text)
