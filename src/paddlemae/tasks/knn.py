"""kNN: classify images by their nearest neighbours among labelled features.

Published kNN numbers depend on the protocol by several points: which token, layer and normalisation, how many
neighbours, how they vote. So every number here comes with all of these.

Shapes: N images of the bank, Q queries, D width, k neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from paddlemae.data.sources import Source, balanced_subset, match_classes, open_source
from paddlemae.data.views.augment import View
from paddlemae.engine import device
from paddlemae.recipe import MAX_BAD_IMAGES
from paddlemae.runs.bootstrap import bootstrap
from paddlemae.runs.class_metrics import Answers, metrics_of_answers
from paddlemae.runs.class_results import class_result, interval_text, majority_text
from paddlemae.runs.confusion import Confusion
from paddlemae.runs.metrics import CLASSIFICATION, primary_metric, title_of
from paddlemae.runs.runlog import log_result
from paddlemae.tasks.models.build import load_encoder
from paddlemae.tasks.models.features import Labelled, labelled_features
from paddlemae.tasks.models.inference import FeatureKind
from paddlemae.tasks.models.nearest import NORMS_OVER_IMAGES, check_k, nearest
from paddlemae.tasks.models.preprocess import evaluation_view
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.training.classification import PRETRAINED, RANDOM, surest_mistakes
from paddlemae.tasks.training.exhibits import show_map, show_mistakes, show_neighbours
from paddlemae.tasks.training.labelled_splits import image_counts
from paddlemae.tasks.training.optional_output import optional
from paddlemae.tasks.training.run_start import run_of
from paddlemae.tasks.training.skipped_images import SkippedImages

TEMPERATURE = 0.07  # Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", sec. 3.4
NEIGHBOURS = (10, 20, 100, 200)
SHOWN_NEIGHBOURS = 20  # of those, whose predictions are shown
VOTERS_AT_ONCE = 1 << 12  # queries whose votes for every class are held at a time

Votes = Literal["weighted", "plain"]
VOTES: tuple[Votes, ...] = ("weighted", "plain")


def knn(
    run: str,
    data: str,
    *,
    kind: FeatureKind,
    neighbours: Sequence[int] = (),
    temperature: float = TEMPERATURE,
    bank_split: str = "train",
    query_split: str = "test",
    labels: int | None = None,
    seed: int = 0,
    random: bool = False,
    batch_size: int = 64,
    threads: int | str = "auto",
    max_bad_images: float = MAX_BAD_IMAGES,
    say: Callable[[list[dict[str, Any]]], None] | None = None,
    trust: bool = False,
) -> list[dict[str, Any]]:
    """Return the metrics of held-out images by the neighbours of their features, for both ways of voting and several k.

    Every number is appended to the run's results (`runs.runlog.log_result`) if `run` is in a run folder, and its
    exhibits show neighbours, mistakes and a map of the queries.

    Args:
        run: a run folder or checkpoint.
        data: labelled images, see `open_source`.
        kind: which features are compared.
        neighbours: how many vote; by default those of `NEIGHBOURS` that the bank has.
        temperature: of the weighted votes.
        bank_split, query_split: which part of `data` is searched, and which is classified.
        labels: images of a class-balanced bank, drawn from `seed`; None is all of it.
        random: take the same encoder untrained, for comparison.
        threads: as in `device.prepare`.
        max_bad_images: share, rounded up, of each part's images that may be unreadable; they are left out.
        say: called with the results before anything is written.
        trust: see `read_checkpoint`.
    Returns:
        the results as they are logged.
    Raises:
        ValueError, FileNotFoundError: images, a checkpoint or settings that can't be used.
    """
    if not temperature > 0:
        raise ValueError(f"the temperature of votes must be above 0, got {temperature:g}")
    bank, queries = (open_source(data, split, labelled=True) for split in (bank_split, query_split))
    queries = match_classes(bank, queries)
    primary = primary_metric(image_counts(bank))
    if labels:
        bank = balanced_subset(bank, labels, seed)
    return classify_by_neighbours(
        run,
        bank,
        queries,
        primary,
        kind=kind,
        neighbours=neighbours,
        temperature=temperature,
        random=random,
        batch_size=batch_size,
        threads=threads,
        max_bad_images=max_bad_images,
        protocol={"labels": labels, "seed": seed} if labels else {},
        say=say,
        trust=trust,
    )


def classify_by_neighbours(
    run: str,
    bank: Source,
    queries: Source,
    primary: str,
    *,
    kind: FeatureKind,
    neighbours: Sequence[int] = (),
    temperature: float = TEMPERATURE,
    random: bool = False,
    batch_size: int = 64,
    threads: int | str = "auto",
    max_bad_images: float = MAX_BAD_IMAGES,
    protocol: Mapping[str, Any] | None = None,
    say: Callable[[list[dict[str, Any]]], None] | None = None,
    trust: bool = False,
) -> list[dict[str, Any]]:
    """Do what `knn` does for sources that are open.

    Args:
        bank, queries: labelled images with the same classes: those that are searched, and those that are classified.
        primary: the key of the primary metric.
        protocol: how the bank was drawn, which is logged with the results.
        others, and errors: those of `knn`.
    """
    device.prepare("auto", threads, kind.precision)
    checkpoint = read_checkpoint(run, trust=trust)
    model = load_encoder(checkpoint, random=random)
    _counts(neighbours, len(bank))  # before anything is computed
    bank_features, query_features = (
        labelled_features(
            model,
            checkpoint.description,
            source,
            kind,
            batch_size=batch_size,
            threads=threads,
            on_skip=SkippedImages(source, max_bad_images),
        )
        for source in (bank, queries)
    )
    counts = _counts(neighbours, len(bank_features.features_ND))  # some images may have been unreadable
    if normalise := NORMS_OVER_IMAGES.get(kind.norm):
        normalise(bank_features.features_ND, query_features.features_ND)
    cosine_Qk, nearest_Qk = nearest(bank_features.features_ND, query_features.features_ND, max(counts))
    results, voted = [], {}
    for votes in VOTES:
        weights_Qk = vote_weights(cosine_Qk, votes, temperature)
        for k in counts:
            voted[votes, k] = winners(bank_features.labels[nearest_Qk[:, :k]], weights_Qk[:, :k], len(bank.classes))
            predicted, _ = voted[votes, k]
            weighted = {"temperature": temperature} if votes == "weighted" else {}
            results.append(
                {
                    "task": "knn",
                    "start": RANDOM if random else PRETRAINED,
                    **_metrics(query_features.labels, predicted, queries.classes, primary),
                    "protocol": {**kind.settings(), "k": k, "votes": votes, **weighted, **(protocol or {})},
                    "train": bank.name,
                    "train_images": len(bank_features.labels),
                    "eval": queries.name,
                    "eval_images": len(query_features.labels),
                    "checkpoint": checkpoint.folder.name,
                }
            )
    if say:
        say(results)
    folder = run_of(checkpoint.folder)
    if folder:
        with optional("the lines in the run's results"):
            log_result(folder, results)
    if folder and not random:
        view = evaluation_view(checkpoint.description)
        shown = SHOWN_NEIGHBOURS if SHOWN_NEIGHBOURS in counts else counts[0]
        neighbourhood = Neighbourhood(cosine_Qk, nearest_Qk, shown, *voted["weighted", shown])
        _show(folder, view, queries, query_features, bank, bank_features, neighbourhood, kind)
    return results


@dataclass(frozen=True)
class Neighbourhood:
    """The neighbours of every query, the class [Q] that k of them vote for, and its share of the votes [Q]."""

    cosine_Qk: np.ndarray
    nearest_Qk: np.ndarray
    k: int
    predicted: np.ndarray
    share: np.ndarray


def _show(
    run: Path,
    view: View,
    queries: Source,
    query_features: Labelled,
    bank: Source,
    bank_features: Labelled,
    neighbourhood: Neighbourhood,
    kind: FeatureKind,
) -> None:
    """Draw the run's exhibits of the queries."""
    confusion = Confusion.of(query_features.labels, neighbourhood.predicted, len(bank.classes))
    mistakes = surest_mistakes(
        query_features.indices, query_features.labels, neighbourhood.predicted, neighbourhood.share
    )
    with optional("the mistakes"):
        answers = Answers(len(bank.classes), query_features.labels, neighbourhood.predicted)
        title = f"kNN, k = {neighbourhood.k}, weighted votes; {kind}"
        intervals = bootstrap(answers, metrics_of_answers(answers))
        show_mistakes(run, queries, view, confusion, mistakes, title, intervals)
    sides = (queries, query_features.indices), (bank, bank_features.indices)
    with optional("the neighbours"):
        show_neighbours(run, *sides, view, neighbourhood.cosine_Qk, neighbourhood.nearest_Qk, str(kind))
    with optional("the map"):
        show_map(run, queries, view, query_features.features_ND, query_features.indices, str(kind))


