"""The images of a file of features that are most like a query image, by the cosine of their features.

Shapes: Q queries, k neighbours, D width of a feature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paddlemae.data.sources import Source, open_source
from paddlemae.data.sources.output_folders import check_outside
from paddlemae.engine import device
from paddlemae.runs.figures import check_picture, draw_neighbours
from paddlemae.system.display_names import display_name
from paddlemae.tasks.models.build import load_encoder
from paddlemae.tasks.models.feature_file import Features, path_of, read_file, scaled, weights_digest
from paddlemae.tasks.models.inference import FeatureKind, forward_function
from paddlemae.tasks.models.nearest import nearest
from paddlemae.tasks.models.preprocess import evaluation_view
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.models.read_views import read_views
from paddlemae.tasks.training.exhibits import as_pictures, pictures_at
from paddlemae.weights.model_folder import Description

DEFAULT_NEIGHBOURS = 5


@dataclass(frozen=True)
class Neighbour:
    """An image of the file: its number in the source, path, class (None: unlabelled), cosine in [-1, 1]."""

    id: int
    path: str
    label: str | None
    similarity: float


@dataclass(frozen=True)
class QueryResult:
    """A query's name, and its neighbours, the most similar first."""

    query: str
    neighbours: list[Neighbour]


def search(
    features: Path,
    images: list[str],
    *,
    run: str,
    k: int = DEFAULT_NEIGHBOURS,
    limit: int = 8,
    out: Path | None = None,
    data: str | None = None,
    threads: int | str = "auto",
    say: Callable[[list[QueryResult]], None] | None = None,
    trust: bool = False,
) -> list[QueryResult]:
    """Find each query's nearest images.

    Args:
        features: a file that `embed_source` wrote.
        images: the queries: files, folders or other sources of images.
        run: the weights that made the file.
        k: neighbours of each query.
        limit: queries at most.
        out: a picture of the queries and their neighbours, if it is wanted.
        data: where the file's images are now, for the picture; by default where they were.
        threads: as in `device.prepare`.
        say: called with what was found before the picture is drawn.
        trust: see `read_checkpoint`.
    Raises:
        ValueError, FileNotFoundError: a file, weights or images that can't be used, or don't belong together.
    """
    if out is not None:
        check_picture(out)
        check_outside(out, images)
    bank = read_file(features)
    if not 1 <= k <= len(bank.ids):
        raise ValueError(f"--k must be in 1..{len(bank.ids)}, the images of {features}; got {k}")
    source = _source_of(bank, data, features) if out else None
    if out:
        check_outside(out, [data or bank.about["data"]])
    device.prepare("auto", threads)
    checkpoint = read_checkpoint(run, trust=trust)
    if weights_digest(checkpoint) != bank.about["weights"]:
        raise ValueError(
            f"{features} was computed with other weights than those of {checkpoint.folder}; "
            f"they were in {bank.about['model']}"
        )
    kind = FeatureKind(**{name: bank.about[name] for name in ("token", "layer", "norm")})
    names, views = read_views(images, checkpoint.description, limit)
    query_QD = forward_function(load_encoder(checkpoint), checkpoint.description, kind, threads=threads)(views)
    if kind.norm == "batch":
        query_QD = scaled(query_QD, *_scale_of(bank, features))
    cosine_Qk, nearest_Qk = nearest(bank.vectors, query_QD, k)
    if not np.isfinite(cosine_Qk).all():
        raise ValueError(f"{features} or the features of the queries hold numbers that are not finite; embed it again")
    results = [
        QueryResult(name, [_neighbour(bank, int(row), float(cosine)) for row, cosine in zip(rows, cosines)])
        for name, rows, cosines in zip(names, nearest_Qk, cosine_Qk)
    ]
    if say:
        say(results)
    if out and source:
        caption = f"Queries, and the nearest of {len(bank.ids)} images by cosine similarity ({features.name}: {kind})."
        _draw(out, results, views, source, checkpoint.description, caption)
    return results


def _scale_of(bank: Features, features: Path) -> list[np.ndarray]:
    """Return (mean, deviation) that the file's features were standardised with, [D] each."""
    scale = [np.array(bank.about.get(name)) for name in ("mean", "deviation")]
    if any(values.shape != bank.vectors.shape[1:] or values.dtype.kind != "f" for values in scale):
        raise ValueError(f"{features} is damaged (no mean and deviation of each feature); embed it again")
    return scale


def _neighbour(bank: Features, row: int, cosine: float) -> Neighbour:
    label = bank.labels[row] if bank.labels is not None else None
    return Neighbour(int(bank.ids[row]), bank.paths[row], label, cosine)


def _source_of(bank: Features, data: str | None, features: Path) -> Source:
    """Open the images that the features were computed from."""
    try:
        source = open_source(data or bank.about["data"], bank.about["split"])
    except FileNotFoundError as fault:
        raise FileNotFoundError(f"{fault}; name the images of {features} with --data to draw them") from fault
    if len(source) != bank.about["images"]:
        raise ValueError(f"{source.name} has {len(source)} images, and had {bank.about['images']} for {features}")
    return source


def _draw(
    out: Path, results: list[QueryResult], views: np.ndarray, source: Source, description: Description, caption: str
) -> None:
    view = evaluation_view(description)
    rows, titles = [], []
    for query, result in zip(views, results):
        pictures = [query[None]]
        for near in result.neighbours:
            if Path(path_of(source, near.id)).name != Path(near.path).name:
                raise ValueError(f"image {near.id} of {source.name} is no longer {near.path}; embed it again")
            pictures.append(pictures_at(source, view, np.array([near.id]))[0])
        rows.append(list(as_pictures(np.concatenate(pictures))))
        titles.append([f"{near.similarity:.3f}  {Path(near.path).name}" for near in result.neighbours])
    draw_neighbours(out, rows, [result.query for result in results], titles, caption)


def table(result: QueryResult) -> str:
    """Return a query's neighbours as text, a line each: rank, similarity, class if there is one, path."""
    lines = [display_name(result.query, None)]
    labels = [display_name(near.label or "") for near in result.neighbours]
    wide = max(map(len, labels))
    for rank, (near, label) in enumerate(zip(result.neighbours, labels), start=1):
        lines.append(
            f"{rank:4}  {near.similarity:7.4f}  {label:{wide}}{'  ' if wide else ''}{display_name(near.path, None)}"
        )
    return "\n".join(lines)
