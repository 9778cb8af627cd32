"""Check that an exported model computes what the model computes, on images and in the engine that it is for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from paddlemae.data.sources import open_source
from paddlemae.engine.cpus import threads_of
from paddlemae.engine.safe_import import paddle
from paddlemae.export.interface import Interface, Model
from paddlemae.model.encoder import evaluating
from paddlemae.model.mae import MaskedAutoencoder, predict, reconstruct
from paddlemae.model.masking import num_kept, random_mask
from paddlemae.model.segmenter import Segmenter
from paddlemae.tasks.models.inference import LOGITS, FeatureKind, forward_function
from paddlemae.tasks.models.mask_choice import DEFAULT_RATIO
from paddlemae.tasks.models.preprocess import evaluation_view, to_input
from paddlemae.tasks.models.read_model import Checkpoint
from paddlemae.tasks.training.exhibits import SHOWN, fixed_images
from paddlemae.tasks.training.run_start import run_of, stored_recipe
from paddlemae.weights.model_folder import Description

LIMIT = 1e-4  # values up to 1 may differ by so much, larger ones by that share of the largest
BATCHES = (None, 1, 3, 1, None)  # None is all images; some twice, since an engine may spoil what it keeps
TASKS = {"mae": "pretrain", "classifier": "finetune", "segmenter": "segment"}

Run = Callable[..., list[np.ndarray]]  # from inputs to outputs, in the interface's order


def example_images(checkpoint: Checkpoint, channels: int, size: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """Return (uint8 or uint16 images [B, C, H, W], their description): the run's training images, or random ones."""
    run, description = run_of(checkpoint.folder), checkpoint.description
    try:
        recipe = stored_recipe(run, TASKS[description.kind]) if run else None
        source = open_source(recipe.data) if recipe and recipe.data else None
    except (FileNotFoundError, ValueError):
        source = None
    found = fixed_images(source, description) if source else None
    if source and found:
        return found[0], f"{len(found[0])} images of {source.name}"
    dtype = np.uint8 if evaluation_view(description).depth == 8 else np.uint16
    random = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (SHOWN, channels, *size), dtype, endpoint=True)
    return random, f"{SHOWN} images of random pixels, since there are none of the run's"


def largest_difference(
    run: Run, model: Model, description: Description, interface: Interface, images: np.ndarray
) -> float:
    """Return the largest difference of an engine's outputs from the model's, over several batch sizes; see `LIMIT`.

    Returns:
        nan where one of them is not a number.
    """
    differences = []
    for sized in _sizes(model, interface, images):
        inputs, wanted = _inputs_and_outputs(model, description, interface, sized)
        for batch in BATCHES if sized is images else BATCHES[:2]:
            outputs = run(*(array[:batch] for array in inputs))
            assert len(outputs) == len(wanted)
            differences += [_difference(output, array[:batch]) for output, array in zip(outputs, wanted)]
    return float(np.max(differences))


def _sizes(model: Model, interface: Interface, images: np.ndarray) -> list[np.ndarray]:
    """Return the images, and for a part that takes any size some of them taller, and some wider."""
    if interface.what != "segmenter":
        return [images]
    rows, columns = model.encoder.patch_size
    few = images[:2]
    return [
        images,
        np.pad(few, ((0, 0), (0, 0), (0, rows), (0, 0)), "symmetric"),
        np.pad(few, ((0, 0), (0, 0), (0, rows), (0, 3 * columns)), "wrap"),
    ]


def _difference(output: np.ndarray, wanted: np.ndarray) -> float:
    if output.shape != wanted.shape:
        return float("nan")
    return float(np.abs(output - wanted).max() / max(1.0, np.abs(wanted).max()))


def _inputs_and_outputs(
    model: Model, description: Description, interface: Interface, images: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return arrays for the interface's inputs, and the model's outputs for them."""
    images_fed = images.astype(interface.inputs[0].dtype)
    if isinstance(model, Segmenter) and interface.what == "segmenter":
        with evaluating(model), paddle.no_grad():
            return [images_fed], [model(to_input(images, description)).numpy()]
    if interface.what != "reconstructor":
        kind = FeatureKind(interface.token) if interface.token else LOGITS
        return [images_fed], [forward_function(model, description, kind)(images)]
    assert isinstance(model, MaskedAutoencoder)
    patches = model.grid[0] * model.grid[1]
    noise_BL = np.random.default_rng(0).random((len(images), patches))
    mask = random_mask(noise_BL, num_kept(patches, min(DEFAULT_RATIO, 1 - 1 / patches)))
    mask_u8 = mask.as_map().reshape(-1, *model.grid).astype(np.uint8)
    mean, std = (np.reshape(values, (-1, 1, 1)) for values in (description.mean, description.std))
    with evaluating(model), paddle.no_grad():
        normal_BCHW = to_input(images, description)
        plain_BLP = predict(model, normal_BCHW, mask).numpy()
        completed = reconstruct(model, normal_BCHW, mask).completed.numpy() * std + mean
    return [images_fed, mask_u8], [completed, plain_BLP]


def onnx_runtime(path: Path) -> Run:
    """Return a function that runs an ONNX file with ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads_of("auto")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays)))
