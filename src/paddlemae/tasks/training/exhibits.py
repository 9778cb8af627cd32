"""The pictures that a run shows beside its numbers: the same images in each, chosen once and for all.

Shapes: B or N images, D features, k neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paddlemae.data.batches import eval_batches
from paddlemae.data.decode.display import as_displayed
from paddlemae.data.disk.errors import DataFault
from paddlemae.data.sources import Source, subset
from paddlemae.data.sources.subsets import spread_over
from paddlemae.data.views.augment import View
from paddlemae.model.classifier import VisionTransformer
from paddlemae.model.encoder import attention_maps
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.masking import Mask
from paddlemae.runs.confusion import Confusion
from paddlemae.runs.exhibit_files import read_exhibit, write_exhibit, write_sprite
from paddlemae.runs.figures import overlay_heat
from paddlemae.tasks.models.preprocess import evaluation_view, to_input
from paddlemae.tasks.models.reconstruction import caption_of, drawn_pictures
from paddlemae.tasks.training.optional_output import optional
from paddlemae.train.checkpoint import TrainState
from paddlemae.weights.model_folder import Description

SHOWN = 8  # images in pictures of reconstructions and attention
SHOWN_QUERIES, SHOWN_NEIGHBOURS = 10, 5
MAPPED, MAP_SIDE = 800, 64  # images of a map, and the pixels of each
FEWEST_MAPPED = 8
PERPLEXITY = 30  # t-SNE's, of so many images that they have as many neighbours
# parts of a training, see `moments`: most is learned early
MOMENTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)


def pictures_at(source: Source, view: View, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([N, C, H, W] as evaluation sees these images, the indices of those that can be read)."""
    batches = list(eval_batches(subset(source, indices), view, batch_size=len(indices)))
    found = np.concatenate([batch.indices for batch in batches])
    return np.concatenate([batch.images for batch in batches]), indices[found]


def as_pictures(images_BCHW: np.ndarray) -> np.ndarray:
    """Return uint8 [B, H, W, C], as images are displayed."""
    return as_displayed(images_BCHW.transpose(0, 2, 3, 1))


def moments(total_steps: int) -> frozenset[int]:
    """The steps after which the same images are reconstructed again."""
    return frozenset(max(1, round(part * total_steps)) for part in MOMENTS)


@dataclass
class Snapshots:
    """Reconstructs the same images with the same masks as training goes on: a hook of the training loop."""

    run: Path
    model: MaskedAutoencoder
    description: Description
    images_u8: np.ndarray
    mask: Mask
    total_steps: int
    epochs_a_step: float
    steps: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        self.steps = moments(self.total_steps)

    def __call__(self, state: TrainState, result: Any = None) -> None:
        if state.step in self.steps or not state.step:
            with optional(f"the reconstruction of step {state.step}"):
                self.take(state.step)

    def take(self, step: int) -> None:
        """Add the reconstruction after `step` steps; later ones, of a run that is being resumed, will come again."""
        drawn = drawn_pictures(self.model, self.description, self.images_u8, self.mask)
        before = self._before() if step else None
        if before is None:
            before = {
                "caption": caption_of(self.description, self.mask),
                **{name: self._sprite(name, drawn[name]) for name in ("original", "masked")},
                "steps": [],
            }
        shown = self._sprite(f"step_{step:08d}", drawn["prediction + visible"])
        earlier = [one for one in before["steps"] if one["step"] < step]
        taken = {"step": step, "epoch": round(step * self.epochs_a_step, 4), "sprite": shown}
        write_exhibit(self.run, "reconstructions", {**before, "steps": [*earlier, taken]})

    def _before(self) -> dict[str, Any] | None:
        """The pictures of earlier steps; None of a damaged file, which is no reason to stop training."""
        try:
            before = read_exhibit(self.run, "reconstructions")
            whole = before and all(isinstance(one["step"], int) for one in before["steps"])
        except (ValueError, KeyError, TypeError):
            return None
        return before if whole else None

    def _sprite(self, name: str, pictures: np.ndarray) -> dict[str, Any]:
        return write_sprite(self.run, f"reconstructions-{name}", pictures, columns=len(pictures))


def show_attention(
    run: Path, model: MaskedAutoencoder | VisionTransformer, description: Description, images_u8: np.ndarray
) -> None:
    """Show what the token that stands for an image looks at in the last block.

    That is the one that a classifier's head gets, and else the cls token where there is one.
    """
    maps_BHL = attention_maps(model, to_input(images_u8, description), model.pool).numpy()
    heads, originals = maps_BHL.shape[1], as_pictures(images_u8)

    def over(maps_NL: np.ndarray, pictures: np.ndarray) -> np.ndarray:
        return np.stack([overlay_heat(picture, one.reshape(model.grid)) for picture, one in zip(pictures, maps_NL)])

    each = over(maps_BHL.reshape(-1, maps_BHL.shape[2]), originals.repeat(heads, axis=0))
    asking = "the cls token of the last block attends" if model.pool == "cls" else "the last block's patches attend"
    content = {
        "caption": f"What {asking} to: all {heads} heads' mean, then each head alone. "
        "Bright is much; each map has its own scale.",
        "heads": heads,
        "original": write_sprite(run, "attention-original", originals, columns=len(originals)),
        "mean": write_sprite(run, "attention-mean", over(maps_BHL.mean(axis=1), originals), columns=len(originals)),
        "each": write_sprite(run, "attention-each", each, columns=heads),
    }
    write_exhibit(run, "attention", content)


