"""Evaluate a trained segmenter on images with masks, as `paddlemae evaluate` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from paddlemae.data.sources import Source, with_classes
from paddlemae.data.sources.splits import list_names
from paddlemae.data.workers import workers_for
from paddlemae.model.segmenter import Segmenter
from paddlemae.recipe import SCRATCH
from paddlemae.runs.metrics import SEGMENTATION
from paddlemae.runs.runlog import log_result
from paddlemae.tasks.models.build import load_segmenter
from paddlemae.tasks.models.inference import unusual_precision
from paddlemae.tasks.models.preprocess import evaluation_view
from paddlemae.tasks.models.read_model import Checkpoint
from paddlemae.tasks.models.segment_image import windows_of
from paddlemae.tasks.models.windows import Blend, Flips
from paddlemae.tasks.training.classification import PRETRAINED
from paddlemae.tasks.training.evaluate_segmenter import evaluate_segmenter
from paddlemae.tasks.training.mask_splits import open_mask_test_part
from paddlemae.tasks.training.optional_output import optional
from paddlemae.tasks.training.run_start import run_of
from paddlemae.tasks.training.scene_exhibits import show_scenes
from paddlemae.weights.model_folder import Description


@dataclass(frozen=True)
class WindowOptions:
    """How images are cut into windows; see `tasks.models.windows.Windows`."""

    overlap: float = 0.5
    blend: Blend = "smooth"
    flips: Flips = "none"
    scales: tuple[float, ...] = (1.0,)


def evaluate_masks(
    checkpoint: Checkpoint,
    description: Description,
    data: str,
    split: str,
    options: WindowOptions,
    *,
    batch_size: int,
    threads: int | str,
    precision: str,
    say: Callable[[dict[str, Any]], None] | None,
) -> dict[str, Any]:
    """Return metrics and loss on images with masks; also log them to the run's results and draw its exhibits.

    Args:
        description: the checkpoint's, or with another `image_size`, that of the windows.
        data, split: images with masks, see `open_source` and `open_mask_test_part`.
        options: how images are cut into windows.
        batch_size, threads, precision, say: as of `tasks.evaluate.evaluate`.
    """
    model: Segmenter = load_segmenter(checkpoint)
    source = _number_as(description.classes, open_mask_test_part(data, split))
    fitted = windows_of(description, options.overlap, options.blend, batch_size)
    windows = replace(fitted, flips=options.flips, scales=options.scales)
    workers = workers_for(len(source), None, computing=True)
    evaluation = evaluate_segmenter(
        model, description, source, windows, workers=workers, threads=threads, precision=precision
    )
    named = description.provenance.get("primary")
    image_size = description.architecture["image_size"]
    result = {
        "task": "evaluate",
        "start": SCRATCH if description.provenance.get("init") == SCRATCH else PRETRAINED,
        **evaluation.result(source.classes, named if isinstance(named, str) else SEGMENTATION.primary),
        "protocol": {
            "image_size": image_size,
            "overlap": options.overlap,
            "blend": options.blend,
            "flips": options.flips,
            "scales": list(options.scales),
            **unusual_precision(precision),
        },
        "eval": source.name,
        "eval_images": evaluation.images,
        "checkpoint": checkpoint.folder.name,
    }
    if say:
        say(result)
    if folder := run_of(checkpoint.folder):
        title = f"evaluated on {source.name}"
        with optional("the line in the run's results"):
            log_result(folder, [{name: value for name, value in result.items() if name != "per_class"}])
        evaluation.show(folder, source, evaluation_view(description), title, title)
        with optional("the pictures of predictions"):
            show_scenes(folder, model, description, source, windows, evaluation, title)
    return result


def _number_as(classes: list[str], source: Source) -> Source:
    """Return a source with its classes numbered as a segmenter's are, by their names."""
    if unknown := [name for name in source.classes if name not in classes]:
        raise ValueError(
            f"the segmenter knows {len(classes)} classes, and {source.name} has others: {list_names(unknown)}; name "
            "the classes that it was trained on with ::classes="
        )
    return with_classes(source, classes)
