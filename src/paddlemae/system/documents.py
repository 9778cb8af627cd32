"""Read text, JSON and YAML files within limits; a damaged file is a one-line ValueError that names it.

Whoever reads one says how large it may be, of what type its content is, and how a damaged one is to be fixed.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from paddlemae.system.display_names import display_name

if TYPE_CHECKING:
    import yaml
    from pydantic import BaseModel

    Model = TypeVar("Model", bound=BaseModel)

# A header of 300 tensors takes 30 KB. Parsed, a text can take 30 times its own size (measured: rows of small objects).
MAX_BYTES = 2**20
MAX_DIGITS = 40  # of a whole number
MAX_YAML_BYTES = 2**17  # the longest recipe of ours has 4 KB
MAX_YAML_NODES = 50_000  # with every alias written out; the longest recipe of ours has 150
MAX_YAML_DEPTH = 32
MAX_LINE_BYTES = 2**20  # of a file with a JSON object a line
UTF_16 = (b"\xff\xfe", b"\xfe\xff")

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = _brief.maxlong = 60


def brief(value: object) -> str:
    """Return a value as it may appear in a one-line message, however large or deep it is."""
    return display_name(_brief.repr(value), 200)


def read_bytes(path: Path, most: int = MAX_BYTES) -> bytes:
    """Return the content of a file of at most `most` bytes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a file, or a larger one.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    with path.open("rb") as file:
        raw = file.read(most + 1)
    if len(raw) > most:
        raise ValueError(f"{path} is larger than {most:,} bytes, more than such a file needs; name another one")
    return raw


def read_text(path: Path, most: int = MAX_BYTES) -> str:
    """Return the text of a UTF-8 file, without its byte order mark. Errors as `read_bytes`; no text is a ValueError."""
    raw = read_bytes(path, most)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        kind = "UTF-16" if raw.startswith(UTF_16) else f"byte {fault.start} is none of it"
        raise ValueError(f"{path} is not UTF-8 text ({kind}); save it as UTF-8") from None


def read_name(path: Path, pattern: str) -> str:
    """Return the name in a small text file, such as the pointer to a checkpoint; other text is a ValueError."""
    name = read_bytes(path, 4096).decode(errors="replace").strip()
    if not re.fullmatch(pattern, name):
        raise ValueError(f"{path} is damaged (it holds {brief(name)})")
    return name


# JSON


def read_object(path: Path, most: int = MAX_BYTES) -> dict[str, Any]:
    """Return the object that a JSON file holds. Errors as `read_bytes`; ValueErrors of `parse_object` name the file."""
    raw = read_bytes(path, most)
    try:
        return parse_object(raw, most)
    except ValueError as fault:
        raise ValueError(f"{path} cannot be read: {display_name(fault, 300)}") from fault


def read_record(path: Path, kind: type[Model], advice: str, most: int = MAX_BYTES) -> Model:
    """Return what a JSON file holds, as one of our types.

    Args:
        kind: a pydantic model.
        advice: how a damaged file is to be fixed, the end of the message.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: damage of any sort; the line names the file, what is wrong and the advice.
    """
    raw = read_bytes(path, most)
    try:
        return validate_content(kind, parse_object(raw, most))
    except ValueError as fault:
        raise ValueError(f"{path} is damaged ({display_name(fault, 300)}); {advice}") from fault


def validate_content(kind: type[Model], content: Any) -> Model:
    """Return plain content as one of our types, or raise a ValueError of one line with the first fault."""
    from pydantic import ValidationError

    try:
        return kind.model_validate(content)
    except ValidationError as fault:
        raise ValueError(first_fault(fault)) from None


def first_fault(fault: Any, names: Collection[str] | None = None) -> str:
    """Return the first fault of a pydantic ValidationError in a line: where (of `names`, if given), what, what came."""
    first = fault.errors(include_url=False)[0]
    place = ".".join(display_name(name, 40) for name in map(str, first["loc"]) if names is None or name in names)
    got = "" if first["type"] in ("value_error", "missing") else f", got {brief(first['input'])}"
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    message = re.sub(", (unable to parse|got a number) .*", "", message)
    return f"{place + ': ' if place else ''}{message}{got}"


