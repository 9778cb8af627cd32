"""Random generators of images: one for each purpose, epoch and image.

They are those of `numpy.random.default_rng((seed, stream, epoch, index))`. NumPy takes longer to derive the state of
one than most purposes take to draw from it. So the states of a batch are derived together, by the steps of NumPy's
`SeedSequence`, whose results NumPy guarantees not to change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

# Second word of every generator's key, so that no two purposes share draws. Zero is left out: NumPy pads
# a short key with zeros, and default_rng(seed) itself is then (seed, 0, 0, 0).
ORDER_STREAM = 1
VIEW_STREAM = 2
MASK_STREAM = 3
PREDICTION_STREAM = 4
PATH_STREAM = 5
ERASING_STREAM = 6
MIX_STREAM = 7

_WORDS = 4  # of a key, each of 32 bits, and of a state, each of 64
_SHIFT = np.uint32(16)
_LEFT, _RIGHT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)


def _constants(first: int, factor: int, count: int) -> NDArray[np.uint32]:
    """Return a column of a geometric series modulo 2^32."""
    return np.array([first * pow(factor, power, 2**32) % 2**32 for power in range(count)], np.uint32)[:, None]


_OF_POOL = _constants(0x43B0D7E5, 0x931E8875, _WORDS**2 + 1)
_OF_STATE = _constants(0x8B51F9DD, 0x58F38DED, 2 * _WORDS + 1)


class _State(ISeedSequence):
    """A state that is known already, as NumPy's bit generators ask for it."""

    def __init__(self, words: NDArray[np.uint64]):
        self.words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        assert n_words == len(self.words) and dtype == self.words.dtype
        return self.words


def sample_rng(seed: int, stream: int, epoch: int, index: int) -> np.random.Generator:
    """Return the random generator of one image in one epoch for one purpose (`VIEW_STREAM`, `MASK_STREAM` ...)."""
    return np.random.default_rng((seed, stream, epoch, index))


def state_words(
    seed: int, stream: int, epochs: Sequence[int] | NDArray[np.int64], indices: Sequence[int] | NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Return the states of the generators of N images, [N, 4]; `generator_of` makes a generator of each."""
    keys = np.empty((_WORDS, len(indices)), np.int64)
    keys[0], keys[1], keys[2], keys[3] = min(seed, 2**32), stream, epochs, indices
    if keys.size and keys.max() >= 2**32:  # NumPy splits such numbers into several words
        numbers = ((seed, stream, int(epoch), int(index)) for epoch, index in zip(epochs, indices))
        return np.stack([np.random.SeedSequence(key).generate_state(_WORDS, np.uint64) for key in numbers])
    pool = _hashed(keys.astype(np.uint32), _OF_POOL[: _WORDS + 1])
    for source in range(_WORDS):
        others = [word for word in range(_WORDS) if word != source]
        first = _WORDS + source * (_WORDS - 1)
        mixed = _LEFT * pool[others] - _RIGHT * _hashed(pool[source], _OF_POOL[first : first + _WORDS])
        pool[others] = mixed ^ mixed >> _SHIFT
    halves = _hashed(np.concatenate([pool, pool]), _OF_STATE).astype(np.uint64)
    return np.ascontiguousarray((halves[0::2] | halves[1::2] << np.uint64(32)).T)  # NumPy reads rows by their address


def _hashed(values: NDArray[np.uint32], constants: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Hash values with one constant a row, and the next one."""
    hashed = (values ^ constants[:-1]) * constants[1:]
    return hashed ^ hashed >> _SHIFT


def generator_of(words: NDArray[np.uint64]) -> np.random.Generator:
    """Return the generator of a state, a row of `state_words`."""
    state: Any = _State(words)
    return np.random.Generator(np.random.PCG64(state))
