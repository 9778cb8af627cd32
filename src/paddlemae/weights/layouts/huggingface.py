"""transformers' layout, ViTMAE and ViT: separate queries, keys and values, and a configuration file.

Its names have changed with its versions, and version 5 writes `decoder_encoder.layer` where all others read
`decoder_layers`: all are read, those of the published files are written.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from paddlemae.system.display_names import display_name
from paddlemae.weights.layouts.settings import Settings, numbers, size_of, whole
from paddlemae.weights.layouts.tensor_names import Draft, Pairs

EPSILON = 1e-6  # our LayerNorm's
ACTIVATION = "gelu"
# (ours, published, version 5)
LAYER = (
    ("norm1", "layernorm_before", "layernorm_before"),
    ("attn.q", "attention.attention.query", "attention.q_proj"),
    ("attn.k", "attention.attention.key", "attention.k_proj"),
    ("attn.v", "attention.attention.value", "attention.v_proj"),
    ("attn.proj", "attention.output.dense", "attention.o_proj"),
    ("norm2", "layernorm_after", "layernorm_after"),
    ("mlp.fc1", "intermediate.dense", "mlp.fc1"),
    ("mlp.fc2", "output.dense", "mlp.fc2"),
)


def _layers(ours: str, *theirs: str) -> Pairs:
    names = [
        (f"{ours}.{{}}.{one[0]}", f"{place}.{{}}.{one[age]}") for place in theirs for age in (1, 2) for one in LAYER
    ]
    return tuple(dict.fromkeys(names))


NAMES: Pairs = (
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
    *_layers("blocks", "encoder.layer", "layers", "encoder.layers"),
    ("norm", "layernorm"),
    ("head", "classifier"),
    ("decoder_embed", "decoder.decoder_embed"),
    ("mask_token", "decoder.mask_token"),
    ("decoder_pos_embed", "decoder.decoder_pos_embed"),
    *_layers("decoder_blocks", "decoder.decoder_layers", "decoder.decoder_encoder.layer", "decoder.layers"),
    ("decoder_norm", "decoder.decoder_norm"),
    ("decoder_pred", "decoder.decoder_pred"),
)
LEFT_OVER = (
    (r"pooler\..*", "the pooler, which no masked autoencoder trains"),
    (r"embeddings\.mask_token", "masks patches of ViT's own masked image modelling, not of MAE"),
)
ENCODER_PREFIXES = ("vit.", "vit_mae.")


def encoder_prefix(names: Collection[str]) -> str:
    """Return the prefix of the encoder's names in models with a head or decoder."""
    return next((one for one in ENCODER_PREFIXES if any(name.startswith(f"{one}embeddings.") for name in names)), "")


def with_prefix(name: str, prefix: str) -> str:
    """Add the prefix to an encoder's name, as in a whole model."""
    return name if name.startswith(("decoder.", "classifier.")) else prefix + name


def read_parts(draft: Draft, settings: Settings) -> None:
    """Join queries, keys and values.

    Raises:
        ValueError: some of a block's are missing.
    """
    settings.biasless = True
    first = re.compile(r"((?:decoder_)?blocks\.\d+\.attn\.)[qkv]\.weight")
    prefixes = dict.fromkeys(found[1] for name in draft.tensors if (found := first.fullmatch(name)))
    biased = {prefix.split(".")[0] for prefix in prefixes for part in "qkv" if f"{prefix}{part}.bias" in draft.tensors}
    endings = {prefix: ["weight", "bias"] if prefix.split(".")[0] in biased else ["weight"] for prefix in prefixes}
    wanted = [f"{prefix}{part}.{ending}" for prefix in prefixes for ending in endings[prefix] for part in "qkv"]
    missing = [display_name(draft.their_name(name)) for name in wanted if name not in draft.tensors]
    if missing:
        raise ValueError(f"missing: {', '.join(missing[:8])}{' and more' if len(missing) > 8 else ''}")
    for prefix in prefixes:
        for ending in endings[prefix]:
            parts = [draft.tensors.pop(f"{prefix}{part}.{ending}") for part in "qkv"]
            if any(part.shape != parts[0].shape for part in parts):
                name = display_name(draft.their_name(f"{prefix}q.{ending}"))
                raise ValueError(f"{name} and its key and value are of different shapes: {[p.shape for p in parts]}")
            draft.set(f"{prefix}qkv.{ending}", np.concatenate(parts), "query, key and value joined")


