"""Generators of images are NumPy's own, whatever the numbers are."""

import numpy as np
import pytest

from paddlemae.data.random_streams import MASK_STREAM, VIEW_STREAM, generator_of, sample_rng, state_words

LARGE = 2**32


@pytest.mark.parametrize("seed", [0, 7, LARGE - 1, LARGE, 3 * LARGE**2 + 1])
@pytest.mark.parametrize("indices", [[0, 1, 2, 99], [5], [LARGE - 1, 0], [LARGE, 3]], ids=str)
def test_the_states_of_a_batch_are_those_that_numpy_derives_one_by_one(seed: int, indices: list[int]) -> None:
    epochs = np.arange(len(indices)) * 1000
    words = state_words(seed, MASK_STREAM, epochs, indices)
    assert words.shape == (len(indices), 4) and words.dtype == np.uint64
    for state, epoch, index in zip(words, epochs.tolist(), indices):
        expected, found = sample_rng(seed, MASK_STREAM, epoch, index), generator_of(state)
        assert found.bit_generator.state == expected.bit_generator.state
        assert (found.normal(size=5) == expected.normal(size=5)).all()


def test_no_images_have_no_states() -> None:
    assert state_words(0, VIEW_STREAM, [], []).shape == (0, 4)


def test_states_differ_by_purpose_epoch_and_image() -> None:
    keys = [(0, VIEW_STREAM, 0, 0), (0, MASK_STREAM, 0, 0), (0, VIEW_STREAM, 1, 0), (0, VIEW_STREAM, 0, 1)]
    draws = [sample_rng(*key).random() for key in keys]
    draws += [np.random.default_rng(0).random(), np.random.default_rng((0, VIEW_STREAM)).random()]
    assert len(set(draws)) == len(keys) + 1  # a key's trailing zeros don't count, and only there
    assert draws[0] == draws[-1] == sample_rng(*keys[0]).random()
