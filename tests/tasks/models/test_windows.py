"""Windows: blended predictions equal that of the whole image wherever a window sees the same context."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from paddlemae.tasks.models.windows import (
    BLENDS,
    FLIPS,
    Forward,
    Windows,
    place_windows,
    stream_logits,
    windowed_logits,
)


def image_of(height: int, width: int, channels: int = 2, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (channels, height, width), np.uint8)


def pointwise(images_BCHW: np.ndarray) -> np.ndarray:
    """Return logits that depend on the pixel alone."""
    first, second = (images_BCHW[:, channel].astype(np.float32) / 255 for channel in (0, 1))
    return np.stack([first, second, first * second - 0.3], axis=1)


def box_filter(radius: int) -> Forward:
    """Return a model that sums a square around each pixel, with zeros beyond the border, as convolutions see it."""

    def forward(images_BCHW: np.ndarray) -> np.ndarray:
        margin = ((0, 0), (0, 0), (radius, radius), (radius, radius))
        padded = np.pad(pointwise(images_BCHW), margin)
        side = 2 * radius + 1
        return np.lib.stride_tricks.sliding_window_view(padded, (side, side), (2, 3)).mean((4, 5)).astype(np.float32)

    return forward


def of_position(images_BCHW: np.ndarray) -> np.ndarray:
    """Return logits that depend on where in the window a pixel is, as those of a ViT do."""
    down, across = np.indices(images_BCHW.shape[2:], dtype=np.float32)
    return pointwise(images_BCHW) + (down + 10 * across)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.9, 0.999])
def test_weights_sum_to_one_in_every_pixel(blend, overlap) -> None:
    for length, span in product((1, 7, 16, 17, 40), (1, 8, 16)):
        starts, weights = place_windows(length, span, overlap, blend)
        total = np.zeros(max(length, span))
        for start, own in zip(starts, weights):
            total[start : start + span] += own
        np.testing.assert_allclose(total, 1, atol=1e-6)
        assert weights.min() >= 0 and starts[0] == 0 and starts[-1] == max(length, span) - span
        assert np.diff(starts).max(initial=0) <= max(1, round(span * (1 - overlap)))


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("flips", FLIPS)
@pytest.mark.parametrize("size", [(16, 16), (5, 9), (64, 64)], ids=str)
def test_a_pointwise_model_gives_what_it_gives_of_the_whole(blend, flips, size) -> None:
    image = image_of(37, 50)
    whole = pointwise(image[None])[0]
    for overlap in (0, 0.5):
        logits = windowed_logits(pointwise, image, size, overlap, blend, flips=flips, batch_size=3)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, whole, atol=1e-5)


def test_full_overlap_gives_what_the_whole_gives_where_windows_see_the_same_context() -> None:
    radius, size, image = 2, 12, image_of(30, 41)
    model = box_filter(radius)
    whole = model(image[None])[0]
    full = 1 - 1 / size  # a window at every pixel
    nearest = windowed_logits(model, image, size, full, "centre")
    np.testing.assert_allclose(nearest, whole, atol=1e-5)  # here a window's border counts only at the image's
    half = windowed_logits(model, image, size, 0.5, "centre")
    np.testing.assert_allclose(half, whole, atol=1e-5)
    blended = windowed_logits(model, image, size, full, "smooth")
    assert np.abs(blended - whole).max() > 1e-3  # windows whose border cuts the context count a little
    plain = windowed_logits(model, image, size, full, "mean")
    assert np.abs(blended - whole).mean() < np.abs(plain - whole).mean() / 3  # but far less than without weights


def test_an_image_of_a_windows_size_is_predicted_whole() -> None:
    image = image_of(20, 24)
    logits = windowed_logits(of_position, image, (20, 24), 0.5)
    np.testing.assert_array_equal(logits, of_position(image[None])[0])


@pytest.mark.parametrize("shape", [(5, 24), (20, 3), (1, 1), (4, 60)], ids=str)
def test_an_image_smaller_than_a_window_is_padded_with_its_reflection(shape) -> None:
    image = image_of(*shape)
    padded = np.pad(image, ((0, 0), *((0, max(0, side - own)) for side, own in zip((20, 24), shape))), "reflect")
    model = box_filter(1)
    expected = windowed_logits(model, padded, (20, 24), 0.5)[:, : shape[0], : shape[1]]
    np.testing.assert_allclose(windowed_logits(model, image, (20, 24), 0.5), expected, atol=1e-6)


def test_flips_average_the_views() -> None:
    image = image_of(8, 8)
    down, _ = np.indices((8, 8), dtype=np.float32)
    mean = pointwise(image[None])[0] + down + 10 * 3.5  # of a column and its mirror
    np.testing.assert_allclose(windowed_logits(of_position, image, 8, flips="horizontal"), mean, atol=1e-4)
    both = windowed_logits(of_position, image, 8, flips="both")
    np.testing.assert_allclose(both, mean - down + 3.5, atol=1e-4)


def test_scales_show_the_model_the_image_in_other_sizes() -> None:
    down, across = np.indices((40, 40))
    ramp = np.stack([4 * down, 4 * across]).astype(np.uint8)
    seen = []

    def model(images: np.ndarray) -> np.ndarray:
        seen.append(images.shape)
        return pointwise(images)

    one = windowed_logits(model, ramp, 16, scales=(1.0,))
    several = windowed_logits(model, ramp, 16, scales=(0.5, 1.0, 2.0))
    inside = np.s_[:2, 4:-4, 4:-4]
    np.testing.assert_allclose(several[inside], one[inside], atol=1.5 / 255)
    assert {shape[2:] for shape in seen} == {(16, 16)}


def test_rows_are_read_once_from_the_top_and_no_more_are_kept_than_a_window_needs() -> None:
    image, size = image_of(90, 33), 16
    for scales in ((1.0,), (0.5, 1.0, 2.0)):
        reads: list[tuple[int, int]] = []
        finished = 0

        def read(top: int, bottom: int, reads: list[tuple[int, int]] = reads) -> np.ndarray:
            reads.append((top, bottom))
            return image[:, top:bottom]

        windows = Windows((size, size), 0.5, scales=scales)
        blocks = []
        for rows in stream_logits(pointwise, read, (90, 33), windows):
            assert reads[-1][1] - finished <= max(windows.span(scale)[0] for scale in scales) + size
            finished += rows.shape[1]
            blocks.append(rows.copy())
        assert [top for top, _ in reads] == [0, *(bottom for _, bottom in reads[:-1])] and reads[-1][1] == 90
        whole = windowed_logits(pointwise, image, size, 0.5, scales=scales)
        np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole)


@pytest.mark.parametrize(
    "wrong",
    [{"overlap": 1.0}, {"overlap": -0.1}, {"blend": "hard"}, {"flips": "all"}, {"scales": ()}, {"size": (0, 4)}],
)
def test_windows_that_can_not_be_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)) if "size" not in wrong else "1 pixel"):
        Windows(**{"size": (8, 8), **wrong})