def _metrics(labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str], primary: str) -> dict[str, Any]:
    """Return the metrics that predictions without probabilities have, with their intervals."""
    result = class_result(Answers(len(classes), labels, predicted), classes, primary)
    return {name: value for name, value in result.items() if name != "per_class"}


def _counts(neighbours: Sequence[int], bank: int) -> list[int]:
    """Return how many neighbours vote, ascending."""
    if not neighbours:
        return [k for k in NEIGHBOURS if k <= bank] or [bank]
    for k in neighbours:
        check_k(k, bank)
    return sorted(set(neighbours))


def vote_weights(cosine_Qk: np.ndarray, votes: Votes, temperature: float) -> np.ndarray:
    """Return the weight of each neighbour's vote, float64 [Q, k]."""
    if votes == "plain":
        return np.ones(cosine_Qk.shape)
    return np.exp(cosine_Qk.astype(np.float64) / temperature)


def winners(labels_Qk: np.ndarray, weights_Qk: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (class with the most votes, int64 [Q], the lowest of equals; its share of all votes, float64 [Q])."""
    classes, shares = [np.empty(0, np.int64)], [np.empty(0)]
    for start in range(0, len(labels_Qk), VOTERS_AT_ONCE):
        labels, weights = (each[start : start + VOTERS_AT_ONCE] for each in (labels_Qk, weights_Qk))
        # the classes that are among each query's neighbours: all classes of all queries would be too many
        cells, places = np.unique(np.arange(len(labels))[:, None] * num_classes + labels, return_inverse=True)
        queries, candidates = np.divmod(cells, num_classes)
        votes = np.bincount(places.ravel(), weights.ravel())
        order = np.lexsort((candidates, -votes, queries))
        best = order[np.unique(queries, return_index=True)[1]]  # of each query the first in that order
        classes.append(candidates[best])
        shares.append(votes[best] / np.bincount(queries, votes))
    return np.concatenate(classes), np.concatenate(shares)


def results_text(results: Sequence[dict[str, Any]]) -> str:
    """Return results as text, a line each with all that it depends on, then what naming the commonest class gives."""
    return "\n".join([*map(_result_line, results), majority_text(results[0])])


def _result_line(result: dict[str, Any]) -> str:
    protocol = result["protocol"]
    votes = f"exp(cosine / {protocol['temperature']:g})" if protocol["votes"] == "weighted" else "one vote each"
    kind = FeatureKind(protocol["token"], protocol["layer"], protocol["norm"], protocol.get("precision", "float32"))
    interval = interval_text(result["intervals"][result["primary"]])
    return (
        f"{CLASSIFICATION.text(result)}  k={protocol['k']}, {votes}, {kind}; "
        f"{title_of(result['primary'])} 95% interval {interval}"
    )
