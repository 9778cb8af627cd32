"""Build a segmenter's graph, for images of any size that its patches divide.

Batch norm is folded into the convolution in front of it.

Shapes: B images, C channels, H x W pixels, h x w patches, L patches, N tokens, D width, P pixels a patch, K classes, R
rows of a batch, E channels out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from paddlemae.export.operations import (
    Count,
    Graph,
    Value,
    batch_size,
    block,
    linear,
    norm,
    reshape,
    weight,
    without_cls,
)
from paddlemae.model.heads.layers import GROWTH
from paddlemae.model.heads.tensors import POOLS
from paddlemae.model.kernels.batch_norm import EPSILON
from paddlemae.model.segmenter import Segmenter
from paddlemae.model.shape import RELATIVE_POSITIONS, TAPS

CLS_ROWS = 3  # of a table of relative positions, behind the distances of patches


class Grid(NamedTuple):
    """Patches of the images that a graph is given, int64 [1] each."""

    rows: Value
    columns: Value
    patches: Value


def segmentation(graph: Graph, model: Segmenter, images_BCHW: Value) -> None:
    """Add what `Segmenter.forward` computes, as the output "logits" [B, K, H, W]."""
    height, width = (graph.add("Shape", graph.input("images"), start=axis, end=axis + 1) for axis in (2, 3))
    rows, columns = (
        graph.add("Div", side, graph.numbers(patch)) for side, patch in zip((height, width), model.encoder.patch_size)
    )
    grid = Grid(rows, columns, graph.add("Mul", rows, columns))
    maps = _taps(graph, model, images_BCHW, grid)
    logits_BKhw = HEADS[model.config["head"]](graph, model, maps, grid)
    graph.add("Identity", graph.resize(logits_BKhw, height, width, "linear"), name="logits")


def _taps(graph: Graph, model: Segmenter, images_BCHW: Value, grid: Grid) -> list[Value]:
    """Return the patch tokens that the head reads, [R, D] each: the last ones, normed, or those of the taps."""
    width, front = model.config["embed_dim"], int(model.encoder.has_cls)
    x_BLD = _embedded(graph, model, images_BCHW, grid)
    if front:
        row_11D = graph.weights["cls_token"] + graph.weights["pos_embed"][:, :1]
        shape = graph.numbers(batch_size(graph), 1, width)
        x_BLD = graph.add("Concat", graph.add("Expand", graph.constant("cls_row", row_11D), shape), x_BLD, axis=1)
    tokens = graph.add("Add", grid.patches, graph.numbers(1)) if front else grid.patches
    distances = _distances(graph, model, grid) if model.config["relative_positions"] else None
    x_RD, outputs = reshape(graph, x_BLD, -1, width), []
    for number, layer in enumerate(model.encoder.blocks):
        bias_HNN = _bias(graph, model, f"blocks.{number}", grid, tokens, distances) if distances is not None else None
        x_RD = block(graph, x_RD, f"blocks.{number}", tokens, layer.attn.num_heads, bias_HNN=bias_HNN)
        outputs.append(x_RD)
    read = [outputs[tap - 1] for tap in model.taps] if model.taps else [norm(graph, x_RD, "norm")]
    return [
        reshape(graph, without_cls(graph, reshape(graph, one, -1, tokens, width), bool(front)), -1, width)
        for one in read
    ]


def _embedded(graph: Graph, model: Segmenter, images_BCHW: Value, grid: Grid) -> Value:
    """Return embedded patches with their positions, [B, L, D]."""
    (height, width), channels = model.encoder.patch_size, model.encoder.channels
    split = reshape(graph, images_BCHW, -1, channels, grid.rows, height, grid.columns, width)
    turned = graph.add("Transpose", split, perm=[0, 2, 4, 3, 5, 1])
    patches_BLP = reshape(graph, turned, -1, grid.patches, height * width * channels)
    patches_RP = reshape(graph, patches_BLP, -1, height * width * channels)
    embedded_RD = linear(graph, patches_RP, "patch_embed.proj")
    table_LD = graph.weights["pos_embed"][0, int(model.encoder.has_cls) :]
    picture = table_LD.reshape(1, *model.grid, -1).transpose(0, 3, 1, 2)
    resized = graph.resize(graph.constant("pos_embed.picture", picture), grid.rows, grid.columns, "cubic")
    positions_LD = reshape(graph, graph.add("Transpose", resized, perm=[0, 2, 3, 1]), -1, table_LD.shape[-1])
    return graph.add("Add", reshape(graph, embedded_RD, -1, grid.patches, table_LD.shape[-1]), positions_LD)


# relative positions


def _range(graph: Graph, count: Value) -> Value:
    """Return 0, 1, ... up to a number that is known when the graph runs, int64 [count]."""
    ones = graph.add("Expand", graph.constant("one", np.ones(1, np.float32)), count)
    return graph.add("Cast", reshape(graph, graph.add("NonZero", ones), -1), to="int64")


def _differences(graph: Graph, count: Value) -> Value:
    """Return how far apart two places of an axis are, and count - 1 more: int64 [count, count]."""
    places = _range(graph, count)
    apart = graph.add("Sub", reshape(graph, places, -1, 1), reshape(graph, places, 1, -1))
    return graph.add("Add", apart, graph.add("Sub", count, _whole(graph, 1)))


def _whole(graph: Graph, value: int) -> Value:
    """Return a number as int64 [1] for arithmetic."""
    return graph.add("Cast", graph.constant(f"whole_{value}", np.array([value], np.float32)), to="int64")


def _distances(graph: Graph, model: Segmenter, grid: Grid) -> Value:
    """Compute `positions.distance_rows` of the grid, [N * N]."""
    down, right = _differences(graph, grid.rows), _differences(graph, grid.columns)
    twice_less_one = (
        graph.add("Sub", graph.add("Add", side, side), _whole(graph, 1)) for side in (grid.rows, grid.columns)
    )
    tall, wide = twice_less_one
    steps = graph.add("Mul", down, wide)
    both = graph.add(
        "Add",
        reshape(graph, steps, grid.rows, 1, grid.rows, 1),
        reshape(graph, right, 1, grid.columns, 1, grid.columns),
    )
    rows_LL = reshape(graph, both, grid.patches, grid.patches)
    if model.encoder.has_cls:
        last = graph.add("Mul", tall, wide)

        def row(number: int, *shape: Count) -> Value:
            place = graph.add("Add", last, _whole(graph, number))
            return graph.add("Expand", reshape(graph, place, 1, 1), graph.numbers(*shape))

        below = graph.add("Concat", row(1, grid.patches, 1), rows_LL, axis=1)
        first = graph.add("Concat", row(2, 1, 1), row(0, 1, grid.patches), axis=1)
        rows_LL = graph.add("Concat", first, below, axis=0)
    return reshape(graph, rows_LL, -1)


def _bias(graph: Graph, model: Segmenter, name: str, grid: Grid, tokens: Value, distances: Value) -> Value:
    """Compute `positions.relative_bias` of a block: [heads, N, N]."""
    table_TH = graph.weights[f"{name}.attn.{RELATIVE_POSITIONS}"]
    tall, wide = (2 * side - 1 for side in model.grid)
    heads = table_TH.shape[1]
    picture = table_TH[: tall * wide].reshape(1, tall, wide, heads).transpose(0, 3, 1, 2)
    new = [graph.add("Sub", graph.add("Add", side, side), _whole(graph, 1)) for side in (grid.rows, grid.columns)]
    resized = graph.resize(graph.constant(f"{name}.distances", picture), new[0], new[1], "linear")
    table = reshape(graph, graph.add("Transpose", resized, perm=[0, 2, 3, 1]), -1, heads)
    table = graph.add("Concat", table, graph.constant(f"{name}.cls_distances", table_TH[tall * wide :]), axis=0)
    pairs = graph.add("Transpose", graph.add("Gather", table, distances), perm=[1, 0])
    return reshape(graph, pairs, heads, tokens, tokens)


# heads


def _channels_first(graph: Graph, x_RD: Value, height: Count, width: Count, channels: int) -> Value:
    split = reshape(graph, x_RD, -1, height, width, channels)
    return graph.add("Transpose", split, perm=[0, 3, 1, 2])


def _linear_head(graph: Graph, model: Segmenter, maps: list[Value], grid: Grid) -> Value:
    logits_RK = linear(graph, maps[0], "head.classifier")
    return _channels_first(graph, logits_RK, grid.rows, grid.columns, model.config["num_classes"])


def _conv_head(graph: Graph, model: Segmenter, maps: list[Value], grid: Grid) -> Value:
    """Compute `heads.conv.ConvHead`."""
    x_RC, (rows, columns), channels = maps[0], grid[:2], model.config["head_width"]
    for number in range(len(model.head.stages)):
        stage = f"head.stages.{number}"
        bias = np.tile(graph.weights[f"{stage}.up.bias"], GROWTH * GROWTH)
        bias_value = graph.constant(f"{stage}.up.bias.tiled", bias)
        x_RE = graph.add("Gemm", x_RC, weight(graph, f"{stage}.up.weight"), bias_value)
        split = reshape(graph, x_RE, -1, rows, columns, GROWTH, GROWTH, channels)
        rows, columns = (graph.add("Mul", side, graph.numbers(GROWTH)) for side in (rows, columns))
        turned = graph.add("Transpose", split, perm=[0, 1, 3, 2, 4, 5])
        x_RC = reshape(graph, reshape(graph, turned, -1, rows, columns, channels), -1, channels)
        x_RC = graph.add("Gelu", norm(graph, x_RC, f"{stage}.norm1"))
        kernel = graph.constant(f"{stage}.conv", _kernel(graph.weights[f"{stage}.conv.weight"]))
        x_BChw = _channels_first(graph, x_RC, rows, columns, channels)
        zeros = graph.constant(f"zeros_{channels}", np.zeros(channels, np.float32))
        x_BChw = graph.add("Conv", x_BChw, kernel, zeros, pads=[1] * 4)
        x_BhwC = graph.add("Transpose", x_BChw, perm=[0, 2, 3, 1])
        x_RC = graph.add("Gelu", norm(graph, reshape(graph, x_BhwC, -1, channels), f"{stage}.norm2"))
    logits_RK = linear(graph, x_RC, "head.classifier")
    return _channels_first(graph, logits_RK, rows, columns, model.config["num_classes"])


def _upernet_head(graph: Graph, model: Segmenter, maps: list[Value], grid: Grid) -> Value:
    """Compute `heads.upernet`'s `Pyramid` and `UperNetHead`."""
    width = model.config["embed_dim"]
    levels = _pyramid(graph, [_channels_first(graph, one, grid.rows, grid.columns, width) for one in maps])
    sizes = [_size(graph, one) for one in levels]
    sums = [_block(graph, one, f"head.laterals.{number}") for number, one in enumerate(levels[:-1])]
    sums.append(_pooled(graph, levels[-1], sizes[-1]))
    for number in range(TAPS - 1, 0, -1):
        grown = graph.resize(sums[number], *sizes[number - 1], "linear")
        sums[number - 1] = graph.add("Add", sums[number - 1], grown)
    smooth = [_block(graph, one, f"head.smooths.{number}") for number, one in enumerate(sums[:-1])] + sums[-1:]
    resized = [smooth[0], *(graph.resize(one, *sizes[0], "linear") for one in smooth[1:])]
    fused = _block(graph, graph.add("Concat", *resized, axis=1), "head.fusion")
    classifier = graph.constant("head.classifier.kernel", graph.weights["head.classifier.weight"].T[:, :, None, None])
    return graph.add("Conv", fused, classifier, weight(graph, "head.classifier.bias"), pads=[0] * 4)


