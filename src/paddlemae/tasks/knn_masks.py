"""Judge an encoder by its patches: each gets the class of its nearest patches of images with masks.

Nothing is trained. A patch of the bank has the class of most of its counted pixels (Oquab et al., CAPI, arXiv
2502.08769, sec. 4); a predicted class holds for all pixels of its patch, so the patch size bounds the result.

Shapes: N patches, D width, K classes, H x W pixels of a window, h x w patches of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.batches import whole_scenes
from paddlemae.data.sources import Source, match_classes, open_source, random_subset
from paddlemae.data.views.scenes import SceneView
from paddlemae.engine import device
from paddlemae.engine.precision import autocast, bfloat16_products, weights_for
from paddlemae.engine.safe_import import paddle
from paddlemae.model.encoder import encode, evaluating
from paddlemae.model.kernels.attention import take_tokens
from paddlemae.model.shape import pair
from paddlemae.recipe import MAX_BAD_IMAGES
from paddlemae.runs.class_results import class_table, result_table
from paddlemae.runs.metrics import SEGMENTATION
from paddlemae.runs.runlog import log_result
from paddlemae.runs.segmentation_metrics import MapCounts, count_pairs
from paddlemae.runs.segmentation_results import segmentation_result
from paddlemae.tasks.models.build import load_encoder
from paddlemae.tasks.models.inference import unusual_precision
from paddlemae.tasks.models.nearest import nearest
from paddlemae.tasks.models.preprocess import to_input
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.training.classification import PRETRAINED, RANDOM
from paddlemae.tasks.training.optional_output import optional
from paddlemae.tasks.training.patch_cache import scene_windows
from paddlemae.tasks.training.run_start import run_of
from paddlemae.tasks.training.skipped_images import SkippedImages
from paddlemae.weights.model_folder import Description

NEIGHBOURS = 10
MOST_PATCHES = 50_000  # of the bank: drawn from more


class Patches(NamedTuple):
    """The patches of one image: features float32 [N, D], and windows' masks int16 [windows, H, W]."""

    features_ND: np.ndarray
    masks: np.ndarray


def knn_masks(
    run: str,
    data: str,
    *,
    k: int = NEIGHBOURS,
    bank_split: str = "train",
    query_split: str = "test",
    labels: int | None = None,
    seed: int = 0,
    random: bool = False,
    max_bad_images: float = MAX_BAD_IMAGES,
    threads: int | str = "auto",
    precision: str = "float32",
    say: Callable[[dict[str, Any]], None] | None = None,
    trust: bool = False,
) -> dict[str, Any]:
    """Return the metrics of held-out images whose patches take the class of most of their nearest patches.

    Args:
        data: images with masks, see `open_source`.
        k: how many neighbours vote.
        labels: images of the bank, drawn from `seed`; None is all.
        run, bank_split, query_split, random, max_bad_images, threads, say, trust: as of `tasks.knn.knn`.
        precision: of the features, see `engine.precision`.
    Returns:
        the result as it is logged, and `per_class`.
    Raises:
        ValueError, FileNotFoundError: images, a checkpoint or settings that can't be used.
    """
    device.prepare("auto", threads, precision)
    checkpoint = read_checkpoint(run, trust=trust)
    model, description = load_encoder(checkpoint, random=random), checkpoint.description
    bank, queries = (open_source(data, split, masks=True) for split in (bank_split, query_split))
    queries = queries if queries.classes == bank.classes else match_classes(bank, queries)
    bank = random_subset(bank, labels, seed) if labels else bank
    features_ND, classes_N = _bank(model, description, bank, seed, max_bad_images, precision)
    if not 1 <= k <= len(classes_N):
        raise ValueError(f"k must be in 1..{len(classes_N)} (the patches to compare with), got {k}")
    answers = _answers(model, description, queries, features_ND, classes_N, k, max_bad_images, precision)
    result = {
        "task": "knn",
        "start": RANDOM if random else PRETRAINED,
        **segmentation_result(answers, queries.classes, SEGMENTATION.primary),
        "protocol": {"k": k, "votes": "equal", "patches": len(classes_N), "labels": labels, "seed": seed}
        | unusual_precision(precision),
        "train": bank.name,
        "eval": queries.name,
        "train_images": len(bank),
        "eval_images": answers.images,
        "checkpoint": checkpoint.folder.name,
    }
    if say:
        say(result)
    if folder := run_of(checkpoint.folder):
        with optional("the line in the run's results"):
            log_result(folder, [{name: value for name, value in result.items() if name != "per_class"}])
    return result


