"""Two layouts of segmenters with UPerNet: mmsegmentation's MAE, and transformers' BeitForSemanticSegmentation.

Both have BEiT's blocks: layer scale, which is folded into the layer in front of it, and no bias of keys, which has no
effect. transformers' version 5 has other names in memory than in its published files: both are read, those of the
files are written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paddlemae.model.shape import RELATIVE_POSITIONS, TAPS, relative_distances
from paddlemae.system.display_names import display_name
from paddlemae.weights.layouts import huggingface
from paddlemae.weights.layouts.settings import Settings
from paddlemae.weights.layouts.tensor_names import BLOCK, Draft, Pairs

BEIT, MMSEGMENTATION = "beit", "mmsegmentation"
SHARED = f"shared.{RELATIVE_POSITIONS}"  # BEiT's table for all blocks
SCALES = (("scale1", "attn.proj"), ("scale2", "mlp.fc2"))  # layer scale, and what it is folded into
LARGEST_SIDE = 4096  # pixels, of a model whose table of positions is made here
COUNTER = "num_batches_tracked"
# blocks that the published models tap, counted from 1, by their number
PUBLISHED_TAPS = {12: [4, 6, 8, 12], 24: [8, 12, 16, 24]}

_MMSEG_BLOCK = (
    ("norm1", "ln1"),
    ("norm2", "ln2"),
    ("attn.qkv", "attn.qkv"),
    ("attn.q_bias", "attn.q_bias"),
    ("attn.v_bias", "attn.v_bias"),
    (f"attn.{RELATIVE_POSITIONS}", f"attn.{RELATIVE_POSITIONS}"),
    ("attn.proj", "attn.proj"),
    ("mlp.fc1", "ffn.layers.0.0"),
    ("mlp.fc2", "ffn.layers.1"),
    ("scale1", "gamma_1"),
    ("scale2", "gamma_2"),
)


def _layer(ours: str, theirs: str, conv: str = "conv", norm: str = "bn") -> Pairs:
    return ((f"{ours}.conv", f"{theirs}.{conv}"), (f"{ours}.norm", f"{theirs}.{norm}"))


def _heads(classifier: str, bottleneck: str, pool: str, conv: str, norm: str) -> Pairs:
    pairs = _layer("head.pools.{}", f"decode_head.psp_modules.{pool}", conv, norm)
    pairs += _layer("head.pooled", f"decode_head.{bottleneck}", conv, norm)
    pairs += _layer("head.laterals.{}", "decode_head.lateral_convs.{}", conv, norm)
    pairs += _layer("head.smooths.{}", "decode_head.fpn_convs.{}", conv, norm)
    pairs += _layer("head.fusion", "decode_head.fpn_bottleneck", conv, norm)
    pairs += _layer("auxiliary.convs.{}", "auxiliary_head.convs.{}", conv, norm)
    ends = (("head.classifier", "decode_head"), ("auxiliary.classifier", "auxiliary_head"))
    return pairs + tuple((ours, f"{theirs}.{classifier}") for ours, theirs in ends)


def _neck(first: str, norm: str, second: str, doubled: str) -> Pairs:
    names = ("quadrupled.first", "quadrupled.norm", "quadrupled.second", "doubled")
    return tuple((f"neck.{ours}", theirs) for ours, theirs in zip(names, (first, norm, second, doubled)))


MMSEGMENTATION_NAMES: Pairs = (
    ("cls_token", "backbone.cls_token"),
    ("pos_embed", "backbone.pos_embed"),
    ("patch_embed.proj", "backbone.patch_embed.projection"),
    *((f"blocks.{{}}.{ours}", f"backbone.layers.{{}}.{theirs}") for ours, theirs in _MMSEG_BLOCK),
    *_neck("neck.upsample_4x.0", "neck.upsample_4x.1", "neck.upsample_4x.3", "neck.upsample_2x.0"),
    *_heads("conv_seg", "bottleneck", "{}.1", "conv", "bn"),
)
BEIT_NAMES: Pairs = (
    ("cls_token", "beit.embeddings.cls_token"),
    ("pos_embed", "beit.embeddings.position_embeddings"),
    ("patch_embed.proj", "beit.embeddings.patch_embeddings.projection"),
    *(
        (f"blocks.{{}}.{names[0]}", f"{place}.{{}}.{names[age]}")
        for age, place in ((1, "beit.encoder.layer"), (2, "beit.layers"))
        for names in (
            *huggingface.LAYER,
            ("scale1", "lambda_1", "lambda_1"),
            ("scale2", "lambda_2", "lambda_2"),
            (
                f"attn.{RELATIVE_POSITIONS}",
                f"attention.attention.relative_position_bias.{RELATIVE_POSITIONS}",
                f"relative_position_bias.{RELATIVE_POSITIONS}",
            ),
        )
    ),
    (SHARED, f"beit.encoder.relative_position_bias.{RELATIVE_POSITIONS}"),
    (SHARED, f"beit.shared_position_bias.{RELATIVE_POSITIONS}"),
    *_neck("fpn1.0", "fpn1.1", "fpn1.3", "fpn2.0"),
    *_neck("fpn.fpn1.conv_transpose1", "fpn.fpn1.normalization", "fpn.fpn1.conv_transpose2", "fpn.fpn2"),
    *_heads("classifier", "bottleneck", "{}.1", "conv", "bn"),
    *_heads("classifier", "psp_bottleneck", "blocks.{}.conv", "convolution", "normalization"),
)
LEFT_OVER = (
    (r".*\.relative_position_index", "which row of a table a pair of patches reads; it is computed"),
    (r"beit\.embeddings\.mask_token", "masks patches of BEiT's pretraining"),
    (r"beit\.layernorm\..*", "a norm behind the last block, which UPerNet does not read"),
)


def is_beit(names: set[str]) -> bool:
    return "beit.embeddings.patch_embeddings.projection.weight" in names and "decode_head.classifier.weight" in names


def is_mmsegmentation(names: set[str]) -> bool:
    return "backbone.patch_embed.projection.weight" in names and "decode_head.conv_seg.weight" in names


def settings_of(config: Mapping[str, Any], notes: list[str]) -> Settings:
    """Read the settings in BEiT's `config.json`.

    Raises:
        ValueError: another kind of model than ours.
    """
    if config.get("model_type") != "beit":
        raise ValueError(f"config.json is of model_type {display_name(repr(config.get('model_type')))}, not beit")
    others = {"pool_scales": [1, 2, 3, 6], "auxiliary_concat_input": False, "use_auxiliary_head": True}
    for name, wanted in others.items():
        given = config.get(name, wanted)
        if (list(given) if isinstance(given, (list, tuple)) else given) != wanted:
            raise ValueError(f"config.json has {name} {display_name(repr(given))}; our UPerNet has {wanted}")
    indices = config.get("out_indices", config.get("segmentation_indices"))
    settings = huggingface.settings_of({**config, "model_type": "vit"}, notes)
    settings.declared = {"embed_dim": config.get("hidden_size")}
    if isinstance(indices, (list, tuple)) and len(indices) == TAPS and all(type(one) is int for one in indices):
        settings.taps = [one - 1 for one in indices]  # which count the embedding as the first
    return settings


def read_parts(draft: Draft, settings: Settings) -> None:
    """Turn BEiT's parts into ours: join and fold, and leave out the blocks behind the last tap.

    Raises:
        ValueError: parts missing, or taps that no file states and that are not published.
    """
    depth = len({name.split(".")[1] for name in draft.tensors if name.startswith("blocks.")})
    if settings.taps is None:
        settings.taps = PUBLISHED_TAPS.get(depth) or [-(-depth * number // TAPS) for number in range(1, TAPS + 1)]
        draft.notes.append(
            f"which blocks the pyramid is made of is not in the file: {', '.join(map(str, settings.taps))} are taken, "
            f"counted from 1{', as the published models have them' if depth in PUBLISHED_TAPS else ''}"
        )
    used = settings.taps[-1]
    if not 1 <= used <= depth:
        raise ValueError(f"a pyramid of the blocks {settings.taps} of an encoder of {depth} blocks")
    for name in [name for name in draft.tensors if name.startswith("blocks.") and int(name.split(".")[1]) >= used]:
        draft.left_over[draft.their_name(name)] = "a block behind the last one that the pyramid reads"
        del draft.tensors[name]
    for number in range(used):
        _join_qkv(draft, f"blocks.{number}.attn")
        _fold_scales(draft, f"blocks.{number}")
    if (shared := draft.tensors.pop(SHARED, None)) is not None:
        for number in range(used):
            draft.set(f"blocks.{number}.attn.{RELATIVE_POSITIONS}", shared, "the table of all blocks")
    for name in ("head.classifier.weight", "auxiliary.classifier.weight"):
        if name in draft.tensors and draft.tensors[name].ndim == 4:
            weight = draft.tensors[name]
            draft.set(name, weight.reshape(weight.shape[:2]), "a convolution of 1 x 1 as a matrix")
    if "pos_embed" not in draft.tensors:
        _add_positions(draft, settings)


def _join_qkv(draft: Draft, attention: str) -> None:
    """Join what transformers has apart, and the biases that mmsegmentation's BEiT has apart; keys have none."""
    tensors = draft.tensors
    for part in ("q", "v"):
        if f"{attention}.{part}_bias" in tensors:
            tensors[f"{attention}.{part}.bias"] = tensors.pop(f"{attention}.{part}_bias")
    if f"{attention}.q.weight" in tensors:
        parts = [f"{attention}.{part}.weight" for part in "qkv"]
        if missing := [display_name(draft.their_name(name)) for name in parts if name not in tensors]:
            raise ValueError(f"missing: {', '.join(missing)}")
        _check_alike(draft, parts)
        draft.set(f"{attention}.qkv.weight", np.concatenate([tensors.pop(name) for name in parts]), "joined")
    if f"{attention}.qkv.bias" in tensors or f"{attention}.qkv.weight" not in tensors:
        return
    _check_alike(draft, [name for part in "qv" if (name := f"{attention}.{part}.bias") in tensors])
    query, value = (tensors.pop(f"{attention}.{part}.bias", None) for part in "qv")
    if query is None and value is None:
        weight = tensors[f"{attention}.qkv.weight"]
        draft.set(f"{attention}.qkv.bias", np.zeros(len(weight), weight.dtype), "zeros: the file has no bias here")
    elif query is not None and value is not None:
        joined = np.concatenate([query, np.zeros_like(query), value])
        draft.set(f"{attention}.qkv.bias", joined, "query and value joined; zeros for the key, which has none")
    else:
        raise ValueError(f"{attention}: a bias of queries or of values without the other one")


