"""Escape names for display: whatever a file, class or tensor is called, it prints as one harmless line."""

from __future__ import annotations

import contextlib
import re
import sys
import unicodedata
from collections.abc import Callable, Container, Iterator
from typing import Any, TextIO

LONGEST = 80  # columns of a name in a line of text; pictures have less room
_CUT = "..."
# what is printable by Python's rule and yet draws nothing: fillers, joiners and selectors of variants
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_UNUSUAL, _UNUSUAL_IN_LINES = re.compile("[^ -~]"), re.compile("[^ -~\n\t]")
_NOT_ASCII = re.compile("[^\0-\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def display_name(
    name: object, most: int | None = LONGEST, *, encoding: str = "utf-8", without: Container[str] = ()
) -> str:
    r"""Return a name as one line that can be printed, drawn and read.

    Control characters, line ends, bidi marks, invisible and unassigned characters become escapes: `\x1b`, `\n`,
    `\u202e`. A byte that is no UTF-8 becomes `\xe9`. A backslash stays as it is, so that a line which was escaped once
    stays the same; names that hold no backslash and fit stay distinct.

    Args:
        most: columns that the line may take, a wide character (Chinese, emoji) two of them; the middle of a longer
            name becomes "...". None never shortens.
        encoding: of the stream; what it lacks is escaped too.
        without: further characters to escape, those that a font lacks.
    """
    line = str(name)
    if most is not None and len(line) > 2 * most:  # a stranger's name may have gigabytes
        line = line[:most] + line[-most:]
    line = _UNUSUAL.sub(lambda match: _letter(match[0], encoding, without), line)
    return line if most is None else _shortened(line, most)


def escape_lines(text: str, encoding: str = "utf-8") -> str:
    """Return a text of several lines whose characters are escaped as in `display_name`; its line ends and tabs stay."""
    return _UNUSUAL_IN_LINES.sub(lambda match: _letter(match[0], encoding, ()), text)


def escape_surrogates(name: str) -> str:
    r"""Return a name for a file that holds only Unicode text (Parquet): bytes that are no UTF-8 become `\xe9`."""
    return _SURROGATE.sub(lambda match: _escape(match[0]), name)


def _letter(letter: str, encoding: str, without: Container[str]) -> str:
    if not letter.isprintable() or _INVISIBLE.match(letter) or letter in without:
        return _escape(letter)
    try:
        letter.encode(encoding)
    except UnicodeEncodeError:
        return _escape(letter)
    return letter


def _escape(letter: str) -> str:
    number = ord(letter)
    if letter in _SHORT:
        return _SHORT[letter]
    if 0xDC80 <= number <= 0xDCFF:  # how Python keeps a byte that is no UTF-8; no other character becomes \x80 to \xff
        return f"\\x{number - 0xDC00:02x}"
    if number < 0x80:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _shortened(line: str, most: int) -> str:
    if (len(line) if line.isascii() else sum(map(_columns, line))) <= most:
        return line
    room = most - len(_CUT)
    if room < 2:
        return _CUT[:most]
    return _beginning(line, room - room // 2) + _CUT + _beginning(line[::-1], room // 2)[::-1]


def _beginning(line: str, columns: int) -> str:
    """Return as many of a line's first characters as fit into `columns`."""
    for place, letter in enumerate(line):
        columns -= _columns(letter)
        if columns < 0:
            return line[:place]
    return line


def _columns(letter: str) -> int:
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def say(text: str, *, error: bool = False) -> None:
    """Print a line of text on stdout, or on stderr, whatever names are in it and whatever the stream's encoding."""
    stream = sys.stderr if error else sys.stdout
    if stream is not None:
        print(display_name(text, None, encoding=_encoding_of(stream)), file=stream, flush=True)


def _encoding_of(stream: TextIO) -> str:
    return getattr(stream, "encoding", None) or "utf-8"  # some hosts' streams have none


class _Escaping:
    """A stream that writes escapes for what it must not or cannot print; in all else the stream itself."""

    def __init__(self, stream: TextIO, escape: Callable[[str, str], str]):
        self.stream, self.escape = stream, escape

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @property
    def rich_proxied_file(self) -> Any:
        """Return the stream for rich, which controls the terminal itself; other control characters are escaped."""
        return _Escaping(self.stream, _without_ascii)

    def write(self, text: str) -> int:
        self.stream.write(self.escape(text, _encoding_of(self.stream)))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)


def _without_ascii(text: str, encoding: str) -> str:
    return _NOT_ASCII.sub(lambda match: _letter(match[0], encoding, ()), text)


@contextlib.contextmanager
def escape_output() -> Iterator[None]:
    """Print nothing inside that steers a terminal, and nothing that the encoding of stdout or stderr refuses."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _Escaping(stream, escape_lines) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
