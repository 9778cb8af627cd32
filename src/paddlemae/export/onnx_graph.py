"""A model as an ONNX graph, written operation by operation from its weights.

There is no converter in between: the only one of Paddle's programs holds `onnx` to a version of 2024 and has no build
for Python 3.13 (docs/export.md). Linear weights are Paddle's, [in, out], under the names that they have in the model.

Shapes: B images, C channels, H x W pixels, L patches of a grid (rows x columns), K kept ones, N tokens, D or E width,
P pixels a patch, Q tokens that ask, R rows of a batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from paddlemae.export.interface import Interface, Model
from paddlemae.model.crossmae import CrossAttention
from paddlemae.model.mae import TARGET_EPSILON, MaskedAutoencoder
from paddlemae.model.vit import NORM_EPSILON, Attention, VisionTransformer

OPSET = 20  # the first with Gelu
IR_VERSION = 9  # opset 20's
ELEMENTS = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}
LAST = np.iinfo(np.int64).max  # where a slice ends that goes to the end
Name = str  # of a value in the graph
Count = int | Name


class Graph:
    """Nodes and constants as they are added.

    Args:
        weights: arrays by name; those that are asked for become part of the file.
    """

    def __init__(self, weights: dict[str, np.ndarray]):
        self.weights = weights
        self.nodes: list[NodeProto] = []
        self.constants: dict[Name, TensorProto] = {}

    def add(self, operation: str, *inputs: Name, name: Name | None = None, **attributes: Any) -> Name:
        """Add a node; returns its output, which is called `name` where given."""
        output = name or f"{operation.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: Name, array: np.ndarray) -> Name:
        """Put an array into the file, once."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def numbers(self, *values: Count) -> Name:
        """int64 [n]: shapes, axes and indices, known ones and such as are only known when the graph runs, [1] each."""
        if any(isinstance(value, str) for value in values):
            return self.add("Concat", *(self.numbers(one) if isinstance(one, int) else one for one in values), axis=0)
        return self.constant("_".join(["int", *map(str, values)]), np.array(values, np.int64))

    def number(self, value: float) -> Name:
        """A float32 scalar."""
        return self.constant(f"float_{value}", np.array(value, np.float32))

    def weight(self, name: str) -> Name:
        return self.constant(name, self.weights[name])

    def reshape(self, x: Name, *shape: Count) -> Name:
        """-1 is what the other dimensions leave."""
        return self.add("Reshape", x, self.numbers(*shape))

    def slice(self, x: Name, start: int, stop: int, axis: int) -> Name:
        return self.add("Slice", x, self.numbers(start), self.numbers(stop), self.numbers(axis))

    def linear(self, x_RD: Name, layer: str) -> Name:
        return self.add("Gemm", x_RD, self.weight(f"{layer}.weight"), self.weight(f"{layer}.bias"))

    def norm(self, x: Name, layer: str) -> Name:
        weight, bias = self.weight(f"{layer}.weight"), self.weight(f"{layer}.bias")
        return self.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=NORM_EPSILON)


