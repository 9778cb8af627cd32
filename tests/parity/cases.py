"""What both frameworks are given: models, weights, images, noise and training settings, from NumPy alone.

Draws are uniform, so that their bits are the same on every platform and goldens needn't store them.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.support.paths import GOLDENS

MASK_RATIO = 0.75
STEPS, WARMUP_STEPS = 10, 3
BATCH_SIZE = 2
TOKEN = 0.05  # largest magnitude of an initial token
BASE_LR = 0.128  # with a batch of 2, a peak of 1e-3, so that ten steps move the weights by about 1%
BETAS, EPSILON, WEIGHT_DECAY = (0.9, 0.95), 1e-8, 0.05


@dataclass(frozen=True)
class Case:
    """One model in our own keywords; image and patch sizes in pixels."""

    name: str
    norm_pix_loss: bool
    image_size: tuple[int, int]
    patch_size: int
    channels: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    decoder_embed_dim: int
    decoder_depth: int
    decoder_num_heads: int

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size


def _shape(image, patch, channels, encoder, mlp_ratio, decoder) -> dict:
    names = ("embed_dim", "depth", "num_heads")
    return dict(
        image_size=image,
        patch_size=patch,
        channels=channels,
        mlp_ratio=mlp_ratio,
        **dict(zip(names, encoder)),
        **dict(zip([f"decoder_{name}" for name in names], decoder)),
    )


# Square weights: 16 = patch pixels = encoder = decoder = MLP width, so a forgotten transpose fits in silence.
# Oblong weights: no two of patch pixels, encoder, decoder and MLP width agree.
# Wide image: 2 x 8 patches, so that rows and columns can't be mistaken for each other.
SHAPES = {
    "square-weights": _shape((16, 16), 4, 1, (16, 2, 2), 1, (16, 2, 4)),
    "oblong-weights": _shape((16, 16), 4, 3, (24, 2, 3), 1.5, (12, 1, 2)),
    "wide-image": _shape((8, 32), 4, 2, (16, 1, 4), 2, (12, 1, 3)),
    "vit-base": _shape((224, 224), 16, 3, (768, 12, 12), 4, (512, 8, 16)),
}
CASES = {
    f"{shape}-{target}": Case(f"{shape}-{target}", target == "normalised", **keywords)
    for shape, keywords in SHAPES.items()
    for target in ("raw", "normalised")
}
GOLDEN_CASES = [name for name in CASES if not name.startswith("vit-base")]

# position tables of width 8 that are resized bicubically: up, down, and one side each way
RESIZES = (((4, 4), (7, 7)), ((6, 5), (3, 2)), ((4, 6), (9, 3)))
RESIZED_GOLDEN = GOLDENS / "resized-positions.npz"


def golden(name: str) -> Path:
    """Where `make_goldens` puts what transformers gave for a case."""
    return GOLDENS / f"parity-{name}.npz"


def table_LD(grid: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(3).uniform(-1, 1, (grid[0] * grid[1], 8)).astype(np.float32)


def images_BCHW(case: Case) -> np.ndarray:
    size = (BATCH_SIZE, case.channels, *case.image_size)
    return np.random.default_rng(1).uniform(-2, 2, size).astype(np.float32)


def noise_SBL(case: Case) -> np.ndarray:
    """A fresh draw for each step."""
    size = (STEPS, BATCH_SIZE, case.grid[0] * case.grid[1])
    return np.random.default_rng(2).uniform(size=size).astype(np.float32)


def weight(name: str, shape: Iterable[int]) -> np.ndarray:
    """The initial value of the tensor that transformers calls `name`: nothing is zero or symmetric.

    Matrices have deviation sqrt(1 / inputs), norms' weights lie about 1, biases and tokens about 0.
    Tokens are small, as in a real start: the cls token has no position added, so its first norm
    divides by little, which tells one epsilon from another.
    """
    shape = tuple(shape)
    draw = np.random.default_rng(zlib.crc32(name.encode())).uniform(-1, 1, shape)
    if is_matrix(name, shape):
        draw *= math.sqrt(3 / math.prod(shape[1:]))
    else:
        draw *= TOKEN if name.endswith("token") else 0.5
    if "norm" in name and name.endswith("weight"):
        draw += 1
    return draw.astype(np.float32)


def is_matrix(name: str, shape: Iterable[int]) -> bool:
    """The weights of linear layers and of the patch projection: the only tensors that decay."""
    return len(tuple(shape)) > 1 and name.endswith("weight")


def lr_of_step(step: int) -> float:
    """Linear warmup, then a half-cosine to 0, written as the square of a cosine."""
    peak = BASE_LR * BATCH_SIZE / 256
    if step < WARMUP_STEPS:
        return peak * step / WARMUP_STEPS
    return peak * math.cos(math.pi / 2 * (step - WARMUP_STEPS) / (STEPS - WARMUP_STEPS)) ** 2
