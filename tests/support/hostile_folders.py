"""Folders of the hostile corpus: indices and links that lead out, configurations that cost, files that are none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.hostile_safetensors import GOOD, written

SHARD = written({"w": GOOD})
INDEX = "model.safetensors.index.json"


def holding(files: dict[str, Any]) -> Callable[[Path], None]:
    """Return a function that makes a folder of files from bytes or from functions of a path."""

    def make(folder: Path) -> None:
        folder.mkdir()
        for name, content in files.items():
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
            elif isinstance(content, str):
                (folder / name).symlink_to(content)
            else:
                content(folder / name)

    return make


def index(places: Any, **more: Any) -> bytes:
    return json.dumps({"metadata": {}, "weight_map": places, **more}).encode()


def folders() -> Iterator[tuple[str, Any, str]]:
    good = {"model.safetensors": SHARD}
    yield "an index that leads nowhere bad", holding({INDEX: index({"w": "a"}), "a": SHARD}), "loaded"
    for name in (
        "../a",
        "..",
        ".",
        "",
        "/etc/passwd",
        "sub/a",
        "a/../a",
        "..\\a",
        "C:\\a",
        "a\0b",
        "./a",
        "a/",
        "x" * 5000,
        "\ud800",
        "~/a",
        "missing",
    ):
        yield f"a shard named {name[:20]!r}", holding({INDEX: index({"w": name}), "a": SHARD}), "refused"
    for name, link in {
        "/etc/hostname": "/etc/hostname",
        "/dev/zero": "/dev/zero",
        "up": "../000",
        "itself": "a",
    }.items():
        yield f"a shard that is a link to {name}", holding({INDEX: index({"w": "a"}), "a": link}), "refused"
    for name, content in {
        "a shard that is a number": index({"w": 1}),
        "shards in a list": index(["a"]),
        "no shards": index({}),
        "no map": b"{}",
        "an index that is a list": b"[]",
        "an index of 2 MB": b" " * 2**21,
        "an index that is deep": b'{"weight_map":' * 100_000,
        "an index cut off": index({"w": "a"})[:-5],
        "2,000 shards": index({f"w{n}": f"a{n}" for n in range(2000)}),
        "a tensor that its shard lacks": index({"w": "a", "v": "a"}),
    }.items():
        yield name, holding({INDEX: content, "a": SHARD}), "refused"
    yield "a shard that is a folder", holding({INDEX: index({"w": "a"}), "a": Path.mkdir}), "refused"
    yield "a shard that is a pipe", holding({INDEX: index({"w": "a"}), "a": os.mkfifo}), "refused"
    yield "a shard that is an index", holding({INDEX: index({"w": INDEX})}), "refused"
    for name, content in {
        "a list": b"[1]",
        "deep": b'{"a":' * 100_000,
        "2 MB": b'{"a": "' + b"x" * 2**21 + b'"}',
        "NaN": b'{"a": NaN}',
        "cut": b'{"a"',
        "empty": b"",
        "no UTF-8": b'{"\xff": 1}',
        "twice": b'{"a": 1, "a": 2}',
        "a number of 900,000 digits": b'{"a": ' + b"1" * 900_000 + b"}",
        "many objects": b'{"a": [' + b'{"":0},' * 140_000 + b"0]",
    }.items():
        yield f"config.json: {name}", holding({**good, "config.json": content}), "refused"
        yield f"preprocessor_config.json: {name}", holding({**good, "preprocessor_config.json": content}), "refused"
    yield "config.json is a pipe", holding({**good, "config.json": os.mkfifo}), "refused"
    yield "config.json is a folder", holding({**good, "config.json": Path.mkdir}), "refused"
    yield "config.json is /dev/zero", holding({**good, "config.json": "/dev/zero"}), "refused"
    for name in ("model.safetensors", "pytorch_model.bin", INDEX):
        yield f"{name} is a pipe", holding({name: os.mkfifo}), "refused"
        yield f"{name} is a folder", holding({name: Path.mkdir}), "refused"
        yield f"{name} is /dev/zero", holding({name: "/dev/zero"}), "refused"
        yield f"{name} is a link to itself", holding({name: name}), "refused"
        yield f"{name} is a link to its folder", holding({name: "."}), "refused"
    yield "a pipe", os.mkfifo, "refused"
    yield "/dev/zero", lambda path: path.symlink_to("/dev/zero"), "refused"
    yield "/dev/tty", lambda path: path.symlink_to("/dev/tty"), "refused"
    yield "a link to itself", lambda path: path.symlink_to(path), "refused"
    yield "a link to nothing", lambda path: path.symlink_to("nothing"), "refused"
    yield "an empty folder", Path.mkdir, "refused"
    yield "two weights files", holding({"a": SHARD, "b": SHARD}), "refused"
    yield (
        "one weights file among pipes and links",
        holding({"a": SHARD, "b": os.mkfifo, "c": "c", "d": "/dev/zero", "e": b"text"}),
        "loaded",
    )
    yield "2,000 files", holding({f"f{n}": b"" for n in range(2000)}), "refused"
