"""Read the names, ids and colours of classes: `classes.txt`, CVAT's `labelmap.txt`, a CSV, a JSON, or a list of names.

Lines that are understood, # at the start of a line being a comment:
    road                      a name; ids are counted from 0
    7 road    7: road         an id and a name, if all lines have both
    road 128 64 128           a name and its colour, of the masks if they store colours, else only for display
    road:128,64,128::         the same, of a label map
    128,64,128,road           the same, as CSV
    Pixel Value, Class        Roboflow's `_classes.csv`: a line of names of columns is passed over
"""

import csv
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

Colour = tuple[int, int, int]
FILES = (
    *("classes.txt", "labelmap.txt", "label_colors.txt", "class_dict.csv", "classes.csv", "classes.json"),
    "_classes.csv",
)
_COLOUR = re.compile(r"(?<!\d)(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})(?!\d)")
_HEX = re.compile(r"#([0-9a-fA-F]{6})\b")
_NUMBERED = re.compile(r"(\d+)\s*[:,\t ]\s*(\S.*)")
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class ListedClass:
    """A class as it is listed: its name, and the id and colour that it has in masks where these are given."""

    name: str
    value: int | None = None
    colour: Colour | None = None


def find_class_file(folder: str) -> str | None:
    """Return the path of the file in a folder that lists classes; None where there is none."""
    return next((path for name in FILES if os.path.isfile(path := os.path.join(folder, name))), None)


def read_class_file(path: str) -> list[ListedClass]:
    """Return the classes that a file lists.

    Raises:
        FileNotFoundError, ValueError: no such file, no classes in it, or a name, id or colour that comes twice.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"class list {path!r} does not exist")
    with open(path, "rb") as file:
        content = file.read(_MOST_BYTES + 1)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise ValueError(f"class list {path!r} is not UTF-8 text") from fault
    if len(content) > _MOST_BYTES:
        raise ValueError(f"class list {path!r} has more than {_MOST_BYTES:,} bytes")
    listed = _of_json(text, path) if path.lower().endswith(".json") else parse_lines(text.splitlines())
    return check_classes(listed, path)


def parse_lines(lines: Sequence[str]) -> list[ListedClass]:
    """Return the classes in lines of text, in any of the forms at the top of this module."""
    lines = [line.strip() for line in lines if line.strip() and not re.match(r"#(?![0-9a-fA-F]{6}\b)", line.strip())]
    if lines and _is_header(lines[0]):
        lines = lines[1:]
    listed = [_of_line(line) for line in lines]
    numbered = [_NUMBERED.fullmatch(each.name) for each in listed]
    if listed and all(numbered):
        return [
            ListedClass(match[2].strip(), int(match[1]), each.colour) for match, each in zip(numbered, listed) if match
        ]
    return listed


def _is_header(line: str) -> bool:
    cells = {cell.strip().lower() for cell in next(csv.reader([line]))}
    return {"r", "g", "b"} <= cells or cells <= {"pixel value", "value", "id", "class", "name"}


def _of_line(line: str) -> ListedClass:
    colour: Colour | None = None
    if match := _HEX.search(line):
        colour = _of_hex(match[1])
    elif match := _COLOUR.search(line):
        colour = (int(match[1]), int(match[2]), int(match[3]))
    if match is None or colour is None or max(colour) > 255:
        return ListedClass(line.rstrip(":").strip() if line.endswith("::") else line)
    name = (line[: match.start()] + " " + line[match.end() :]).strip(" \t,:;")
    return ListedClass(name, None, colour)


def _of_json(text: str, path: str) -> list[ListedClass]:
    """Return the classes of a list of names, of {name: id} or {id: name}, or of a list of {name, id, color}."""
    try:
        content = json.loads(text)
    except ValueError as fault:
        raise ValueError(f"class list {path!r} is not JSON: {fault}") from fault
    if isinstance(content, dict):
        pairs = [(name, value) if isinstance(value, int) else (value, name) for name, value in content.items()]
        content = [{"name": name, "id": int(value)} for name, value in pairs if str(value).isdigit()]
    if not isinstance(content, list):
        raise ValueError(f"class list {path!r}: expected a list of names, or names with ids")
    return [_of_entry(entry, path) for entry in content]


def _of_entry(entry: object, path: str) -> ListedClass:
    if isinstance(entry, str):
        return ListedClass(entry)
    if isinstance(entry, dict) and isinstance(entry.get("name"), str):
        value = entry.get("id")
        colour = _of_colour(entry.get("color", entry.get("colour")))
        return ListedClass(entry["name"], value if isinstance(value, int) else None, colour)
    raise ValueError(f"class list {path!r}: expected a name or an object with 'name', got {entry!r}")


def _of_colour(value: object) -> Colour | None:
    """Return the colour that "#ff0000" or [255, 0, 0] mean; None for anything else."""
    if isinstance(value, str) and (match := _HEX.fullmatch(value)):
        return _of_hex(match[1])
    if isinstance(value, list) and len(value) == 3 and all(isinstance(each, int) and 0 <= each < 256 for each in value):
        return value[0], value[1], value[2]
    return None


def _of_hex(digits: str) -> Colour:
    number = int(digits, 16)
    return number >> 16, number >> 8 & 255, number & 255


def check_classes(listed: list[ListedClass], where: str) -> list[ListedClass]:
    """Return the classes; raise a ValueError for none, or for a name, id or colour that comes twice."""
    if not listed:
        raise ValueError(f"class list {where!r} names no classes; expected a name on each line")
    kinds: list[tuple[str, list[object]]] = [("name", [each.name for each in listed])]
    kinds.append(("id", [each.value for each in listed if each.value is not None]))
    kinds.append(("colour", [each.colour for each in listed if each.colour is not None]))
    for kind, values in kinds:
        seen = set[object]()
        for value in values:
            if value in seen:
                shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
                raise ValueError(f"class list {where!r} has the {kind} {shown!r} twice; give each class its own")
            seen.add(value)
    return listed
