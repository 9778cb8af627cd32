"""Numbers made of many others, against float64: Paddle's CPU kernels of means and norms lose digits.

`scripts/reductions.py` measures every kernel that reduces; docs/parity.md has its table.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddlemae.data.batches import Batch
from paddlemae.data.inspect.statistics import image_moments
from paddlemae.data.views.mixup import Mixing, mix_batch
from paddlemae.model.decoders.mae import decode
from paddlemae.model.encoder import encode_visible
from paddlemae.model.kernels.rows import mean_all, mean_rows
from paddlemae.model.mae import MaskedAutoencoder, patch_target
from paddlemae.model.masking import random_mask
from paddlemae.model.probe import ProbeHead
from paddlemae.tasks.training.classification import evaluation_of
from paddlemae.tasks.training.finetuning_loss import targets_of
from paddlemae.train.adamw import CpuAdamW
from paddlemae.train.ema import Ema
from paddlemae.train.lars import Lars
from paddlemae.train.optim import sum_of_squares
from paddlemae.weights.transfer import official_parameters

PATCHES, PIXELS = 147, 768  # removed of an image of 224 x 224, numbers of each
LIMIT = 1e-6  # relative


def of_float64(tensor: paddle.Tensor) -> np.ndarray:
    return tensor.numpy().astype(np.float64)


def mean_squares_in_pieces(numbers: np.ndarray) -> float:
    """In float64, without a copy of all numbers."""
    pieces = np.array_split(numbers.reshape(-1), max(1, numbers.size >> 22))
    return math.fsum(float(np.square(piece, dtype=np.float64).sum()) for piece in pieces) / numbers.size


@pytest.mark.parametrize("batch", [1, 64, 256, pytest.param(4096, marks=pytest.mark.slow)])
def test_the_mean_of_a_batchs_squared_errors(batch: int) -> None:
    """At batch 4,096 1.8 GB of numbers, and as much of squares."""
    errors = np.random.default_rng(0).standard_normal((batch, PATCHES, PIXELS), np.float32)
    squares = paddle.to_tensor(errors).square_()
    assert mean_all(squares).item() == pytest.approx(mean_squares_in_pieces(errors), rel=LIMIT)


def test_the_loss_and_its_gradient_are_those_of_a_mean() -> None:
    paddle.seed(0)
    shape = dict(image_size=32, patch_size=8, embed_dim=8, depth=1, num_heads=1)
    model = MaskedAutoencoder(**shape, decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=1)
    rng = np.random.default_rng(0)
    images = paddle.to_tensor(rng.standard_normal((1200, 3, 32, 32), np.float32))
    mask = random_mask(rng.random((1200, 16)), 4)
    loss = model(images, mask)
    loss.backward()
    own = {name: one.grad.numpy().copy() for name, one in official_parameters(model)}
    model.clear_gradients()
    error = decode(model.decoder, encode_visible(model.encoder, images, mask), mask) - patch_target(
        model, images, mask.removed
    )
    error.square().mean().backward()
    assert loss.item() == pytest.approx(np.square(of_float64(error)).mean(), rel=LIMIT)
    for name, one in official_parameters(model):
        assert np.array_equal(one.grad.numpy(), own[name]), name


def test_the_mean_of_tokens() -> None:
    for shape, middle in product([(2, 1, 3), (3, 2, 4), (2, 196, 768), (1, 4097, 32), (1, 16384, 8)], [0.0, 3.0]):
        tokens = paddle.to_tensor(np.random.default_rng(0).normal(middle, 1, shape).astype(np.float32))
        tokens.stop_gradient = False
        mean = mean_rows(tokens)
        expected = of_float64(tokens).mean(axis=1)
        np.testing.assert_allclose(mean.numpy(), expected, rtol=0, atol=LIMIT * np.abs(expected).max())
        gradient = np.random.default_rng(1).standard_normal((shape[0], shape[2])).astype(np.float32)
        (mean * paddle.to_tensor(gradient)).sum().backward()
        assert np.array_equal(tokens.grad.numpy(), np.broadcast_to(gradient[:, None] / np.float32(shape[1]), shape))


@pytest.mark.parametrize("images", [512, 4096, 16384])
def test_what_a_probes_head_takes_from_its_batch(images: int) -> None:
    head = ProbeHead(16, 3)
    features = np.random.default_rng(0).normal(np.linspace(-8, 8, 16), 1, (images, 16)).astype(np.float32)
    head(paddle.to_tensor(features))
    norm, values = head.head[0], features.astype(np.float64)
    mean, variance = 0.1 * values.mean(axis=0), 0.9 + 0.1 * values.var(axis=0, ddof=1)
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=0, atol=LIMIT * np.abs(mean).max())
    np.testing.assert_allclose(norm.running_var.numpy(), variance, rtol=LIMIT)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("images", "classes"), [(64, 10), (4096, 1000), (64, 21_000)])
def test_the_loss_of_a_classifier(images: int, classes: int, smoothing: float) -> None:
    rng = np.random.default_rng(0)
    logits = (2 * rng.standard_normal((images, classes))).astype(np.float32)
    batch = Batch(
        np.zeros((images, 1, 4, 4), np.uint8),
        rng.integers(0, classes, images),
        np.arange(images),
        np.zeros(images, int),
    )
    both = mix_batch(batch, Mixing(0.8, 0.0), rng)
    loss = F.cross_entropy(paddle.to_tensor(logits), targets_of(both, classes, smoothing), soft_label=True)
    values = logits.astype(np.float64)
    log_shares = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
    each = np.arange(images)
    own, partner = -log_shares[each, both.targets], -log_shares[each, both.partner_targets]
    kept = float(both.kept[0])
    expected = (1 - smoothing) * (kept * own + (1 - kept) * partner) - smoothing * log_shares.mean(axis=1)
    assert loss.item() == pytest.approx(expected.mean(), rel=LIMIT)
    hard = F.cross_entropy(paddle.to_tensor(logits), paddle.to_tensor(both.targets))
    assert hard.item() == pytest.approx(own.mean(), rel=LIMIT)


def test_an_evaluation_of_many_batches() -> None:
    rng, seen = np.random.default_rng(0), []
    for start in range(0, 20_000, 256):
        indices = np.arange(start, min(start + 256, 20_000))
        seen.append(
            (indices, rng.integers(0, 10, len(indices)), rng.normal(0, 5, (len(indices), 10)).astype(np.float32))
        )
    found = evaluation_of(seen, 10)
    labels, logits = (np.concatenate([one[k] for one in seen]) for k in (1, 2))
    values = logits.astype(np.float64)
    losses = np.log(np.exp(values).sum(axis=1)) - values[np.arange(20_000), labels]
    assert found.loss == pytest.approx(losses.mean(), rel=LIMIT)
    assert found.metrics["top1"] == (logits.argmax(axis=1) == labels).mean()


@pytest.mark.parametrize("size", [1, 8193, 1 << 24])
def test_norms_of_gradients(size: int) -> None:
    """By `clip_grad`'s way and by that of updates that need no norm; the sum of the moments has it too."""
    gradient = np.random.default_rng(0).standard_normal(size, np.float32)
    expected = float(np.square(gradient, dtype=np.float64).sum())
    tensor = paddle.to_tensor(gradient)
    assert sum_of_squares([tensor]) == pytest.approx(expected, rel=LIMIT)
    parameter = paddle.create_parameter([size], "float32")
    assert CpuAdamW([([parameter], 1.0, 0.0)], (0.9, 0.95)).update(parameter, [tensor]) == pytest.approx(
        expected, rel=LIMIT
    )


