"""Compare our model's outputs with those of another implementation of the same weights.

Shapes: B images, C channels, H x W pixels, L patches, D features, P pixels a patch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from paddlemae.engine import device
from paddlemae.engine.safe_import import paddle
from paddlemae.model.encoder import features
from paddlemae.model.mae import MaskedAutoencoder, predict
from paddlemae.model.masking import Mask, num_kept, random_mask
from paddlemae.model.segmenter import Segmenter
from paddlemae.system.atomic import replace_bytes
from paddlemae.tasks.models.array_file import FAULTS, names_of, read_arrays
from paddlemae.tasks.models.build import load_encoder
from paddlemae.tasks.models.export_weights import export_checkpoint, write_folder
from paddlemae.tasks.models.read_model import Checkpoint, Reading, in_float32, read_checkpoint, tensors_digest
from paddlemae.weights import numpy_reference
from paddlemae.weights.layouts.upernet import BEIT

IMAGES, SEED, MASK_RATIO = 2, 0, 0.75
LARGEST = 1e-4  # relative difference of float32 models that compute the same
ORIGINAL = "transformers"
Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Verified:
    """Differences between two computations of the same outputs.

    Attributes:
        against: what ours were compared with.
        differences: output -> norm of the difference over the norm of the other's.
    """

    against: str
    differences: dict[str, float]

    @property
    def holds(self) -> bool:
        return max(self.differences.values()) <= LARGEST


def verify(path: str | Path, reading: Reading, golden: Path | None = None, *, trust: bool = False) -> Verified:
    """Compare our model's outputs on fixed images with those of another implementation, of the same weights.

    That is transformers' on PyTorch where they are installed and have such a model (for a folder of theirs, loaded from
    that folder by themselves), else `weights.numpy_reference`, in NumPy.

    Args:
        path: one of our models, or any weights.
        golden: a file of such outputs: compared with if it is there, written if not.
    Raises:
        FileNotFoundError, ValueError: weights that can't be read, or a golden of other weights.
    """
    checkpoint = read_checkpoint(path, reading, trust=trust)
    device.prepare("cpu")
    ours = our_outputs(checkpoint)
    if golden and golden.exists():
        return _compared(f"the outputs in {golden}", ours, _read_golden(golden, tensors_digest(checkpoint)))
    against, theirs = _originals(checkpoint)
    if golden:
        digest = np.frombuffer(tensors_digest(checkpoint), np.uint8)
        content = io.BytesIO()
        np.savez(content, digest=digest, against=np.array(against), **theirs)  # type: ignore[arg-type]
        replace_bytes(golden, content.getbuffer())
    return _compared(against, ours, theirs)


def has_originals() -> bool:
    """Return whether transformers and PyTorch are installed."""
    return all(importlib.util.find_spec(name) for name in (ORIGINAL, "torch"))


def _originals(checkpoint: Checkpoint) -> tuple[str, Outputs]:
    """Return (name of the implementation, its outputs)."""
    if has_originals():
        with contextlib.suppress(_NotTheirs):
            return _transformers_outputs(checkpoint)
    images, mask, _ = fixed_input(checkpoint)
    description = checkpoint.description
    if description.kind == "segmenter":
        raise ValueError(
            f"{checkpoint.folder} holds a segmenter, and those with the head upernet are compared with transformers "
            "alone; for them install paddlemae[parity], or name a --golden that was recorded with it"
        )
    return "the definition in NumPy", numpy_reference.outputs(
        description.kind, description.architecture, in_float32(checkpoint), images, mask.keep
    )


def fixed_input(checkpoint: Checkpoint) -> tuple[np.ndarray, Mask, np.ndarray]:
    """Return (normalised images float32 [B, C, H, W], their masks, the noise that the masks are drawn from [B, L])."""
    shape = checkpoint.description.architecture
    (height, width), (rows, columns) = shape["image_size"], shape["patch_size"]
    rng = np.random.default_rng(SEED)
    images = rng.standard_normal((IMAGES, shape["channels"], height, width)).astype(np.float32)
    noise = rng.random((IMAGES, (height // rows) * (width // columns))).astype(np.float32)
    return images, random_mask(noise, num_kept(noise.shape[1], MASK_RATIO)), noise


@paddle.no_grad()
def our_outputs(checkpoint: Checkpoint) -> Outputs:
    """Return our model's outputs for the fixed input, named as by `numpy_reference.outputs`."""
    images, mask, _ = fixed_input(checkpoint)
    model, tensor = load_encoder(checkpoint), paddle.to_tensor(images)
    if isinstance(model, Segmenter):
        return {"logits": model(tensor).numpy()}
    outputs = {"features": features(model, tensor, "mean" if model.kind == "mae" else model.pool).numpy()}
    if isinstance(model, MaskedAutoencoder):
        outputs["prediction"] = predict(model, tensor, mask).numpy()
    elif model.has_head:
        outputs["logits"] = model(tensor).numpy()
    return outputs


