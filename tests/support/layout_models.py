"""Define each layout's models in NumPy, on tiny random weights under that layout's own names.

Written apart from `paddlemae.weights.layouts`, so that neither can hide the other's mistake.

Shapes: B images, L patches, N tokens, D width, P pixels a patch.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.support.layout_layers import (
    EPSILON,
    PATCH,
    Linear,
    Tensors,
    attend,
    convolve,
    gelu,
    in_out,
    norm,
    out_in,
    table_1d,
    table_2d,
    taken,
    with_cls,
)

WIDTH, DEPTH, HEADS, HIDDEN = 16, 2, 4, 32
NARROW, SHALLOW, DECODER_HEADS, NARROW_HIDDEN = 8, 1, 2, 16
CHANNELS, CLASSES = 3, 5
PIXELS = PATCH * PATCH * CHANNELS
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]

Shapes = dict[str, tuple[int, ...]]

# Layouts: what their files hold, and what they compute from it


@dataclass(frozen=True)
class Result:
    """Outputs of a model; None for those that it does not have. `prediction` is of the removed patches."""

    features: np.ndarray | None = None
    prediction: np.ndarray | None = None
    logits: np.ndarray | None = None


def weights(shapes: Shapes) -> Tensors:
    """Draw random weights, none of which is zero or symmetric."""
    tensors = {}
    for name, shape in shapes.items():
        draw = np.random.default_rng(zlib.crc32(name.encode())).uniform(-1, 1, shape)
        if len(shape) > 1 and name.endswith("weight"):
            draw *= math.sqrt(3 / math.prod(shape[1:]))
        elif "norm" in name and name.endswith("weight"):
            draw = 1 + draw / 2
        elif name.endswith("running_var") or name.endswith("_variance"):
            draw = 1.5 + draw
        tensors[name] = draw.astype(np.float32)
    return tensors


def layer(name: str, rows: int, columns: int, *, paddle: bool = False, bias: bool = True) -> Shapes:
    """Draw a Linear of `columns` inputs and `rows` outputs."""
    shape = (columns, rows) if paddle else (rows, columns)
    return {f"{name}.weight": shape} | ({f"{name}.bias": (rows,)} if bias else {})


def normed(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def conv(name: str) -> Shapes:
    return {f"{name}.weight": (WIDTH, CHANNELS, PATCH, PATCH), f"{name}.bias": (WIDTH,)}


# facebookresearch/mae and timm; with paddle=True the Paddle ports and PASSL


def official_block(name: str, width: int, hidden: int, paddle: bool, bias: bool = True) -> Shapes:
    return {
        **normed(f"{name}.norm1", width),
        **layer(f"{name}.attn.qkv", 3 * width, width, paddle=paddle, bias=bias),
        **layer(f"{name}.attn.proj", width, width, paddle=paddle),
        **normed(f"{name}.norm2", width),
        **layer(f"{name}.mlp.fc1", hidden, width, paddle=paddle),
        **layer(f"{name}.mlp.fc2", width, hidden, paddle=paddle),
    }


def official_tensors(
    parts: str, grid: tuple[int, int], *, learned: bool = False, paddle: bool = False, bias: bool = True
) -> Tensors:
    """Draw tensors of an encoder and its `parts`, blank-separated: "decoder", "norm", "fc_norm", "head", "probe"."""
    shapes: Shapes = {"cls_token": (1, 1, WIDTH), **conv("patch_embed.proj")}
    for number in range(DEPTH):
        shapes |= official_block(f"blocks.{number}", WIDTH, HIDDEN, paddle, bias)
    for part in parts.split():
        if part in ("norm", "fc_norm"):
            shapes |= normed(part, WIDTH)
        elif part == "head":
            shapes |= layer("head", CLASSES, WIDTH, paddle=paddle)
        elif part == "probe":
            mean, variance = ("_mean", "_variance") if paddle else ("running_mean", "running_var")
            shapes |= {f"head.0.{mean}": (WIDTH,), f"head.0.{variance}": (WIDTH,)}
            shapes |= layer("head.1", CLASSES, WIDTH, paddle=paddle)
        elif part == "decoder":
            shapes |= {**layer("decoder_embed", NARROW, WIDTH, paddle=paddle), "mask_token": (1, 1, NARROW)}
            for number in range(SHALLOW):
                shapes |= official_block(f"decoder_blocks.{number}", NARROW, NARROW_HIDDEN, paddle)
            shapes |= normed("decoder_norm", NARROW) | layer("decoder_pred", PIXELS, NARROW, paddle=paddle)
    tensors = weights(shapes)
    if "probe" in parts.split() and not paddle:
        tensors["head.0.num_batches_tracked"] = np.array(7)
    tensors["pos_embed"] = table_2d(WIDTH, *grid)
    if learned:
        tensors["pos_embed"] = weights({"pos_embed": tensors["pos_embed"].shape})["pos_embed"]
    if "decoder" in parts.split():
        tensors["decoder_pos_embed"] = table_2d(NARROW, *grid)
    return tensors


def official_blocks(x: np.ndarray, t: Tensors, name: str, depth: int, heads: int, linear: Linear) -> np.ndarray:
    for number in range(depth):
        at = f"{name}.{number}"
        query, key, value = np.split(linear(norm(x, t, f"{at}.norm1"), t, f"{at}.attn.qkv"), 3, axis=-1)
        x = x + linear(attend(query, key, value, heads), t, f"{at}.attn.proj")
        hidden = gelu(linear(norm(x, t, f"{at}.norm2"), t, f"{at}.mlp.fc1"))
        x = x + linear(hidden, t, f"{at}.mlp.fc2")
    return x


def official_tokens(t: Tensors, images: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Return the tokens that enter the blocks; timm can leave the cls token out, and so can ours."""
    table, front = t["pos_embed"], int("cls_token" in t)
    x = convolve(images, t, "patch_embed.proj") + table[:, front:]
    x = x if rows is None else taken(x, rows)
    return with_cls(x, t, "cls_token", table) if front else x


