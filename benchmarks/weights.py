"""Measure time and peak memory of reading foreign weights of ViT-Large's size, in every format.

python -m benchmarks.weights                   makes 10 GB of files in a temporary folder, which it removes
python -m benchmarks.weights --size tiny       the same in seconds, to see that it works

Each file is opened twice, in a process of its own: once to hand every tensor on, and once into a model of ours.
"""

from __future__ import annotations

import argparse
import json
import math
import pickle
import re
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from paddlemae.model.shape import SIZES

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
Tensors = dict[str, np.ndarray]


def build(size: str) -> Any:
    """Build the paper's pretraining model."""
    from paddlemae.model.mae import MaskedAutoencoder

    decoder: dict[str, Any] = dict(decoder_embed_dim=512, decoder_depth=8, decoder_num_heads=16)
    return MaskedAutoencoder(image_size=224, norm_pix_loss=True, **{**SIZES[size], **decoder})


# Writers, which need no PyTorch


class _Stored:
    """A tensor's row of numbers, which PyTorch's pickles refer to by its key."""

    def __init__(self, key: str, count: int) -> None:
        self.key, self.count = key, count


def _named(module: str, name: str) -> type:
    """Return a class that pickles as a global of PyTorch's."""
    found = sys.modules.setdefault(module, ModuleType(module))
    made = type(name, (), {"__module__": module})
    setattr(found, name, made)
    return made