def settings_of(config: Mapping[str, Any], notes: list[str]) -> Settings:
    """Read the settings in `config.json`.

    Raises:
        ValueError: another kind of model, activation or epsilon than ours.
    """
    model = config.get("model_type")
    if model not in ("vit", "vit_mae"):
        raise ValueError(f"config.json is of model_type {display_name(repr(model))}; vit and vit_mae are read")
    if config.get("hidden_act", ACTIVATION) != ACTIVATION:
        raise ValueError(
            f"config.json has hidden_act {display_name(repr(config['hidden_act']))}; our blocks have the exact 'gelu'"
        )
    epsilon = config.get("layer_norm_eps", 1e-12)
    if not isinstance(epsilon, float) or not 0 <= epsilon <= EPSILON:
        raise ValueError(
            f"config.json has layer_norm_eps {display_name(repr(epsilon))}; our models have {EPSILON}, and 1e-12 is "
            "near it"
        )
    if epsilon != EPSILON:
        notes.append(
            f"config.json has layer_norm_eps {epsilon} and our models {EPSILON}, as MAE's own: where tokens are tiny, "
            "results differ by that"
        )
    labels = config.get("id2label")
    return Settings(
        image_size=size_of(config.get("image_size"), "config.json's image_size"),
        heads=whole(config.get("num_attention_heads"), "config.json's num_attention_heads"),
        decoder_heads=whole(config.get("decoder_num_attention_heads"), "config.json's decoder_num_attention_heads"),
        norm_pix_loss=config.get("norm_pix_loss", False) is True if model == "vit_mae" else None,
        classes=_classes(labels) if isinstance(labels, Mapping) else [],
        declared={"embed_dim": config.get("hidden_size"), "depth": config.get("num_hidden_layers")},
    )


def _classes(labels: Mapping[str, Any]) -> list[str]:
    """Return class names in order; none for transformers' placeholders."""
    try:
        names = [str(labels[key]) for key in sorted(labels, key=int)]
    except (TypeError, ValueError):
        return []
    return [] if names == [f"LABEL_{number}" for number in range(len(names))] else names


def write_parts(
    kind: str, architecture: Mapping[str, Any], tensors: Mapping[str, np.ndarray], notes: list[str]
) -> dict[str, np.ndarray]:
    """Return our tensors with separate queries, keys and values.

    Raises:
        ValueError: what transformers' models have no place for.
    """
    refused = []
    if not architecture["cls_token"]:
        refused.append("it has no cls token")
    if architecture.get("pool") == "mean":
        refused.append("it pools by the mean and normalises then, where ViT takes the cls token")
    if architecture.get("pool") == "mean+std":
        refused.append("it pools by mean and deviation, where ViT takes the cls token")
    if kind == "mae":  # ViTMAE's own code builds square tables only and cuts squares
        for what in ("image", "patch"):
            if len(set(architecture[f"{what}_size"])) > 1:
                refused.append(f"ViTMAE takes square {what}{'es' if what == 'patch' else 's'} alone")
    if refused:
        raise ValueError(f"transformers' layout can't hold this model: {'; '.join(refused)}")
    if kind == "encoder":
        notes.append("written as a ViTModel without pooler; transformers initialises it at random and warns")
    if kind == "mae" and architecture["positions"] == "learned":
        notes.append("the position table was learned here; ViTMAE keeps it as it is and does not train it")
    parts: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        if ".attn.qkv." in name:
            before, ending = name.split(".attn.qkv.")
            parts |= {f"{before}.attn.{part}.{ending}": one for part, one in zip("qkv", np.split(array, 3))}
        else:
            parts[name] = array
    return parts


def config_of(kind: str, architecture: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Return the content of `config.json`."""
    width, ratio = architecture["embed_dim"], architecture["mlp_ratio"]
    names = {"mae": "ViTMAEForPreTraining", "classifier": "ViTForImageClassification", "encoder": "ViTModel"}
    names |= {"segmenter": "BeitForSemanticSegmentation"}
    config: dict[str, Any] = {
        "architectures": [names[kind]],
        "model_type": "vit_mae" if kind == "mae" else "vit",
        "attention_probs_dropout_prob": 0.0,
        "dtype": "float32",
        "hidden_act": ACTIVATION,
        "hidden_dropout_prob": 0.0,
        "hidden_size": width,
        "image_size": _plain(architecture["image_size"]),
        "initializer_range": 0.02,
        "intermediate_size": int(width * ratio),
        "layer_norm_eps": EPSILON,
        "num_attention_heads": architecture["num_heads"],
        "num_channels": architecture["channels"],
        "num_hidden_layers": architecture["depth"],
        "patch_size": _plain(architecture["patch_size"]),
        "qkv_bias": True,
    }
    if kind == "mae":
        narrow = architecture["decoder_embed_dim"]
        config |= {
            "decoder_hidden_size": narrow,
            "decoder_intermediate_size": int(narrow * ratio),
            "decoder_num_attention_heads": architecture["decoder_num_heads"],
            "decoder_num_hidden_layers": architecture["decoder_depth"],
            "mask_ratio": 0.75,
            "norm_pix_loss": architecture["norm_pix_loss"],
        }
    if kind in ("classifier", "segmenter"):
        named = list(classes) or [f"LABEL_{number}" for number in range(architecture["num_classes"])]
        config["id2label"] = {str(number): name for number, name in enumerate(named)}
        config["label2id"] = {name: number for number, name in enumerate(named)}
    return config


def _plain(size: Sequence[int]) -> int | list[int]:
    return int(size[0]) if size[0] == size[1] else [int(one) for one in size]


def preprocessor_of(architecture: Mapping[str, Any], mean: Any, std: Any) -> dict[str, Any]:
    """Return the content of `preprocessor_config.json`, which describes the preprocessing of images."""
    height, width = architecture["image_size"]
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": numbers(list(mean), "mean"),
        "image_std": numbers(list(std), "std"),
        "resample": 3,  # bicubic
        "rescale_factor": 1 / 255,
        "size": {"height": int(height), "width": int(width)},
    }