def official_mae(t: Tensors, images: np.ndarray, keep: np.ndarray, removed: np.ndarray, linear: Linear) -> Result:
    """Run an MAE whose encoder takes the kept patches, and its decoder all of them in the image's order."""
    front = int("cls_token" in t)

    def encoded(rows: np.ndarray) -> np.ndarray:
        x = official_blocks(official_tokens(t, images, rows), t, "blocks", DEPTH, HEADS, linear)
        return norm(x, t, "norm")

    patches = keep.shape[1] + removed.shape[1]
    every = np.tile(np.arange(patches), (len(images), 1))
    x = linear(encoded(keep), t, "decoder_embed")
    whole = np.broadcast_to(t["mask_token"], (len(images), patches, NARROW)).astype(np.float64).copy()
    np.put_along_axis(whole, keep[..., None], x[:, front:], axis=1)
    x = np.concatenate([x[:, :front], whole], axis=1) + t["decoder_pos_embed"]
    x = official_blocks(x, t, "decoder_blocks", SHALLOW, DECODER_HEADS, linear)
    x = linear(norm(x, t, "decoder_norm"), t, "decoder_pred")[:, front:]
    return Result(features=encoded(every)[:, front:].mean(axis=1), prediction=taken(x, removed))


def official_vit(t: Tensors, images: np.ndarray, linear: Linear) -> Result:
    x = official_blocks(official_tokens(t, images), t, "blocks", DEPTH, HEADS, linear)
    front = int("cls_token" in t)
    mean = "fc_norm.weight" in t
    features = norm(x[:, front:].mean(axis=1), t, "fc_norm") if mean else norm(x, t, "norm")[:, 0]
    if "head.1.weight" in t:  # BatchNorm1d without affine parameters, then a Linear
        means, variances = (next(t[f"head.0.{name}"] for name in two if f"head.0.{name}" in t) for two in PROBE_NAMES)
        return Result(features, logits=linear((features - means) / np.sqrt(variances + 1e-6), t, "head.1"))
    return Result(features, logits=linear(features, t, "head") if "head.weight" in t else None)


