"""Results of reading and writing a layout."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Imported:
    """Foreign weights translated to our names.

    Attributes:
        layout: which one it was, of `LAYOUTS`.
        kind: "mae", "classifier", "segmenter" or "encoder" (no decoder, no head).
        architecture: the keyword arguments of `MaskedAutoencoder` ("mae"), `Segmenter` or `VisionTransformer`; an
            "encoder" is the last one with `num_classes=0`.
        tensors: what `transfer.load_official` wants for that model, but the head of 0 classes. Views of the file where
            nothing had to be changed, so of its types, and transposed ones are not contiguous.
        converted: our name -> how it was made, where it is not the file's array under the same name.
        left_over: the file's name -> why it is not used.
        mean, std: what images are normalised with, if the file says so.
        classes: names in the head's order, if the file says so.
        palette: the colours of a segmenter's classes, if the file says so.
        notes: what a user should know, one sentence each.
    """

    layout: str
    kind: str
    architecture: dict[str, Any]
    tensors: dict[str, np.ndarray]
    converted: dict[str, str]
    left_over: dict[str, str]
    mean: list[float] | None = None
    std: list[float] | None = None
    classes: list[str] = field(default_factory=list)
    palette: list[list[int]] | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Exported:
    """Our weights translated to a layout.

    Attributes:
        tensors: its names, its way of laying Linear weights; contiguous.
        config: `config.json` of a folder of that layout; None if it has none.
        wrapper: the key under which that layout's files hold the tensors; None for the whole file.
        files: name -> content of what else belongs into its folder.
        notes: what a user should know, one sentence each.
    """

    tensors: dict[str, np.ndarray]
    config: dict[str, Any] | None = None
    wrapper: str | None = None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