class _NotTheirs(Exception):
    """A model that transformers has no class for."""


def _transformers_outputs(checkpoint: Checkpoint) -> tuple[str, Outputs]:
    import torch
    import transformers

    kind = checkpoint.description.kind
    images, _, noise = fixed_input(checkpoint)
    tensor = torch.from_numpy(images)
    classes = {
        "mae": "ViTMAEForPreTraining",
        "classifier": "ViTForImageClassification",
        "encoder": "ViTModel",
        "segmenter": "BeitForSemanticSegmentation",
    }
    with tempfile.TemporaryDirectory() as folder:
        load = partial(getattr(transformers, classes[kind]).from_pretrained, _their_folder(checkpoint, Path(folder)))
        model = load(add_pooling_layer=False) if kind == "encoder" else load()
    model.eval()
    if kind == "encoder":
        theirs = model(tensor).last_hidden_state
        pool = checkpoint.description.architecture.get("pool", "mean")
        outputs = {"features": theirs[:, 0] if pool == "cls" else theirs[:, 1:].mean(dim=1)}
    elif kind == "segmenter":
        logits = model(tensor).logits
        size = tensor.shape[2:]
        outputs = {"logits": torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)}
    elif kind == "classifier":
        outputs = {"features": model.vit(tensor).last_hidden_state[:, 0], "logits": model(tensor).logits}
    else:
        model.config.mask_ratio = MASK_RATIO
        outputs = {"prediction": model(tensor, noise=torch.from_numpy(noise)).logits}
        model.config.mask_ratio = 0.0  # all patches, in their order
        ordered = torch.arange(noise.shape[1], dtype=torch.float32).expand(len(noise), -1)
        outputs["features"] = model.vit(tensor, noise=ordered).last_hidden_state[:, 1:].mean(dim=1)
    return f"transformers {transformers.__version__}", {
        name: output.detach().numpy() for name, output in outputs.items()
    }


def _their_folder(checkpoint: Checkpoint, temporary: Path) -> Path:
    """Return the folder itself if transformers wrote it, else one written below `temporary`."""
    layout = BEIT if checkpoint.description.kind == "segmenter" else ORIGINAL
    if checkpoint.description.provenance.get("layout") == layout and (checkpoint.folder / "config.json").exists():
        return checkpoint.folder
    try:
        exported = export_checkpoint(checkpoint, layout)
    except ValueError as fault:
        raise _NotTheirs from fault
    write_folder(temporary / "model", exported)
    return temporary / "model"


def _compared(against: str, ours: Outputs, theirs: Mapping[str, np.ndarray]) -> Verified:
    differences = {}
    for name, output in ours.items():
        other = np.asarray(theirs[name], np.float64)
        differences[name] = float(np.linalg.norm(output - other)) / max(float(np.linalg.norm(other)), 1e-30)
    return Verified(against, differences)


def _read_golden(path: Path, digest: bytes) -> Outputs:
    try:
        outputs = read_arrays(path, dict.fromkeys(names_of(path), "fiuU"))
    except FAULTS as fault:
        raise ValueError(
            f"{path} holds no recorded outputs ({fault}); name a file that does not exist to record them"
        ) from fault
    if outputs.get("digest", np.empty(0, np.uint8)).tobytes() != digest:
        raise ValueError(f"{path} holds the outputs of other weights; name another --golden")
    return outputs
