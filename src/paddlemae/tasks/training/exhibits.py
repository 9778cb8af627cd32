"""Draw the pictures that a run's report shows: the same images in each run, chosen once.

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
from paddlemae.runs.bootstrap import Intervals
from paddlemae.runs.confusion import Confusion
from paddlemae.runs.exhibit_files import read_exhibit, write_exhibit, write_sprite
from paddlemae.runs.figures import overlay_heat
from paddlemae.tasks.models.preprocess import evaluation_view, to_input
from paddlemae.tasks.models.reconstruction import caption_of, draw_stages
from paddlemae.tasks.training.optional_output import optional
from paddlemae.train.checkpoint import TrainState
from paddlemae.weights.model_folder import Description

SHOWN = 8  # images in pictures of reconstructions and attention
SHOWN_QUERIES, SHOWN_NEIGHBOURS = 10, 5
MAPPED, MAP_SIDE = 800, 64  # images of a map, and the pixels of each
FEWEST_MAPPED = 8
PERPLEXITY = 30  # of t-SNE; less for few images
# parts of a training after which the same images are reconstructed: most is learned early
MOMENTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)


def pictures_at(source: Source, view: View, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ([N, C, H, W] as evaluation sees these images, the indices of those that can be read)."""
    batches = list(eval_batches(subset(source, indices), view, batch_size=len(indices)))
    readable = np.concatenate([batch.indices for batch in batches])
    return np.concatenate([batch.images for batch in batches]), indices[readable]


def as_pictures(images_BCHW: np.ndarray) -> np.ndarray:
    """Return uint8 [B, H, W, C], as images are displayed."""
    return as_displayed(images_BCHW.transpose(0, 2, 3, 1))


@dataclass
class Snapshots:
    """Hook of the training loop that reconstructs the same images with the same masks at some of the steps."""

    run: Path
    model: MaskedAutoencoder
    description: Description
    images_u8: np.ndarray
    mask: Mask
    total_steps: int
    epochs_a_step: float
    steps: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        self.steps = frozenset(max(1, round(part * self.total_steps)) for part in MOMENTS)

    def __call__(self, state: TrainState, result: Any = None) -> None:
        if state.step in self.steps or not state.step:
            with optional(f"the reconstruction of step {state.step}"):
                self.take(state.step)

    def take(self, step: int) -> None:
        """Add the reconstruction after `step` steps, and drop later ones, which a resumed run draws again."""
        drawn = draw_stages(self.model, self.description, self.images_u8, self.mask)
        before = self._before() if step else None
        if before is None:
            before = {
                "caption": caption_of(self.description, self.mask),
                **{name: self._sprite(name, drawn[name]) for name in ("original", "masked")},
                "steps": [],
            }
        shown = self._sprite(f"step_{step:08d}", drawn["prediction + visible"])
        earlier = [entry for entry in before["steps"] if entry["step"] < step]
        taken = {"step": step, "epoch": round(step * self.epochs_a_step, 4), "sprite": shown}
        write_exhibit(self.run, "reconstructions", {**before, "steps": [*earlier, taken]})

    def _before(self) -> dict[str, Any] | None:
        """Return the pictures of earlier steps; None for a damaged file, which is no reason to stop training."""
        try:
            before = read_exhibit(self.run, "reconstructions")
            whole = before and all(isinstance(entry["step"], int) for entry in before["steps"])
        except (ValueError, KeyError, TypeError):
            return None
        return before if whole else None

    def _sprite(self, name: str, pictures: np.ndarray) -> dict[str, Any]:
        return write_sprite(self.run, f"reconstructions-{name}", pictures, columns=len(pictures))


