"""Mixup and CutMix: each image of a batch mixed with the one at the other end, and their labels with them.

Zhang et al., arXiv 1710.09412; Yun et al., arXiv 1905.04899. As in MAE's fine-tuning (appendix A.2), one of the two is
chosen for a batch as a whole, and so is how much is mixed in.

Shapes: B images, H x W pixels.
"""

import contextlib
import math
from collections.abc import Generator, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.batches import Batch
from paddlemae.data.decode.pixel_format import Pixels
from paddlemae.data.random_streams import MIX_STREAM, sample_rng
from paddlemae.data.sources.source import BatchTargets

Region = tuple[int, int, int, int]  # top, bottom, left, right


@dataclass(frozen=True)
class Mixing:
    """Settings of mixup and CutMix.

    Args:
        mixup: alpha of the beta distribution that mixup's share is drawn from; 0 does no mixup.
        cutmix: the same for CutMix.
        cutmix_probability: of CutMix where both are done.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    cutmix_probability: float = 0.5

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0


@dataclass(frozen=True, eq=False)
class MixedBatch(Batch):
    """A batch with each image's partner; fields are arrays of B, so that it may be cut up and shared out.

    Args:
        partners, partner_targets, partner_indices, partner_epochs: of the image that is mixed in.
        kept: float32 [B], the image's own share of the mixture, the partner's being the rest.
        regions: int64 [B, 4], what CutMix takes from the partner (`Region`); empty for mixup.
    """

    partners: Pixels
    partner_targets: BatchTargets | None
    partner_indices: NDArray[np.int64]
    partner_epochs: NDArray[np.int64]
    kept: NDArray[np.float32]
    regions: NDArray[np.int64]

    @property
    def partner_batch(self) -> Batch:
        """Return the partners as a batch of their own."""
        return Batch(self.partners, self.partner_targets, self.partner_indices, self.partner_epochs)


def mix_batches(batches: Generator[Batch, None, None], mixing: Mixing, seed: int) -> Generator[Batch, None, None]:
    """Yield the batches mixed; the mixture depends only on the seed and a batch's first view."""
    with contextlib.closing(batches):
        for batch in batches:
            yield mix_batch(batch, mixing, sample_rng(seed, MIX_STREAM, int(batch.epochs[0]), int(batch.indices[0])))


def mix_batch(batch: Batch, mixing: Mixing, rng: np.random.Generator) -> MixedBatch:
    """Pair the batch with itself in reverse, and draw what is mixed."""
    count, (height, width) = len(batch.images), batch.images.shape[2:]
    kept, region = draw_mixture(mixing, height, width, rng)
    backwards = slice(None, None, -1)
    return MixedBatch(
        batch.images,
        batch.targets,
        batch.indices,
        batch.epochs,
        partners=batch.images[backwards],
        partner_targets=None if batch.targets is None else batch.targets[backwards],
        partner_indices=batch.indices[backwards],
        partner_epochs=batch.epochs[backwards],
        kept=np.full(count, kept, np.float32),
        regions=np.tile(np.array(region, np.int64), (count, 1)),
    )


def draw_mixture(mixing: Mixing, height: int, width: int, rng: np.random.Generator) -> tuple[float, Region]:
    """Draw (the image's own share, the region that CutMix takes from its partner: empty for mixup)."""
    cuts = rng.random() < mixing.cutmix_probability if mixing.mixup > 0 and mixing.cutmix > 0 else mixing.cutmix > 0
    if not cuts:
        return float(rng.beta(mixing.mixup, mixing.mixup)), (0, 0, 0, 0)
    side = math.sqrt(1 - rng.beta(mixing.cutmix, mixing.cutmix))
    region = (*_span(height, side, rng), *_span(width, side, rng))
    top, bottom, left, right = region
    return 1 - (bottom - top) * (right - left) / (height * width), region


def _span(length: int, share: float, rng: np.random.Generator) -> tuple[int, int]:
    """Return a stretch of that share of a length around a random place, of an even size and cut off at the ends.

    Even, since timm's rule, which MAE's fine-tuning uses, takes half of it on each side of the place.
    """
    half, centre = int(length * share) // 2, int(rng.integers(length))
    return max(0, centre - half), min(length, centre + half)


def mixed_labels(batch: MixedBatch) -> Iterable[tuple[BatchTargets, NDArray[np.float32]]]:
    """Return (labels, their share of each image), of the images and of their partners."""
    assert batch.targets is not None and batch.partner_targets is not None
    return (batch.targets, batch.kept), (batch.partner_targets, 1 - batch.kept)
