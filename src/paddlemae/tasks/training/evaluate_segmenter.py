"""Evaluate a segmenter on images with masks, each in windows at its own resolution."""

from __future__ import annotations

from collections.abc import Iterator

from paddlemae.data.batches import whole_scenes
from paddlemae.data.sources import Source
from paddlemae.model.segmenter import Segmenter
from paddlemae.tasks.models.segment_image import segment_function
from paddlemae.tasks.models.windows import Windows
from paddlemae.tasks.training.segmentation import MapAnswer, MapEvaluation, evaluation_of_maps
from paddlemae.tasks.training.skipped_images import SkippedImages
from paddlemae.train.parallel.ranks import ALONE, Ranks
from paddlemae.weights.model_folder import Description


def evaluate_segmenter(
    model: Segmenter,
    description: Description,
    source: Source,
    windows: Windows,
    *,
    workers: int = 0,
    on_skip: SkippedImages | None = None,
    threads: int | str = "auto",
    precision: str = "float32",
    ranks: Ranks = ALONE,
) -> MapEvaluation:
    """Evaluate on images with masks, each counted once at its own size; unreadable ones are left out.

    Args:
        description: says how the model sees images.
        windows: how an image is cut; their scales are factors on what the description says.
        workers, on_skip, threads, precision, ranks: as of `evaluate_classifier`.
    """
    segment = segment_function(model, description, windows, threads, precision)
    on_skip = on_skip or SkippedImages(source)

    def answers() -> Iterator[MapAnswer]:
        channels = description.architecture["channels"]
        for scene in whole_scenes(
            source,
            channels,
            description.bits,
            rank=ranks.rank,
            world=ranks.world,
            workers=workers,
            on_skip=on_skip,
        ):
            yield MapAnswer(scene.index, scene.mask, segment(scene.image))

    evaluation = evaluation_of_maps(answers(), len(source.classes), ranks)
    on_skip.share()
    return evaluation