PROBE_NAMES = (("running_mean", "_mean"), ("running_var", "_variance"))

# pengzhiliang/MAE-pytorch


def split_block(name: str, width: int, hidden: int, paddle: bool) -> Shapes:
    shapes = official_block(name, width, hidden, paddle, bias=False)
    return shapes | {f"{name}.attn.q_bias": (width,), f"{name}.attn.v_bias": (width,)}


def mae_pytorch_tensors(*, pretrained: bool, learned: int = 0, paddle: bool = False) -> Tensors:
    """Draw tensors; `learned`: patches of a learned position table, 0 for the computed one, which no file holds."""
    shapes: Shapes = {}
    encoder = "encoder." if pretrained else ""
    shapes |= conv(f"{encoder}patch_embed.proj")
    for number in range(DEPTH):
        shapes |= split_block(f"{encoder}blocks.{number}", WIDTH, HIDDEN, paddle)
    if pretrained:
        shapes |= normed("encoder.norm", WIDTH) | {"mask_token": (1, 1, NARROW)}
        shapes |= layer("encoder_to_decoder", NARROW, WIDTH, paddle=paddle, bias=False)
        for number in range(SHALLOW):
            shapes |= split_block(f"decoder.blocks.{number}", NARROW, NARROW_HIDDEN, paddle)
        shapes |= normed("decoder.norm", NARROW) | layer("decoder.head", PIXELS, NARROW, paddle=paddle)
    else:
        shapes |= normed("fc_norm", WIDTH) | layer("head", CLASSES, WIDTH, paddle=paddle)
    if learned:
        shapes |= {f"{encoder}pos_embed": (1, learned, WIDTH)}
    return weights(shapes)


def split_blocks(x: np.ndarray, t: Tensors, name: str, depth: int, heads: int, linear: Linear) -> np.ndarray:
    for number in range(depth):
        at = f"{name}.{number}"
        joined = linear(norm(x, t, f"{at}.norm1"), t, f"{at}.attn.qkv")
        query, key, value = np.split(joined, 3, axis=-1)
        query, value = query + t[f"{at}.attn.q_bias"], value + t[f"{at}.attn.v_bias"]  # no bias on keys
        x = x + linear(attend(query, key, value, heads), t, f"{at}.attn.proj")
        hidden = gelu(linear(norm(x, t, f"{at}.norm2"), t, f"{at}.mlp.fc1"))
        x = x + linear(hidden, t, f"{at}.mlp.fc2")
    return x


def mae_pytorch_mae(t: Tensors, images: np.ndarray, keep: np.ndarray, removed: np.ndarray, linear: Linear) -> Result:
    """Run an MAE whose decoder takes kept patches, then mask tokens, and predicts the latter."""
    patches = keep.shape[1] + removed.shape[1]

    def encoded(rows: np.ndarray) -> np.ndarray:
        table = t.get("encoder.pos_embed", table_1d(WIDTH, patches))
        x = taken(convolve(images, t, "encoder.patch_embed.proj") + table, rows)
        return norm(split_blocks(x, t, "encoder.blocks", DEPTH, HEADS, linear), t, "encoder.norm")

    table = np.repeat(table_1d(NARROW, patches), len(images), axis=0)
    x = linear(encoded(keep), t, "encoder_to_decoder") + taken(table, keep)
    x = np.concatenate([x, t["mask_token"] + taken(table, removed)], axis=1)
    x = split_blocks(x, t, "decoder.blocks", SHALLOW, DECODER_HEADS, linear)
    x = linear(norm(x[:, keep.shape[1] :], t, "decoder.norm"), t, "decoder.head")
    every = np.tile(np.arange(patches), (len(images), 1))
    return Result(features=encoded(every).mean(axis=1), prediction=x)


