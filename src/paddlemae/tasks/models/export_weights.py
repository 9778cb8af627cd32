"""Translate a checkpoint into the names and layout of another library."""

from __future__ import annotations

import json
from pathlib import Path

from paddlemae.tasks.models.read_model import Checkpoint, in_float32
from paddlemae.weights.layouts import Exported, export_weights
from paddlemae.weights.model_folder import WEIGHTS_FILE, write_tensor_file
from paddlemae.weights.open import CONFIG


def export_checkpoint(checkpoint: Checkpoint, to: str) -> Exported:
    """Return a checkpoint's weights in another layout, in float32."""
    description = checkpoint.description
    return export_weights(
        to,
        description.kind,
        description.architecture,
        in_float32(checkpoint),
        mean=description.mean,
        std=description.std,
        classes=description.classes,
    )


def write_folder(out: Path, exported: Exported) -> None:
    """Write a folder as the Hugging Face hub has it."""
    out.mkdir()
    write_tensor_file(out / WEIGHTS_FILE, exported.tensors)
    for name, content in {CONFIG: exported.config, **exported.files}.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n")