def result_text(result: dict[str, Any]) -> str:
    """Return a result as text: what was compared, and its metrics as tables."""
    protocol = result["protocol"]
    head = (
        f"{result['eval_images']} images of {result['eval']}, each patch by its {protocol['k']} nearest of "
        f"{protocol['patches']:,} patches of {result['train_images']} images:"
    )
    return "\n".join(part for part in (head, result_table(result), class_table(result)) if part)


def _patches(
    model: Any, description: Description, source: Source, max_bad: float, precision: str
) -> Iterator[tuple[int, Patches]]:
    """Yield (place, patches) of each image that can be read, in windows that cover it."""
    shape, rounded = description.architecture, weights_for(precision)
    view = SceneView(pair(shape["image_size"]), shape["channels"], short_side=description.short_side)
    for scene in whole_scenes(source, view.channels, description.bits, on_skip=SkippedImages(source, max_bad)):
        windows = list(scene_windows(scene, view))
        with evaluating(model), paddle.no_grad(), autocast(precision), bfloat16_products(rounded):
            x_BND = encode(model.encoder, to_input(np.stack([image for image, _ in windows]), description))
            if "norm" in dict(
                model.encoder.named_children()
            ):  # else the last norm comes behind pooling, or is the head's
                x_BND = model.encoder.norm(x_BND)
            front = int(model.encoder.has_cls)
            x_BLD = take_tokens(x_BND, (front, x_BND.shape[1])) if front else x_BND
        features = x_BLD.astype("float32").numpy()
        yield scene.index, Patches(features.reshape(-1, features.shape[-1]), np.stack([mask for _, mask in windows]))


def _bank(
    model: Any, description: Description, source: Source, seed: int, max_bad: float, precision: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the features and classes of the bank's patches that have a counted pixel, at most `MOST_PATCHES`."""
    share = max(1, -(-MOST_PATCHES // len(source)))  # of each image, so that memory does not grow with the images
    rng, features, classes = np.random.default_rng(seed), [], []
    for _, patches in _patches(model, description, source, max_bad, precision):
        of_patch = patch_classes(patches.masks, pair(description.architecture["patch_size"]), len(source.classes))
        known = np.flatnonzero(of_patch >= 0)
        taken = np.sort(rng.permutation(known)[:share])
        features.append(patches.features_ND[taken])
        classes.append(of_patch[taken])
    return np.concatenate(features), np.concatenate(classes)


def patch_classes(masks_BHW: np.ndarray, patch: tuple[int, int], classes: int) -> NDArray[np.int64]:
    """Return the commonest class of each patch's counted pixels, of equals the lowest; -1 where none counts: [N]."""
    batch, height, width = masks_BHW.shape
    rows, columns = height // patch[0], width // patch[1]
    blocks = masks_BHW.reshape(batch, rows, patch[0], columns, patch[1]).transpose(0, 1, 3, 2, 4)
    blocks_NP = blocks.reshape(batch * rows * columns, -1)
    counts = np.stack([(blocks_NP == number).sum(axis=1) for number in range(classes)], axis=1)
    return np.where(counts.any(axis=1), counts.argmax(axis=1), -1)


def _answers(
    model: Any,
    description: Description,
    source: Source,
    features_ND: np.ndarray,
    classes_N: NDArray[np.int64],
    k: int,
    max_bad: float,
    precision: str,
) -> MapCounts:
    number, patch = len(source.classes), pair(description.architecture["patch_size"])
    confusion = np.zeros((number, number), np.int64)
    counts, indices, ignored, empty = [], [], 0, 0
    for place, patches in _patches(model, description, source, max_bad, precision):
        votes = classes_N[nearest(features_ND, patches.features_ND, k)[1]]
        predicted = np.stack([(votes == one).sum(axis=1) for one in range(number)], axis=1).argmax(axis=1)
        batch, height, width = patches.masks.shape
        grid = predicted.reshape(batch, height // patch[0], width // patch[1])
        pairs = count_pairs(patches.masks, grid.repeat(patch[0], axis=1).repeat(patch[1], axis=2), number)
        ignored += int((patches.masks < 0).sum())
        if not pairs.any():
            empty += 1
            continue
        confusion += pairs
        no_boundaries = np.zeros((4, number), np.int64)  # those of patches say nothing
        counts.append(np.vstack([np.diag(pairs), pairs.sum(axis=1), pairs.sum(axis=0), no_boundaries]))
        indices.append(place)
    if not counts:
        raise ValueError(f"no pixel of the masks of {source.name} counts, so nothing can be compared; check them")
    return MapCounts(np.stack(counts), confusion, np.array(indices), ignored, empty)