@dataclass(frozen=True)
class Mistake:
    """An image, by its index, that was taken for another class, and how sure (in [0, 1]) of it."""

    index: int
    true: int
    predicted: int
    confidence: float


def show_mistakes(
    run: Path, source: Source, view: View, confusion: Confusion, mistakes: list[Mistake], title: str
) -> None:
    """Show how often each class was taken for which, and the images of which that was surest."""
    classes = list(source.classes)
    content = {"source": title, "classes": classes}
    write_exhibit(run, "confusion", {**content, **confusion.as_json()})
    if not mistakes:
        write_exhibit(run, "mistakes", {**content, "sprite": None, "items": []})
        return
    images, found = pictures_at(source, view, np.array([one.index for one in mistakes]))
    items = [
        {"true": one.true, "predicted": one.predicted, "confidence": one.confidence, "name": name_of(source, one.index)}
        for one in mistakes
        if one.index in found
    ]
    sprite = write_sprite(run, "mistakes", as_pictures(images), columns=8)
    write_exhibit(run, "mistakes", {**content, "sprite": sprite, "items": items})


def name_of(source: Source, index: int) -> str:
    """An image's name, with its folder's."""
    return "/".join(Path(source.describe(index)).parts[-2:])


def show_neighbours(
    run: Path,
    asked: tuple[Source, np.ndarray],
    known: tuple[Source, np.ndarray],
    view: View,
    cosine_Qk: np.ndarray,
    nearest_Qk: np.ndarray,
    title: str,
) -> None:
    """Show some queries, each with its nearest images.

    Args:
        asked, known: the queries and the bank: a source and, of each row of features, the image's index there.
        cosine_Qk, nearest_Qk: from `nearest.nearest`.
    """
    (queries, query_indices), (bank, bank_indices) = asked, known
    assert queries.labels is not None and bank.labels is not None
    rows = spread_over(len(query_indices), SHOWN_QUERIES)
    shown = min(SHOWN_NEIGHBOURS, nearest_Qk.shape[1])
    pictures, items = [], []
    for row in rows:
        near = bank_indices[nearest_Qk[row, :shown]]
        query = query_indices[row]
        pictures += [pictures_at(queries, view, query[None])[0]]
        pictures += [pictures_at(bank, view, one[None])[0] for one in near]
        neighbours = [
            {"label": int(bank.labels[one]), "cosine": round(float(cosine), 4)}
            for one, cosine in zip(near, cosine_Qk[row, :shown])
        ]
        items.append(
            {"label": int(queries.labels[query]), "name": name_of(queries, int(query)), "neighbours": neighbours}
        )
    sprite = write_sprite(run, "neighbours", as_pictures(np.concatenate(pictures)), columns=1 + shown)
    content = {"source": title, "classes": list(queries.classes), "sprite": sprite, "rows": items}
    write_exhibit(run, "neighbours", content)


def show_map(
    run: Path, source: Source, view: View, features_ND: np.ndarray, indices: np.ndarray, title: str, seed: int = 0
) -> None:
    """Lay images out in a plane so that those of similar features are near each other (t-SNE).

    Args:
        features_ND, indices: the source's images' features, and their indices there.
    """
    if len(features_ND) < FEWEST_MAPPED:
        return
    from sklearn.manifold import TSNE  # slow to import

    assert source.labels is not None
    rows = spread_over(len(features_ND), MAPPED)
    unit = features_ND[rows] / np.maximum(np.linalg.norm(features_ND[rows], axis=1, keepdims=True), 1e-12)
    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    points = TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(unit)
    images, _ = pictures_at(source, view, indices[rows])
    content = {
        "source": title,
        "method": f"t-SNE of cosine distances, perplexity {perplexity:.3g}",
        "classes": list(source.classes),
        "sprite": write_sprite(run, "map", as_pictures(images), columns=32, largest_side=MAP_SIDE),
        "points": [
            [round(float(x), 3), round(float(y), 3), int(label)]
            for (x, y), label in zip(points, source.labels[indices[rows]])
        ],
    }
    write_exhibit(run, "map", content)


def fixed_images(source: Source, description: Description) -> tuple[np.ndarray, np.ndarray] | None:
    """([B, C, H, W], indices) of the images that a run shows throughout; None if none of them can be read."""
    try:
        return pictures_at(source, evaluation_view(description), spread_over(len(source), SHOWN))
    except DataFault:
        return None
