"""Export a run's model: build it, compare it with the model itself, and only then put it in its place."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddlemae.engine import device
from paddlemae.engine.cpus import threads_of
from paddlemae.export.check import LIMIT, example_images, largest_difference, onnx_runtime
from paddlemae.export.interface import Interface, Model, interface_of, metadata_of
from paddlemae.export.paddle_program import FILES, load_program, save_program
from paddlemae.system.atomic import name_in_errors, rename
from paddlemae.tasks.models.build import load_encoder
from paddlemae.tasks.models.preprocess import evaluation_view
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.weights.model_folder import Description

METADATA_FILE = "metadata.json"  # next to a program of Paddle; an ONNX file contains it
MOST_BYTES = 2_000_000_000  # of weights inside an ONNX file, which can't have 2 GiB; more go into a file next to it
PACKAGES = ("onnx", "onnxruntime")


@dataclass(frozen=True)
class Exported:
    """What was written (the model's own file first), and how well it agrees with the model; see `agreement`.

    `images` says what `difference` was found on.
    """

    files: tuple[Path, ...]
    what: str
    difference: float
    images: str


def export(
    run: str | Path,
    to: str,
    out: Path,
    *,
    what: str | None = None,
    token: str | None = None,
    overwrite: bool = False,
    trust: bool = False,
) -> Exported:
    """Write a run's model for use without PaddleMAE.

    Args:
        run: a run folder or one of its checkpoints.
        to: "onnx" or "paddle".
        out: a file that ends in .onnx, or the folder for Paddle's files.
        what: "encoder", "classifier", "reconstructor" or "segmenter"; unless given, the classifier or segmenter of
            a run that has one, and a pretraining run's encoder.
        token: of an encoder: "cls", or "mean" of the patch tokens, which is taken unless given.
        overwrite: whether files that are there are replaced.
        trust: see `read_checkpoint`.
    Raises:
        ModuleNotFoundError: a package is missing.
        FileNotFoundError, FileExistsError, ValueError: a run, part, token or place that can't be used.
        RuntimeError: what was exported does not agree with the model; nothing is written then.
    """
    writers = {
        "onnx": (_write_onnx, onnx_runtime),
        "paddle": (_write_program, lambda folder: load_program(folder, threads_of("auto"))),
    }
    if to not in writers:
        raise ValueError(f"--to must be one of {', '.join(writers)}, got {to!r}")
    _check_place(to, out, overwrite)
    device.prepare("cpu")
    checkpoint = read_checkpoint(run, trust=trust)
    model, description = load_encoder(checkpoint), checkpoint.description
    what = what or (description.kind if description.kind in ("classifier", "segmenter") else "encoder")
    if token and what != "encoder":
        warnings.warn(f"--token has no effect on a {what}", stacklevel=2)
    interface = interface_of(
        model, what, token, evaluation_view(description).depth, multi_label=description.thresholds is not None
    )
    image_size = tuple(grid * patch for grid, patch in zip(model.grid, model.encoder.patch_size))
    examples, images = example_images(checkpoint, model.encoder.channels, image_size)
    write, engine_of = writers[to]
    out.parent.mkdir(parents=True, exist_ok=True)
    with name_in_errors(out), tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        unfinished = Path(folder) / out.name
        written = write(model, description, interface, unfinished)
        difference = largest_difference(engine_of(unfinished), model, description, interface, examples)
        if not difference <= LIMIT:  # nor nan
            raise RuntimeError(
                f"the exported {what} differs from the model by {difference:.2g} on {images}, more than "
                f"{LIMIT:g}; nothing was written. Please report this"
            )
        files = tuple(out.parent / path.relative_to(folder) for path in written)
        files[0].parent.mkdir(exist_ok=True)
        for path, final in zip(written, files):
            rename(path, final)
    return Exported(files, what, difference, images)


def _check_place(to: str, out: Path, overwrite: bool) -> None:
    """Refuse before any work is done."""
    if to == "onnx":
        if out.suffix != ".onnx" or out.is_dir():
            raise ValueError(f"--out must be a file that ends in .onnx, got {out}")
        if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
            raise ModuleNotFoundError(
                f"ONNX files need the package {missing[0]}, which is not installed; run: pip install 'paddlemae[onnx]'",
                name=missing[0],
            )
        taken = [out] if out.exists() else []
    else:
        if out.suffix == ".onnx" or out.is_file():
            raise ValueError(f"--out must be a folder for the files of a Paddle program, got {out}")
        taken = [path for path in (out / name for name in (*FILES, METADATA_FILE)) if path.exists()]
    if taken and not overwrite:
        raise FileExistsError(f"{taken[0]} exists already; choose another --out, or add --overwrite to replace it")


def _write_onnx(model: Model, description: Description, interface: Interface, path: Path) -> list[Path]:
    import onnx

    from paddlemae.export.onnx_graph import onnx_model

    content = onnx_model(model, interface, description.mean, description.std)
    facts = metadata_of(model, description, interface)
    onnx.helper.set_model_props(content, {name: json.dumps(value) for name, value in facts.items()})
    external: dict[str, Any] = {}
    files = [path]
    if sum(len(one.raw_data) for one in content.graph.initializer) > MOST_BYTES:
        files.append(path.with_name(f"{path.name}.data"))
        external = {"save_as_external_data": True, "location": files[1].name, "size_threshold": 1024}
    onnx.save_model(content, str(path), **external)
    onnx.checker.check_model(str(path), full_check=True)
    return files


def _write_program(model: Model, description: Description, interface: Interface, folder: Path) -> list[Path]:
    folder.mkdir()
    save_program(model, interface, description.mean, description.std, folder)
    facts = metadata_of(model, description, interface)
    (folder / METADATA_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return [folder / name for name in (*FILES, METADATA_FILE)]
