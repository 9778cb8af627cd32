"""Evaluate a classifier on labelled images, or a segmenter on images with masks, at its image size or at another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from paddlemae.data.sources import Source, unknown_classes, with_classes
from paddlemae.data.sources.splits import list_names
from paddlemae.data.sources.subsets import note_absent
from paddlemae.data.workers import workers_for
from paddlemae.engine import device
from paddlemae.model.shape import pair, patch_grid
from paddlemae.recipe import SCRATCH
from paddlemae.runs.class_results import class_table, result_table
from paddlemae.runs.metrics import MULTI_LABEL, primary_metric
from paddlemae.runs.runlog import log_result
from paddlemae.tasks.models.build import load_classifier
from paddlemae.tasks.models.inference import unusual_precision
from paddlemae.tasks.models.preprocess import evaluation_view
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.training.classification import PRETRAINED, Evaluation
from paddlemae.tasks.training.evaluate_classifier import evaluate_classifier
from paddlemae.tasks.training.evaluate_masks import WindowOptions, evaluate_masks
from paddlemae.tasks.training.exhibits import show_mistakes
from paddlemae.tasks.training.labelled_splits import image_counts, open_test_part
from paddlemae.tasks.training.optional_output import optional
from paddlemae.tasks.training.run_start import run_of


def evaluate(
    run: str,
    data: str,
    *,
    split: str = "test",
    image_size: int | tuple[int, int] | None = None,
    windows: WindowOptions | None = None,
    batch_size: int = 64,
    threads: int | str = "auto",
    precision: str = "float32",
    say: Callable[[dict[str, Any]], None] | None = None,
    trust: bool = False,
) -> dict[str, Any]:
    """Return metrics and loss on labelled images; also log them to the run's results and draw its exhibits.

    Args:
        run: a fine-tuning or segmentation run or one of its checkpoints.
        data, split: labelled images of the classifier's classes, or images with masks of the segmenter's, see
            `open_source` and `open_test_part`.
        image_size: pixels, one number or (height, width), that images are brought to; the model's positions are
            resized, and the share of the resized image that is cropped out stays the same. Of a segmenter it is the
            size of its windows. None is the model's own.
        windows: of a segmenter, how images are cut into windows; None is as `WindowOptions` has it.
        threads, precision: as in `device.prepare`.
        say: called with the result before anything is written.
        trust: see `read_checkpoint`.
    Returns:
        the result as it is logged, and `per_class` as in `class_result`.
    Raises:
        ValueError, FileNotFoundError: images, a checkpoint or a size that can't be used.
    """
    device.prepare("auto", threads, precision)
    checkpoint = read_checkpoint(run, trust=trust)
    description = checkpoint.description
    if image_size is not None:
        patch_grid(image_size, description.architecture["patch_size"])  # refuses a size that it does not divide
        size = list(pair(image_size))
        description = replace(description, architecture={**description.architecture, "image_size": size})
    if description.kind == "segmenter":
        options = windows or WindowOptions()
        shared: dict[str, Any] = {"batch_size": batch_size, "threads": threads, "precision": precision}
        return evaluate_masks(checkpoint, description, data, split, options, **shared, say=say)
    model = load_classifier(checkpoint)
    if windows is not None:
        raise ValueError(
            f"{run} holds a classifier, which sees whole images: overlap, blend, flips and scales have no effect; "
            "leave them out"
        )
    several = description.thresholds is not None
    source = open_test_part(data, split, multi_label=several)
    if several and source.labels is not None:
        raise ValueError(
            f"the classifier gives an image several classes, and {source.name} has one each; name columns of several "
            "classes with ::labels="
        )
    source = _number_as(description.classes, source)
    workers = workers_for(len(source), None, computing=True)
    evaluation = evaluate_classifier(
        model,
        description,
        source,
        batch_size=batch_size,
        workers=workers,
        threads=threads,
        precision=precision,
    )
    named = description.provenance.get("primary")  # of runs since there are several
    kind = MULTI_LABEL.primary if several else primary_metric(image_counts(source))
    primary = named if isinstance(named, str) else kind
    result = {
        "task": "evaluate",
        "start": SCRATCH if description.provenance.get("init") == SCRATCH else PRETRAINED,
        **evaluation.result(source.classes, primary),
        "protocol": {"image_size": description.architecture["image_size"], **unusual_precision(precision)},
        "eval": source.name,
        "eval_images": evaluation.images,
        "checkpoint": checkpoint.folder.name,
    }
    if say:
        say(result)
    if folder := run_of(checkpoint.folder):
        with optional("the line in the run's results"):
            log_result(folder, [{name: value for name, value in result.items() if name != "per_class"}])
        view, title = evaluation_view(description), f"evaluated on {source.name}"
        with optional("the mistakes"):
            if isinstance(evaluation, Evaluation):
                show_mistakes(
                    folder, source, view, evaluation.confusion, evaluation.mistakes, title, evaluation.intervals
                )
    return result


def result_text(result: dict[str, Any]) -> str:
    """Return a result as text: its metrics and those of each class as tables."""
    height, width = result["protocol"]["image_size"]
    head = (
        f"{result['eval_images']} images of {result['eval']}, {height} x {width} pixels, checkpoint "
        f"{result['checkpoint']}, loss {result['eval_loss']:.4f}:"
    )
    return "\n".join(part for part in (head, result_table(result), class_table(result)) if part)


def _number_as(classes: list[str], source: Source) -> Source:
    """Return a source with its labels numbered as a classifier's are, by the names of the classes."""
    if unknown := unknown_classes(source, classes):
        raise ValueError(
            f"the classifier knows {len(classes)} classes, and {source.name} has images of others: "
            f"{list_names(unknown)}; evaluate on images of the classes that it was trained on"
        )
    source = with_classes(source, classes)
    note_absent(source, f"image in {source.name}")
    return source
