"""Fuzzes the opening of weights: files made from good ones by small changes, each opened under guard.

python -m tests.fuzz.weights --files 20000 --seed 0 --keep fuzz-failures

Changes know the formats: opcodes of a pickle (in its archive, checksums set right), fields of a zip's records, nodes of
a JSON header, numbers and lengths anywhere; or they are plain damage to bytes. A file that ends in a message of a form
not seen before joins those that later ones are made from, so that the search goes deeper. It repeats for a seed.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import pickletools
import random
import re
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from tests.support.guarded_open import FINE, Answer, answers
from tests.support.weight_files import (
    FLOATS,
    ORDERED,
    Call,
    Global,
    numpy_array,
    opcodes,
    row,
    storage,
    tensor,
    torch_legacy,
    torch_zip,
    zip_bytes,
)

NUMBERS = [0, 1, 2, 7, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
NODES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    96,
    2**31,
    2**63,
    1e308,
    "",
    "F32",
    "BF16",
    "F8_E4M3",
    "w",
    [],
    {},
    [0],
    [1, 2],
]
VALUES: list[Any] = [
    *(None, True, 0, 1, -1, 2**63, 0.5, "", "w", "latin1", (), (1,), (0, 2**40), [], {}, b"bytes", row(24)),
    *(Global("os", "system"), Global("numpy", "dtype"), Global("torch", "HalfStorage"), ORDERED, Call(ORDERED, ())),
    storage("BFloat16Storage", "0", 48),
    tensor(storage("FloatStorage", "0", 24), (2, 3), (0, 1)),
    numpy_array(FLOATS[:3]),
]
WORDS = [opcodes(value) for value in VALUES]
STEPS = [bytes([ord(op.code)]) for op in pickletools.opcodes if op.arg is None]
MAX_POOL = 2000


def seeds() -> list[bytes]:
    """Good files of every format."""
    two, namespace = (
        {"0": FLOATS.tobytes(), "1": bytes(48)},
        Call(Global("argparse", "Namespace"), (), {"lr": 0.1, "x": [1]}),
    )

    def tree(legacy: bool) -> dict[str, Any]:
        half = tensor(storage("BFloat16Storage", "1", 24, legacy=legacy), (4, 6), (6, 1))
        part = tensor(storage("FloatStorage", "0", 24, legacy=legacy), (2, 3), (3, 1), 4)
        wrapped = Call(Global("torch._utils", "_rebuild_parameter"), (part, True, Call(ORDERED, ())))
        return {"model": {"w": row(24, legacy=legacy), "h": half, "p": wrapped}, "args": namespace, "epoch": 3}

    paddle = {"w": FLOATS.reshape(4, 6), "h": np.arange(6, dtype=np.uint16), "n": {"lr": np.float32(0.1), "s": {1, 2}}}
    slices = {"big@@.0": FLOATS[:12], "big@@.1": FLOATS[12:], "v": FLOATS}
    joined = {**slices, "UnpackBigParamInfor@@": {"big": {"OriginShape": (4, 6), "slices": ["big@@.0", "big@@.1"]}}}
    return [
        torch_zip(tree(False), two),
        torch_legacy(tree(True), {"0": FLOATS, "1": np.zeros(24, np.uint16)}),
        *(pickle.dumps(paddle, protocol) for protocol in (2, 4)),
        pickle.dumps(joined, 2),
        save({"w": FLOATS, "h": FLOATS.astype(np.float16).reshape(2, 12), "e": FLOATS[:0]}, {"format": "pt"}),
    ]


# Changes


def change_bytes(content: bytes, draw: random.Random) -> bytes:
    """Plain damage: flipped, cut, repeated, moved or foreign bytes, or a number of some width."""
    place, length = draw.randrange(len(content) + 1), draw.choice([1, 2, 4, 8, 30])
    end = min(len(content), place + length)
    kind = draw.randrange(7)
    if kind == 0:
        return content[:place] + draw.randbytes(length) + content[end:]
    if kind == 1:
        return content[:place]
    if kind == 2:
        return content[:place] + content[end:]
    if kind == 3:
        return content[:end] + content[place:end] * draw.choice([1, 2, 50]) + content[end:]
    if kind == 4:
        other = draw.randrange(len(content) + 1)
        return content[:place] + content[other : other + length] + content[end:]
    if kind == 5 and place < len(content):
        return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
    width = draw.choice([1, 2, 4, 8])
    number = (draw.choice(NUMBERS) % 256**width).to_bytes(width, "little")
    return content[:place] + number + content[place + width :]


def change_pickle(content: bytes, draw: random.Random) -> bytes:
    """Opcodes left out, repeated, swapped, put in, or with another argument."""
    steps = _steps(content)
    place, other = draw.randrange(len(steps)), draw.randrange(len(steps))
    kind = draw.randrange(7)
    if kind == 0:
        del steps[place]
    elif kind == 1:
        steps.insert(place, steps[other] * draw.choice([1, 1, 3, 100]))
    elif kind == 2:
        steps[place], steps[other] = steps[other], steps[place]
    elif kind == 3:
        steps.insert(place, draw.choice(STEPS))
    elif kind == 4:
        steps.insert(place, draw.choice(WORDS))
    elif kind == 5:
        steps[place] = draw.choice(WORDS)
    else:
        steps[place] = steps[place][:1] + change_bytes(steps[place][1:], draw)
    return b"".join(steps)


def _steps(content: bytes) -> list[bytes]:
    """The opcodes with their arguments; the rest as one where it is no pickle."""
    places = []
    try:
        for _, _, place in pickletools.genops(content):
            places.append(place)
    except Exception:  # a damaged pickle: whatever Python's tools make of it
        pass
    places = places or [0]
    return [content[start:end] for start, end in zip(places, [*places[1:], len(content)])]


def change_archive(content: bytes, draw: random.Random) -> bytes:
    """The pickle within, with checksums that are right; or a field of one of the archive's records."""
    if draw.random() < 0.7:
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                entries = [(name, archive.read(name)) for name in archive.namelist()]
        except Exception:  # already damaged
            entries = []
        if not entries:
            return change_bytes(content, draw)
        target = draw.choice([name for name, _ in entries if name.endswith("data.pkl")] or [entries[0][0]])
        if draw.random() < 0.1:
            target = draw.choice(entries)[0]
        changed = [(name, change_pickle(raw, draw) if name == target else raw) for name, raw in entries]
        return zip_bytes(changed)
    records = [found.start() for found in re.finditer(rb"PK(\x01\x02|\x03\x04|\x05\x06)", content)]
    if not records:
        return change_bytes(content, draw)
    place = draw.choice(records) + draw.randrange(4, 46)
    width = draw.choice([2, 4])
    return content[:place] + (draw.choice(NUMBERS) % 256**width).to_bytes(width, "little") + content[place + width :]


