"""Put a model and sample images into a header (JSON) and bytes, as the page's scripts read them.

Shapes: N sample images, C channels, H x W pixels, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from paddlemae.model.shape import pair, patch_grid
from paddlemae.weights.model_folder import Description

FORMAT = 1
Precision = Literal["float16", "float32"]
PATCH_WEIGHT = "patch_embed.proj.weight"
TRAINING_ONLY = "auxiliary."  # the head that only a training reads
# tables that are added to tokens: they stay in float32, since they are small and every token has their error
ADDED = ("pos_embed", "decoder_pos_embed", "cls_token", "mask_token")
LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class Samples:
    """Images that a page shows from the start.

    Attributes:
        names: of the images, any text.
        pixels_NCHW: uint8 or uint16, as the model's evaluation sees them.
        features_ND: float32, of length 1, for nearest neighbours; None leaves them out.
    """

    names: Sequence[str]
    pixels_NCHW: np.ndarray
    features_ND: np.ndarray | None = None


@dataclass
class Content:
    """Bytes that grow by arrays, each at a multiple of 4."""

    parts: list[bytes] = field(default_factory=list)
    length: int = 0

    def add(self, array: np.ndarray) -> int:
        """Append an array, little-endian; return where it begins."""
        start = self.length
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        self.parts.append(data + bytes(-len(data) % 4))
        self.length += len(self.parts[-1])
        return start


def bundle(
    description: Description,
    tensors: Mapping[str, np.ndarray],
    samples: Samples,
    *,
    title: str,
    pool: str,
    captions: Mapping[str, str],
    precision: Precision = "float16",
) -> tuple[dict[str, Any], bytes]:
    """Return (header, bytes) of a model and its samples.

    Args:
        tensors: with official names and layout.
        title: of the page.
        pool: which tokens make a feature of an image, "cls" or "mean".
        captions: texts about the predictions, by the kind of target.
        precision: of the weights; vectors and position tables are float32 in any case.
    """
    content = Content()
    header = describe_model(description, title=title, pool=pool, captions=captions)
    header["tensors"] = {
        name: _add_tensor(content, name, array, precision)
        for name, array in tensors.items()
        if not name.startswith(TRAINING_ONLY)
    }
    return header | add_samples(content, samples), b"".join(content.parts)


def describe_model(description: Description, *, title: str, pool: str, captions: Mapping[str, str]) -> dict[str, Any]:
    """Return the part of the header that says what the model is."""
    architecture = description.architecture
    size, patch = pair(architecture["image_size"]), pair(architecture["patch_size"])
    heads, decoder = architecture["num_heads"], architecture.get("decoder_depth") or 0
    return {
        "format": FORMAT,
        "kind": description.kind,
        "title": title,
        "architecture": architecture,
        "image": size,
        "patch": patch,
        "grid": patch_grid(size, patch),
        "channels": architecture["channels"],
        "mean": description.mean,
        "std": description.std,
        "bits": description.bits or 8,
        "fit": description.fit,
        "eval_crop_ratio": description.eval_crop_ratio,
        "target": description.target if description.kind == "mae" else None,
        "classes": description.classes,
        "thresholds": description.thresholds,
        "palette": description.palette,
        "pool": pool,
        "mask_ratio": description.provenance.get("mask_ratio") or 0.75,
        "blocks": {
            "encoder": [heads] * architecture["depth"],
            "decoder": [architecture["decoder_num_heads"]] * decoder if decoder else [],
        },
        "captions": dict(captions),
        "endpoint": None,
    }


def add_samples(content: Content, samples: Samples) -> dict[str, Any]:
    """Append the samples' pixels and features; return the part of the header that describes them."""
    pixels_NHWC = samples.pixels_NCHW.transpose(0, 2, 3, 1)
    features_ND = samples.features_ND
    return {
        "samples": [
            {"name": name, "offset": content.add(pixels_HWC), "length": pixels_HWC.nbytes}
            for name, pixels_HWC in zip(samples.names, pixels_NHWC)
        ],
        "sample_features": None
        if features_ND is None
        else {"width": features_ND.shape[1], "offset": content.add(features_ND.astype(np.float32))},
    }


def _add_tensor(content: Content, name: str, array: np.ndarray, precision: Precision) -> dict[str, Any]:
    array = np.asarray(array, np.float32)
    if name == PATCH_WEIGHT:  # [D, C, height, width] -> [D, pixels in the order row, column, channel]
        array = array.transpose(0, 2, 3, 1).reshape(len(array), -1)
    is_half = precision == "float16" and array.ndim > 1 and name not in ADDED and np.abs(array).max() <= LARGEST_HALF
    stored = array.astype(np.float16) if is_half else array
    return {"shape": array.shape, "offset": content.add(stored), "type": stored.dtype.name}
