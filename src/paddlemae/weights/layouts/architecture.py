"""Derive the architecture from official tensors, and check that none is missing.

Shapes: D width, L patches of a grid (rows x columns).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from paddlemae.model.block_tensors import TensorShapes
from paddlemae.model.shape import PUBLISHED, SIZES, tensor_shapes
from paddlemae.model.sincos import sincos_1d, sincos_2d
from paddlemae.system.display_names import display_name
from paddlemae.weights.layouts.settings import Settings
from paddlemae.weights.layouts.tensor_names import FOREIGN, Draft, reason
from paddlemae.weights.layouts.translation import Imported
from paddlemae.weights.layouts.upernet import ending_of

HEADS = {SIZES[name]["embed_dim"]: SIZES[name]["num_heads"] for name in PUBLISHED.values()}  # width -> heads
DECODER_HEADS = {512: 16}  # MAE, as published


def faults(draft: Draft, shapes: TensorShapes) -> list[str]:
    """Describe the tensors that do not fit, one text per kind, under the file's own names."""
    theirs, tensors = draft.their_name, draft.tensors
    missing = [theirs(name) for name in shapes if name not in tensors]
    extra = [*draft.unknown, *(theirs(name) for name in tensors if name not in shapes)]
    other = [
        f"{display_name(theirs(name))} {list(tensors[name].shape)} for {list(shape)}"
        for name, shape in shapes.items()
        if name in tensors and tensors[name].shape != shape
    ]
    return [
        f"{label}: {_shortened(names)}"
        for label, names in (("missing", missing), ("left over", extra), ("of another shape", other))
        if names
    ]


def _shortened(names: list[str], limit: int = 8) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(display_name(name) for name in names[:limit]) + rest


def assemble(draft: Draft, layout: str, settings: Settings) -> Imported:
    """Assemble the model from the draft's tensors.

    Raises:
        ValueError: tensors missing, left over or of another shape, or a property that cannot be derived from them.
    """
    _refuse_foreign(draft, layout)
    kind = _kind(draft, layout)
    architecture = _encoder(draft, layout)
    architecture |= (
        _decoder(draft, layout)
        if kind == "mae"
        else ending_of(draft, settings)
        if kind == "segmenter"
        else _ending(draft, layout)
    )
    _compare(architecture, settings.declared)
    _fill_biases(draft, settings)
    grid, patch = _grid(draft, settings, architecture), architecture["patch_size"]
    architecture["image_size"] = [grid[0] * patch[0], grid[1] * patch[1]]
    place = f"a grid of {grid[0]} x {grid[1]}"
    computed = _computed_table(
        draft, "pos_embed", architecture, grid, f" of {place}", f"positions are learned, on {place}"
    )
    architecture["positions"] = computed or "learned"
    _computed_table(
        draft, "decoder_pos_embed", architecture, grid, "", "it is kept as it is, and stays fixed in training"
    )
    if architecture.get("relative_positions"):
        architecture["num_heads"] = settings.heads  # which `upernet.heads_of` found
    shapes = tensor_shapes(kind, architecture)
    if found := faults(draft, shapes):
        raise ValueError(f"these weights are an incomplete {kind} of the layout {layout}: {'; '.join(found)}")
    _set_heads(draft, layout, settings, architecture)
    if kind == "mae":
        _set_target(draft, layout, settings, architecture)
    elif kind == "encoder":
        draft.notes.append("no decoder and no head: it gives features, but can't reconstruct or classify")
    return Imported(
        layout=layout,
        kind=kind,
        architecture=architecture,
        tensors={name: draft.tensors[name] for name in shapes},
        converted=draft.converted,
        left_over=draft.left_over,
        mean=settings.mean,
        std=settings.std,
        classes=_classes(draft, settings, architecture) if kind in ("classifier", "segmenter") else [],
        palette=settings.palette if len(settings.palette or ()) == architecture.get("num_classes") else None,
        notes=draft.notes,
    )


def _classes(draft: Draft, settings: Settings, architecture: Mapping[str, Any]) -> list[str]:
    """Return the class names if there is one for each of the head's outputs."""
    if settings.classes and len(settings.classes) != architecture["num_classes"]:
        draft.notes.append("the configuration names another number of classes than the head has; names are left out")
        return []
    return list(settings.classes)


def _refuse_foreign(draft: Draft, layout: str) -> None:
    """Raise ValueError for tensors that no model of ours has, and for values that are not floats."""
    found: dict[str, str] = {}
    for name in draft.unknown:
        words = reason(name, FOREIGN)
        if words:
            found.setdefault(words, name)
    if found:
        listed = ", ".join(f"{words} ({display_name(name)})" for words, name in found.items())
        raise ValueError(f"these weights (layout {layout}) have tensors that PaddleMAE's models lack: {listed}")
    for name, array in draft.tensors.items():
        if array.dtype.kind != "f":
            raise ValueError(f"{display_name(draft.their_name(name))} is {array.dtype}, weights are floats")