def mae_pytorch_vit(t: Tensors, images: np.ndarray, linear: Linear) -> Result:
    x = convolve(images, t, "patch_embed.proj")
    x = x + t.get("pos_embed", table_1d(WIDTH, x.shape[1]))
    x = split_blocks(x, t, "blocks", DEPTH, HEADS, linear)
    features = norm(x.mean(axis=1), t, "fc_norm")
    return Result(features, logits=linear(features, t, "head"))


# transformers, names as published


def hf_layer(name: str, width: int, hidden: int, bias: bool = True) -> Shapes:
    shapes = {**normed(f"{name}.layernorm_before", width), **normed(f"{name}.layernorm_after", width)}
    for part in ("query", "key", "value"):
        shapes |= layer(f"{name}.attention.attention.{part}", width, width, bias=bias)
    return {
        **shapes,
        **layer(f"{name}.attention.output.dense", width, width),
        **layer(f"{name}.intermediate.dense", hidden, width),
        **layer(f"{name}.output.dense", width, hidden),
    }


def hf_tensors(
    parts: str, grid: tuple[int, int], prefix: str = "vit.", *, learned: bool = False, bias: bool = True
) -> Tensors:
    """Draw tensors of an encoder and its `parts`, blank-separated: "decoder", "head", "pooler"."""
    e = f"{prefix}embeddings"
    shapes: Shapes = {f"{e}.cls_token": (1, 1, WIDTH), **conv(f"{e}.patch_embeddings.projection")}
    for number in range(DEPTH):
        shapes |= hf_layer(f"{prefix}encoder.layer.{number}", WIDTH, HIDDEN, bias)
    shapes |= normed(f"{prefix}layernorm", WIDTH)
    if "head" in parts:
        shapes |= layer("classifier", CLASSES, WIDTH)
    if "pooler" in parts:
        shapes |= layer(f"{prefix}pooler.dense", WIDTH, WIDTH)
    if "decoder" in parts:
        shapes |= {**layer("decoder.decoder_embed", NARROW, WIDTH), "decoder.mask_token": (1, 1, NARROW)}
        for number in range(SHALLOW):
            shapes |= hf_layer(f"decoder.decoder_layers.{number}", NARROW, NARROW_HIDDEN, bias)
        shapes |= normed("decoder.decoder_norm", NARROW) | layer("decoder.decoder_pred", PIXELS, NARROW)
    tensors = weights(shapes)
    tensors[f"{e}.position_embeddings"] = table_2d(WIDTH, *grid)
    if learned:
        tensors |= weights({f"{e}.position_embeddings": table_2d(WIDTH, *grid).shape})
    if "decoder" in parts:
        tensors["decoder.decoder_pos_embed"] = table_2d(NARROW, *grid)
    return tensors


def hf_config(kind: str, **more: Any) -> dict[str, Any]:
    config = dict(hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, hidden_act="gelu")
    config |= dict(model_type="vit_mae" if kind == "mae" else "vit", layer_norm_eps=EPSILON)
    if kind == "mae":
        config |= dict(decoder_num_attention_heads=DECODER_HEADS, norm_pix_loss=True)
    return config | more


def hf_layers(x: np.ndarray, t: Tensors, name: str, depth: int, heads: int) -> np.ndarray:
    for number in range(depth):
        at = f"{name}.{number}"
        before = norm(x, t, f"{at}.layernorm_before")
        parts = [out_in(before, t, f"{at}.attention.attention.{part}") for part in ("query", "key", "value")]
        x = x + out_in(attend(*parts, heads), t, f"{at}.attention.output.dense")
        hidden = gelu(out_in(norm(x, t, f"{at}.layernorm_after"), t, f"{at}.intermediate.dense"))
        x = x + out_in(hidden, t, f"{at}.output.dense")
    return x


