"""Mixup, CutMix and random erasing: shares and areas add up, and training sees them as the papers say."""

import numpy as np
import paddle
import pytest

from paddlemae.data.batches import Batch
from paddlemae.data.views.erasing import Erasing, draw_erasing
from paddlemae.data.views.mixup import MixedBatch, Mixing, draw_mixture, mix_batch, mix_batches
from paddlemae.tasks.models.preprocess import to_input
from paddlemae.tasks.training.finetuning_loss import erase, input_of, targets_of
from paddlemae.train.parallel.threads import slices_of
from paddlemae.weights.model_folder import Description

DESCRIPTION = Description("classifier", {}, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4], 1.0)


def batch_of(count: int = 6, size: int = 12, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 3, size, size), np.uint8)
    return Batch(images, rng.integers(0, 4, count), np.arange(count) + 10 * seed, np.zeros(count, np.int64))


def test_each_is_mixed_with_the_one_at_the_other_end() -> None:
    batch = batch_of()
    both = mix_batch(batch, Mixing(), np.random.default_rng(0))
    assert (both.images == batch.images).all() and (both.partners == batch.images[::-1]).all()
    assert both.partner_targets.tolist() == batch.targets[::-1].tolist()
    assert both.partner_indices.tolist() == batch.indices[::-1].tolist()
    assert len(set(both.kept.tolist())) == 1 and (both.regions == both.regions[0]).all()


def test_mixup_is_drawn_from_its_beta_distribution() -> None:
    rng = np.random.default_rng(0)
    kept, regions = zip(*(draw_mixture(Mixing(0.8, 0.0), 8, 8, rng) for _ in range(4000)))
    assert set(regions) == {(0, 0, 0, 0)}
    assert abs(np.mean(kept) - 0.5) < 0.02
    assert abs(np.var(kept) - 0.25 / (2 * 0.8 + 1)) < 0.01  # of Beta(a, a): 1 / (4 (2a + 1))


def test_cutmix_keeps_the_share_that_is_really_left() -> None:
    rng, inside = np.random.default_rng(0), []
    for _ in range(2000):
        kept, (top, bottom, left, right) = draw_mixture(Mixing(0.0, 1.0), 20, 30, rng)
        assert 0 <= top <= bottom <= 20 and 0 <= left <= right <= 30
        assert kept == pytest.approx(1 - (bottom - top) * (right - left) / 600)
        inside.append(((bottom - top) * (right - left)) / 600)
    # a uniform share, cut off at the borders: below one half, but everywhere from nothing to all
    assert 0.25 < np.mean(inside) < 0.45 and min(inside) < 0.01 and max(inside) > 0.8


class Drawn:
    """A generator whose numbers are given."""

    def __init__(self, share: float, *places: int):
        self.share, self.places = share, list(places)

    def beta(self, a: float, b: float) -> float:
        return self.share

    def integers(self, high: int) -> int:
        return self.places.pop(0)


def test_cutmix_boxes_are_those_of_timm() -> None:
    """(kept, place) -> (yl, yh, xl, xh) as `timm.data.mixup.rand_bbox` computes it for images of 10 x 20."""
    for kept, place, region in [
        (0.51, (5, 12), (2, 8, 5, 19)),  # 0.7 of 10 is 7, of which 3 lie on each side; 0.7 of 20 is 14
        (0.51, (1, 19), (0, 4, 12, 20)),  # cut off at the borders
        (0.75, (5, 15), (3, 7, 10, 20)),
        (0.99, (5, 15), (5, 5, 14, 16)),  # 0.1 of 10 is 1: nothing is left of it
        (0.0, (0, 0), (0, 5, 0, 10)),
    ]:
        share, found = draw_mixture(Mixing(0.0, 1.0), 10, 20, Drawn(kept, *place))
        assert found == region
        top, bottom, left, right = region
        assert share == 1 - (bottom - top) * (right - left) / 200


def test_half_of_the_batches_are_cut_where_both_are_done() -> None:
    rng = np.random.default_rng(0)
    cuts = [draw_mixture(Mixing(), 64, 64, rng)[1] != (0, 0, 0, 0) for _ in range(2000)]
    assert abs(np.mean(cuts) - 0.5) < 0.04
    assert not Mixing(0, 0) and Mixing(0.1, 0) and Mixing(0, 0.1)


