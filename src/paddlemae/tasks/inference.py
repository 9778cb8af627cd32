"""The fastest way from uint8 images to a model's features or logits, without gradients.

Shapes: B images, C channels, H x W pixels, N tokens, D width.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable

import numpy as np
import paddle
from paddle import nn

from paddlemae import device
from paddlemae.model.kernels import Linear, attention, split_heads
from paddlemae.model.vit import encode, evaluating, features, pair, patch_grid, pool_tokens
from paddlemae.tasks.models import normalised, to_input
from paddlemae.tasks.silence import paddle_silenced
from paddlemae.weights.store import Description

LOGITS = "logits"
# Compiling costs as long as this many operations gain by it: to trace and optimise the graph, and for each of the
# model's numbers to write, read and reorder it. Measured on two cores with Mini (28 px) to Base (224 px).
OPERATIONS_TO_TRACE = 300e9
OPERATIONS_A_PARAMETER = 30e3
AGREEMENT = 1e-4  # of the largest output: rounding stays a hundred times below, a wrong kernel does not

Forward = Callable[[np.ndarray], np.ndarray]


def fast_forward(
    model,
    description: Description,
    output: str,
    *,
    num_images: int,
    image_size=None,
    threads: int | str = "auto",
) -> Forward:
    """`compiled_forward` on a CPU if so many images repay it, else `plain_forward`; the same up to rounding.

    Args:
        output: "cls" or "mean" (features by that pooling), or "logits" of a classifier.
        num_images: how many are to come.
        image_size: theirs, if it is not the model's own.
        threads: as in `device.prepare`.
    Returns:
        a function from uint8 [B, C, H, W] to float32 [B, D] (or [B, classes]), for any B.
    Raises:
        ValueError: an output that the model does not have, or images that its patches don't divide.
    """
    size = pair(image_size or description.architecture["image_size"])
    rows, columns = patch_grid(size, model.patch_size)
    pool_tokens(paddle.zeros([1, 2, 1]), _pool(model, output), model.has_cls)  # refuses a pool that it can't do
    if _on_cpu(model) and _repays_compiling(model, rows * columns * num_images):
        try:
            return compiled_forward(model, description, output, image_size=size, threads=threads)
        except Exception as fault:  # Paddle raises several kinds, and none of them is the user's mistake
            reason = (str(fault).strip().splitlines() or [type(fault).__name__])[-1]
            warnings.warn(f"going on without a compiled model, which is slower: {reason}", stacklevel=2)
    return plain_forward(model, description, output)


def plain_forward(model, description: Description, output: str) -> Forward:
    """The model as it is; arguments and result as in `fast_forward`."""

    @paddle.no_grad()
    def forward(images_u8: np.ndarray) -> np.ndarray:
        with evaluating(model):
            images = to_input(images_u8, description)
            return (model(images) if output == LOGITS else features(model, images, output)).numpy()

    return forward


@paddle_silenced()
def compiled_forward(
    model, description: Description, output: str, *, image_size=None, threads: int | str = "auto"
) -> Forward:
    """The model as it is now, fused by Paddle's inference engine with oneDNN; later changes of its weights don't count.

    Arguments and result as in `fast_forward`. The function holds a copy of the weights, and is for one thread at a
    time: the engine keeps the interpreter locked while it computes, so only processes can decode meanwhile.

    Raises:
        RuntimeError: this Paddle build has no oneDNN, or computes something else with it.
    """
    height, width = pair(image_size or description.architecture["image_size"])
    shape = [description.architecture["channels"], height, width]
    num_threads = device.threads_of(threads)
    with evaluating(model):
        engine = _engine(_Network(model, description, output), shape, num_threads)

    def forward(images_u8: np.ndarray) -> np.ndarray:
        if list(images_u8.shape[1:]) != shape:
            raise ValueError(f"this model was compiled for images of {shape}, got {list(images_u8.shape[1:])}")
        try:
            return engine.run([paddle.to_tensor(images_u8)])[0].numpy()
        finally:
            paddle.base.core.set_num_threads(num_threads)  # the engine leaves one, for the whole process

    _check_agreement(forward, plain_forward(model, description, output), shape)
    return forward


class _Network(nn.Layer):
    """What is compiled: normalisation, encoder and head, without work that the output does not need.

    Every weight is a parameter here, none is made on the way: oneDNN keeps its own reordered copy of each weight and
    takes it for that of whatever lies at the same place later, so that the second batch would come out wrong.
    """

    def __init__(self, model, description: Description, output: str):
        super().__init__()
        self.model, self.description = model, description
        self.pool, self.head = _pool(model, output), model.head if output == LOGITS else None
        self.norm = model.fc_norm if hasattr(model, "fc_norm") else model.norm
        if self.pool == "cls":
            qkv = model.blocks[-1].attn.qkv
            width = qkv.weight.shape[0]
            self.query, self.key_value = _columns(qkv, 0, width), _columns(qkv, width, 3 * width)

    def forward(self, images_u8):
        images_BCHW = normalised(images_u8, self.description)
        pooled_BD = self.cls(images_BCHW) if self.pool == "cls" else features(self.model, images_BCHW, "mean")
        return pooled_BD if self.head is None else self.head(pooled_BD)

    def cls(self, images_BCHW):
        """`vit.features(model, images, "cls")`, whose last block computes one query and the MLP of one token."""
        inputs = []
        encode(self.model, images_BCHW, block_inputs=inputs)  # its end is not used, and so not compiled
        block, x_BND = self.model.blocks[-1], inputs[-1]
        seen_BND = block.norm1(x_BND)
        (query,) = split_heads(self.query(seen_BND[:, :1]), 1, block.attn.num_heads)
        key, value = split_heads(self.key_value(seen_BND), 2, block.attn.num_heads)
        x_B1D = x_BND[:, :1] + block.attn.proj(attention(query, key, value))
        return self.norm(x_B1D + block.mlp(block.norm2(x_B1D))).squeeze(1)


def _columns(linear: Linear, start: int, end: int) -> Linear:
    """A copy of the layer that computes only some of its outputs."""
    part = Linear(linear.weight.shape[0], end - start)
    part.weight.set_value(linear.weight[:, start:end])
    part.bias.set_value(linear.bias[start:end])
    return part


def _engine(network: nn.Layer, shape: list[int], threads: int):
    """Paddle's inference engine over a network that takes images of this shape, any number of them."""
    from paddle import inference

    with tempfile.TemporaryDirectory(prefix="paddlemae-") as folder, paddle.no_grad():
        spec = paddle.static.InputSpec([-1, *shape], "uint8", "images")
        paddle.jit.save(network, f"{folder}/model", input_spec=[spec])
        config = inference.Config(f"{folder}/model.json", f"{folder}/model.pdiparams")
        config.disable_glog_info()
        config.enable_mkldnn()
        if not config.mkldnn_enabled():
            raise RuntimeError("this Paddle build has no oneDNN")
        config.set_cpu_math_library_num_threads(threads)
        return inference.create_predictor(config)