HEADS = {"linear": _linear_head, "conv": _conv_head, "upernet": _upernet_head}


def _size(graph: Graph, x_BChw: Value) -> tuple[Value, Value]:
    rows, columns = (graph.add("Shape", x_BChw, start=axis, end=axis + 1) for axis in (2, 3))
    return rows, columns


def _pyramid(graph: Graph, maps: list[Value]) -> list[Value]:
    first, second, third, last = maps
    scale, shift = _folded(graph.weights, "neck.quadrupled.norm")
    grown = _upsampling(graph, first, "neck.quadrupled.first", scale, shift)
    quadrupled = _upsampling(graph, graph.add("Gelu", grown), "neck.quadrupled.second")
    halved = graph.add("MaxPool", last, kernel_shape=[2, 2], strides=[2, 2])
    return [quadrupled, _upsampling(graph, second, "neck.doubled"), third, halved]


def _upsampling(graph: Graph, x_BChw: Value, layer: str, scale: Any = 1.0, shift: Any = 0.0) -> Value:
    """Compute `heads.layers.Upsampling`, and a factor and a term for each of its outputs."""
    matrix, bias = graph.weights[f"{layer}.weight"], graph.weights[f"{layer}.bias"]
    kernel = matrix.reshape(len(matrix), GROWTH, GROWTH, -1).transpose(0, 3, 1, 2) * np.reshape(scale, (-1, 1, 1))
    weights = graph.constant(f"{layer}.kernel", kernel.astype(np.float32))
    return graph.add(
        "ConvTranspose",
        x_BChw,
        weights,
        graph.constant(f"{layer}.term", (bias * scale + shift).astype(np.float32)),
        strides=[GROWTH, GROWTH],
    )


