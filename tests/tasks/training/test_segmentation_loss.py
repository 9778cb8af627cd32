"""The segmentation loss: exact where pixels are ignored, the same however a batch is split."""

import numpy as np
import pytest

from paddlemae.engine.safe_import import F, paddle
from paddlemae.tasks.training import pixel_entropy
from paddlemae.tasks.training.segmentation_loss import dice_loss, segmentation_loss

CLASSES = 5


def case(seed: int = 0, images: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Return (logits, masks), a third of the pixels ignored, all of the last image's."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((images, CLASSES, 6, 7)).astype(np.float32)
    masks = rng.integers(0, CLASSES, (images, 6, 7))
    masks[rng.random(masks.shape) < 0.3] = -1
    masks[-1] = -1
    return logits, masks


def loss_of(logits: np.ndarray, masks: np.ndarray, *weights: np.ndarray, **parts: float) -> tuple[float, np.ndarray]:
    """Return (loss, its gradient by the logits)."""
    variable = paddle.to_tensor(logits)
    variable.stop_gradient = False
    loss = segmentation_loss(variable, paddle.to_tensor(masks), *weights, **parts)
    loss.backward()
    return float(loss.numpy()), variable.grad.numpy()


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True))


def by_hand(logits: np.ndarray, masks: np.ndarray, weights: np.ndarray, focal: float) -> float:
    losses = []
    for one, mask in zip(log_probabilities(logits), masks):
        rows, columns = np.nonzero(mask >= 0)
        logs, labels = one[mask[rows, columns], rows, columns], mask[rows, columns]
        values = -logs * (1 - np.exp(logs)) ** focal * weights[labels]
        losses.append(values.mean() if len(values) else 0.0)
    return float(np.mean(losses))


@pytest.mark.parametrize("focal", [0.0, 2.0])
def test_it_is_the_mean_over_the_counted_pixels_of_each_image(focal: float) -> None:
    logits, masks = case()
    weights = np.array([0.5, 1.0, 2.0, 1.5, 0.25], np.float32)
    ones = np.ones(CLASSES, np.float32)
    assert loss_of(logits, masks, focal=focal)[0] == pytest.approx(by_hand(logits, masks, ones, focal), rel=1e-5)
    assert loss_of(logits, masks, weights, focal=focal)[0] == pytest.approx(
        by_hand(logits, masks, weights, focal), rel=1e-5
    )


def test_dice_is_one_minus_the_overlap_of_the_classes_that_are_there() -> None:
    logits, masks = case()
    expected = []
    for one, mask in zip(np.exp(log_probabilities(logits)), masks):
        counted = mask >= 0
        values = [
            1 - 2 * one[k][counted & (mask == k)].sum() / ((mask == k).sum() + one[k][counted].sum())
            for k in np.unique(mask[counted])
        ]
        expected.append(np.mean(values) if values else 0.0)
    found = float(dice_loss(paddle.to_tensor(logits), paddle.to_tensor(masks)).numpy())
    assert found == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("parts", [{}, {"focal": 2.0}, {"dice": 0.7}, {"focal": 1.5, "dice": 1.0}])
def test_a_batch_may_be_split(parts: dict[str, float]) -> None:
    logits, masks = case()
    weights = np.array([0.5, 1.0, 2.0, 1.5, 0.25], np.float32)
    whole, gradient = loss_of(logits, masks, weights, **parts)
    pieces = [loss_of(logits[part], masks[part], weights, **parts) for part in (slice(0, 1), slice(1, 4))]
    assert whole == pytest.approx(pieces[0][0] / 4 + pieces[1][0] * 3 / 4, rel=1e-6)
    assert np.allclose(gradient, np.concatenate([pieces[0][1] / 4, pieces[1][1] * 3 / 4]), atol=1e-8)


@pytest.mark.parametrize("parts", [{}, {"focal": 2.0, "dice": 1.0}])
def test_an_ignored_image_has_no_loss_and_no_gradient(parts: dict[str, float]) -> None:
    logits, masks = case()
    loss, gradient = loss_of(logits, np.full_like(masks, -1), **parts)
    assert loss == 0 and not gradient.any()
    loss, gradient = loss_of(logits, masks, **parts)
    assert np.isfinite(loss) and np.isfinite(gradient).all()
    assert not gradient[-1].any() and not gradient.transpose(0, 2, 3, 1)[masks < 0].any()


def test_logits_of_ignored_pixels_have_no_effect() -> None:
    logits, masks = case()
    other = np.where((masks < 0)[:, None], 30 * logits[::-1], logits)
    parts = {"focal": 2.0, "dice": 1.0}
    assert loss_of(logits, masks, **parts)[0] == pytest.approx(loss_of(other, masks, **parts)[0], rel=1e-6)


def test_a_plain_loss_is_paddles() -> None:
    logits, masks = case()
    masks = np.abs(masks)
    expected = F.cross_entropy(paddle.to_tensor(logits), paddle.to_tensor(masks), axis=1)
    assert loss_of(logits, masks)[0] == pytest.approx(float(expected.numpy()), rel=1e-6)


@pytest.mark.parametrize("piece", [7, 60, 1 << 17])
def test_pieces_of_pixels_give_paddles_cross_entropy(monkeypatch, piece: int) -> None:
    """With logits of another layout too, as a transposed view has. (Paddle cuts losses off at 64.)"""
    monkeypatch.setattr(pixel_entropy, "PIECE_NUMBERS", piece)
    logits, masks = case()
    given, reference = (paddle.to_tensor(10 * logits.transpose(0, 2, 3, 1)) for _ in range(2))
    given.stop_gradient = reference.stop_gradient = False
    labels = paddle.to_tensor(masks)
    found = pixel_entropy.pixel_entropy(given.transpose([0, 3, 1, 2]), labels)
    expected = F.cross_entropy(reference, labels.unsqueeze(3), ignore_index=-1, reduction="none").squeeze(3)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)
    (found * found).sum().backward()
    (expected * expected).sum().backward()
    np.testing.assert_allclose(given.grad.numpy(), reference.grad.numpy(), rtol=1e-4, atol=1e-3)
