"""Build a model's parts operation by operation from its weights, for the graph of any engine.

Operations are ONNX's, by name and meaning. Linear weights are Paddle's, [in, out], under the names that they have in
the model.

Shapes: B images, C channels, H x W pixels, L patches of a grid (rows x columns), K kept ones, N tokens, D or E width,
P pixels a patch, Q tokens that ask, R rows of a batch, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from paddlemae.export.interface import Interface, Model
from paddlemae.export.operations import (
    Count,
    Graph,
    Value,
    attention,
    batch_size,
    block,
    cut,
    first_tokens,
    for_each_image,
    linear,
    mlp,
    norm,
    reshape,
    weight,
    without_cls,
)
from paddlemae.export.segmentation import segmentation
from paddlemae.model.blocks import Attention
from paddlemae.model.classifier import VisionTransformer
from paddlemae.model.decoders.cross import CrossAttention
from paddlemae.model.encoder import MEAN_STD
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.segmenter import Segmenter
from paddlemae.model.targets import TARGET_EPSILON
from paddlemae.weights.transfer import official_name, official_state


def build(graph: Graph, model: Model, interface: Interface, mean: list[float], std: list[float]) -> None:
    """Add the part of a model that an interface describes, from its inputs to its outputs.

    Args:
        graph: of `weights_of(model)`.
        mean, std: of images in [0, 1], a channel; those of whole numbers are normalised with them inside.
    """
    white = 2**interface.depth - 1
    mean_C11, std_C11 = (np.asarray(values, np.float64).reshape(-1, 1, 1) for values in (mean, std))
    scale = graph.constant("pixel_scale", (1 / (white * std_C11)).astype(np.float32))
    shift = graph.constant("pixel_shift", (-mean_C11 / std_C11).astype(np.float32))
    images_BCHW = graph.add("Cast", graph.input("images"), to="float32")
    images_BCHW = graph.add("Add", graph.add("Mul", images_BCHW, scale), shift)
    if interface.what == "reconstructor":
        assert isinstance(model, MaskedAutoencoder)
        normal_BCHW = _reconstruction(graph, model, images_BCHW)
        coloured = graph.add("Mul", normal_BCHW, graph.constant("pixel_std", std_C11.astype(np.float32)))
        graph.add("Add", coloured, graph.constant("pixel_mean", mean_C11.astype(np.float32)), name="completed")
    elif interface.what == "classifier":
        assert isinstance(model, VisionTransformer)
        features_BD = _features(graph, model, images_BCHW, model.pool)
        graph.add("Identity", linear(graph, features_BD, "head"), name="logits")
    elif interface.what == "segmenter":
        assert isinstance(model, Segmenter)
        segmentation(graph, model, images_BCHW)
    else:
        assert interface.token
        graph.add("Identity", _features(graph, model, images_BCHW, interface.token), name="features")


def weights_of(model: Model) -> dict[str, np.ndarray]:
    """Return the model's arrays; attention's fused layers become `q`, already scaled, `k` and `v`.

    Three products need no copies that take a fused one's result apart.
    """
    weights = {name: tensor.numpy() for name, tensor in official_state(model).items()}
    for name, layer in model.named_sublayers():
        if not isinstance(layer, Attention | CrossAttention):
            continue
        name = official_name(name)
        for kind in ("weight", "bias"):
            if isinstance(layer, Attention):
                query, key, value = np.split(weights.pop(f"{name}.qkv.{kind}"), 3, axis=-1)
            else:
                query = weights.pop(f"{name}.q.{kind}")
                key, value = np.split(weights.pop(f"{name}.kv.{kind}"), 2, axis=-1)
            scale = (query.shape[-1] // layer.num_heads) ** -0.5
            weights |= {f"{name}.q.{kind}": query * scale, f"{name}.k.{kind}": key, f"{name}.v.{kind}": value}
    return weights


def _patches(graph: Graph, model: Model, images_BCHW: Value) -> Value:
    """Cut images into patches [R, P] as `patches.patchify` does, image after image."""
    (rows, columns), (height, width) = model.grid, model.encoder.patch_size
    split = reshape(graph, images_BCHW, -1, model.encoder.channels, rows, height, columns, width)
    turned = graph.add("Transpose", split, perm=[0, 2, 4, 3, 5, 1])
    # by way of [B, L, P], since Paddle's engine with oneDNN makes one step of a transposition and a reshape, and then
    # takes rows of another length into the product behind them
    patches_BLP = reshape(graph, turned, -1, rows * columns, height * width * model.encoder.channels)
    return reshape(graph, patches_BLP, -1, height * width * model.encoder.channels)


def _picture(graph: Graph, model: Model, patches_BLP: Value) -> Value:
    """Join patches into images [B, C, H, W] as `patches.unpatchify` does."""
    (rows, columns), (height, width) = model.grid, model.encoder.patch_size
    split = reshape(graph, patches_BLP, -1, rows, columns, height, width, model.encoder.channels)
    turned = graph.add("Transpose", split, perm=[0, 5, 1, 3, 2, 4])
    return reshape(graph, turned, -1, model.encoder.channels, rows * height, columns * width)


def _split_table(graph: Graph, model: Model, name: str) -> tuple[np.ndarray, Value]:
    """Split a position table into (the cls token's row [1, 1, D] if there is one, the patches' rows [L, D])."""
    table_1ND, front = graph.weights[name], int(model.encoder.has_cls)
    return table_1ND[:, :1], graph.constant(f"{name}.patches", table_1ND[0, front:])


def _features(graph: Graph, model: Model, images_BCHW: Value, token: str) -> Value:
    """Compute features [B, D] as `encoder.features` does."""
    patches, width = model.grid[0] * model.grid[1], model.config["embed_dim"]
    embedded_RD = linear(graph, _patches(graph, model, images_BCHW), "patch_embed.proj")
    _, positions_LD = _split_table(graph, model, "pos_embed")
    x_BLD = graph.add("Add", reshape(graph, embedded_RD, -1, patches, width), positions_LD)
    maps, tokens = _encoder(graph, model, x_BLD, patches, only_first=token == "cls")
    norms_tokens = not model.encoder.norms_pooled
    x_RD = norm(graph, maps[-1], "norm") if norms_tokens else maps[-1]
    if token != "cls":
        x_BLD = without_cls(graph, reshape(graph, x_RD, -1, tokens, width), model.encoder.has_cls)
        x_RD = graph.add("ReduceMean", x_BLD, graph.numbers(1), keepdims=0)
    if MEAN_STD in (token, model.encoder.norms_pooled):
        x_RD = graph.add("Concat", x_RD, _deviation(graph, x_BLD), axis=1)
    x_RD = x_RD if norms_tokens else norm(graph, x_RD, "fc_norm")
    is_half = token == "mean" and model.encoder.norms_pooled == MEAN_STD
    return cut(graph, x_RD, 0, width, axis=1) if is_half else x_RD


def _deviation(graph: Graph, x_BLD: Value) -> Value:
    """Compute the standard deviation of each feature over an image's patches, [B, D]."""
    centred = graph.add("Sub", x_BLD, graph.add("ReduceMean", x_BLD, graph.numbers(1), keepdims=1))
    variance_BD = graph.add("ReduceMean", graph.add("Mul", centred, centred), graph.numbers(1), keepdims=0)
    return graph.add("Sqrt", variance_BD)


