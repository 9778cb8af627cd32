"""Classical features: of what they are histograms, with scikit-image and without."""

import numpy as np
import pytest

from paddlemae.tasks.baselines import features
from paddlemae.tasks.baselines.features import cell_histograms, colour_features, gradient_features


def stripes(side: int, across: bool) -> np.ndarray:
    """One image of stripes, uint8 [1, 1, side, side]; `across` makes its gradients vertical."""
    wave = np.broadcast_to(127 + 100 * np.sin(np.arange(side)), (side, side)).astype(np.uint8)
    return (wave.T if across else wave)[None, None]


def test_the_direction_of_gradients_decides_about_the_bin() -> None:
    for across, expected in ((False, 0), (True, features.DIRECTIONS // 2)):
        rows = cell_histograms(stripes(32, across), (8, 8)).reshape(features.DIRECTIONS, 64)
        assert rows.sum(axis=1).argmax() == expected
        np.testing.assert_allclose(np.linalg.norm(rows), 1, rtol=1e-6)


@pytest.mark.parametrize("is_installed", [True, False])
def test_gradients_ignore_brightness_and_contrast(is_installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_installed:
        pytest.importorskip("skimage", reason="scikit-image is not installed")
    monkeypatch.setattr(features, "has_scikit_image", lambda: is_installed)
    image = np.random.default_rng(0).integers(0, 100, (2, 3, 40, 24), dtype=np.uint8)
    rows = gradient_features(image)
    assert rows.dtype == np.float32 and len(rows) == 2
    np.testing.assert_allclose(gradient_features(image * 2 + 7), rows, atol=1e-3)
    assert np.abs(rows[0] - rows[1]).max() > 0.01


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 64)])
def test_images_of_any_size_have_features(size: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 255, (2, 1, *size), dtype=np.uint8)
    if min(size) > 1:
        assert np.isfinite(gradient_features(image)).all()
    assert np.isfinite(colour_features(image)).all()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_colours_are_shares_means_and_deviations(kind: type) -> None:
    white = np.iinfo(kind).max
    image = np.zeros((1, 2, 8, 8), kind)
    image[:, 1, :4] = white
    black, half = colour_features(image).reshape(2, -1)
    assert black[0] == 1 and black[features.BINS - 1] == 0
    assert half[0] == half[features.BINS - 1] == 0.5
    np.testing.assert_array_equal(half[features.BINS : features.BINS + 16], [1] * 8 + [0] * 8)
