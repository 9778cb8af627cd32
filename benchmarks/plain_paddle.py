"""Measure MAE in plain Paddle layers, as a first version written from the paper without regard to the CPU.

Written for this comparison from the paper (arXiv 2111.06377): convolution as patch embedding, queries, keys and
values by index, tokens put back in order, the decoder's norm and head on all tokens, a mean over the mask.
No flags, no settings: what Paddle does as installed.
"""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import paddle
    import paddle.nn.functional as F
    from paddle import nn

from benchmarks.worker import Clock, images_u8, labels, resident_bytes
from benchmarks.works import BETAS, CHANNELS, LR, MEAN, MLP_RATIO, NUM_CLASSES, STD, WEIGHT_DECAY, Job

EPSILON = 1e-6


class Attention(nn.Layer):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, width * 3)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape([batch, tokens, 3, self.heads, width // self.heads]).transpose([2, 0, 3, 1, 4])
        q, k, v = qkv[0], qkv[1], qkv[2]
        weights = F.softmax(q @ k.transpose([0, 1, 3, 2]) * self.scale, axis=-1)
        return self.proj((weights @ v).transpose([0, 2, 1, 3]).reshape([batch, tokens, width]))


class Block(nn.Layer):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, epsilon=EPSILON)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, epsilon=EPSILON)
        self.mlp = nn.Sequential(nn.Linear(width, width * MLP_RATIO), nn.GELU(), nn.Linear(width * MLP_RATIO, width))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Layer):
    """Patches and cls token through the blocks, all of them or the visible ones."""

    def __init__(self, shape: dict[str, int]):
        super().__init__()
        width, patch = shape["embed_dim"], shape["patch_size"]
        num_patches = (shape["image_size"] // patch) ** 2
        self.patch_embed = nn.Conv2D(CHANNELS, width, kernel_size=patch, stride=patch)
        self.cls_token = self.create_parameter([1, 1, width])
        self.pos_embed = self.create_parameter([1, num_patches + 1, width])
        self.pos_embed.stop_gradient = True  # the values of a fixed table don't change its speed
        self.blocks = nn.LayerList([Block(width, shape["num_heads"]) for _ in range(shape["depth"])])
        self.norm = nn.LayerNorm(width, epsilon=EPSILON)

    def forward(self, images, ids_keep=None):
        x = self.patch_embed(images).flatten(2).transpose([0, 2, 1])
        x = x + self.pos_embed[:, 1:]
        if ids_keep is not None:
            x = paddle.take_along_axis(x, ids_keep.unsqueeze(-1).tile([1, 1, x.shape[2]]), axis=1)
        cls = (self.cls_token + self.pos_embed[:, :1]).expand([x.shape[0], -1, -1])
        x = paddle.concat([cls, x], axis=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class PlainMAE(nn.Layer):
    """MAE, sec. 3, step by step."""

    def __init__(self, shape: dict[str, int], mask_ratio: float):
        super().__init__()
        self.patch, self.mask_ratio = shape["patch_size"], mask_ratio
        width = shape["decoder_embed_dim"]
        self.encoder = Encoder(shape)
        self.decoder_embed = nn.Linear(shape["embed_dim"], width)
        self.mask_token = self.create_parameter([1, 1, width])
        self.decoder_pos_embed = self.create_parameter([1, self.encoder.pos_embed.shape[1], width])
        self.decoder_pos_embed.stop_gradient = True
        heads = shape["decoder_num_heads"]
        self.decoder_blocks = nn.LayerList([Block(width, heads) for _ in range(shape["decoder_depth"])])
        self.decoder_norm = nn.LayerNorm(width, epsilon=EPSILON)
        self.decoder_pred = nn.Linear(width, self.patch**2 * CHANNELS)

    def forward(self, images):
        ids_keep, ids_restore, mask = self.random_mask(images)
        x = self.decoder_embed(self.encoder(images, ids_keep))
        removed = ids_restore.shape[1] - ids_keep.shape[1]
        tokens = paddle.concat([x[:, 1:], self.mask_token.expand([x.shape[0], removed, -1])], axis=1)
        tokens = paddle.take_along_axis(tokens, ids_restore.unsqueeze(-1).tile([1, 1, x.shape[2]]), axis=1)
        x = paddle.concat([x[:, :1], tokens], axis=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        prediction = self.decoder_pred(self.decoder_norm(x))[:, 1:]
        error = ((prediction - self.target(images)) ** 2).mean(axis=-1)
        return (error * mask).sum() / mask.sum()

    def random_mask(self, images):
        patches = (images.shape[2] // self.patch) ** 2
        keep = int(patches * (1 - self.mask_ratio))
        shuffled = paddle.argsort(paddle.rand([images.shape[0], patches]), axis=1)
        ids_restore = paddle.argsort(shuffled, axis=1)
        mask = paddle.ones([images.shape[0], patches])
        mask[:, :keep] = 0
        return shuffled[:, :keep], ids_restore, paddle.take_along_axis(mask, ids_restore, axis=1)

    def target(self, images):
        side = images.shape[2] // self.patch
        x = images.reshape([images.shape[0], CHANNELS, side, self.patch, side, self.patch])
        x = x.transpose([0, 2, 4, 3, 5, 1]).reshape([images.shape[0], side * side, -1])
        return (x - x.mean(axis=-1, keepdim=True)) / (x.var(axis=-1, keepdim=True) + EPSILON) ** 0.5


class PlainClassifier(nn.Layer):
    def __init__(self, shape: dict[str, int]):
        super().__init__()
        self.encoder = Encoder(shape)
        self.head = nn.Linear(shape["embed_dim"], NUM_CLASSES)

    def forward(self, images):
        return self.head(self.encoder(images)[:, 0])


def pretrain(job: Job, options: dict[str, Any]) -> dict[str, object]:
    """Time pretraining steps: uint8 images -> normalised -> loss -> gradients -> AdamW."""
    started = resident_bytes()
    paddle.seed(0)
    model = PlainMAE(job.shape, job.mask_ratio)
    batches = itertools.cycle([(images,) for images in images_u8(job)])
    return {**train(job, model, batches, lambda images: model(normalised(images))), "start_bytes": started}


def classify(job: Job, options: dict[str, Any]) -> dict[str, object]:
    """Time training steps of a classifier."""
    started = resident_bytes()
    paddle.seed(0)
    model = PlainClassifier(job.shape)

    def loss(images, target):
        return F.cross_entropy(model(normalised(images)), paddle.to_tensor(target))

    batches = itertools.cycle(zip(images_u8(job), labels(job)))
    return {**train(job, model, batches, loss), "start_bytes": started}


def features(job: Job, options: dict[str, Any]) -> dict[str, object]:
    """Time the cls token of whole images, from uint8 images to a NumPy array."""
    started = resident_bytes()
    model = Encoder(job.shape)
    model.eval()
    clock, batches = Clock(job), itertools.cycle(images_u8(job))
    with paddle.no_grad():
        while not clock.done():
            model(normalised(next(batches)))[:, 0].numpy()
            clock.mark()
    return {"seconds": clock.seconds(), "start_bytes": started}


def products(job: Job, options: dict[str, Any]) -> dict[str, object]:
    """Time matrix products (see `limit`) on every core, since the machine's own rate is measured."""
    from benchmarks.limit import time_products

    paddle.base.core.set_num_threads(job.threads)

    def product(batch: int, rows: int, inner: int, columns: int):
        left, right = paddle.rand([batch, rows, inner]), paddle.rand([batch, inner, columns])
        if batch == 1:
            left, right = left[0], right[0]
        return lambda: paddle.matmul(left, right)

    return time_products(job, product)


def normalised(images: np.ndarray):
    mean = paddle.to_tensor(np.array(MEAN, np.float32).reshape(1, -1, 1, 1))
    std = paddle.to_tensor(np.array(STD, np.float32).reshape(1, -1, 1, 1))
    return (paddle.to_tensor(images).astype("float32") / 255 - mean) / std


def train(job: Job, model: nn.Layer, batches, loss_fn) -> dict[str, object]:
    decays = {parameter.name for parameter in model.parameters() if len(parameter.shape) > 1}
    optimizer = paddle.optimizer.AdamW(
        learning_rate=LR,
        beta1=BETAS[0],
        beta2=BETAS[1],
        parameters=model.parameters(),
        weight_decay=WEIGHT_DECAY,
        apply_decay_param_fun=lambda name: name in decays,
    )
    model.train()
    clock, losses = Clock(job), []
    while not clock.done():
        loss = loss_fn(*next(batches))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss.numpy()))
        clock.mark()
    return {"seconds": clock.seconds(), "losses": [losses[0], losses[-1]]}


TASKS = {"pretrain": pretrain, "classify": classify, "features": features, "products": products}
