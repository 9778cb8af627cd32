"""Parity with transformers, held to the numbers that PyTorch gave (see `parity.make_goldens`)."""

import numpy as np
import pytest

from tests.parity import cases
from tests.parity.compare import Tensors, assert_close, compare, initial_weights, named, relative, to_official


def golden(name: str) -> Tensors:
    with np.load(cases.golden(name)) as arrays:
        return dict(arrays)


def test_prediction_loss_gradients_and_ten_adamw_steps_agree() -> None:
    for name in cases.GOLDEN_CASES:
        assert_close(compare(cases.CASES[name], golden(name)))


def test_square_case_would_load_transposed_weights_in_silence() -> None:
    expected = to_official(named(golden("square-weights-raw"), "weight:"))
    matrices = [value for name, value in expected.items() if value.ndim == 2 and "qkv" not in name]
    assert len(matrices) == 15 and all(value.shape == (16, 16) for value in matrices)


@pytest.mark.parametrize("name", cases.GOLDEN_CASES)
def test_ten_steps_move_every_trained_tensor_beyond_the_tolerance(name: str) -> None:
    """Else weights that were never trained would pass."""
    after = named(golden(name), "weight:")
    before = initial_weights((name, value.shape) for name, value in after.items())
    moved = {name: relative(before[name], value) for name, value in to_official(after).items()}
    assert min(moved.values()) > 1e-3


def test_every_gradient_is_alive() -> None:
    for name in cases.GOLDEN_CASES:
        for tensor, gradient in to_official(named(golden(name), "gradient:")).items():
            assert np.abs(gradient).max() > 1e-5, (name, tensor)


def test_goldens_stay_small() -> None:
    sizes = [path.stat().st_size for path in cases.GOLDENS.iterdir()]
    assert len(sizes) >= len(cases.GOLDEN_CASES) and sum(sizes) < 1_000_000
