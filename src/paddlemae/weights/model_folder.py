"""One model on disk: `model.safetensors` with the official names and layout, and its description `model.json`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from paddlemae.model.shape import target_name
from paddlemae.system.documents import brief, parse_object, read_bytes
from paddlemae.weights.description import check_description, check_tensors
from paddlemae.weights.formats.file_kind import kind_of, refusal
from paddlemae.weights.formats.mapped_file import release
from paddlemae.weights.formats.safetensors_file import read_safetensors
from paddlemae.weights.formats.state_dict import BFloat16

WEIGHTS_FILE = "model.safetensors"
DESCRIPTION_FILE = "model.json"
FORMAT = 1
# field -> the value with which it is left out of the file
OPTIONAL: Mapping[str, str | None] = {**dict.fromkeys(("bits", "thresholds", "palette", "short_side")), "fit": "crop"}
MAX_DESCRIPTION_BYTES = 2**24  # of 21,000 classes whose names are long
MAX_HEADER_BYTES = 2**24  # of our own files: the optimizer of 2,000 blocks


@dataclass(frozen=True)
class Description:
    """What a model is, apart from its weights: kind, shape, preprocessing, provenance.

    Attributes:
        kind: "mae", "classifier", "encoder" or "segmenter".
        architecture: the keyword arguments that build it.
        mean, std: per-channel pixel statistics in [0, 1] that its images are normalised with.
        eval_crop_ratio: part of a resized image's short side that evaluation crops out.
        fit: how images of other shapes become views, as of `View`.
        classes: names in the head's order; empty for "mae".
        provenance: how it was made, for people.
        bits: of a channel's value in its images; None, as in older files, means what their number of channels does.
        thresholds: of a multi-label classifier the probability of each class from which on an image has it; None of
            other models.
        palette: of a segmenter the colour of each class, [red, green, blue] from 0 to 255; None of other models.
        short_side: of a segmenter the short side in pixels that images are brought to before they are cut into windows;
            None: their own.
    """

    kind: str
    architecture: dict[str, Any]
    mean: list[float]
    std: list[float]
    eval_crop_ratio: float
    classes: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    bits: Literal[8, 16] | None = None
    thresholds: list[float] | None = None
    palette: list[list[int]] | None = None
    fit: Literal["crop", "stretch"] = "crop"
    short_side: int | None = None

    @property
    def target(self) -> str:
        """Return what a masked autoencoder predicts: "normalised" or "raw" pixels."""
        return target_name(self.architecture)


def write_model(folder: Path, tensors: dict[str, np.ndarray], description: Description) -> None:
    """Write both files into an existing folder; the caller makes that atomic."""
    write_tensor_file(folder / WEIGHTS_FILE, tensors)
    content = {"format": FORMAT, **asdict(description)}
    for name, usual in OPTIONAL.items():
        if content[name] == usual:
            del content[name]
    if description.kind == "mae":
        content["target"] = description.target
    (folder / DESCRIPTION_FILE).write_text(json.dumps(content, indent=2) + "\n")


def write_tensor_file(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write a safetensors file.

    Raises:
        OSError: no space or no permission; safetensors has an exception of its own for that.
    """
    try:
        # safetensors would write the memory of a transposed array as it lies
        contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
        save_file(contiguous, path, metadata={"format": "pt"})  # PyTorch users' loaders ask for it
    except SafetensorError as fault:
        system = re.search(r"os error (\d+)", str(fault))
        if system is None:
            raise
        code = int(system.group(1))
        raise OSError(code, os.strerror(code), str(path)) from fault


def read_description(folder: Path) -> Description:
    """Read `model.json`, which is held against the tensors of `model.safetensors` if that is there.

    Raises:
        FileNotFoundError: the folder has no such file.
        ValueError: the file is not one of ours, or describes another model than the weights next to it.
    """
    folder = Path(folder)
    path, weights = folder / DESCRIPTION_FILE, folder / WEIGHTS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no PaddleMAE model (no {DESCRIPTION_FILE}); name a run folder or one of its checkpoints"
        )
    try:
        content = {
            **OPTIONAL,
            **parse_object(read_bytes(path, MAX_DESCRIPTION_BYTES), MAX_DESCRIPTION_BYTES),
        }
        if content.get("format") == FORMAT:
            check_description(content)
    except ValueError as fault:
        raise ValueError(f"{path} is not a model description of PaddleMAE ({fault}); use another checkpoint") from fault
    if "format" not in content:
        raise ValueError(f"{path} is not a model description of PaddleMAE (it names no format); use another one")
    if content["format"] != FORMAT:
        raise ValueError(f"{path} is of format {brief(content['format'])}; this PaddleMAE reads format {FORMAT}")
    description = Description(**{name: content[name] for name in Description.__dataclass_fields__})
    if weights.is_file():
        check_belonging(description, mapped_tensors(weights), weights)
    return description


def check_belonging(description: Description, tensors: Mapping[str, np.ndarray], weights: Path) -> None:
    """Raise a ValueError unless the tensors of a file are those of the model that is described."""
    try:
        check_tensors(description.kind, description.architecture, tensors)
    except ValueError as fault:
        raise ValueError(
            f"{weights} does not fit the model that {DESCRIPTION_FILE} describes ({fault}); use another checkpoint"
        ) from fault


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Read `model.safetensors`.

    Raises:
        FileNotFoundError: the folder has no such file.
        ValueError: the file is damaged or not a safetensors file.
    """
    return read_tensor_file(Path(folder) / WEIGHTS_FILE)


def read_tensor_file(path: Path) -> dict[str, np.ndarray]:
    """Read one of our safetensors files into memory of its own, with errors that name it."""
    tensors = {}
    for name, view in mapped_tensors(path).items():
        tensors[name] = np.array(view)
        release(view)
    return tensors


def mapped_tensors(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of one of our safetensors files as views of it; errors as for `read_tensor_file`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; the checkpoint is incomplete, use another one")
    kind = kind_of(path)
    if kind not in ("safetensors", "unknown"):  # a damaged file may look like anything
        raise refusal(path, kind)
    try:
        tensors, _ = read_safetensors(path, MAX_HEADER_BYTES)
    except ValueError as fault:
        raise ValueError(f"{path} is damaged or no safetensors file ({fault}); use another checkpoint") from fault
    return {name: one.to_float32() if isinstance(one, BFloat16) else one for name, one in tensors.items()}