def _encoder(
    graph: Graph, model: Model, x_BKD: Value, patches: Count, only_first: bool = False
) -> tuple[list[Value], Count]:
    """Run the encoder; return (each block's input and the last one's output, [R, D] each; N tokens per image).

    Args:
        x_BKD: embedded patches with their positions, all of them or the kept ones.
        patches: their number, K.
        only_first: of the last block, the first token of each image alone.
    """
    tokens, width = patches, model.config["embed_dim"]
    if model.encoder.has_cls:
        row_11D = graph.weights["cls_token"] + _split_table(graph, model, "pos_embed")[0]
        cls_B1D = for_each_image(graph, graph.constant("cls_row", row_11D), 1, width)
        x_BKD = graph.add("Concat", cls_B1D, x_BKD, axis=1)
        tokens = patches + 1 if isinstance(patches, int) else graph.add("Add", patches, graph.numbers(1))
    maps = [reshape(graph, x_BKD, -1, width)]
    for number, layer in enumerate(model.encoder.blocks):
        first = only_first and number == len(model.encoder.blocks) - 1
        maps.append(block(graph, maps[-1], f"blocks.{number}", tokens, layer.attn.num_heads, first))
    if only_first and not len(model.encoder.blocks):
        maps.append(first_tokens(graph, maps[-1], tokens, width))
    return maps, tokens