def test_what_is_mixed_depends_on_seed_and_batch_alone() -> None:
    def run(seed: int) -> list[MixedBatch]:
        return list(mix_batches((batch_of(seed=k) for k in range(5)), Mixing(), seed))

    first, again, other = run(0), run(0), run(1)
    assert [one.kept[0] for one in first] == [one.kept[0] for one in again] != [one.kept[0] for one in other]


@pytest.mark.parametrize("mixing", [Mixing(0.8, 0.0), Mixing(0.0, 1.0)], ids=["mixup", "cutmix"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_training_sees_the_mixture(mixing: Mixing, smoothing: float) -> None:
    batch = batch_of()
    both = mix_batch(batch, mixing, np.random.default_rng(4))
    own, partner = (to_input(images, DESCRIPTION).numpy() for images in (both.images, both.partners))
    got = input_of(both, DESCRIPTION, None, 0).numpy()
    top, bottom, left, right = both.regions[0]
    kept = both.kept[0]
    if mixing.cutmix:
        expected = own.copy()
        expected[:, :, top:bottom, left:right] = partner[:, :, top:bottom, left:right]
        assert 0 < kept < 1
    else:
        expected = kept * own + (1 - kept) * partner
    np.testing.assert_allclose(got, expected, atol=1e-5)
    targets = targets_of(both, 4, smoothing).numpy()
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    plain = np.eye(4)[both.targets] * kept + np.eye(4)[both.partner_targets] * (1 - kept)
    np.testing.assert_allclose(targets, (1 - smoothing) * plain + smoothing / 4, rtol=1e-5, atol=1e-7)


def test_parts_of_a_mixed_batch_give_what_the_whole_gives() -> None:
    both = mix_batch(batch_of(), Mixing(), np.random.default_rng(1))
    erasing = Erasing(0.5)
    whole = input_of(both, DESCRIPTION, erasing, 3).numpy()
    parts = [input_of(one, DESCRIPTION, erasing, 3).numpy() for one in slices_of(both, 3)]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)
    assert (whole != input_of(both, DESCRIPTION, None, 3).numpy()).any()


def test_rectangles_are_as_large_and_as_long_as_they_may_be() -> None:
    rng, areas, ratios, whole = np.random.default_rng(0), [], [], 0
    for _ in range(3000):
        drawn = draw_erasing(Erasing(0.25), 3, 100, 100, rng)
        if drawn is None:
            whole += 1
            continue
        (top, bottom, left, right), fill = drawn
        assert 0 <= top < bottom <= 100 and 0 <= left < right <= 100
        assert fill.shape == (3, bottom - top, right - left) and fill.dtype == np.float32
        areas.append((bottom - top) * (right - left) / 1e4)
        ratios.append((bottom - top) / (right - left))
    assert abs(whole / 3000 - 0.75) < 0.03
    assert min(areas) > 0.019 and max(areas) < 0.345
    assert min(ratios) > 0.27 and max(ratios) < 3.7 and abs(np.log(ratios).mean()) < 0.1


def test_erased_pixels_are_noise_and_all_others_stay() -> None:
    images = to_input(batch_of(400, 16).images, DESCRIPTION)
    rngs = [np.random.default_rng(k) for k in range(400)]
    after = erase(images, Erasing(0.5), rngs).numpy()
    changed = (after != images.numpy()).any(axis=1)
    assert 0.4 < changed.any(axis=(1, 2)).mean() < 0.6
    noise = after.transpose(0, 2, 3, 1)[changed]
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    assert erase(images, Erasing(0.0), rngs) is images


def test_an_image_too_small_for_any_rectangle_stays_whole() -> None:
    assert draw_erasing(Erasing(1.0), 3, 1, 1, np.random.default_rng(0)) is None


def test_gradients_reach_the_model_through_a_mixture() -> None:
    both = mix_batch(batch_of(), Mixing(0.8, 0.0), np.random.default_rng(0))
    weight = paddle.create_parameter([3 * 12 * 12, 4], "float32")
    logits = paddle.matmul(input_of(both, DESCRIPTION, None, 0).flatten(1), weight)
    paddle.nn.functional.cross_entropy(logits, targets_of(both, 4, 0.1), soft_label=True).backward()
    assert np.abs(weight.grad.numpy()).max() > 0