def onnx_model(model: Model, interface: Interface, mean: list[float], std: list[float]) -> ModelProto:
    """The part of a model that an interface describes.

    Args:
        mean, std: of images in [0, 1], a channel; uint8 ones are normalised with them inside.
    """
    graph = Graph(_weights(model))
    mean_C11, std_C11 = (np.asarray(values, np.float64).reshape(-1, 1, 1) for values in (mean, std))
    scale = graph.constant("pixel_scale", (1 / (255 * std_C11)).astype(np.float32))
    shift = graph.constant("pixel_shift", (-mean_C11 / std_C11).astype(np.float32))
    images_BCHW = graph.add("Cast", "images", to=TensorProto.FLOAT)
    images_BCHW = graph.add("Add", graph.add("Mul", images_BCHW, scale), shift)
    if interface.what == "reconstructor":
        assert isinstance(model, MaskedAutoencoder)
        normal_BCHW = _reconstruction(graph, model, images_BCHW)
        coloured = graph.add("Mul", normal_BCHW, graph.constant("pixel_std", std_C11.astype(np.float32)))
        graph.add("Add", coloured, graph.constant("pixel_mean", mean_C11.astype(np.float32)), name="completed")
    elif interface.what == "classifier":
        assert isinstance(model, VisionTransformer)
        features_BD = _features(graph, model, images_BCHW, model.pool)
        graph.add("Identity", graph.linear(features_BD, "head"), name="logits")
    else:
        assert interface.token
        graph.add("Identity", _features(graph, model, images_BCHW, interface.token), name="features")
    inputs, outputs = (
        [helper.make_tensor_value_info(one.name, ELEMENTS[one.dtype], ["batch", *one.shape]) for one in several]
        for several in (interface.inputs, interface.outputs)
    )
    whole = helper.make_graph(graph.nodes, interface.what, inputs, outputs, list(graph.constants.values()))
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(whole, opset_imports=opset, ir_version=IR_VERSION, producer_name="PaddleMAE")


