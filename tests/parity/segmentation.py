"""Segmenters with UPerNet: what both frameworks are given, the Paddle side, and its distance from the PyTorch side.

The map of names and layouts is written on its own here, apart from `paddlemae.weights`, so that neither can hide the
other's mistake.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F

from paddlemae.model.segmenter import Segmenter
from paddlemae.weights.transfer import official_state
from tests.parity.cases import weight
from tests.parity.compare import GRADIENT, LOSS, NOISE, PREDICTION, Tensors, largest, named, relative
from tests.support.paths import GOLDENS

BATCH_SIZE, IGNORED = 4, 255
CHANNEL_SPREAD = 0.03  # standard deviation around 1 or -1, see `initial`
AUXILIARY_WEIGHT = 0.4  # MAE, after mmsegmentation
MODES = ("train", "eval")  # by the batch's own statistics, and by the running ones that training left


@dataclass(frozen=True)
class Case:
    """One model; sizes in pixels, its four taps are its blocks."""

    name: str
    image_size: int
    patch_size: int
    embed_dim: int
    num_heads: int
    num_classes: int
    relative_positions: bool
    depth: int = 4
    off_corners: bool = False  # see `initial`


CASES = {
    case.name: case
    for case in (
        Case("small", 24, 4, 8, 2, 5, relative_positions=True),
        Case("odd-grid", 20, 4, 8, 4, 3, relative_positions=False),  # half of 5 x 5 patches is 2 x 2
        Case("base-width", 64, 16, 768, 12, 150, relative_positions=True, off_corners=True),
    )
}
GOLDEN_CASES = ("small",)
# Batch norm takes away what is added to a channel, so that these have a gradient of 0 and frameworks compute noise.
IN_FRONT_OF_NORMS = ("neck.quadrupled.first.bias", "neck.quadrupled.second.bias", "neck.doubled.bias")

RENAMED = (
    (r"^beit\.embeddings\.cls_token$", "cls_token"),
    (r"^beit\.embeddings\.position_embeddings$", "pos_embed"),
    (r"^beit\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^beit\.layers\.", "blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.relative_position_bias\.relative", ".attn.relative"),
    (r"^fpn\.fpn1\.conv_transpose1", "neck.quadrupled.first"),
    (r"^fpn\.fpn1\.normalization", "neck.quadrupled.norm"),
    (r"^fpn\.fpn1\.conv_transpose2", "neck.quadrupled.second"),
    (r"^fpn\.fpn2", "neck.doubled"),
    (r"^decode_head\.psp_modules\.blocks\.(\d)\.conv", r"head.pools.\1"),
    (r"^decode_head\.psp_bottleneck", "head.pooled"),
    (r"^decode_head\.lateral_convs", "head.laterals"),
    (r"^decode_head\.fpn_convs", "head.smooths"),
    (r"^decode_head\.fpn_bottleneck", "head.fusion"),
    (r"^decode_head\.", "head."),
    (r"^auxiliary_head\.", "auxiliary."),
    (r"\.convolution\.", ".conv."),
    (r"\.normalization\.", ".norm."),
)


def golden(name: str):
    """Where `make_segmentation_goldens` puts what transformers gave for a case."""
    return GOLDENS / f"segmentation-{name}.npz"


def images_BCHW(case: Case) -> np.ndarray:
    size = (BATCH_SIZE, 3, case.image_size, case.image_size)
    return np.random.default_rng(9).uniform(-2, 2, size).astype(np.float32)


def labels_BHW(case: Case) -> np.ndarray:
    """Classes, of which a tenth is ignored."""
    random = np.random.default_rng(2)
    size = (BATCH_SIZE, case.image_size, case.image_size)
    return np.where(random.random(size) < 0.1, IGNORED, random.integers(0, case.num_classes, size))


def initial(case: Case, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the initial value of the tensor that transformers calls `name`.

    Where a number in front of a ReLU is 0 but for rounding, gradients are apart by up to 7%, and of three million
    numbers one often is. With `off_corners`, batch norms therefore give each channel numbers of one sign.
    """
    if case.off_corners and name.endswith("normalization.weight"):
        return CHANNEL_SPREAD * (1 + weight(name, shape))
    if case.off_corners and name.endswith("normalization.bias"):
        return np.where(np.arange(shape[0]) % 2, np.float32(-1), np.float32(1))
    if name.endswith("running_var"):
        return 1 + np.abs(weight(name, shape))
    return weight(name, shape)


