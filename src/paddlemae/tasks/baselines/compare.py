"""Measure baselines on labelled images: the commonest class, and logistic regressions of classical features."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.batches import eval_batches
from paddlemae.data.sources import Source
from paddlemae.data.sources.subsets import draw_share
from paddlemae.data.views.augment import View
from paddlemae.data.workers import workers_for
from paddlemae.recipe import MAX_BAD_IMAGES
from paddlemae.runs.class_metrics import Answers
from paddlemae.runs.class_results import class_result
from paddlemae.runs.progress import progress
from paddlemae.tasks.baselines.features import colour_features, gradient_features, has_scikit_image
from paddlemae.tasks.baselines.logistic import Table, fit_and_predict
from paddlemae.tasks.training.skipped_images import SkippedImages

MOST_TRAINED, MOST_TESTED = 5_000, 10_000
MOST_PIXELS = 128  # of a side: what larger images add to gradients of 8 x 8 cells is small
BATCH = 64

Json = dict[str, Any]


class Read(NamedTuple):
    """Features of a source's readable images: float32 [N, D] of gradients and colours; their labels and groups [N]."""

    gradients: NDArray[np.float32]
    colours: NDArray[np.float32]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]


def measure_baselines(
    train: Source,
    test: Source,
    view: View,
    *,
    primary: str,
    seed: int = 0,
    most_trained: int = MOST_TRAINED,
    most_tested: int = MOST_TESTED,
    max_bad_images: float = MAX_BAD_IMAGES,
    quiet: bool = False,
) -> list[Json]:
    """Return the results of classifying `test` without a network.

    Args:
        train, test: labelled images with the same classes.
        view: as evaluation sees the images; sides above `MOST_PIXELS` are made smaller.
        primary: the key of the primary metric, which chooses the regularisation on parts of the training images.
        seed: draws the images that are read, and the parts that choose.
        most_trained, most_tested: images that are read of each source; of more the same share of each class is drawn.
        max_bad_images: share of each source's images that may be unreadable.
    Returns:
        a result as `class_result` gives it of each baseline, with its key `baseline`, `title`, `detail`,
        `train_images`, `eval_images` and `seconds`: `majority`, then `gradients` and `colour`, unless the training
        images have one class only.
    Raises:
        DataFault: no image that can be read, or too many that can't.
    """
    began = time.perf_counter()
    view, parts = _smaller(view), (draw_share(train, most_trained, seed), draw_share(test, most_tested, seed))
    with progress("baselines", sum(map(len, parts)), show=not quiet) as show:
        fitted = _read(parts[0], view, max_bad_images, show)
        held_out = _read(parts[1], view, max_bad_images, lambda done: show(len(parts[0]) + done))
    reading = (time.perf_counter() - began) / 2
    about: Json = {
        "detail": drawn_text("measured on", test, parts[1]),
        "train_images": len(fitted.labels),
        "eval_images": len(held_out.labels),
    }
    commonest = int(np.bincount(_labels(train)).argmax())
    constant = np.eye(len(train.classes))[np.full(len(held_out.labels), commonest)]
    title = f"always the commonest class, '{train.classes[commonest]}'"
    found = [{"baseline": "majority", "title": title, **about, **_result(held_out, constant, train, primary)}]
    if len(np.unique(fitted.labels)) < 2:
        return found
    gradients = "HOG" if has_scikit_image() else "gradient directions"
    of_each = {
        "gradients": (gradients, fitted.gradients, held_out.gradients),
        "colour": ("colour statistics", fitted.colours, held_out.colours),
    }
    for key, (name, rows, test_rows) in of_each.items():
        began = time.perf_counter()
        table = Table(rows, fitted.labels, fitted.groups)
        fit = fit_and_predict(table, test_rows, len(train.classes), primary=primary, seed=seed)
        result = {"baseline": key, "title": f"{name} + logistic regression", **about}
        drawn = drawn_text("fitted to", train, parts[0])
        result["detail"] = f"{drawn}, {about['detail']}; C = {fit.strength:g}, chosen on parts of the training images"
        result |= _result(held_out, fit.probabilities, train, primary)
        found.append(result | {"seconds": reading + time.perf_counter() - began})
    return found


def _result(held_out: Read, probabilities: np.ndarray, train: Source, primary: str) -> Json:
    return class_result(Answers.of(held_out.labels, probabilities), train.classes, primary)


def _labels(source: Source) -> NDArray[np.int64]:
    assert source.labels is not None
    return source.labels


def drawn_text(verb: str, whole: Source, drawn: Source) -> str:
    """Return "fitted to 700 images drawn from 5,000"."""
    return f"{verb} {len(drawn):,} images" + (f" drawn from {len(whole):,}" if len(drawn) < len(whole) else "")


def _smaller(view: View) -> View:
    factor = max(1.0, max(view.image_size) / MOST_PIXELS)
    height, width = (max(1, round(side / factor)) for side in view.image_size)
    return replace(view, image_size=(height, width))


def _read(source: Source, view: View, max_bad_images: float, show: Callable[[int], None]) -> Read:
    gradients, colours, indices = [], [], []
    skipped, workers = SkippedImages(source, max_bad_images), workers_for(len(source), None)
    for batch in eval_batches(source, view, batch_size=BATCH, workers=workers, on_skip=skipped):
        gradients.append(gradient_features(batch.images))
        colours.append(colour_features(batch.images))
        indices.append(batch.indices)
        show(int(batch.indices[-1]) + 1)
    readable = np.concatenate(indices)
    groups = np.arange(len(source)) if source.groups is None else source.groups
    return Read(np.concatenate(gradients), np.concatenate(colours), _labels(source)[readable], groups[readable])
