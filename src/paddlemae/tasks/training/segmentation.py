"""Evaluation of a segmenter: counts of pixels on held-out images, and the metrics that follow from them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.disk.errors import DataFault
from paddlemae.data.sources import Source
from paddlemae.data.views.augment import View
from paddlemae.runs.confusion import Confusion
from paddlemae.runs.exhibit_files import write_exhibit
from paddlemae.runs.figures import draw_confusion
from paddlemae.runs.metrics import SEGMENTATION, Metrics
from paddlemae.runs.runlog import FIGURES
from paddlemae.runs.segmentation_metrics import COUNTED, MapCounts, count_boundaries, count_pairs, map_metrics
from paddlemae.runs.segmentation_results import segmentation_result
from paddlemae.tasks.training.optional_output import optional
from paddlemae.train.parallel.ranks import ALONE, Ranks
from paddlemae.weights.model_folder import Description


@dataclass(frozen=True, eq=False)
class MapEvaluation:
    """A segmenter's label maps of images with masks.

    Attributes:
        answers: counts of pixels.
        loss: mean cross-entropy over the counted pixels of all images.
    """

    answers: MapCounts
    loss: float

    kind: ClassVar[Metrics] = SEGMENTATION
    picture: ClassVar[str] = "confusion.png"

    @property
    def images(self) -> int:
        """Return the number of images."""
        return self.answers.images

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Return the metrics and the loss, as in `metrics.jsonl`."""
        return {**map_metrics(self.answers), "eval_loss": self.loss}

    @property
    def confusion(self) -> Confusion:
        """Return how many pixels of each class were taken for which."""
        true, predicted = np.nonzero(self.answers.confusion)
        return Confusion(self.answers.classes, true, predicted, self.answers.confusion[true, predicted])

    def worst(self, most: int) -> NDArray[np.int64]:
        """Return the indices of the images of the lowest mean IoU, the lowest first."""
        order = np.argsort(self.answers.image_miou, kind="stable")[:most]
        return self.answers.indices[order]

    def describe(self, description: Description) -> Description:
        """Return a model's description as it is."""
        return description

    def result(self, classes: Sequence[str], primary: str) -> dict[str, Any]:
        """Return the metrics with their intervals and the loss, as in `result.json`."""
        return {**segmentation_result(self.answers, classes, primary), "eval_loss": self.loss}

    def show(self, run: Path, source: Source, view: View, title: str, caption: str) -> None:
        """Draw the confusion matrix and the metrics of each class of a run."""
        with optional("the metrics of each class"):
            show_classes(run, self.result(source.classes, SEGMENTATION.primary)["per_class"], title)
        with optional("the confusion matrix"):
            content = {"source": title, "classes": list(source.classes), "unit": "pixels"}
            write_exhibit(run, "confusion", {**content, **self.confusion.as_json()})
            draw_confusion(run / FIGURES / self.picture, self.confusion, source.classes, caption)


def show_classes(run: Path, per_class: Mapping[str, Any], title: str) -> None:
    """Write the metrics of each class for the report; `per_class` is a result's."""
    keys = ("pixels", "iou", "dice", "boundary_f1", "recall", "precision")
    rows = [
        {"name": name, **{key: one[key] for key in keys}, "interval": one["intervals"]["iou"]}
        for name, one in per_class.items()
    ]
    write_exhibit(run, "classes", {"source": title, "rows": rows})


class MapAnswer(NamedTuple):
    """A label map of one image: the image's place in its source, its mask int16 [H, W], logits float32 [K, H, W]."""

    place: int
    mask: np.ndarray
    logits: np.ndarray


def evaluation_of_maps(answers: Iterable[MapAnswer], num_classes: int, ranks: Ranks = ALONE) -> MapEvaluation:
    """Evaluate label maps; the lowest class wins a tie.

    Args:
        ranks: processes that each have other images; all get the evaluation of all.
    Raises:
        DataFault: no image at all, or none with a counted pixel.
    """
    rows, confusion = [], np.zeros((num_classes, num_classes), np.int64)
    width = 3 + len(COUNTED) * num_classes  # the index, the ignored pixels, the loss; then the counts
    for place, mask, logits in answers:
        predicted = logits.argmax(axis=0)
        pairs = count_pairs(mask, predicted, num_classes)
        counts = [np.diag(pairs), pairs.sum(axis=1), pairs.sum(axis=0), *count_boundaries(mask, predicted, num_classes)]
        rows.append(np.concatenate([[place, (mask < 0).sum(), _total_loss(logits, mask)], *counts]))
        confusion += pairs
    own = np.stack(rows) if rows else np.empty((0, width))
    table = _gather(own, ranks)
    confusion = np.sum([np.array(one, np.int64) for one in ranks.gather(confusion.tolist())], axis=0)
    if not len(table):
        raise DataFault("no image to evaluate on can be read; fix them")
    table = table[np.argsort(table[:, 0], kind="stable")]
    counts_N7K = table[:, 3:].reshape(len(table), len(COUNTED), num_classes).astype(np.int64)
    counted = counts_N7K[:, COUNTED.index("truth")].sum(axis=1)
    if not counted.any():
        raise DataFault("every pixel of the masks to evaluate on is ignored; check them")
    known = counted > 0
    indices = table[known, 0].astype(np.int64)
    maps = MapCounts(counts_N7K[known], confusion, indices, int(table[:, 1].sum()), int((~known).sum()))
    return MapEvaluation(maps, float(table[:, 2].sum() / counted.sum()))


def _total_loss(logits_KHW: np.ndarray, mask_HW: np.ndarray) -> float:
    """Return the sum of the cross-entropy over the counted pixels."""
    logits_KP = logits_KHW[:, mask_HW >= 0]
    truth_P = mask_HW[mask_HW >= 0]
    largest = logits_KP.max(axis=0)
    total = largest + np.log(np.exp(logits_KP - largest).sum(axis=0))
    return float((total - logits_KP[truth_P, np.arange(len(truth_P))]).sum(dtype=np.float64))


def _gather(rows: NDArray[np.float64], ranks: Ranks) -> NDArray[np.float64]:
    """Return the rows of all processes."""
    if not ranks.lines:
        return rows
    texts = ranks.gather(base64.b64encode(np.ascontiguousarray(rows, np.float64).tobytes()).decode())
    return np.concatenate([np.frombuffer(base64.b64decode(text)).reshape(-1, rows.shape[1]) for text in texts])
