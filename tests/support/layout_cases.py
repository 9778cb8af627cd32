"""List one file of each kind that a layout has, and the images that its model gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.support.layout_layers import PATCH, Tensors
from tests.support.layout_models import (
    CHANNELS,
    CLASSES,
    DECODER_HEADS,
    HEADS,
    MEAN,
    STD,
    WIDTH,
    hf_config,
    hf_tensors,
    mae_pytorch_tensors,
    official_tensors,
    paddlevit_tensors,
)


@dataclass(frozen=True)
class Case:
    """A file of some layout, the files next to it, and how it is read."""

    layout: str
    kind: str
    tensors: Tensors
    image_size: tuple[int, int] = (8, 8)
    config: dict[str, Any] | None = None
    extras: dict[str, Any] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


def _timm_config(classes: int, pool: str) -> dict[str, Any]:
    arguments = dict(img_size=[8, 8], num_heads=HEADS, embed_dim=WIDTH)
    pretrained = dict(mean=MEAN, std=STD, input_size=[3, 8, 8])
    config = dict(architecture="vit_base_patch16_224", num_classes=classes, global_pool=pool)
    return config | dict(model_args=arguments, pretrained_cfg=pretrained)


def _cases() -> dict[str, Case]:
    grid, wide = (2, 2), (2, 3)
    asked: dict[str, Any] = dict(heads=HEADS)
    both = dict(asked, decoder_heads=DECODER_HEADS)
    size = dict(image_size=(8, 12))
    labels = {"id2label": {str(number): f"kind {number}" for number in range(CLASSES)}}
    cases = {}
    for layout, paddle in (("official", False), ("paddle", True)):
        made: dict[str, Case] = {
            "pretrained": Case(layout, "mae", official_tensors("norm decoder", grid, paddle=paddle), arguments=both),
            "pretrained, 8 x 12": Case(
                layout, "mae", official_tensors("norm decoder", wide, paddle=paddle), (8, 12), arguments=both
            ),
            "encoder": Case(layout, "encoder", official_tensors("norm", grid, paddle=paddle), arguments=asked),
            "fine-tuned, mean": Case(
                layout,
                "classifier",
                official_tensors("fc_norm head", grid, learned=True, paddle=paddle),
                arguments=asked,
            ),
            "fine-tuned, cls": Case(
                layout, "classifier", official_tensors("norm head", grid, paddle=paddle), arguments=asked
            ),
            "probe": Case(layout, "classifier", official_tensors("norm probe", grid, paddle=paddle), arguments=asked),
        }
        cases |= {f"{layout}: {name}": case for name, case in made.items()}
    for layout, paddle in (("mae-pytorch", False), ("paddle-mae-pytorch", True)):
        pretrained = mae_pytorch_tensors(pretrained=True, paddle=paddle)
        fixed = mae_pytorch_tensors(pretrained=False, paddle=paddle)
        learned = mae_pytorch_tensors(pretrained=False, paddle=paddle, learned=6)
        made = {
            "pretrained": Case(layout, "mae", pretrained, arguments=both | dict(image_size=8)),
            "fine-tuned": Case(layout, "classifier", fixed, arguments=asked | dict(image_size=8)),
            "fine-tuned, learned": Case(layout, "classifier", learned, (8, 12), arguments=asked | size),
        }
        cases |= {f"{layout}: {name}": case for name, case in made.items()}
    encoder, avg = official_tensors("norm", grid), official_tensors("fc_norm head", grid, bias=False)
    avg_config = _timm_config(CLASSES, "avg")
    avg_config["model_args"]["qkv_bias"] = False
    return cases | {
        "timm: encoder": Case("timm", "encoder", encoder, config=_timm_config(0, "token")),
        "timm: avg, no bias": Case("timm", "classifier", avg, config=avg_config),
        "timm: token": Case(
            "timm", "classifier", official_tensors("norm head", grid), config=_timm_config(CLASSES, "token")
        ),
        "transformers: ViTMAEForPreTraining": Case(
            "transformers", "mae", hf_tensors("decoder", grid), config=hf_config("mae", image_size=8)
        ),
        "transformers: no bias": Case(
            "transformers",
            "mae",
            hf_tensors("decoder", grid, bias=False),
            config=hf_config("mae", image_size=8, qkv_bias=False),
        ),
        "transformers: ViTMAEModel": Case("transformers", "encoder", hf_tensors("", grid, ""), config=hf_config("mae")),
        "transformers: ViTModel": Case(
            "transformers", "encoder", hf_tensors("pooler", grid, "", learned=True), config=hf_config("vit")
        ),
        "transformers: ViTForImageClassification": Case(
            "transformers",
            "classifier",
            hf_tensors("head", grid, learned=True),
            config=hf_config("vit", **labels),
            extras={"preprocessor_config.json": {"image_mean": MEAN, "image_std": STD}},
        ),
        "paddlevit: MAE": Case("paddlevit", "mae", paddlevit_tensors("mae", grid), arguments=both),
        "paddlevit: MAE fine-tuned": Case("paddlevit", "classifier", paddlevit_tensors("mean", grid), arguments=asked),
        "paddlevit: ViT": Case("paddlevit", "classifier", paddlevit_tensors("vit", grid), arguments=asked),
        "paddlevit: old ViT": Case("paddlevit", "classifier", paddlevit_tensors("old", grid), arguments=asked),
    }


CASES = _cases()


def images_of(case: Case) -> np.ndarray:
    return np.random.default_rng(1).uniform(-2, 2, (2, CHANNELS, *case.image_size)).astype(np.float32)


def rows_of(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return (kept, removed) patches, different ones in the two images."""
    patches = (case.image_size[0] // PATCH) * (case.image_size[1] // PATCH)
    removed = np.array([[0, patches - 1], [1, patches - 2]])
    removed.sort(axis=1)
    keep = np.array([[row for row in range(patches) if row not in gone] for gone in removed.tolist()])
    return keep, removed


def unshown_settings(case: Case) -> dict[str, Any]:
    """Return the settings that the tensors of a case do not show."""
    return dict(heads=HEADS, decoder_heads=DECODER_HEADS, image_size=case.image_size)


def changed(case: Case, without: str = "", **more: Any) -> Tensors:
    """Return a copy of a case's file with other tensors, and without one."""
    return {name: array for name, array in case.tensors.items() if name != without} | more