def _check_agreement(compiled: Forward, plain: Forward, shape: list[int]) -> None:
    """Compare the two on noise, since kernels are chosen for a processor that nobody here has seen.

    A second batch of one image, and then one of two, since what the engine keeps of a batch may spoil the next.
    """
    images = np.random.default_rng(0).integers(0, 256, [2, *shape], np.uint8)
    expected = plain(images)
    bound = AGREEMENT * np.abs(expected).max()
    for rows in (slice(0, 1), slice(1, 2), slice(0, 2)):
        difference = np.abs(compiled(images[rows]) - expected[rows]).max()
        if not difference <= bound:  # a NaN is above it too
            raise RuntimeError(f"the compiled model differs by {difference:.1e}")


def _pool(model, output: str) -> str:
    if output != LOGITS:
        return output
    if not hasattr(model, "head"):
        raise ValueError("logits need a classifier, and this model has no head; ask for 'cls' or 'mean' features")
    return model.pool


def _on_cpu(model) -> bool:
    return all(parameter.place.is_cpu_place() for parameter in model.parameters())


def _repays_compiling(model, num_patches: int) -> bool:
    parameters = sum(parameter.size for parameter in model.blocks.parameters())
    return 2 * parameters * num_patches > OPERATIONS_TO_TRACE + OPERATIONS_A_PARAMETER * parameters