def _reconstruction(graph: Graph, model: MaskedAutoencoder, images_BCHW: Value) -> Value:
    """Replace the patches that "mask" removes by predicted ones; "patches" is the decoder's output."""
    patches, pixels, width = model.grid[0] * model.grid[1], model.pixels, model.config["embed_dim"]
    patches_RP = _patches(graph, model, images_BCHW)
    removed_BL = graph.add("Cast", reshape(graph, graph.input("mask"), -1, patches), to="bool")
    kept_BL = graph.add("Not", removed_BL)
    kept_rows = reshape(graph, graph.add("NonZero", reshape(graph, kept_BL, -1)), -1)  # among all images' patches
    kept = graph.add("Div", graph.add("Shape", kept_rows), batch_size(graph))

    embedded_RD = linear(graph, graph.add("Gather", patches_RP, kept_rows), "patch_embed.proj")
    _, positions_LD = _split_table(graph, model, "pos_embed")
    positions_RD = graph.add("Gather", positions_LD, graph.add("Mod", kept_rows, graph.numbers(patches)))
    x_BKD = reshape(graph, graph.add("Add", embedded_RD, positions_RD), batch_size(graph), kept, width)
    maps, tokens = _encoder(graph, model, x_BKD, kept)

    x_RD = _entry(DECODERS, model.config["decoder"], "decoder")(graph, model, maps, tokens, kept_rows)
    plain_BLP = reshape(graph, linear(graph, norm(graph, x_RD, "decoder_norm"), "decoder_pred"), -1, patches, pixels)
    plain_BLP = graph.add("Add", plain_BLP, _nan_if_uneven(graph, kept_BL), name="patches")
    patches_BLP = reshape(graph, patches_RP, -1, patches, pixels)
    prediction_BLP = _entry(PIXELS, model.target_name, "target")(graph, model, patches_BLP, plain_BLP)
    removed_BL1 = graph.add("Unsqueeze", removed_BL, graph.numbers(-1))
    return _picture(graph, model, graph.add("Where", removed_BL1, prediction_BLP, patches_BLP))


def _nan_if_uneven(graph: Graph, kept_BL: Value) -> Value:
    """Return 0, or nan where images of a batch keep different numbers of patches, which makes the outputs invalid."""
    counts_B = graph.add("ReduceSum", graph.add("Cast", kept_BL, to="float32"), graph.numbers(1), keepdims=0)
    least, most = (graph.add(f"Reduce{side}", counts_B, graph.numbers(0), keepdims=0) for side in ("Min", "Max"))
    return graph.add("Sqrt", graph.add("Sub", least, most))


def _with_statistics_of(graph: Graph, model: MaskedAutoencoder, patches_BLP: Value, normal_BLP: Value) -> Value:
    """Invert `targets.normalise_patches`."""
    mean_BL1 = graph.add("ReduceMean", patches_BLP, graph.numbers(-1))
    squares_BL1 = graph.add("ReduceSumSquare", graph.add("Sub", patches_BLP, mean_BL1), graph.numbers(-1))
    variance_BL1 = graph.add("Mul", squares_BL1, graph.number(1 / (model.pixels - 1)))
    added = TARGET_EPSILON + model.norm_pix_floor**2
    deviation_BL1 = graph.add("Sqrt", graph.add("Add", variance_BL1, graph.number(added)))
    return graph.add("Add", graph.add("Mul", normal_BLP, deviation_BL1), mean_BL1)