def hf_vit(t: Tensors, images: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Return all tokens after the last norm."""
    p = "vit." if "vit.embeddings.cls_token" in t else ""
    table = t[f"{p}embeddings.position_embeddings"]
    x = convolve(images, t, f"{p}embeddings.patch_embeddings.projection") + table[:, 1:]
    x = with_cls(x if rows is None else taken(x, rows), t, f"{p}embeddings.cls_token", table)
    return norm(hf_layers(x, t, f"{p}encoder.layer", DEPTH, HEADS), t, f"{p}layernorm")


def hf_mae(t: Tensors, images: np.ndarray, keep: np.ndarray, removed: np.ndarray) -> Result:
    patches = keep.shape[1] + removed.shape[1]
    x = out_in(hf_vit(t, images, keep), t, "decoder.decoder_embed")
    masks = np.broadcast_to(t["decoder.mask_token"], (len(images), removed.shape[1], NARROW))
    back = np.argsort(np.concatenate([keep, removed], axis=1), axis=1)
    x = np.concatenate([x[:, :1], taken(np.concatenate([x[:, 1:], masks], axis=1), back)], axis=1)
    x = hf_layers(x + t["decoder.decoder_pos_embed"], t, "decoder.decoder_layers", SHALLOW, DECODER_HEADS)
    x = out_in(norm(x, t, "decoder.decoder_norm"), t, "decoder.decoder_pred")[:, 1:]
    every = np.tile(np.arange(patches), (len(images), 1))
    return Result(features=hf_vit(t, images, every)[:, 1:].mean(axis=1), prediction=taken(x, removed))


def hf_classifier(t: Tensors, images: np.ndarray) -> Result:
    features = hf_vit(t, images)[:, 0]
    return Result(features, logits=out_in(features, t, "classifier") if "classifier.weight" in t else None)


# BR-IDL/PaddleViT


def paddlevit_layer(name: str, width: int, hidden: int) -> Shapes:
    return {
        **normed(f"{name}.attn_norm", width),
        **layer(f"{name}.attn.qkv", 3 * width, width, paddle=True),
        **layer(f"{name}.attn.out", width, width, paddle=True),
        **normed(f"{name}.mlp_norm", width),
        **layer(f"{name}.mlp.fc1", hidden, width, paddle=True),
        **layer(f"{name}.mlp.fc2", width, hidden, paddle=True),
    }


# where its MAE, its fine-tuned MAE and its ViT, new and old, keep what the others keep elsewhere
PADDLEVIT = {
    "mae": ("cls_token", "encoder_position_embedding", "encoder.norm"),
    "mean": ("cls_token", "encoder_position_embedding", "encoder_norm"),
    "vit": ("cls_token", "position_embedding", "encoder.encoder_norm"),
    "old": ("patch_embedding.cls_token", "patch_embedding.position_embeddings", "encoder.encoder_norm"),
}


def paddlevit_tensors(which: str, grid: tuple[int, int]) -> Tensors:
    cls, table, last = PADDLEVIT[which]
    shapes: Shapes = {cls: (1, 1, WIDTH), **conv("patch_embedding.patch_embedding"), **normed(last, WIDTH)}
    for number in range(DEPTH):
        shapes |= paddlevit_layer(f"encoder.layers.{number}", WIDTH, HIDDEN)
    if which == "mae":
        shapes |= {**layer("linear_projection", NARROW, WIDTH, paddle=True), "mask_token": (1, 1, NARROW)}
        for number in range(SHALLOW):
            shapes |= paddlevit_layer(f"decoder.layers.{number}", NARROW, NARROW_HIDDEN)
        shapes |= normed("decoder.norm", NARROW) | layer("decoder_pred", PIXELS, NARROW, paddle=True)
        return weights(shapes) | {table: table_2d(WIDTH, *grid), "decoder_position_embedding": table_2d(NARROW, *grid)}
    shapes |= layer("classifier", CLASSES, WIDTH, paddle=True) | {table: (1, 1 + math.prod(grid), WIDTH)}
    return weights(shapes)


def paddlevit_layers(x: np.ndarray, t: Tensors, name: str, depth: int, heads: int) -> np.ndarray:
    for number in range(depth):
        at = f"{name}.layers.{number}"
        parts = np.split(in_out(norm(x, t, f"{at}.attn_norm"), t, f"{at}.attn.qkv"), 3, axis=-1)
        x = x + in_out(attend(*parts, heads), t, f"{at}.attn.out")
        x = x + in_out(gelu(in_out(norm(x, t, f"{at}.mlp_norm"), t, f"{at}.mlp.fc1")), t, f"{at}.mlp.fc2")
    return x


def paddlevit_vit(t: Tensors, images: np.ndarray) -> Result:
    which = next(key for key, names in reversed(PADDLEVIT.items()) if names[1] in t and f"{names[2]}.weight" in t)
    cls, table, last = PADDLEVIT[which]
    x = convolve(images, t, "patch_embedding.patch_embedding")
    x = np.concatenate([np.broadcast_to(t[cls], (len(x), 1, WIDTH)), x], axis=1) + t[table]
    x = paddlevit_layers(x, t, "encoder", DEPTH, HEADS)
    features = norm(x[:, 1:].mean(axis=1), t, last) if which == "mean" else norm(x, t, last)[:, 0]
    return Result(features, logits=in_out(features, t, "classifier") if "classifier.weight" in t else None)


def paddlevit_mae(t: Tensors, images: np.ndarray, keep: np.ndarray, removed: np.ndarray) -> Result:
    patches = keep.shape[1] + removed.shape[1]

    def encoded(rows: np.ndarray) -> np.ndarray:
        table = t["encoder_position_embedding"]
        x = taken(convolve(images, t, "patch_embedding.patch_embedding") + table[:, 1:], rows)
        x = with_cls(x, t, "cls_token", table)
        return norm(paddlevit_layers(x, t, "encoder", DEPTH, HEADS), t, "encoder.norm")

    x = in_out(encoded(keep), t, "linear_projection")
    masks = np.broadcast_to(t["mask_token"], (len(images), removed.shape[1], NARROW))
    back = np.argsort(np.concatenate([keep, removed], axis=1), axis=1)
    x = np.concatenate([x[:, :1], taken(np.concatenate([x[:, 1:], masks], axis=1), back)], axis=1)
    x = paddlevit_layers(x + t["decoder_position_embedding"], t, "decoder", SHALLOW, DECODER_HEADS)
    x = in_out(norm(x, t, "decoder.norm"), t, "decoder_pred")[:, 1:]
    every = np.tile(np.arange(patches), (len(images), 1))
    return Result(features=encoded(every)[:, 1:].mean(axis=1), prediction=taken(x, removed))


# Any file of any layout


def run(layout: str, t: Mapping[str, np.ndarray], images: np.ndarray, keep: np.ndarray, removed: np.ndarray) -> Result:
    """Run a file's own layout on images, in double precision."""
    tensors = {name: array.astype(np.float64) for name, array in t.items()}
    images = images.astype(np.float64)
    linear = in_out if layout.startswith("paddle") else out_in
    if layout == "transformers":
        if "decoder.mask_token" in tensors:
            return hf_mae(tensors, images, keep, removed)
        return hf_classifier(tensors, images)
    if layout == "paddlevit":
        if "mask_token" in tensors:
            return paddlevit_mae(tensors, images, keep, removed)
        return paddlevit_vit(tensors, images)
    if "mae-pytorch" in layout:
        if "mask_token" in tensors:
            return mae_pytorch_mae(tensors, images, keep, removed, linear)
        return mae_pytorch_vit(tensors, images, linear)
    if "mask_token" in tensors:
        return official_mae(tensors, images, keep, removed, linear)
    return official_vit(tensors, images, linear)