def _kind(draft: Draft, layout: str) -> str:
    if "head.fusion.conv.weight" in draft.tensors:
        return "segmenter"
    decoder = [name for name in draft.tensors if name.startswith(("decoder_", "mask_token"))]
    head = [name for name in draft.tensors if name.startswith("head.")]
    if decoder and head:
        names = f"{display_name(draft.their_name(decoder[0]))} and {display_name(draft.their_name(head[0]))}"
        raise ValueError(f"these weights (layout {layout}) have a decoder and a head, {names}; a model has one of them")
    return "mae" if decoder else "classifier" if head else "encoder"


def _needed(draft: Draft, name: str, dimensions: int, layout: str) -> np.ndarray:
    array = draft.tensors.get(name)
    if array is None or array.ndim != dimensions:
        found = "is missing" if array is None else f"is {list(array.shape)}, it should have {dimensions} dimensions"
        raise ValueError(f"no weights of the layout {layout}: {display_name(draft.their_name(name))} {found}")
    return array


def _depth(draft: Draft, prefix: str, layout: str) -> int:
    """Count the blocks; raise ValueError if one is missing in between."""
    found = (re.match(rf"{prefix}\.(\d+)\.", name) for name in draft.tensors)
    numbers = sorted({int(one[1]) for one in found if one})
    gap = next((place for place, number in enumerate(numbers) if place != number), None)
    if gap is not None:
        missing = display_name(draft.their_name(f"{prefix}.{gap}.norm1.weight"))
        raise ValueError(f"these weights (layout {layout}) are incomplete: block {gap} is missing, with {missing}")
    return len(numbers)


def _encoder(draft: Draft, layout: str) -> dict[str, Any]:
    width, channels, *patch = _needed(draft, "patch_embed.proj.weight", 4, layout).shape
    hidden = len(_needed(draft, "blocks.0.mlp.fc1.bias", 1, layout))
    ratio = hidden / width
    if int(width * ratio) != hidden:  # the models cut, and a quotient may lie just below
        ratio = math.nextafter(ratio, math.inf)
    return dict(
        image_size=None,
        patch_size=patch,
        channels=channels,
        embed_dim=width,
        depth=_depth(draft, "blocks", layout),
        num_heads=None,
        mlp_ratio=ratio,
        cls_token="cls_token" in draft.tensors,
        positions=None,
        drop_path=0.0,
    )


def _decoder(draft: Draft, layout: str) -> dict[str, Any]:
    return dict(
        decoder="mae",
        decoder_embed_dim=_needed(draft, "decoder_embed.weight", 2, layout).shape[0],
        decoder_depth=_depth(draft, "decoder_blocks", layout),
        decoder_num_heads=None,
        norm_pix_loss=None,
    )


def _ending(draft: Draft, layout: str) -> dict[str, Any]:
    """Return the settings of the layers after the blocks of a classifier or encoder."""
    pool = "mean" if "fc_norm.weight" in draft.tensors else "cls"
    if pool == "cls" and "cls_token" not in draft.tensors:
        raise ValueError(
            f"these weights (layout {layout}) have neither a cls token nor a norm behind pooling "
            f"({display_name(draft.their_name('cls_token'))}, {display_name(draft.their_name('fc_norm.weight'))}); "
            "our classifiers pool by one of them"
        )
    head = draft.tensors.get("head.weight")
    return dict(num_classes=0 if head is None else len(head), pool=pool)


def _compare(architecture: Mapping[str, Any], declared: Mapping[str, Any]) -> None:
    wrong = [
        f"{name} is {value} in the configuration and {architecture[name]} by the tensors"
        for name, value in declared.items()
        if value is not None and name in architecture and architecture[name] != value
    ]
    if wrong:
        raise ValueError(f"the configuration belongs to another file: {'; '.join(wrong)}")


def _fill_biases(draft: Draft, settings: Settings) -> None:
    """Set zeros for queries, keys and values that have no bias anywhere."""
    for prefix in ("blocks", "decoder_blocks"):
        weights = [name for name in draft.tensors if re.fullmatch(rf"{prefix}\.\d+\.attn\.qkv\.weight", name)]
        biases = [name.removesuffix("weight") + "bias" for name in weights]
        if settings.biasless and not any(name in draft.tensors for name in biases):
            for weight, bias in zip(weights, biases):
                array = draft.tensors[weight]
                draft.set(bias, np.zeros(len(array), array.dtype), "zeros: the file has no bias here")


