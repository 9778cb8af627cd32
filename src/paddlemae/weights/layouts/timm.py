"""timm's layout of ViTs, and the `config.json` of its folders: official names, no decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paddlemae.model.shape import PUBLISHED
from paddlemae.system.display_names import display_name
from paddlemae.weights.layouts.settings import Settings, numbers, size_of, whole
from paddlemae.weights.layouts.tensor_names import CLASSIFIER, ENCODER, same_names

NAMES = same_names(*ENCODER, *CLASSIFIER)
POOLS = {"mean": "avg", "cls": "token"}


def is_config(config: Mapping[str, Any] | None) -> bool:
    return config is not None and "architecture" in config and "model_type" not in config


def settings_of(config: Mapping[str, Any]) -> Settings:
    """Read the settings in `config.json`.

    Raises:
        ValueError: no ViT, or one that pools as ours don't.
    """
    name = str(config.get("architecture"))
    if not name.startswith("vit_"):
        raise ValueError(f"config.json is of the architecture {display_name(repr(name))}; timm's vit_... are read")
    arguments = _mapping(config.get("model_args"))
    pretrained = _mapping(config.get("pretrained_cfg", config))  # older folders have it all at the top
    if arguments.get("act_layer", "gelu") != "gelu":
        raise ValueError(
            f"config.json has act_layer {display_name(repr(arguments['act_layer']))}; our blocks have the exact 'gelu'"
        )
    size = arguments.get("img_size", pretrained.get("input_size"))
    labels = config.get("label_names", pretrained.get("label_names"))
    pool = config.get("global_pool", arguments.get("global_pool"))
    return Settings(
        image_size=size_of(size, "config.json's input_size"),
        heads=whole(arguments.get("num_heads"), "config.json's num_heads"),
        mean=numbers(pretrained.get("mean"), "config.json's mean"),
        std=numbers(pretrained.get("std"), "config.json's std"),
        classes=[str(label) for label in labels] if isinstance(labels, (list, tuple)) else [],
        declared={"pool": {theirs: ours for ours, theirs in POOLS.items()}.get(str(pool), pool) or None},
        biasless=arguments.get("qkv_bias") is False,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def write_parts(
    kind: str, architecture: Mapping[str, Any], tensors: Mapping[str, np.ndarray], notes: list[str]
) -> dict[str, np.ndarray]:
    """Return our tensors without the decoder's, for which timm has no names.

    Raises:
        ValueError: a classifier that pools as timm's do not.
    """
    if architecture.get("pool", "cls") not in POOLS:
        raise ValueError(f"timm's layout can't hold this model: it pools by {architecture['pool']}")
    if kind == "mae":
        notes.append("timm has no decoder: the encoder alone is written, as in its own vit_*.mae")
    return {name: array for name, array in tensors.items() if not name.startswith(("decoder_", "mask_token"))}


def config_of(
    kind: str, architecture: Mapping[str, Any], mean: Any, std: Any, classes: Sequence[str]
) -> dict[str, Any]:
    """Return the content of `config.json`."""
    width, patch = architecture["embed_dim"], architecture["patch_size"]
    size = [int(one) for one in architecture["image_size"]]
    pool = POOLS[architecture.get("pool", "cls")]
    config: dict[str, Any] = {
        "architecture": _architecture(width, patch),
        "num_classes": architecture["num_classes"] if kind == "classifier" else 0,
        "num_features": width,
        "global_pool": pool,
        "model_args": {
            "img_size": size,
            "patch_size": [int(one) for one in patch],
            "in_chans": architecture["channels"],
            "embed_dim": width,
            "depth": architecture["depth"],
            "num_heads": architecture["num_heads"],
            "mlp_ratio": architecture["mlp_ratio"],
            "class_token": architecture["cls_token"],
            "global_pool": pool,
        },
        "pretrained_cfg": {
            "tag": "mae",
            "custom_load": False,
            "input_size": [architecture["channels"], *size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "mean": numbers(list(mean), "mean"),
            "std": numbers(list(std), "std"),
            "num_classes": architecture["num_classes"] if kind == "classifier" else 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    if classes:
        config["label_names"] = list(classes)
    return config


def _architecture(width: int, patch: Sequence[int]) -> str:
    """Return the registered model nearest to ours; `model_args` states the differences."""
    if width == 1280:
        return "vit_huge_patch14_224"
    return f"vit_{PUBLISHED.get(width, 'base')}_patch16_224"
