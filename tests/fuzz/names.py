"""Names of any kind: what `display_names` makes of them, and what pictures and files of features hold of them."""

from __future__ import annotations

import importlib.util
import random
import unicodedata
from pathlib import Path

import numpy as np

from paddlemae.system.display_names import LONGEST, display_name, escape_lines, escape_surrogates

WORDS = [
    "cat",
    "US$_{$ bill",
    r"$\frac{1}{0}$",
    "caf\udce9",
    "\udcff\udc80",
    "\ud800",
    "\x1b]0;pwn\x07",
    "\x1b[2J\x9b31m",
    "new\nline\r\n",
    "\ttab",
    "\u202egnp.exe",
    "\u2066a\u2069\u200f",
    "z\u200b\u200d\ufeffw",
    "\u3164\u115f\u2800",
    "中文名字",
    "ｆｕｌｌ",
    "😀🐈",
    "❤\ufe0f",
    "e\u0301\u0301\u0301",
    "שלום",
    "مرحبا",
    "<b onmouseover='x'>&amp;",
    "[bold red]x[/]",
    "{{ 7 * 7 }}",
    "_hidden",
    "a|b",
    "back\\slash",
    r"\x1b",
    "C:\\new",
    "\u2028\u2029\x85",
    "\U000e0041\U0001f3f4",
    "\ue000\uffff",
    "\x00",
    " ",
    "",
]
ENCODINGS = ("utf-8", "ascii", "latin-1", "gbk", "cp1252")


def name_of(rng: random.Random) -> str:
    """Draw a name: words from the list, any characters, or thousands of one."""
    if rng.random() < 0.1:
        return rng.choice(["L", "文", "\x1b", "\udce9", "😀"]) * rng.choice([79, 80, 81, 255, 4096])
    parts = [
        rng.choice(WORDS) if rng.random() < 0.7 else chr(rng.randrange(0x110000)) for _ in range(rng.randint(1, 6))
    ]
    return "".join(parts)


def columns(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in line)


def is_harmless(line: str) -> bool:
    """Whether a line steers nothing: no control, bidi, invisible, private or half characters, no line ends."""
    kinds = {unicodedata.category(letter) for letter in line}
    return line.isprintable() and not kinds & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def check(seed: int, folder: Path) -> None:
    """Raise an AssertionError where a name is not shown as promised."""
    rng = random.Random(seed)
    name, other, encoding = name_of(rng), name_of(rng), rng.choice(ENCODINGS)
    most = rng.choice([3, 8, 32, LONGEST, 200])
    line, whole = display_name(name, most, encoding=encoding), display_name(name, None, encoding=encoding)
    for one in (line, whole):
        assert is_harmless(one), (name, one)
        one.encode(encoding)  # strict
    assert columns(line) <= most and (line == whole or "..." in line), (name, line)
    assert display_name(line, most, encoding=encoding) == line and display_name(whole, None, encoding=encoding) == whole
    if name.isascii() and name.isprintable():
        assert whole == name
    if "\\" not in name + other and name != other:
        assert whole != display_name(other, None, encoding=encoding), (name, other)
    lacking = frozenset(rng.sample(sorted(set(name)), rng.randint(0, len(set(name)))))
    assert not {one for one in lacking if not one.isascii()} & set(display_name(name, most, without=lacking))
    lines = escape_lines(f"{name}\n\t{other}", encoding)
    lines.encode(encoding)
    assert all(map(is_harmless, lines.replace("\t", "\n").split("\n"))) and escape_lines(lines, encoding) == lines
    kept = escape_surrogates(name)
    kept.encode()
    assert escape_surrogates(kept) == kept and (kept == name or any("\ud800" <= one <= "\udfff" for one in name))


def check_pictures(seed: int, folder: Path) -> None:
    """Raise an AssertionError, or a warning, where a picture or a file of features does not take some names."""
    from PIL import Image

    from paddlemae.runs.confusion import Confusion
    from paddlemae.runs.contact_sheet import Block, draw_sheet
    from paddlemae.runs.figures import draw_confusion, draw_neighbours, draw_reconstructions, draw_study
    from paddlemae.tasks.models.feature_file import Rows, read_file, write_file

    rng = random.Random(seed)
    names = [name_of(rng) for _ in range(rng.randint(2, 6))]
    picture, labels = np.zeros((8, 8, 3), np.uint8), np.arange(len(names))
    draw_confusion(folder / "a.png", Confusion.of(labels, labels[::-1], len(names)), names, names[0])
    draw_neighbours(folder / "b.png", [[picture] * 2], names[:1], [names[1:2]], names[-1])
    draw_reconstructions(folder / "c.png", names[:1], [picture[None]], names[1], names[:1])
    draw_study(folder / "d.png", names[0], {"pretrained": {names[1]: [0.5], names[0] + "x": [0.1]}}, names[1])
    draw_sheet(folder / "e.png", [(names[0], [Block(name, [picture]) for name in names])])
    for number in "abcde":
        with Image.open(folder / f"{number}.png") as image:
            assert 0 < image.size[0] <= 2400 and 0 < image.size[1] <= 2400, image.size
    kept = [escape_surrogates(name) for name in names]
    rows = Rows(labels, kept, kept, np.zeros((len(names), 2), np.float32))
    about: dict = dict.fromkeys(("model", "weights", "data", "split"), names[0])
    about |= {"images": len(names), "token": "cls", "layer": None, "norm": "layer"}
    for ending in (".npz", ".parquet") if importlib.util.find_spec("pyarrow") else (".npz",):
        write_file(folder / f"f{ending}", lambda: iter([rows]), about)
        found = read_file(folder / f"f{ending}")
        assert found.about["data"] == names[0]
        expected = [name.rstrip("\0") for name in kept] if ending == ".npz" else kept  # NumPy drops these
        assert found.labels is not None and [list(found.paths), list(found.labels)] == [expected] * 2
