"""Pages of tiny models with random weights, and what Python says should be on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from paddlemae.engine.safe_import import paddle
from paddlemae.model.classifier import VisionTransformer
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.masking import given_mask
from paddlemae.model.segmenter import Segmenter
from paddlemae.page.bundle import Samples, bundle
from paddlemae.page.write_page import render
from paddlemae.tasks.models.build import describe
from paddlemae.tasks.models.page_samples import CAPTIONS, pool_of
from paddlemae.tasks.models.reconstruction import draw_stages
from paddlemae.weights.model_folder import Description
from paddlemae.weights.transfer import to_official

NASTY = "<img src=x onerror=alert(1)>&lt;.png"
GRID = (4, 6)
SHAPE: dict[str, Any] = {"image_size": [32, 48], "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
DECODER: dict[str, Any] = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
STATISTICS = {1: ([0.4], [0.3]), 3: ([0.4, 0.5, 0.6], [0.2, 0.3, 0.25]), 5: ([0.5] * 5, [0.25] * 5)}


class Page(NamedTuple):
    """A page on disk.

    Attributes:
        images: of the samples, uint8 or uint16 [N, C, H, W].
    """

    path: Path
    model: Any
    description: Description
    images: np.ndarray
    header: dict[str, Any]


def mae(channels: int = 3, **settings: Any) -> MaskedAutoencoder:
    return MaskedAutoencoder(**{**SHAPE, **DECODER, "channels": channels, **settings})


def classifier(classes: int = 7) -> VisionTransformer:
    return with_opinions(VisionTransformer(**SHAPE, channels=3, num_classes=classes))


def segmenter(classes: int = 4) -> Segmenter:
    return with_opinions(Segmenter(**SHAPE, channels=3, num_classes=classes, head="linear"))


def with_opinions(model: Any) -> Any:
    """Give the head, which begins near 0, weights by which classes differ."""
    generator = np.random.default_rng(6)
    for name, tensor in model.state_dict().items():
        if name.startswith("head") and "running" not in name:
            tensor.set_value(generator.normal(0, 0.5, tensor.shape).astype(np.float32))
    return model


def write_page(folder: Path, model: Any, *, bits: Any = 8, samples: int = 6, kind: str = "", **about: Any) -> Page:
    """Write the page of a model.

    Args:
        kind: "encoder" for a classifier's encoder alone.
        about: for `describe`: `classes`, `thresholds`, `palette`, `fit`, `eval_crop_ratio`.
    """
    channels = model.config["channels"]
    count = model.config.get("num_classes", 0)
    defaults: dict[str, Any] = {"eval_crop_ratio": 0.875, "classes": [f"class {i}" for i in range(count)]}
    description = describe(model, STATISTICS[channels], bits=bits, **{**defaults, **about})
    if kind:
        description = replace(description, kind=kind, classes=[])
    images = smooth_images(samples, channels, bits)
    features = np.random.default_rng(1).normal(size=(samples, 8)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    width = model.config["embed_dim"]
    features = np.pad(features, ((0, 0), (0, width - 8)))
    names = [NASTY, *(f"sample {number}.png" for number in range(1, samples))]
    shown = Samples(names[:samples], images, features)
    settings: dict[str, Any] = {"title": "A page", "pool": pool_of(model), "captions": CAPTIONS}
    header, content = bundle(description, to_official(model), shown, precision="float32", **settings)
    path = folder / "page.html"
    path.write_text(render(header, content), encoding="utf-8")
    return Page(path, model, description, images, header)


def smooth_images(count: int, channels: int, bits: int) -> np.ndarray:
    """Return images [N, C, H, W] of a few bumps each."""
    coarse = np.random.default_rng(3).random((max(1, count), channels, 4, 6))
    fine = [
        [
            np.asarray(Image.fromarray(plane.astype(np.float32)).resize((48, 32), Image.Resampling.BICUBIC))
            for plane in one
        ]
        for one in coarse
    ]
    top = 2**bits - 1
    return (np.clip(fine, 0, 1) * top).astype(np.uint16 if bits == 16 else np.uint8)[:count]


def stages(page: Page, place: int, removed: np.ndarray) -> dict[str, np.ndarray]:
    """Return every stage of a sample's reconstruction by Paddle, uint8 [H, W, C]; see `draw_stages`."""
    with paddle.no_grad():
        mask = given_mask(removed.reshape(1, *GRID), GRID)
        drawn = draw_stages(page.model, page.description, page.images[place : place + 1], mask)
    return {name: picture[0] for name, picture in drawn.items()}


def canvas(page: Any, name: str) -> np.ndarray:
    """Return what a canvas of the page holds, uint8 [H, W, 3]."""
    script = """name => {
      const one = document.getElementById(name).cloneNode();
      const context = one.getContext('2d', { willReadFrequently: true }); // a browser warns of reading others often
      context.drawImage(document.getElementById(name), 0, 0);
      const data = context.getImageData(0, 0, one.width, one.height).data;
      return [one.height, one.width, Array.from(data)];
    }"""
    height, width, data = page.evaluate(script, name)
    return np.array(data, np.uint8).reshape(height, width, 4)[..., :3]


def removed_on(page: Any) -> np.ndarray:
    """Return the mask that the page shows, bool [L]: where the picture of the masked image is grey."""
    masked, original = canvas(page, "masked"), canvas(page, "original")
    changed = ((masked == 128).all(axis=2) & (original != 128).any(axis=2)).reshape(GRID[0], 8, GRID[1], 8)
    return changed.mean(axis=(1, 3)).ravel() > 0.5
