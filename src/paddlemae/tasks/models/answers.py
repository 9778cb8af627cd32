"""Compute what the server's page shows of one image: the prediction, classes, attention, features.

Shapes: H x W pixels, C channels, L patches, P pixels a patch, D width, K classes, h x w places of a head's grid.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from paddlemae.engine.safe_import import paddle
from paddlemae.engine.tensors import tensor_of
from paddlemae.model.attention_weights import attention_weights, called_before
from paddlemae.model.encoder import encode, evaluating, pool_normalised
from paddlemae.model.mae import MaskedAutoencoder, predict
from paddlemae.model.masking import Mask
from paddlemae.model.patches import patchify, unpatchify
from paddlemae.model.segmenter import Segmenter
from paddlemae.serve.jobs import Compute
from paddlemae.serve.messages import Answer, Block, Request, RequestShape
from paddlemae.tasks.models.page_samples import Model, image_features
from paddlemae.tasks.models.preprocess import normalise
from paddlemae.weights.model_folder import Description

MOST_ATTENTION_BYTES = 2**27  # of one block
CLS = -1  # stands for the cls token in lists of patches


def answer_function(model: Model, description: Description) -> Compute:
    """Return a function that computes the answers to requests, in eval mode, without gradients.

    What an answer holds: `plain` float32 [L, P], a masked autoencoder's output for every patch from the visible ones;
    `logits`, a classifier's [K] from the visible patches, or a segmenter's [h, w, K] of the image whose removed patches
    have the mean colour; `attention` float32 [heads, queries, keys] of the block that is asked for, with the patches
    that are `query_patches` and `key_patches` (-1 is the cls token); `features` float32 [D] of the whole image, of
    length 1.

    The function calls its second argument before each block, which may raise to give up.

    Raises:
        FloatingPointError: by the function, for outputs that are not finite.
    """
    blocks = [block for part in attention_blocks(model).values() for block in part]

    @paddle.no_grad()
    def answer(request: Request, check_wanted: Callable[[], None]) -> Answer:
        began = time.perf_counter()
        with evaluating(model), called_before(blocks, lambda inputs: check_wanted()):
            arrays = _arrays(model, description, request)
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise FloatingPointError(f"the model's {name} are not finite; use an earlier checkpoint")
        return Answer(arrays, {"milliseconds": round(1000 * (time.perf_counter() - began), 1)})

    return answer


def request_shape(model: Model) -> RequestShape:
    """Return what requests for a model look like; attention of more than `MOST_ATTENTION_BYTES` can't be asked for."""
    (rows, columns), (height, width) = model.grid, model.encoder.patch_size
    tokens = rows * columns + int(model.encoder.has_cls)
    heads = {part: [block.attn.num_heads for block in blocks] for part, blocks in attention_blocks(model).items()}
    for part, numbers in heads.items():
        if 4 * max(numbers, default=0) * tokens**2 > MOST_ATTENTION_BYTES:
            heads[part] = []
    return RequestShape((rows * height, columns * width, model.encoder.channels), rows * columns, heads)


def _arrays(model: Model, description: Description, request: Request) -> dict[str, np.ndarray]:
    images_BCHW = normalise(tensor_of(request.pixels.transpose(2, 0, 1)[None].copy()), description, white=1)
    mask = Mask(np.flatnonzero(~request.removed)[None], np.flatnonzero(request.removed)[None])
    asked = request.attention
    if asked is None:
        arrays = _outputs(model, images_BCHW, mask)
    else:
        seen: list[tuple[paddle.Tensor, ...]] = []
        with called_before([attention_blocks(model)[asked.part][asked.number]], seen.append):
            arrays = _outputs(model, images_BCHW, mask)
        arrays |= _attention(model, asked, seen[0], mask)
    if request.features:
        arrays["features"] = image_features(model, images_BCHW)[0].numpy()
    return arrays


def _outputs(model: Model, images_BCHW: paddle.Tensor, mask: Mask) -> dict[str, np.ndarray]:
    if isinstance(model, MaskedAutoencoder):
        return {"plain": predict(model, images_BCHW, mask)[0].numpy()}
    if isinstance(model, Segmenter):
        return {"logits": model.grid_logits(_in_mean_colour(model, images_BCHW, mask.as_map()[0]))[0].numpy()}
    x_BND = encode(model.encoder, images_BCHW, mask)  # also without a head: a block's attention may be asked for
    if not model.has_head:
        return {}
    return {"logits": model.head(pool_normalised(model.encoder, x_BND, model.pool))[0].numpy()}


def attention_blocks(model: Model) -> dict[str, Sequence[Any]]:
    """Return part of the model -> its blocks, whose attention can be asked for."""
    decoder = model.decoder.decoder_blocks if isinstance(model, MaskedAutoencoder) else ()
    return {"encoder": list(model.encoder.blocks), "decoder": list(decoder)}


def _in_mean_colour(model: Segmenter, images_BCHW: paddle.Tensor, removed_L: np.ndarray) -> paddle.Tensor:
    """Return normalised images whose removed patches are 0, which is the mean colour."""
    patches_BLP = patchify(images_BCHW, model.encoder.patch_size)
    kept_L1 = tensor_of((~removed_L).astype(np.float32)[:, None])
    return unpatchify(patches_BLP * kept_L1, model.encoder.patch_size, model.grid)


def _attention(model: Model, asked: Block, inputs: tuple[paddle.Tensor, ...], mask: Mask) -> dict[str, np.ndarray]:
    """Return the weights of a block's attention, [heads, queries, keys], and which patches these are."""
    block = attention_blocks(model)[asked.part][asked.number]
    weights_BHQN = attention_weights(block, *inputs, grid=model.grid)
    every_L = np.arange(mask.as_map().shape[1])
    front = [CLS] if model.encoder.has_cls else []
    visible = every_L if isinstance(model, Segmenter) else mask.keep[0]
    keys = queries = np.array([*front, *visible], np.int32)
    if asked.part == "decoder":
        if len(inputs) > 1:
            queries = every_L.astype(np.int32)  # each patch asks the visible tokens
        else:
            keys = queries = np.array([*front, *mask.keep[0], *mask.removed[0]], np.int32)
    return {"attention": weights_BHQN[0].numpy(), "query_patches": queries, "key_patches": keys}