def _check_alike(draft: Draft, names: Sequence[str]) -> None:
    """Raise a ValueError unless tensors that are to be joined have one shape, and an axis."""
    shapes = {draft.tensors[name].shape for name in names}
    if len(shapes) > 1 or () in shapes:
        theirs = ", ".join(display_name(draft.their_name(name)) for name in names)
        raise ValueError(f"{theirs} are of shapes {', '.join(str(list(shape)) for shape in shapes)}; expected one")


def _fold_scales(draft: Draft, block: str) -> None:
    for scale, layer in SCALES:
        numbers = draft.tensors.pop(f"{block}.{scale}", None)
        if numbers is None:
            continue
        for kind in ("weight", "bias"):
            name = f"{block}.{layer}.{kind}"
            if name in draft.tensors:
                array = draft.tensors[name]
                if array.ndim == 0 or numbers.shape != array.shape[:1]:
                    theirs = display_name(draft.their_name(f"{block}.{scale}"))
                    raise ValueError(f"{theirs} {list(numbers.shape)} does not fit {list(array.shape)} of {layer}")
                factors = numbers.reshape(-1, *[1] * (array.ndim - 1)).astype(array.dtype)
                draft.set(name, array * factors, "layer scale folded into it")


def _add_positions(draft: Draft, settings: Settings) -> None:
    weight, size = draft.tensors.get("patch_embed.proj.weight"), settings.image_size
    if weight is None or weight.ndim != 4 or size is None:
        return
    if max(size) > LARGEST_SIDE:
        raise ValueError(
            f"an image size of {size[0]} x {size[1]}, and no table of positions; name the right image_size"
        )
    tokens = (size[0] // weight.shape[2]) * (size[1] // weight.shape[3]) + int("cls_token" in draft.tensors)
    draft.set(
        "pos_embed", np.zeros((1, tokens, len(weight)), weight.dtype), "zeros: the file has no absolute positions"
    )


def ending_of(draft: Draft, settings: Settings) -> dict[str, Any]:
    """Return the settings of a segmenter's layers behind the blocks."""
    tensors = draft.tensors
    sizes = []
    for name, dimensions in (("head.classifier.weight", 2), ("head.fusion.conv.weight", 4)):
        array = tensors.get(name)
        if array is None or array.ndim != dimensions:
            found = "is missing" if array is None else f"is {list(array.shape)}"
            raise ValueError(f"{display_name(draft.their_name(name))} {found}; it should have {dimensions} dimensions")
        sizes.append(len(array))
    return dict(
        num_classes=sizes[0],
        head="upernet",
        head_width=sizes[1],
        taps=list(settings.taps or []),
        head_dropout=0.1,
        relative_positions=f"blocks.0.attn.{RELATIVE_POSITIONS}" in tensors,
    )


def write_parts(
    kind: str, architecture: Mapping[str, Any], tensors: Mapping[str, np.ndarray], notes: list[str]
) -> dict[str, np.ndarray]:
    """Return our tensors with what mmsegmentation has in addition: layer scale of 1, tables of 0, counters.

    Raises:
        ValueError: a model that it has no place for.
    """
    _refuse(MMSEGMENTATION, kind, architecture)
    parts = _with_counters(tensors)
    for number in range(architecture["depth"]):
        for scale, _ in SCALES:
            parts[f"blocks.{number}.{scale}"] = np.ones(architecture["embed_dim"], np.float32)
        table = f"blocks.{number}.attn.{RELATIVE_POSITIONS}"
        parts.setdefault(table, np.zeros((_distances(architecture), architecture["num_heads"]), np.float32))
    notes.append(
        f"mmsegmentation's configuration needs init_values=1.0 and out_indices="
        f"{[one - 1 for one in architecture['taps']]} (counted from 0); class names and colours are not in the file"
    )
    return parts


def write_beit(
    kind: str, architecture: Mapping[str, Any], tensors: Mapping[str, np.ndarray], notes: list[str]
) -> dict[str, np.ndarray]:
    """Return our tensors as BEiT has them: queries, keys and values apart, and one more block that does nothing.

    transformers' model cannot tap its last block.

    Raises:
        ValueError: a model that it has no place for.
    """
    _refuse(BEIT, kind, architecture)
    parts: dict[str, np.ndarray] = {}
    for name, array in {**_with_counters(tensors), **_idle_block(architecture)}.items():
        if ".attn.qkv." in name:
            before, ending = name.split(".attn.qkv.")
            split = dict(zip("qkv", np.split(array, 3)))
            if ending == "bias":
                del split["k"]
            parts |= {f"{before}.attn.{part}.{ending}": one for part, one in split.items()}
        else:
            parts[name] = array
    notes.append("the bias of keys, which has no effect, is left out; the last block does nothing and is not read")
    return parts


def _refuse(layout: str, kind: str, architecture: Mapping[str, Any]) -> None:
    refused = []
    if kind != "segmenter" or architecture["head"] != "upernet":
        head = f" with the head {architecture['head']}" if kind == "segmenter" else ""
        refused.append(f"it has segmenters with the head upernet alone, and this is a {kind}{head}")
    elif layout == BEIT and architecture["head_width"] != architecture["embed_dim"]:
        channels, width = architecture["head_width"], architecture["embed_dim"]
        refused.append(f"the head has {channels} channels and the encoder {width}, which are the same there")
    if not architecture["cls_token"]:
        refused.append("it has no cls token")
    sizes = (architecture["patch_size"], architecture["image_size"])
    if layout == BEIT and any(len(set(size)) > 1 for size in sizes):
        refused.append("its images and patches are square")
    if refused:
        raise ValueError(f"{layout}'s layout can't hold this model: {'; '.join(refused)}")


def _with_counters(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors, classifiers as convolutions, with the counters of batch norm that PyTorch's state has."""
    parts = {}
    for name, array in tensors.items():
        parts[name] = array[:, :, None, None] if name.endswith("classifier.weight") else array
        if name.endswith("running_var"):
            parts[name.replace("running_var", COUNTER)] = np.zeros((), np.int64)
    return parts


def _distances(architecture: Mapping[str, Any]) -> int:
    (height, width), (rows, columns) = architecture["image_size"], architecture["patch_size"]
    return relative_distances((height // rows, width // columns))


def _idle_block(architecture: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the tensors of a block behind the last one that adds nothing to its input."""
    width, block = architecture["embed_dim"], f"blocks.{architecture['depth']}"
    hidden = int(width * architecture["mlp_ratio"])
    shapes = dict(
        zip(BLOCK, ((width,), (3 * width, width), (width, width), (width,), (hidden, width), (width, hidden)))
    )
    parts = {}
    for part, shape in shapes.items():
        fill = 1.0 if part.startswith("norm") else 0.0
        parts[f"{block}.{part}.weight"] = np.full(shape, fill, np.float32)
        parts[f"{block}.{part}.bias"] = np.zeros(shape[0], np.float32)
    if architecture["relative_positions"]:
        table = np.zeros((_distances(architecture), architecture["num_heads"]), np.float32)
        parts[f"{block}.attn.{RELATIVE_POSITIONS}"] = table
    return parts


def config_of(architecture: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Return the content of BEiT's `config.json`."""
    config = huggingface.config_of("segmenter", {**architecture, "depth": architecture["depth"] + 1}, classes)
    del config["qkv_bias"]
    return config | {
        "model_type": "beit",
        "auxiliary_channels": 256,
        "auxiliary_concat_input": False,
        "auxiliary_loss_weight": 0.4,
        "auxiliary_num_convs": 1,
        "layer_scale_init_value": 0.0,
        "out_indices": [one + 1 for one in architecture["taps"]],
        "pool_scales": [1, 2, 3, 6],
        "semantic_loss_ignore_index": 255,
        "use_absolute_position_embeddings": True,
        "use_auxiliary_head": True,
        "use_mean_pooling": True,
        "use_relative_position_bias": architecture["relative_positions"],
    }


def from_meta(extras: Mapping[str, Any] | None) -> tuple[list[str], list[list[int]] | None]:
    """Return (class names, colours) from what mmsegmentation stores next to the weights; nothing where it is not so."""
    meta = (extras or {}).get("meta")
    if not isinstance(meta, Mapping):
        return [], None
    dataset = meta.get("dataset_meta")
    found = (
        dataset if isinstance(dataset, Mapping) else {"classes": meta.get("CLASSES"), "palette": meta.get("PALETTE")}
    )
    classes, palette = found.get("classes"), found.get("palette")
    names = [str(name) for name in classes] if isinstance(classes, (list, tuple)) else []
    if not isinstance(palette, (list, tuple)) or len(palette) != len(names) or not all(map(_is_colour, palette)):
        return names, None
    return names, [[int(one) for one in colour] for colour in palette]


def _is_colour(colour: Any) -> bool:
    return (
        isinstance(colour, (list, tuple))
        and len(colour) == 3
        and all(type(one) is int and 0 <= one <= 255 for one in colour)
    )


def heads_of(draft: Draft) -> int | None:
    """Return the number of attention heads, which a table of relative positions shows."""
    table = re.compile(rf"blocks\.\d+\.attn\.{RELATIVE_POSITIONS}")
    found = (array for name, array in draft.tensors.items() if table.fullmatch(name) or name == SHARED)
    return next((array.shape[1] for array in found if array.ndim == 2), None)