def test_the_step_of_a_large_matrix_in_lars() -> None:
    """Paddle's own norms of it are 1.4e-3 off."""
    shape = (2048, 2048)
    value, gradient = np.random.default_rng(0).normal(0.5, 1, (2, *shape)).astype(np.float32)
    parameter = paddle.create_parameter(list(shape), "float32")
    parameter.set_value(value)
    (parameter * paddle.to_tensor(gradient)).sum().backward()
    optimizer = Lars([parameter])
    optimizer.set_lr(1.0)
    optimizer.step()
    ratio = 0.001 * np.linalg.norm(value.astype(np.float64)) / np.linalg.norm(gradient.astype(np.float64))
    taken = optimizer.velocity[parameter.name].numpy()
    np.testing.assert_allclose(taken, ratio * gradient.astype(np.float64), rtol=LIMIT)


@pytest.mark.parametrize("decay", [0.9, 0.999, 0.9999])
def test_an_average_of_weights_that_move_about_is_that_of_float64(decay: float) -> None:
    rng = np.random.default_rng(0)
    model = paddle.nn.Linear(40, 50)
    middle = rng.standard_normal((40, 50))
    model.weight.set_value(middle.astype(np.float32))
    ema, expected = Ema(model, decay), middle.astype(np.float32).astype(np.float64)
    for _ in range(min(3000, int(5 / (1 - decay)))):
        weights = (middle + 0.02 * rng.standard_normal((40, 50))).astype(np.float32)
        model.weight.set_value(weights)
        ema.update(model)
        expected = decay * expected + (1 - decay) * weights.astype(np.float64)
    found = of_float64(ema.weights["weight"])
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(expected), rel=LIMIT)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5 * LIMIT * np.abs(expected).max())


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9999, 0.99999])
def test_the_average_of_weights_that_stay_is_these_weights(decay: float) -> None:
    model = paddle.nn.Linear(40, 50)
    ema = Ema(model, decay)
    for _ in range(100):
        ema.update(model)
    assert np.array_equal(ema.weights["weight"].numpy(), model.weight.numpy())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_moments_of_an_image_that_hardly_differs(dtype: type) -> None:
    """Sums of squares less the square of the sum would leave no digit."""
    top = np.iinfo(dtype).max
    pixels = (top - np.random.default_rng(0).integers(0, 2, (1500, 1100, 3))).astype(dtype)
    found = image_moments(pixels)
    values = pixels.reshape(-1, 3).astype(np.float64) / top
    np.testing.assert_allclose(found.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(np.sqrt(found.deviations), values.std(axis=0), rtol=1e-9)
    total = found + replace(found, mean=found.mean - 1e-6)
    np.testing.assert_allclose(total.deviations / 2, found.deviations + 2.5e-13, rtol=1e-9)