def _folded(weights: dict[str, np.ndarray], layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the factor and the term of each channel that batch norm is in evaluation."""
    scale = weights[f"{layer}.weight"] / np.sqrt(weights[f"{layer}.running_var"].astype(np.float64) + EPSILON)
    return scale, weights[f"{layer}.bias"] - weights[f"{layer}.running_mean"] * scale


def _kernel(weight_9CE: np.ndarray) -> np.ndarray:
    """Return a convolution's weight as [E, C, side, side]."""
    side = round(len(weight_9CE) ** 0.5)
    return weight_9CE.reshape(side, side, *weight_9CE.shape[1:]).transpose(3, 2, 0, 1)


def _block(graph: Graph, x_BChw: Value, layer: str) -> Value:
    """Compute `heads.layers.ConvolutionBlock` or the convolution of `heads.upernet.Fusion`."""
    scale, shift = _folded(graph.weights, f"{layer}.norm")
    kernel = _kernel(graph.weights[f"{layer}.conv.weight"]) * scale.reshape(-1, 1, 1, 1)
    weights = graph.constant(f"{layer}.kernel", kernel.astype(np.float32))
    term = graph.constant(f"{layer}.term", shift.astype(np.float32))
    padding = [kernel.shape[-1] // 2] * 4
    return graph.add("Relu", graph.add("Conv", x_BChw, weights, term, pads=padding))


def _pooled(graph: Graph, x_BChw: Value, size: tuple[Value, Value]) -> Value:
    """Compute `UperNetHead.pool`; matrices of means are made when the sizes are known."""
    parts = [x_BChw]
    for number, side in enumerate(POOLS):
        rows, columns = (_means(graph, side, count) for count in size)
        wide = graph.add("MatMul", x_BChw, graph.add("Transpose", columns, perm=[1, 0]))
        small = _block(graph, graph.add("MatMul", rows, wide), f"head.pools.{number}")
        parts.append(graph.resize(small, *size, "linear"))
    return _block(graph, graph.add("Concat", *parts, axis=1), "head.pooled")


def _means(graph: Graph, side: int, count: Value) -> Value:
    """Compute `grid_weights.pooling_weights`, [side, count]."""
    places = [graph.constant(f"places_{side}_{first}", _column(first, side)) for first in (0, 1)]
    start, before_stop = (graph.add("Mul", graph.add("Cast", one, to="int64"), count) for one in places)
    start = graph.add("Div", start, _whole(graph, side))
    stop = graph.add("Div", graph.add("Add", before_stop, _whole(graph, side - 1)), _whole(graph, side))
    index = reshape(graph, _range(graph, count), 1, -1)
    inside = graph.add("And", graph.add("GreaterOrEqual", index, start), graph.add("Less", index, stop))
    length = graph.add("Cast", graph.add("Sub", stop, start), to="float32")
    return graph.add("Div", graph.add("Cast", inside, to="float32"), length)


def _column(first: int, side: int) -> np.ndarray:
    return np.arange(first, side + first, dtype=np.float32)[:, None]