def change_legacy(content: bytes, draw: random.Random) -> bytes:
    """One of the pickles in a row."""
    place, ends = 0, []
    for _ in range(5):
        try:
            place += sum(len(step) for step in _first_pickle(content[place:]))
        except ValueError:
            break
        ends.append(place)
    if not ends:
        return change_bytes(content, draw)
    which = draw.choice([0, 1, 2, 3, 3, 3, 3, 4]) % len(ends)
    start = ends[which - 1] if which else 0
    return content[:start] + change_pickle(content[start : ends[which]], draw) + content[ends[which] :]


def _first_pickle(content: bytes) -> Iterator[bytes]:
    last = 0
    for _, _, place in pickletools.genops(content):
        yield content[last:place]
        last = place
    yield content[last : last + 1]


def change_safetensors(content: bytes, draw: random.Random) -> bytes:
    """A node of the header, which is given its right length."""
    length = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + length])
    except (ValueError, RecursionError):
        return change_bytes(content, draw)
    if draw.random() < 0.15:
        return struct.pack("<Q", draw.choice(NUMBERS)) + content[8:]
    nodes = [header]
    for node in nodes:
        nodes.extend(
            part for part in (node.values() if isinstance(node, dict) else node) if isinstance(part, (dict, list))
        )
    node = draw.choice(nodes)
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    value = json.loads(json.dumps(draw.choice([*NODES, *nodes[:9], draw.choice(NUMBERS)])))  # a copy: no circles
    if not keys:
        return content
    if draw.random() < 0.2:
        del node[draw.choice(keys)]
    elif isinstance(node, dict) and draw.random() < 0.3:
        node[draw.choice(["w", "x", "__metadata__", "dtype", "shape"])] = value
    else:
        node[draw.choice(keys)] = value
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def changed(content: bytes, draw: random.Random) -> bytes:
    """A file with one to four changes."""
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        change: Callable[[bytes, random.Random], bytes] = change_bytes
        if draw.random() < 0.8:
            if content[:2] == b"PK":
                change = change_archive
            elif content[8:9] == b"{":
                change = change_safetensors
            elif content[:1] == b"\x80":
                change = change_legacy if b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19" in content[:64] else change_pickle
        content = change(content, draw)
        if not content:
            return b"\0"
    return content


# Runs


def run(files: int, seed: int, keep: Path | None = None) -> tuple[Counter[str], list[Answer], float]:
    """Make and open files.

    Args:
        keep: a folder for those that end otherwise than `FINE`.
    Returns:
        (how many ended how, the answers that are not fine, the longest time of one in seconds).
    """
    draw, pool = random.Random(seed), seeds()
    started = len(pool)
    forms: set[str] = set()
    counts: Counter[str] = Counter()
    failures, slowest = [], 0.0
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile, of names that a change has doubled
        path = Path(folder) / "file"

        def made() -> Iterator[Path]:
            for number in range(files):
                content = changed(draw.choice(pool if draw.random() < 0.7 else pool[:started]), draw)
                fresh = path.with_name(f"{number}")  # a new file: the last one may still be mapped
                fresh.write_bytes(content[: 2**22])
                yield fresh
                fresh.unlink()

        for answer in answers(made()):
            content = Path(answer.path).read_bytes()
            counts[answer.outcome] += 1
            slowest = max(slowest, answer.seconds)
            form = re.sub(r"\d+|'[^']*'|\[.*", "", answer.message.replace(answer.path, ""))
            if form not in forms and len(pool) < MAX_POOL:
                forms.add(form)
                pool.append(content)
            if answer.outcome not in FINE:
                failures.append(answer)
                if keep:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{answer.outcome}-{Path(answer.path).name}").write_bytes(content)
    counts["forms of messages"] = len(forms)
    return counts, failures, slowest


def main() -> int:
    usage = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    usage.add_argument("--files", type=int, default=20_000)
    usage.add_argument("--seed", type=int, default=0)
    usage.add_argument("--keep", type=Path, help="a folder for files that end otherwise than loaded or refused")
    options = usage.parse_args()
    start = time.monotonic()
    counts, failures, slowest = run(options.files, options.seed, options.keep)
    forms = counts.pop("forms of messages")
    for outcome, count in counts.most_common():
        print(f"{outcome:10} {count:,}")
    print(f"{options.files:,} files from seed {options.seed} in {time.monotonic() - start:.0f} s, "
          f"the slowest {slowest:.3f} s; {forms} forms of messages")  # fmt: skip
    for answer in failures[:20]:
        print(f"{Path(answer.path).name}: {answer.outcome}: {answer.message}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