def to_ours(tensors: Tensors) -> Tensors:
    """transformers' tensors under our names in Paddle's layout; the bias of keys, which has no effect, is zero."""
    renamed = {}
    for name, value in tensors.items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        if name == "patch_embed.proj.weight":
            value = value.transpose(2, 3, 1, 0).reshape(-1, len(value))
        elif name.startswith("neck") and value.ndim == 4:  # [in, out, 2, 2] -> [in, 4 out]
            value = value.transpose(0, 2, 3, 1).reshape(len(value), -1)
        elif "classifier" in name and value.ndim == 4:
            value = value[:, :, 0, 0].T
        elif value.ndim == 4:  # [out, in, side, side] -> [places, in, out]
            value = value.transpose(2, 3, 1, 0).reshape(-1, value.shape[1], value.shape[0])
        elif value.ndim == 2 and not name.endswith("table"):
            value = value.T
        renamed[name] = value
    for name in [name for name in renamed if ".attn.q." in name]:
        query, value = renamed.pop(name), renamed.pop(name.replace(".attn.q.", ".attn.v."))
        key = renamed.pop(name.replace(".attn.q.", ".attn.k."), np.zeros_like(query))
        renamed[name.replace(".attn.q.", ".attn.qkv.")] = np.concatenate([query, key, value], axis=-1)
    return renamed


def build(case: Case, start: Tensors) -> Segmenter:
    model = Segmenter(
        image_size=case.image_size,
        patch_size=case.patch_size,
        channels=3,
        embed_dim=case.embed_dim,
        depth=case.depth,
        num_heads=case.num_heads,
        num_classes=case.num_classes,
        positions="learned",
        head="upernet",
        head_dropout=0.0,
        relative_positions=case.relative_positions,
    )
    state = official_state(model)
    assert set(state) == set(start), f"names that only one side has: {sorted(set(state) ^ set(start))}"
    for name, tensor in state.items():
        assert list(start[name].shape) == tensor.shape, f"{name}: {tensor.shape}, {start[name].shape}"
        tensor.set_value(np.ascontiguousarray(start[name]))
    return model


def loss_of(logits: paddle.Tensor, auxiliary: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
    main, other = (F.cross_entropy(each, labels, axis=1, ignore_index=IGNORED) for each in (logits, auxiliary))
    return main + AUXILIARY_WEIGHT * other


def errors(case: Case, expected: Tensors) -> dict[str, float]:
    """Return the largest relative difference of logits, loss and each gradient from what transformers gave."""
    start = to_ours({name: initial(case, name, value.shape) for name, value in named(expected, "state:").items()})
    model = build(case, start)
    images, labels = paddle.to_tensor(images_BCHW(case)), paddle.to_tensor(labels_BHW(case))
    found = {}
    for mode in MODES:
        (model.train if mode == "train" else model.eval)()
        logits, auxiliary = model.forward_with_auxiliary(images)
        loss = loss_of(logits, auxiliary, labels)
        found[f"{mode} logits"] = relative(logits.numpy(), expected[f"{mode} logits"])
        found[f"{mode} loss"] = relative(loss.numpy(), expected[f"{mode} loss"])
        loss.backward()
        gradients = {name: each.grad.numpy() for name, each in official_state(model).items() if each.grad is not None}
        if wanted := to_ours(named(expected, f"{mode} gradient:")):
            found |= gradient_errors(mode, gradients, wanted)
        model.clear_gradients()
    return found


def gradient_errors(mode: str, got: Tensors, wanted: Tensors) -> dict[str, float]:
    assert set(got) == set(wanted), sorted(set(got) ^ set(wanted))
    found = {}
    for name, gradient in wanted.items():
        if name.endswith("qkv.bias"):  # of keys it is 0
            width = len(gradient) // 3
            gradient[width : 2 * width] = got[name][width : 2 * width] = 0
        if mode == "train" and name in IN_FRONT_OF_NORMS:
            scale = largest(wanted[name.replace("bias", "weight")])
            assert max(largest(got[name]), largest(gradient)) < NOISE * scale, name
            continue
        found[f"{mode} gradient:{name}"] = relative(got[name], gradient)
    return found


def assert_close(found: dict[str, float]) -> None:
    limits = {"logits": PREDICTION, "loss": LOSS}
    wrong = {name: error for name, error in found.items() if error > limits.get(name.split(" ")[1], GRADIENT)}
    assert not wrong, wrong
