"""Draw images with their truth, prediction and errors side by side, for the report of a run.

Shapes: N images, H x W pixels, K classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from paddlemae.data.batches import Scene, whole_scenes
from paddlemae.data.decode.display import as_displayed
from paddlemae.data.sources import Source, subset
from paddlemae.data.sources.subsets import spread_over
from paddlemae.model.segmenter import Segmenter
from paddlemae.runs.exhibit_files import write_exhibit, write_sprite
from paddlemae.runs.segmentation_metrics import class_scores, count_pairs, mean_over_classes
from paddlemae.tasks.models.segment_image import segment_function
from paddlemae.tasks.models.windows import Windows
from paddlemae.tasks.training.exhibits import name_of
from paddlemae.tasks.training.segmentation import MapEvaluation
from paddlemae.weights.model_folder import Description

SHOWN = 8  # images at even distances, and as many of the lowest mean IoU
SIDE = 160  # pixels of a picture
UNCOUNTED, RIGHT, WRONG = np.array([[128] * 3, [236] * 3, [214, 39, 40]], np.uint8)  # colours of the errors
PARTS = ("image", "truth", "prediction", "errors")


def show_scenes(
    run: Path,
    model: Segmenter,
    description: Description,
    source: Source,
    windows: Windows,
    tested: MapEvaluation,
    title: str,
) -> None:
    """Draw some images, and those of the lowest mean IoU: image, truth, prediction and errors of each."""
    chosen = {"scenes": spread_over(len(source), SHOWN), "worst_scenes": tested.worst(SHOWN)}
    segment = segment_function(model, description, windows)
    palette = np.array(description.palette, np.uint8)
    for part, indices in chosen.items():
        pictures, items = [], []
        for scene in whole_scenes(subset(source, indices), description.architecture["channels"], description.bits):
            predicted = segment(scene.image).argmax(axis=0)
            pictures += draw_scene(scene, predicted, palette)
            items.append({"name": name_of(source, int(indices[scene.index])), "miou": _miou(scene, predicted, palette)})
        if not items:
            continue
        sprite = write_sprite(run, part, np.stack(pictures), columns=len(PARTS), largest_side=SIDE)
        classes = [{"name": name, "colour": colour} for name, colour in zip(source.classes, palette.tolist())]
        write_exhibit(run, part, {"source": title, "classes": classes, "sprite": sprite, "items": items})


def draw_scene(scene: Scene, predicted_HW: np.ndarray, palette: np.ndarray, side: int = SIDE) -> list[np.ndarray]:
    """Return the four pictures of an image, uint8 [side, side, 3] each, its longer side made `side` long."""
    pixels = as_displayed(scene.image.transpose(1, 2, 0)[None])[0]
    image = np.repeat(pixels[..., :1], 3, axis=2) if pixels.shape[2] != 3 else pixels
    counted = scene.mask >= 0
    truth = np.where(counted[..., None], palette[np.maximum(scene.mask, 0)], UNCOUNTED)
    errors = np.where((scene.mask == predicted_HW)[..., None], RIGHT, WRONG)
    errors = np.where(counted[..., None], errors, UNCOUNTED)
    return [
        _fit(one, side, smooth=number == 0) for number, one in enumerate((image, truth, palette[predicted_HW], errors))
    ]


def _fit(picture_HW3: np.ndarray, side: int, *, smooth: bool = False) -> np.ndarray:
    height, width = picture_HW3.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    kind = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    whole = Image.new("RGB", (side, side), (255, 255, 255))
    whole.paste(Image.fromarray(picture_HW3.astype(np.uint8)).resize(size, kind))
    return np.asarray(whole)


def _miou(scene: Scene, predicted_HW: np.ndarray, palette: np.ndarray) -> float | None:
    """Return the mean IoU of one image; None if no pixel of it counts."""
    pairs = count_pairs(scene.mask, predicted_HW, len(palette))
    if not pairs.any():
        return None
    none = np.zeros((4, len(palette)), np.int64)
    counts = np.vstack([np.diag(pairs), pairs.sum(axis=1), pairs.sum(axis=0), none])
    return round(float(mean_over_classes(class_scores(counts)["iou"])), 4)
