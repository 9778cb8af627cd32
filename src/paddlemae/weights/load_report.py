"""Report what became of every tensor of a file, for people and for programs. No model is built."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from paddlemae.model.shape import target_name
from paddlemae.system.display_names import display_name
from paddlemae.weights.layouts import Imported
from paddlemae.weights.open import Foreign

KINDS = {
    "zip": "PyTorch file",
    "legacy": "PyTorch file (legacy format)",
    "pickle": "Paddle file",
    "safetensors": "safetensors file",
}
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def report(foreign: Foreign, imported: Imported) -> dict[str, Any]:
    """Return everything that was found as plain values, for JSON."""
    architecture, state = imported.architecture, foreign.state
    return {
        "path": str(foreign.path),
        "file": KINDS[foreign.kind],
        "key": state.place,
        "beside": state.others,
        "layout": imported.layout,
        "kind": imported.kind,
        "architecture": architecture,
        "target": target_name(architecture) if imported.kind == "mae" else None,
        "parameters": parameter_count(imported.tensors, architecture),
        "dtypes": sorted(set(state.dtypes.values())),
        "mean": imported.mean,
        "std": imported.std,
        "classes": len(imported.classes) or architecture.get("num_classes", 0),
        "loaded": {name: list(array.shape) for name, array in imported.tensors.items()},
        "converted": imported.converted,
        "left_over": {**imported.left_over, **state.skipped},
        "notes": imported.notes,
    }


def parameter_count(tensors: Mapping[str, np.ndarray], architecture: Mapping[str, Any]) -> int:
    """Count the trainable numbers: all but fixed position tables."""
    fixed = ["decoder_pos_embed", *(["pos_embed"] if architecture["positions"] != "learned" else [])]
    return sum(array.size for name, array in tensors.items() if name not in fixed)


def lines(content: Mapping[str, Any]) -> list[str]:
    """Format the report as text; a tensor that several blocks have takes one line."""
    shape, converted = content["architecture"], content["converted"]
    others = ", ".join(f"{display_name(name)} ({display_name(what)})" for name, what in content["beside"].items())
    place = f" under {content['key']!r}" if content["key"] else ""
    target = f", predicts {content['target']} pixels" if content["target"] else ""
    classes = f", {content['classes']} classes" if content["kind"] in ("classifier", "segmenter") else ""
    mean = "not in the file: ImageNet's, or 0.5 of other than three channels, will be taken"
    if content["mean"]:
        mean = f"{_numbers(content['mean'])}; {_numbers(content['std'])}"
    same = len(content["loaded"]) - len(converted)
    found = [
        ("file", f"{content['file']}, weights{place}{f'; next to: {others}' if others else ''}"),
        ("layout", content["layout"]),
        ("model", f"{display_name(content['kind'])}{target}{classes}"),
        ("encoder", _encoder(shape)),
        *([("decoder", _decoder(shape))] if content["kind"] == "mae" else []),
        *([("head", _head(shape))] if content["kind"] == "segmenter" else []),
        ("parameters", f"{content['parameters'] / 1e6:.2f} million, {' and '.join(content['dtypes'])}"),
        ("mean, std", mean),
        *(("note", display_name(note, 300)) for note in content["notes"]),
        (
            "tensors",
            f"{same} as they are, {len(converted)} converted, 0 missing, 0 of another shape, "
            f"{len(content['left_over'])} left over",
        ),
    ]
    rows = [f"{name + ':':13}{value}" for name, value in found]
    loaded = [(name, f"{size}", converted.get(name, "")) for name, size in content["loaded"].items()]
    rows += [f"  {name:44} {size:20} {how}".rstrip() for name, size, how in _together(loaded)]
    left = [(display_name(name), "left over", display_name(why)) for name, why in content["left_over"].items()]
    rows += [f"  {name:44} {what:20} {why}".rstrip() for name, what, why in _together(left)]
    return rows


def _encoder(shape: Mapping[str, Any]) -> str:
    size, patch = (" x ".join(map(str, shape[name])) for name in ("image_size", "patch_size"))
    token = "with" if shape["cls_token"] else "without"
    return (
        f"{shape['depth']} blocks of {shape['embed_dim']}, {shape['num_heads']} heads, MLP ratio "
        f"{shape['mlp_ratio']:g}; images of {size} x {shape['channels']} in patches of {patch}; {token} a cls token; "
        f"positions: {shape['positions']}"
    )


def _decoder(shape: Mapping[str, Any]) -> str:
    return f"{shape['decoder_depth']} blocks of {shape['decoder_embed_dim']}, {shape['decoder_num_heads']} heads"


def _head(shape: Mapping[str, Any]) -> str:
    width = f", {shape['head_width']} channels" if "head_width" in shape else ""
    taps = f", blocks {', '.join(map(str, shape['taps']))}" if "taps" in shape else ""
    return f"{shape['head']}{width}{taps}{', relative positions' if shape['relative_positions'] else ''}"


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _together(rows: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Join rows that differ in a block's number only: `blocks.{0-11}.attn.qkv.weight`."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for name, what, how in rows:
        numbers = NUMBER.findall(name)
        key = (NUMBER.sub("{}", name, count=1) if numbers else name, what, how)
        groups.setdefault(key, []).append(int(numbers[0]) if numbers else -1)
    return [(name.replace("{}", _span(numbers), 1), what, how) for (name, what, how), numbers in groups.items()]


def _span(numbers: list[int]) -> str:
    first, last = min(numbers), max(numbers)
    if len(numbers) == 1:
        return str(first)
    if len(numbers) == last - first + 1:
        return f"{{{first}-{last}}}"
    return f"{{{','.join(map(str, sorted(numbers)))}}}"
