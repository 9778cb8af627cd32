"""Open weights of any origin, a file or a folder, by its content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddlemae.system.display_names import display_name
from paddlemae.system.documents import read_object
from paddlemae.weights.formats.file_kind import kind_of, refusal
from paddlemae.weights.formats.paddle_file import read_paddle
from paddlemae.weights.formats.safetensors_file import read_safetensors
from paddlemae.weights.formats.state_dict import StateDict, describe, tensors_of
from paddlemae.weights.formats.torch_file import read_torch

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
# What a folder's weights are called by those who publish such folders, the preferred first.
WHOLE = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
MAX_FILES = 1000  # in a folder, or shards of a model


@dataclass(frozen=True)
class Foreign:
    """Weights of any origin, and what came with them.

    Attributes:
        path: what was named.
        kind: what the weights' file is: "zip" or "legacy" (PyTorch's), "pickle" (Paddle's), "safetensors".
        state: the weights. Arrays are read-only and most are views of the file, which must not be changed meanwhile.
        config: a folder's `config.json`.
        preprocessor: a folder's `preprocessor_config.json`.
        extras: what else lies at the top of the file, such as a dict of "args" (an `Opaque` Namespace) and "epoch";
            of a safetensors file the metadata. None if the file is no dict.
    """

    path: Path
    kind: str
    state: StateDict
    config: dict[str, Any] | None
    preprocessor: dict[str, Any] | None
    extras: Any


def open_weights(path: str | Path, wrapper: str | None = None) -> Foreign:
    """Read the weights in a PyTorch, Paddle or safetensors file, or in a folder that holds one; nothing is executed.

    Args:
        path: a file, recognised by its content; or a folder with `model.safetensors` or `pytorch_model.bin`, whole or
            sharded with an index, or with exactly one weights file.
        wrapper: the key under which the file has the state dict; see `tensors_of`.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no weights, or it is ambiguous, damaged or built to harm.
    """
    path = Path(path)
    if not path.is_dir():
        kind, state, extras = _open_file(path, wrapper)
        return Foreign(path, kind, state, None, None, extras)
    file = _weights_of(path)
    read = _open_shards if file.name.endswith(INDEX) else _open_file
    kind, state, extras = read(file, wrapper)
    config, preprocessor = (
        read_object(path / name) if (path / name).exists() else None for name in (CONFIG, PREPROCESSOR)
    )
    return Foreign(path, kind, state, config, preprocessor, extras)


READERS: dict[str, Callable[[Path], Any]] = {
    "zip": read_torch,
    "legacy": read_torch,
    "pickle": read_paddle,
    "safetensors": read_safetensors,
}


def _open_file(path: Path, wrapper: str | None) -> tuple[str, StateDict, Any]:
    kind = kind_of(path)
    if kind not in READERS:
        raise refusal(path, kind)
    content = READERS[kind](path)
    tree, metadata = content if kind == "safetensors" else (content, None)
    try:
        state = tensors_of(tree, wrapper)
    except ValueError as fault:
        raise ValueError(f"{path}: {display_name(fault, 600)}") from fault
    if metadata is not None or not isinstance(tree, dict):
        return kind, state, metadata
    used = {state.place.split(".")[0]} if state.place else state.tensors.keys()
    return kind, state, {key: value for key, value in tree.items() if str(key) not in used}


def _weights_of(folder: Path) -> Path:
    """Return the file of a folder that holds its weights, or their index."""
    for name in WHOLE:
        for file in (folder / name, folder / f"{name}{INDEX}"):
            if file.exists():
                return file
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    if len(files) > MAX_FILES:
        raise ValueError(f"{folder} holds {len(files):,} files; name the file of weights")
    weights = [file for file in files if kind_of(file) in READERS]
    models = [file for file in weights if file.suffix != ".pdopt"] or weights  # else an optimizer's, asked for
    if len(models) != 1:
        held = ", ".join(display_name(path.name, 40) for path in sorted(folder.iterdir())[:20]) or "nothing"
        count = f"{len(models)} weights files" if models else "no weights"
        raise ValueError(f"{folder} holds {count}; name the file itself; the folder holds {held}")
    return models[0]


# Shards


def _open_shards(index: Path, wrapper: str | None) -> tuple[str, StateDict, Any]:
    content = read_object(index)
    places = content.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()) or not places:
        raise ValueError(f"{index} is no index of shards: it has no weight_map of names to files")
    names = sorted(set(places.values()))
    if len(names) > MAX_FILES:
        raise ValueError(f"{index} names {len(names):,} shards; no weights have more than {MAX_FILES:,}")
    whole = StateDict({}, {}, "", {}, {})
    kinds = set()
    for name in names:
        kind, state, _ = _open_file(_shard(index.parent, name), wrapper)
        kinds.add(kind)
        wanted = {key for key, place in places.items() if place == name}
        if lacking := sorted(wanted - state.tensors.keys()):
            raise ValueError(
                f"{index.parent / name} lacks {display_name(lacking[0])}, which {index.name} says is in it"
            )
        whole.tensors.update((key, state.tensors[key]) for key in wanted)
        whole.dtypes.update((key, state.dtypes[key]) for key in wanted)
        left = state.tensors.keys() - wanted
        whole.skipped.update({key: f"{describe(state.tensors[key])}, not in {index.name}" for key in left})
    if len(kinds) > 1:
        raise ValueError(f"{index} mixes shards of kinds {' and '.join(sorted(kinds))}")
    return kinds.pop(), whole, content.get("metadata")


def _shard(folder: Path, name: str) -> Path:
    """Return the path of a file that an index names, which must be inside the folder.

    Hugging Face's cache is a folder `snapshots/<revision>` of links into the `blobs` two levels up.
    """
    plain = Path(name).name == name and "\\" not in name and name not in ("", ".", "..")
    if not plain or not name.isprintable() or len(name) > 255:
        raise ValueError(
            f"{folder} has an index that names the shard {display_name(name)}; shards lie in the folder itself"
        )
    path, real = folder / name, folder.resolve()
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; the index names it as a shard, download it too")
    rooms = [real, real.parent.parent / "blobs"] if real.parent.name == "snapshots" else [real]
    if path.resolve().parent not in rooms:
        raise ValueError(f"{path} is a link that leads out of the folder; copy the shard into it")
    return path