def _weights(model: Model) -> dict[str, np.ndarray]:
    """The model's arrays; attention's fused layers as `q`, scaled already, `k` and `v`.

    Three products need no copies that take a fused one's result apart.
    """
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for name, layer in model.named_sublayers():
        if not isinstance(layer, Attention | CrossAttention):
            continue
        for kind in ("weight", "bias"):
            if isinstance(layer, Attention):
                query, key, value = np.split(weights.pop(f"{name}.qkv.{kind}"), 3, axis=-1)
            else:
                query = weights.pop(f"{name}.q.{kind}")
                key, value = np.split(weights.pop(f"{name}.kv.{kind}"), 2, axis=-1)
            scale = (query.shape[-1] // layer.num_heads) ** -0.5
            weights |= {f"{name}.q.{kind}": query * scale, f"{name}.k.{kind}": key, f"{name}.v.{kind}": value}
    return weights


def _patches(graph: Graph, model: Model, images_BCHW: Name) -> Name:
    """[R, P], as `vit.patchify` cuts them, those of one image after those of another."""
    (rows, columns), (height, width) = model.grid, model.patch_size
    split = graph.reshape(images_BCHW, -1, model.channels, rows, height, columns, width)
    turned = graph.add("Transpose", split, perm=[0, 2, 4, 3, 5, 1])
    return graph.reshape(turned, -1, height * width * model.channels)


def _picture(graph: Graph, model: Model, patches_BLP: Name) -> Name:
    """[B, C, H, W], as `vit.unpatchify` joins them."""
    (rows, columns), (height, width) = model.grid, model.patch_size
    split = graph.reshape(patches_BLP, -1, rows, columns, height, width, model.channels)
    turned = graph.add("Transpose", split, perm=[0, 5, 1, 3, 2, 4])
    return graph.reshape(turned, -1, model.channels, rows * height, columns * width)


def _split_table(graph: Graph, model: Model, name: str) -> tuple[np.ndarray, Name]:
    """(a position table's first row [1, 1, D], the cls token's if there is one; the patches' rows [L, D])."""
    table_1ND, front = graph.weights[name], int(model.has_cls)
    return table_1ND[:, :1], graph.constant(f"{name}.patches", table_1ND[0, front:])


def _features(graph: Graph, model: Model, images_BCHW: Name, token: str) -> Name:
    """[B, D], as `vit.features` makes them."""
    patches, width = model.grid[0] * model.grid[1], model.config["embed_dim"]
    embedded_RD = graph.linear(_patches(graph, model, images_BCHW), "patch_embed.proj")
    _, positions_LD = _split_table(graph, model, "pos_embed")
    x_BLD = graph.add("Add", graph.reshape(embedded_RD, -1, patches, width), positions_LD)
    maps, tokens = _encoder(graph, model, x_BLD, patches, only_first=token == "cls")
    norms_tokens = not hasattr(model, "fc_norm")
    x_RD = graph.norm(maps[-1], "norm") if norms_tokens else maps[-1]
    if token == "mean":
        x_BLD = _without_cls(graph, model, graph.reshape(x_RD, -1, tokens, width))
        x_RD = graph.add("ReduceMean", x_BLD, graph.numbers(1), keepdims=0)
    return x_RD if norms_tokens else graph.norm(x_RD, "fc_norm")


def _without_cls(graph: Graph, model: Model, x_BND: Name) -> Name:
    return graph.slice(x_BND, 1, LAST, axis=1) if model.has_cls else x_BND


def _encoder(
    graph: Graph, model: Model, x_BKD: Name, patches: Count, only_first: bool = False
) -> tuple[list[Name], Count]:
    """(what goes into each block and what the last one gives, [R, D] each; the tokens of an image, N).

    Args:
        x_BKD: embedded patches with their positions, all of them or the kept ones.
        patches: their number, K.
        only_first: of the last block, the first token of each image alone.
    """
    tokens, width = patches, model.config["embed_dim"]
    if model.has_cls:
        row_11D = graph.weights["cls_token"] + _split_table(graph, model, "pos_embed")[0]
        cls_B1D = _for_each_image(graph, graph.constant("cls_row", row_11D))
        x_BKD = graph.add("Concat", cls_B1D, x_BKD, axis=1)
        tokens = patches + 1 if isinstance(patches, int) else graph.add("Add", patches, graph.numbers(1))
    maps = [graph.reshape(x_BKD, -1, width)]
    for number, block in enumerate(model.blocks):
        first = only_first and number == len(model.blocks) - 1
        maps.append(_block(graph, maps[-1], f"blocks.{number}", tokens, block.attn.num_heads, first))
    if only_first and not len(model.blocks):
        maps.append(_first_tokens(graph, maps[-1], tokens, width))
    return maps, tokens


def _first_tokens(graph: Graph, x_RD: Name, tokens: Count, width: int) -> Name:
    """[B, D]."""
    first_B1D = graph.slice(graph.reshape(x_RD, -1, tokens, width), 0, 1, axis=1)
    return graph.reshape(first_B1D, -1, width)


def _batch(graph: Graph) -> Name:
    """B, int64 [1]."""
    return graph.add("Shape", "images", start=0, end=1)


def _for_each_image(graph: Graph, x_1ND: Name) -> Name:
    return graph.add("Expand", x_1ND, graph.numbers(_batch(graph), 1, 1))


def _block(graph: Graph, x_RD: Name, block: str, tokens: Count, heads: int, only_first: bool = False) -> Name:
    """`vit.Block`, of all tokens or of each image's first."""
    seen_RD = graph.norm(x_RD, f"{block}.norm1")
    asking_RD, queries = seen_RD, tokens
    if only_first:
        width = graph.weights[f"{block}.norm1.weight"].size
        asking_RD, x_RD = (_first_tokens(graph, each, tokens, width) for each in (seen_RD, x_RD))
        queries = 1
    attended_RD = _attention(graph, asking_RD, queries, seen_RD, tokens, f"{block}.attn", heads)
    return _mlp(graph, graph.add("Add", x_RD, attended_RD), block)


def _attention(
    graph: Graph, asking_RD: Name, queries: Count, memory_RE: Name, tokens: Count, layer: str, heads: int
) -> Name:
    """`vit.Attention` or `crossmae.CrossAttention`, of `queries` and `tokens` an image: [R, D]."""
    width = graph.weights[f"{layer}.q.bias"].size

    def turned(x: Name, part: str, count: Count, order: list[int]) -> Name:
        split = graph.reshape(graph.linear(x, f"{layer}.{part}"), -1, count, heads, width // heads)
        return graph.add("Transpose", split, perm=order)

    query_BHQd = turned(asking_RD, "q", queries, [0, 2, 1, 3])
    key_BHdN = turned(memory_RE, "k", tokens, [0, 2, 3, 1])
    value_BHNd = turned(memory_RE, "v", tokens, [0, 2, 1, 3])
    shares_BHQN = graph.add("Softmax", graph.add("MatMul", query_BHQd, key_BHdN), axis=-1)
    mixed_BQHd = graph.add("Transpose", graph.add("MatMul", shares_BHQN, value_BHNd), perm=[0, 2, 1, 3])
    return graph.linear(graph.reshape(mixed_BQHd, -1, width), f"{layer}.proj")


def _mlp(graph: Graph, x_RD: Name, block: str) -> Name:
    """`x + mlp(norm(x))`."""
    hidden = graph.add("Gelu", graph.linear(graph.norm(x_RD, f"{block}.norm2"), f"{block}.mlp.fc1"))
    return graph.add("Add", x_RD, graph.linear(hidden, f"{block}.mlp.fc2"))


def _reconstruction(graph: Graph, model: MaskedAutoencoder, images_BCHW: Name) -> Name:
    """The images with the patches that "mask" removes as they are predicted; "patches" is what the decoder gives."""
    patches, pixels, width = model.grid[0] * model.grid[1], model.pixels, model.config["embed_dim"]
    patches_RP = _patches(graph, model, images_BCHW)
    removed_BL = graph.add("Cast", graph.reshape("mask", -1, patches), to=TensorProto.BOOL)
    kept_BL = graph.add("Not", removed_BL)
    kept_rows = graph.reshape(graph.add("NonZero", graph.reshape(kept_BL, -1)), -1)  # among all images' patches
    kept = graph.add("Div", graph.add("Shape", kept_rows), _batch(graph))

    embedded_RD = graph.linear(graph.add("Gather", patches_RP, kept_rows), "patch_embed.proj")
    _, positions_LD = _split_table(graph, model, "pos_embed")
    positions_RD = graph.add("Gather", positions_LD, graph.add("Mod", kept_rows, graph.numbers(patches)))
    x_BKD = graph.reshape(graph.add("Add", embedded_RD, positions_RD), _batch(graph), kept, width)
    maps, tokens = _encoder(graph, model, x_BKD, kept)

    if model.decoder == "cross":
        x_RD = _cross_decoder(graph, model, maps, tokens)
    else:
        x_RD = _decoder(graph, model, maps[-1], tokens, kept_rows)
    plain_BLP = graph.reshape(graph.linear(graph.norm(x_RD, "decoder_norm"), "decoder_pred"), -1, patches, pixels)
    plain_BLP = graph.add("Add", plain_BLP, _nan_if_uneven(graph, kept_BL), name="patches")
    patches_BLP = graph.reshape(patches_RP, -1, patches, pixels)
    prediction_BLP = plain_BLP
    if model.norm_pix_loss:
        prediction_BLP = _with_statistics_of(graph, patches_BLP, plain_BLP, pixels)
    removed_BL1 = graph.add("Unsqueeze", removed_BL, graph.numbers(-1))
    return _picture(graph, model, graph.add("Where", removed_BL1, prediction_BLP, patches_BLP))


def _nan_if_uneven(graph: Graph, kept_BL: Name) -> Name:
    """0, or nan where images of a batch keep different numbers of patches: what is computed then is of no image."""
    counts_B = graph.add("ReduceSum", graph.add("Cast", kept_BL, to=TensorProto.FLOAT), graph.numbers(1), keepdims=0)
    least, most = (graph.add(f"Reduce{side}", counts_B, graph.numbers(0), keepdims=0) for side in ("Min", "Max"))
    return graph.add("Sqrt", graph.add("Sub", least, most))


def _with_statistics_of(graph: Graph, patches_BLP: Name, normal_BLP: Name, pixels: int) -> Name:
    """The reverse of `mae.normal_patches`."""
    mean_BL1 = graph.add("ReduceMean", patches_BLP, graph.numbers(-1))
    squares_BL1 = graph.add("ReduceSumSquare", graph.add("Sub", patches_BLP, mean_BL1), graph.numbers(-1))
    variance_BL1 = graph.add("Mul", squares_BL1, graph.number(1 / (pixels - 1)))
    deviation_BL1 = graph.add("Sqrt", graph.add("Add", variance_BL1, graph.number(TARGET_EPSILON)))
    return graph.add("Add", graph.add("Mul", normal_BLP, deviation_BL1), mean_BL1)


def _decoder(graph: Graph, model: MaskedAutoencoder, latent_RE: Name, tokens: Count, kept_rows: Name) -> Name:
    """`mae.decode` up to its last norm, of all patches in the image's order: [R, D]."""
    width, patches = model.config["decoder_embed_dim"], model.grid[0] * model.grid[1]
    latent_RD = graph.linear(graph.norm(latent_RE, "norm"), "decoder_embed")
    latent_BND = graph.reshape(latent_RD, -1, tokens, width)
    every_row = graph.add("Mul", _batch(graph), graph.numbers(patches))
    masks_RD = graph.add(
        "Expand", graph.constant("mask_token", graph.weights["mask_token"][0]), graph.numbers(every_row, width)
    )
    visible_RD = graph.reshape(_without_cls(graph, model, latent_BND), -1, width)
    x_RD = graph.add("ScatterND", masks_RD, graph.add("Unsqueeze", kept_rows, graph.numbers(1)), visible_RD)
    row_11D, positions_LD = _split_table(graph, model, "decoder_pos_embed")
    x_BND = graph.add("Add", graph.reshape(x_RD, -1, patches, width), positions_LD)
    if model.has_cls:
        first_B1D = graph.slice(latent_BND, 0, 1, axis=1)
        x_BND = graph.add(
            "Concat", graph.add("Add", first_B1D, graph.constant("decoder_cls_row", row_11D)), x_BND, axis=1
        )
    everything = patches + int(model.has_cls)
    x_RD = graph.reshape(x_BND, -1, width)
    for number, block in enumerate(model.decoder_blocks):
        x_RD = _block(graph, x_RD, f"decoder_blocks.{number}", everything, block.attn.num_heads)
    return graph.reshape(_without_cls(graph, model, graph.reshape(x_RD, -1, everything, width)), -1, width)


def _cross_decoder(graph: Graph, model: MaskedAutoencoder, maps: list[Name], tokens: Count) -> Name:
    """`crossmae.read_out` of every patch, up to its last norm: [R, D]."""
    width, patches = model.config["decoder_embed_dim"], model.grid[0] * model.grid[1]
    _, positions_LD = _split_table(graph, model, "decoder_pos_embed")
    queries_1LD = graph.add("Add", graph.weight("mask_token"), positions_LD)
    x_RD = graph.reshape(_for_each_image(graph, queries_1LD), -1, width)
    for number, (block, memory_RE) in enumerate(zip(model.decoder_blocks, _memories(graph, model, maps))):
        name = f"decoder_blocks.{number}"
        asking_RD = graph.norm(x_RD, f"{name}.norm1")
        attended_RD = _attention(graph, asking_RD, patches, memory_RE, tokens, f"{name}.attn", block.attn.num_heads)
        x_RD = _mlp(graph, graph.add("Add", x_RD, attended_RD), name)
    return x_RD


def _memories(graph: Graph, model: MaskedAutoencoder, maps: list[Name]) -> list[Name]:
    """What each block of a cross decoder attends to, as `mae.encode_memories` makes it: [R, E] each."""
    count, width = len(model.decoder_blocks), model.config["embed_dim"]
    if model.inter_block is None:
        return [graph.norm(maps[-1], "norm")] * count
    numbers = graph.add("Concat", *(graph.reshape(one, 1, -1) for one in maps), axis=0)
    sums = graph.add("MatMul", graph.weight("inter_block.weight"), numbers)
    each = (graph.reshape(graph.slice(sums, block, block + 1, axis=0), -1, width) for block in range(count))
    return [graph.norm(sum_RE, f"inter_block.norms.{block}") for block, sum_RE in enumerate(each)]