def _grid(draft: Draft, settings: Settings, architecture: Mapping[str, Any]) -> tuple[int, int]:
    """Return (rows, columns) of patches, from the settings or from the position table."""
    patch, front = architecture["patch_size"], int(architecture["cls_token"])
    table, name = draft.tensors.get("pos_embed"), display_name(draft.their_name("pos_embed"))
    size = settings.image_size
    if size is not None and (size[0] % patch[0] or size[1] % patch[1]):
        raise ValueError(
            f"an image size of {size[0]} x {size[1]} is not divisible by these weights' patches of "
            f"{patch[0]} x {patch[1]}; name another image_size"
        )
    grid = (size[0] // patch[0], size[1] // patch[1]) if size else (1, 1)
    if table is None:
        return grid
    if table.ndim != 3 or table.shape[1] <= front:
        raise ValueError(f"{name} is {list(table.shape)}, [1, patches, width] was expected")
    if not size:
        return _grid_of_table(table[0, front:], name)
    if grid[0] * grid[1] != (rows := table.shape[1] - front):
        raise ValueError(
            f"{name} has {rows} patches, an image of {size[0]} x {size[1]} with patches of {patch[0]} x {patch[1]} has "
            f"{grid[0] * grid[1]}; name the image_size that these weights were trained at, resizing comes after"
        )
    return grid


def _grid_of_table(table_LD: np.ndarray, name: str) -> tuple[int, int]:
    """Return the grid of a 2-D sine-cosine table: its column half repeats after each row."""
    count, width = table_LD.shape
    if width % 4 == 0:
        with np.errstate(all="ignore"):  # of values that no table has
            away = np.abs(table_LD[1:, : width // 2] - table_LD[0, : width // 2]).max(axis=1, initial=0)
        columns = next((place for place, far in enumerate(away.tolist(), 1) if far < 1e-2), count)
        grid = (count // columns, columns)
        if count % columns == 0 and _agree(table_LD, sincos_2d(width, grid)):
            return grid
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(f"{name} has {count} patches, no square; name image_size=(height, width)")
    return side, side


def _agree(table: np.ndarray, computed: np.ndarray) -> bool:
    """Check that tables are equal up to how finely one is stored; training moves a table further than that."""
    if table.shape != computed.shape:
        return False
    with np.errstate(all="ignore"):  # of values that no table has
        narrow = table.astype(np.float32)
        limit = 1e-4
        if not (narrow.view(np.uint32) & 0xFFFF).any():
            limit = 1e-2  # bfloat16
        elif np.array_equal(narrow, narrow.astype(np.float16)):
            limit = 2e-3
        return bool(np.abs(narrow - computed).max() < limit)


def _computed_table(
    draft: Draft, name: str, architecture: Mapping[str, Any], grid: tuple[int, int], place: str, otherwise: str
) -> str | None:
    """Return which of our fixed tables a position table is, or None, and note it; a cls token's row must be zeros."""
    table, front = draft.tensors.get(name), int(architecture["cls_token"])
    if table is None or table.ndim != 3:
        return None
    kind, width = None, table.shape[-1]
    if table.shape[1] - front == grid[0] * grid[1] and not table[0, :front].any():
        if width % 4 == 0 and _agree(table[0, front:], sincos_2d(width, grid)):
            kind = "sincos2d"
        elif width % 2 == 0 and _agree(table[0, front:], sincos_1d(width, grid)):
            kind = "sincos1d"
    words = f"the computed {kind} table{place}" if kind else f"not a computed table: {otherwise}"
    draft.notes.append(f"{display_name(draft.their_name(name))} is {words}")
    return kind


def _set_heads(draft: Draft, layout: str, settings: Settings, architecture: dict[str, Any]) -> None:
    fields = [("num_heads", "embed_dim", "heads", settings.heads, HEADS)]
    if "decoder" in architecture:
        narrow = {64 * n: n for n in range(1, 17)} if "mae-pytorch" in layout else DECODER_HEADS
        fields.append(("decoder_num_heads", "decoder_embed_dim", "decoder_heads", settings.decoder_heads, narrow))
    for field, width_field, argument, stated, published in fields:
        width = architecture[width_field]
        heads = stated or published.get(width)
        if heads is None:
            raise ValueError(f"tensors don't tell how many attention heads share a width of {width}; name {argument}=")
        if width % heads:
            raise ValueError(f"a width of {width} is not divisible by {heads} heads; name another {argument}=")
        if not stated:
            draft.notes.append(
                f"{argument} is not in the file: {heads}, as the published models of width {width} have; "
                f"name another with {argument}="
            )
        architecture[field] = heads


def _set_target(draft: Draft, layout: str, settings: Settings, architecture: dict[str, Any]) -> None:
    """Set whether normalised pixels are predicted; the layout's default applies where no setting states it."""
    norm_pix = settings.norm_pix_loss
    if norm_pix is None:
        norm_pix = "mae-pytorch" in layout
        word, other = ("normalised", "raw") if norm_pix else ("raw", "normalised")
        draft.notes.append(
            f"norm_pix_loss is not in the file: taken as {norm_pix} ({word} pixels), the default of that layout's "
            f"training script; name target='{other}' if it was trained otherwise"
        )
    if norm_pix and "mae-pytorch" in layout:
        draft.notes.append(
            "MAE-pytorch normalises a patch's channels one by one and our target all its values together: predictions "
            "are the same numbers, but pictures drawn from them get one mean and deviation for all channels"
        )
    architecture["norm_pix_loss"] = norm_pix
