"""Inspect weights, and convert them to another layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paddlemae.system.atomic import move_into_place, name_in_errors, partial_path, remove
from paddlemae.tasks.models.export_weights import export_checkpoint, write_folder
from paddlemae.tasks.models.read_model import Reading, in_float32, is_own, read_checkpoint, read_foreign
from paddlemae.weights.formats.state_dict import StateDict
from paddlemae.weights.formats.torch_write import write_torch
from paddlemae.weights.layouts import LAYOUTS, Exported, Imported
from paddlemae.weights.load_report import lines, report
from paddlemae.weights.model_folder import DESCRIPTION_FILE, WEIGHTS_FILE, write_model
from paddlemae.weights.open import CONFIG, PREPROCESSOR, Foreign

OWN = "paddlemae"
TARGETS = (OWN, *LAYOUTS)
FOLDERS = (OWN, "timm", "transformers", "beit")  # what such weights are published as; the others are single files
FOLDER_FILES = (WEIGHTS_FILE, DESCRIPTION_FILE, CONFIG, PREPROCESSOR)  # of them; a folder with more is not replaced
PADDLES = ("paddle", "paddle-mae-pytorch", "paddlevit")


def inspect(path: str | Path, reading: Reading, *, trust: bool = False) -> dict[str, Any]:
    """Return the load report of weights; see `weights.load_report`.

    Raises:
        FileNotFoundError, ValueError: no weights, or of no layout that is known.
    """
    if not is_own(path):
        return report(*read_foreign(path, reading))
    checkpoint = read_checkpoint(path, reading, trust=trust)
    description, tensors = checkpoint.description, dict(checkpoint.tensors)
    state = StateDict(tensors, {name: array.dtype.name for name, array in tensors.items()}, "", {}, {})
    foreign = Foreign(checkpoint.folder, "safetensors", state, None, None, None)
    imported = Imported(
        OWN,
        description.kind,
        description.architecture,
        tensors,
        {},
        {},
        mean=description.mean,
        std=description.std,
        classes=description.classes,
    )
    return report(foreign, imported)


def inspection(content: dict[str, Any]) -> str:
    """Return a load report as text."""
    return "\n".join(lines(content))


def convert(
    path: str | Path, out: Path, to: str, reading: Reading, *, overwrite: bool = False, trust: bool = False
) -> list[str]:
    """Write weights as another layout has them: a folder for `FOLDERS`, else a `.pth` or `.pdparams` file.

    Args:
        path: one of our runs, checkpoints or models, or someone's weights.
        to: one of `TARGETS`.
        overwrite: replace what is at `out`.
        trust: see `read_checkpoint`.
    Returns:
        what a user should know, one sentence each.
    Raises:
        FileNotFoundError, ValueError: weights that can't be read, or that the layout can't hold; nothing is written.
    """
    if to not in TARGETS:
        raise ValueError(f"--to must be one of {', '.join(TARGETS)}, got {to!r}")
    if Path(path).resolve().is_relative_to(out.resolve()) and overwrite:
        raise ValueError(f"--overwrite would delete {path}, which is to be converted; choose another --out")
    _check_free(out, to, overwrite)
    _check_ending(out, to)
    checkpoint = read_checkpoint(path, reading, trust=trust)
    exported = None if to == OWN else export_checkpoint(checkpoint, to)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = partial_path(out)
    remove(unfinished)
    try:
        with name_in_errors(out):
            if exported is None:
                unfinished.mkdir()
                write_model(unfinished, in_float32(checkpoint), checkpoint.description)
            else:
                _write(unfinished, to, exported)
            move_into_place(unfinished, out)
    finally:
        remove(unfinished)
    return exported.notes if exported else []


def _check_free(out: Path, to: str, overwrite: bool) -> None:
    """Raise a ValueError if something is at `out`, unless it is weights that may be replaced."""
    if not out.exists():
        return
    if not overwrite:
        raise ValueError(f"{out} exists; choose another --out, or replace it with --overwrite")
    if to not in FOLDERS and out.is_dir():
        raise ValueError(f"{out} is a folder, and weights of the layout {to} are a file; choose another --out")
    others = sorted(path.name for path in out.iterdir() if path.name not in FOLDER_FILES) if out.is_dir() else []
    if others:
        raise ValueError(f"{out} holds more than weights ({', '.join(others[:3])}); move that or choose another --out")


def _check_ending(out: Path, to: str) -> None:
    ending = "" if to in FOLDERS else ".pdparams" if to in PADDLES else ".pth"
    if ending and out.suffix != ending:
        raise ValueError(f"weights of the layout {to} are a file that ends in {ending}; got --out {out}")
    if not ending and out.suffix in (".pth", ".pt", ".bin", ".pdparams", ".safetensors"):
        raise ValueError(f"weights of the layout {to} are a folder; got --out {out}, which looks like a file")


def _write(out: Path, to: str, exported: Exported) -> None:
    if to in PADDLES:
        from paddlemae.engine.safe_import import paddle

        paddle.save({name: paddle.to_tensor(array) for name, array in exported.tensors.items()}, str(out))
    elif to not in FOLDERS:
        write_torch(out, exported.tensors, exported.wrapper)
    else:
        write_folder(out, exported)