def _decoder(graph: Graph, model: MaskedAutoencoder, maps: list[Value], tokens: Count, kept_rows: Value) -> Value:
    """Compute `decoders.mae.decode` up to its last norm for all patches in the image's order: [R, D]."""
    width, patches = model.config["decoder_embed_dim"], model.grid[0] * model.grid[1]
    latent_RD = linear(graph, norm(graph, maps[-1], "norm"), "decoder_embed")
    latent_BND = reshape(graph, latent_RD, -1, tokens, width)
    every_row = graph.add("Mul", batch_size(graph), graph.numbers(patches))
    masks_RD = graph.add(
        "Expand", graph.constant("mask_token", graph.weights["mask_token"][0]), graph.numbers(every_row, width)
    )
    visible_RD = reshape(graph, without_cls(graph, latent_BND, model.encoder.has_cls), -1, width)
    x_RD = graph.add("ScatterND", masks_RD, graph.add("Unsqueeze", kept_rows, graph.numbers(1)), visible_RD)
    row_11D, positions_LD = _split_table(graph, model, "decoder_pos_embed")
    x_BND = graph.add("Add", reshape(graph, x_RD, -1, patches, width), positions_LD)
    if model.encoder.has_cls:
        first_B1D = cut(graph, latent_BND, 0, 1, axis=1)
        x_BND = graph.add(
            "Concat", graph.add("Add", first_B1D, graph.constant("decoder_cls_row", row_11D)), x_BND, axis=1
        )
    everything = patches + int(model.encoder.has_cls)
    x_RD = reshape(graph, x_BND, -1, width)
    for number, layer in enumerate(model.decoder.decoder_blocks):
        x_RD = block(graph, x_RD, f"decoder_blocks.{number}", everything, layer.attn.num_heads)
    return reshape(
        graph, without_cls(graph, reshape(graph, x_RD, -1, everything, width), model.encoder.has_cls), -1, width
    )


def _cross_decoder(graph: Graph, model: MaskedAutoencoder, maps: list[Value], tokens: Count, _: Value) -> Value:
    """Compute `decoders.cross.read_out` for every patch, up to its last norm: [R, D]."""
    width, patches = model.config["decoder_embed_dim"], model.grid[0] * model.grid[1]
    _, positions_LD = _split_table(graph, model, "decoder_pos_embed")
    queries_1LD = graph.add("Add", weight(graph, "mask_token"), positions_LD)
    x_RD = reshape(graph, for_each_image(graph, queries_1LD, patches, width), -1, width)
    for number, (layer, memory_RE) in enumerate(zip(model.decoder.decoder_blocks, _memories(graph, model, maps))):
        name = f"decoder_blocks.{number}"
        asking_RD = norm(graph, x_RD, f"{name}.norm1")
        attended_RD = attention(graph, asking_RD, patches, memory_RE, tokens, f"{name}.attn", layer.attn.num_heads)
        x_RD = mlp(graph, graph.add("Add", x_RD, attended_RD), name)
    return x_RD


def _memories(graph: Graph, model: MaskedAutoencoder, maps: list[Value]) -> list[Value]:
    """Return what each block of a cross decoder attends to, as `decoders.cross.encode_memories` does: [R, E] each."""
    count, width = len(model.decoder.decoder_blocks), model.config["embed_dim"]
    if model.decoder.inter_block is None:
        return [norm(graph, maps[-1], "norm")] * count
    numbers = graph.add("Concat", *(reshape(graph, one, 1, -1) for one in maps), axis=0)
    sums = graph.add("MatMul", weight(graph, "inter_block.weight"), numbers)
    each = (reshape(graph, cut(graph, sums, number, number + 1, axis=0), -1, width) for number in range(count))
    return [norm(graph, sum_RE, f"inter_block.norms.{number}") for number, sum_RE in enumerate(each)]


DECODERS = {"mae": _decoder, "cross": _cross_decoder}
PIXELS = {"raw": lambda graph, model, patches, plain: plain, "normalised": _with_statistics_of}  # by target


def _entry(table: Mapping[str, Callable[..., Value]], name: str, what: str) -> Callable[..., Value]:
    """Return how a decoder or a target is exported; raise a ValueError in one line if nobody has written that."""
    if name not in table:
        raise ValueError(
            f"a reconstructor needs the {what} {' or '.join(table)} for export, and this model has {name}; add it to "
            "export/graph.py, or export --what encoder"
        )
    return table[name]