def show_attention(
    run: Path, model: MaskedAutoencoder | VisionTransformer, description: Description, images_u8: np.ndarray
) -> None:
    """Draw the attention of the last block: of the cls token where the model pools that, else of the patches."""
    maps_BHL = attention_maps(model, to_input(images_u8, description), "cls" if model.pool == "cls" else "mean").numpy()
    heads, originals = maps_BHL.shape[1], as_pictures(images_u8)

    def over(maps_NL: np.ndarray, pictures: np.ndarray) -> np.ndarray:
        return np.stack([overlay_heat(picture, row.reshape(model.grid)) for picture, row in zip(pictures, maps_NL)])

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
    run: Path,
    source: Source,
    view: View,
    confusion: Confusion,
    mistakes: list[Mistake],
    title: str,
    intervals: Intervals,
) -> None:
    """Draw how often each class was taken for which, and the wrong predictions of highest confidence."""
    classes = list(source.classes)
    content = {"source": title, "classes": classes}
    of_classes = intervals.of_classes()
    known = {"intervals": of_classes} if of_classes else {}
    write_exhibit(run, "confusion", {**content, **confusion.as_json(), **known})
    if not mistakes:
        write_exhibit(run, "mistakes", {**content, "sprite": None, "items": []})
        return
    images, readable = pictures_at(source, view, np.array([mistake.index for mistake in mistakes]))
    items = [
        {
            "true": mistake.true,
            "predicted": mistake.predicted,
            "confidence": mistake.confidence,
            "name": name_of(source, mistake.index),
        }
        for mistake in mistakes
        if mistake.index in readable
    ]
    sprite = write_sprite(run, "mistakes", as_pictures(images), columns=8)
    write_exhibit(run, "mistakes", {**content, "sprite": sprite, "items": items})


def name_of(source: Source, index: int) -> str:
    """Return an image's name, with its folder's."""
    return "/".join(Path(source.describe(index)).parts[-2:])


def show_neighbours(
    run: Path,
    queried: tuple[Source, np.ndarray],
    searched: tuple[Source, np.ndarray],
    view: View,
    cosine_Qk: np.ndarray,
    nearest_Qk: np.ndarray,
    title: str,
) -> None:
    """Draw some queries, each with its nearest images.

    Args:
        queried, searched: the queries and the bank: a source and, of each row of features, the image's index there.
        cosine_Qk, nearest_Qk: from `nearest.nearest`.
    """
    (queries, query_indices), (bank, bank_indices) = queried, searched
    assert queries.labels is not None and bank.labels is not None
    rows = spread_over(len(query_indices), SHOWN_QUERIES)
    shown = min(SHOWN_NEIGHBOURS, nearest_Qk.shape[1])
    pictures, items = [], []
    for row in rows:
        near = bank_indices[nearest_Qk[row, :shown]]
        query = query_indices[row]
        pictures += [pictures_at(queries, view, query[None])[0]]
        pictures += [pictures_at(bank, view, index[None])[0] for index in near]
        neighbours = [
            {"label": int(bank.labels[index]), "cosine": round(float(cosine), 4)}
            for index, cosine in zip(near, cosine_Qk[row, :shown])
        ]
        items.append(
            {"label": int(queries.labels[query]), "name": name_of(queries, int(query)), "neighbours": neighbours}
        )
    sprite = write_sprite(run, "neighbours", as_pictures(np.concatenate(pictures)), columns=1 + shown)
    content = {"source": title, "classes": list(queries.classes), "sprite": sprite, "rows": items}
    write_exhibit(run, "neighbours", content)


def show_map(run: Path, source: Source, view: View, features_ND: np.ndarray, indices: np.ndarray, title: str) -> None:
    """Lay images out in a plane so that those of similar features are near each other (t-SNE).

    Args:
        features_ND, indices: the source's images' features, and their indices there.
    """
    if len(features_ND) < FEWEST_MAPPED:
        return
    from sklearn.manifold import TSNE  # slow to import

    labels = np.zeros(len(source), np.int64) if source.labels is None else source.labels
    rows = spread_over(len(features_ND), MAPPED)
    unit = features_ND[rows] / np.maximum(np.linalg.norm(features_ND[rows], axis=1, keepdims=True), 1e-12)
    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    points = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(unit)
    images, _ = pictures_at(source, view, indices[rows])
    content = {
        "source": title,
        "method": f"t-SNE of cosine distances, perplexity {perplexity:.3g}",
        "classes": list(source.classes) or ["all images"],
        "sprite": write_sprite(run, "map", as_pictures(images), columns=32, largest_side=MAP_SIDE),
        "points": [
            [round(float(x), 3), round(float(y), 3), int(label)] for (x, y), label in zip(points, labels[indices[rows]])
        ],
    }
    write_exhibit(run, "map", content)


def fixed_images(source: Source, description: Description) -> tuple[np.ndarray, np.ndarray] | None:
    """Return ([B, C, H, W], indices) of the images that a run shows throughout; None if none can be read."""
    try:
        return pictures_at(source, evaluation_view(description), spread_over(len(source), SHOWN))
    except DataFault:
        return None