def parse_object(raw: bytes, most: int = MAX_BYTES) -> dict[str, Any]:
    """Return the object that a JSON text is.

    Raises:
        ValueError: it is none, too long, nested too deep, names a key twice, or holds a number that is none.
    """
    if len(raw) > most:
        raise ValueError(f"its JSON is longer than {most:,} bytes; no such file needs so much")
    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_number, parse_int=_integer
        )
    except RecursionError:
        raise ValueError("its JSON is nested too deep") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as fault:
        raise ValueError(f"its JSON is damaged ({display_name(fault)}); download or copy the file again") from fault
    if not isinstance(value, dict):
        raise ValueError(f"its JSON must be an object, got a {type(value).__name__}")
    return value


def parse_lenient(raw: bytes) -> Any:
    """Return the value of a JSON text that may hold NaN, as a loss may be; any fault is a ValueError."""
    try:
        return json.loads(raw.decode("utf-8"), parse_int=_integer)
    except RecursionError:
        raise ValueError("its JSON is nested too deep") from None


def read_lines(path: Path, is_whole: Callable[[dict[str, Any]], bool]) -> tuple[list[dict[str, Any]], list[int]]:
    """Return (objects for which `is_whole` holds, numbers of damaged lines, from 1) of a file with an object a line."""
    lines, damaged = [], []
    for number, raw in enumerate(_raw_lines(path), start=1):
        try:
            line = parse_lenient(raw) if len(raw) <= MAX_LINE_BYTES else None
        except ValueError:
            line = None
        if isinstance(line, dict) and is_whole(line):
            lines.append(line)
        else:
            damaged.append(number)
    return lines, damaged


def _raw_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file; of one that is far too long only its beginning, so that it takes no memory."""
    if not path.exists():
        return
    with path.open("rb") as file:
        while raw := file.readline(MAX_LINE_BYTES + 1):
            yield raw
            while len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
                raw = file.readline(MAX_LINE_BYTES + 1)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"its JSON names {display_name(twice)} twice")
    return value


def _no_number(text: str) -> Any:
    raise ValueError(f"its JSON holds {text}, which is not a number")


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"its JSON holds a number of {len(text)} digits")
    return int(text)


# YAML


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file. Errors as `read_text`; ValueErrors of `parse_yaml` name the file."""
    text = read_text(path, MAX_YAML_BYTES)
    try:
        return parse_yaml(text)
    except ValueError as fault:
        raise ValueError(f"{path} is not valid YAML: {display_name(fault, 300)}") from fault


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        ValueError: it is none, is nested deeper than `MAX_YAML_DEPTH`, holds itself, or is larger than
            `MAX_YAML_NODES` once its aliases are written out.
    """
    import yaml

    class ShallowLoader(yaml.SafeLoader):
        """Stops at the first level that is too deep: PyYAML's time grows with the square of the depth."""

        depth = 0

        def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
            self.depth += 1
            _check_depth(self.depth)
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    try:
        loader = ShallowLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _nodes_of(node, {}, 1)
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as fault:
        raise ValueError(" ".join(str(fault).split())) from fault  # of a tag whose value makes no sense, too


def _check_depth(depth: int) -> None:
    if depth > MAX_YAML_DEPTH:
        raise ValueError(f"it is nested deeper than {MAX_YAML_DEPTH} levels")


def _nodes_of(node: yaml.Node, sizes: dict[int, tuple[int, int] | None], depth: int) -> tuple[int, int]:
    """Return how many nodes a node consists of and how many levels, its aliases expanded.

    Args:
        sizes: of nodes seen before; None while one is looked at.
        depth: levels above the node and its own.
    """
    _check_depth(depth)
    if id(node) in sizes:
        size = sizes[id(node)]
        if size is None:
            raise ValueError("it holds itself")
        _check_depth(depth + size[1] - 1)
        return size
    sizes[id(node)] = None
    pieces: list[Any] = node.value if isinstance(node.value, list) else []
    inner = (each for piece in pieces for each in (piece if isinstance(piece, tuple) else (piece,)))
    count, levels = 1, 0
    for each in inner:
        nodes, below = _nodes_of(each, sizes, depth + 1)
        count, levels = count + nodes, max(levels, below)
        if count > MAX_YAML_NODES:
            raise ValueError(f"it has more than {MAX_YAML_NODES:,} values, its aliases written out")
    sizes[id(node)] = count, levels + 1
    return count, levels + 1