class _Pickler(pickle.Pickler):
    """Writes arrays as PyTorch writes tensors."""

    def __init__(self, file: Any, tensors: Tensors, legacy: bool) -> None:
        super().__init__(file, 2)
        self.keys = {id(array): str(number) for number, array in enumerate(tensors.values())}
        self.storage, self.rebuild = _named("torch", "FloatStorage"), _named("torch._utils", "_rebuild_tensor_v2")
        self.more = (None,) if legacy else ()

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, _Stored):
            return ("storage", self.storage, value.key, "cpu", value.count, *self.more)
        return None

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return NotImplemented
        strides = tuple(step // value.itemsize for step in value.strides)
        stored = _Stored(self.keys[id(value)], value.size)
        return self.rebuild, (stored, 0, value.shape, strides, False, OrderedDict())


def write_zip(path: Path, tensors: Tensors) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("archive/data.pkl", "w") as file:
            _Pickler(file, tensors, legacy=False).dump({"model": tensors, "epoch": 800})
        for number, array in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{number}", array.data.cast("B"))


def write_legacy(path: Path, tensors: Tensors) -> None:
    with path.open("wb") as file:
        for value in (LEGACY_MAGIC, 1001, {"protocol_version": 1001, "little_endian": True}):
            pickle.dump(value, file, 2)
        _Pickler(file, tensors, legacy=True).dump({"model": tensors, "epoch": 800})
        pickle.dump([str(number) for number in range(len(tensors))], file, 2)
        for array in tensors.values():
            file.write(struct.pack("<q", array.size) + array.tobytes())


def write_paddle(protocol: int) -> Callable[[Path, Tensors], None]:
    def write(path: Path, tensors: Tensors) -> None:
        with path.open("wb") as file:
            pickle.dump(tensors, file, protocol)

    return write


def write_safetensors(path: Path, tensors: Tensors) -> None:
    from safetensors.numpy import save_file

    save_file(tensors, path, {"format": "pt"})


def write_shards(path: Path, tensors: Tensors) -> None:
    """Write a folder as Hugging Face stores large models: four shards and their index."""
    path.mkdir()
    names = list(tensors)
    places: dict[str, str] = {}
    for number in range(4):
        shard = f"model-{number + 1:05}-of-00004.safetensors"
        part = {name: tensors[name] for name in names[number::4]}
        write_safetensors(path / shard, part)
        places |= dict.fromkeys(part, shard)
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def write_bfloat16(path: Path, tensors: Tensors) -> None:
    """Write bfloat16 values: half the size, read as float32."""
    header: dict[str, Any] = {}
    place = 0
    for name, array in tensors.items():
        header[name] = {"dtype": "BF16", "shape": array.shape, "data_offsets": [place, place + 2 * array.size]}
        place += 2 * array.size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write((np.ascontiguousarray(array).view(np.uint32) >> 16).astype(np.uint16).tobytes())


WRITERS: dict[str, Callable[[Path, Tensors], None]] = {
    "PyTorch, zip": write_zip,
    "PyTorch, legacy": write_legacy,
    "Paddle, protocol 2": write_paddle(2),
    "Paddle, protocol 4": write_paddle(4),
    "safetensors": write_safetensors,
    "safetensors, 4 shards": write_shards,
    "safetensors, bfloat16": write_bfloat16,
}


# A process of its own


def _memory(field: str) -> int:
    found = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def load(path: str, size: str, into_model: bool) -> dict[str, float]:
    """Open one file and use each tensor once: seconds, seconds of computing (of all threads), bytes."""
    import paddle  # noqa: F401  what any reader of ours into a model has imported before

    from paddlemae.weights.formats.mapped_file import release
    from paddlemae.weights.open import open_weights
    from paddlemae.weights.transfer import load_official

    model = build(size) if into_model else None
    before = _memory("VmRSS")
    start, computing = time.perf_counter(), time.process_time()
    tensors = open_weights(path).state.tensors
    opened = time.perf_counter()
    if model is not None:
        load_official(model, tensors)
    else:
        for tensor in tensors.values():
            float(tensor.sum(dtype="float64"))
            release(tensor)
    now = time.perf_counter()
    return {
        "opening": opened - start,
        "seconds": now - start,
        "computing": time.process_time() - computing,
        "before": before,
        "peak": _memory("VmHWM"),
    }


def imported() -> int:
    """Return the memory in bytes of a process that has only imported what reading into a model needs."""
    code = "import benchmarks.weights as w; import paddle, paddlemae.weights.open, paddlemae.model.mae; "
    done = subprocess.run([sys.executable, "-c", code + "print(w._memory('VmRSS'))"], capture_output=True, text=True)
    return int(done.stdout)


def measured(path: Path, size: str, into_model: bool) -> dict[str, float]:
    words = ["-W", "ignore", "-m", "benchmarks.weights", "--load", str(path), "--size", size]
    words += ["--into-model"] if into_model else []
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


# The table


def rows(folder: Path, size: str, formats: Sequence[str]) -> Iterator[str]:
    from paddlemae.weights.transfer import to_official

    tensors = {name: np.ascontiguousarray(array) for name, array in to_official(build(size)).items()}
    base = imported()
    count = sum(math.prod(array.shape) for array in tensors.values())
    yield f"{count / 1e6:.0f} million weights; a process that has imported Paddle and PaddleMAE has {base / 1e6:.0f} MB"
    yield ""
    yield "| format | file, GB | handed on: s (CPU s) | peak | into a model: s (CPU s) | peak | with the imports |"
    yield "|---|---|---|---|---|---|---|"
    for name in formats:
        path = folder / "weights"
        WRITERS[name](path, tensors)
        files = list(path.iterdir()) if path.is_dir() else [path]
        total = sum(file.stat().st_size for file in files)
        found = [measured(path, size, into_model) for into_model in (False, True)]
        parts = [name, f"{total / 1e9:.2f}"]
        for run in found:
            parts += [f"{run['seconds']:.1f} ({run['computing']:.1f})", f"{(run['peak'] - base) / total:.2f}"]
        parts.append(f"{found[1]['peak'] / total:.2f}")
        yield f"| {' | '.join(parts)} |"
        for file in files:
            file.unlink()
        if path.is_dir():
            path.rmdir()


def main() -> int:
    usage = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    usage.add_argument("--size", default="large", choices=list(SIZES))
    usage.add_argument("--folder", help="where the files are made, a temporary folder in it (default: the system's)")
    usage.add_argument("--formats", nargs="+", default=list(WRITERS), choices=list(WRITERS), metavar="FORMAT")
    usage.add_argument("--load", help=argparse.SUPPRESS)
    usage.add_argument("--into-model", action="store_true", help=argparse.SUPPRESS)
    options = usage.parse_args()
    if options.load:
        print(json.dumps(load(options.load, options.size, options.into_model)))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for line in rows(Path(folder), options.size, options.formats):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
