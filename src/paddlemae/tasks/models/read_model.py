"""Read models from disk: our own runs and checkpoints, and weights files in any known layout."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from paddlemae.model.shape import EncoderShape, names_of
from paddlemae.recipe import Augmentation, default_statistics
from paddlemae.runs.runlog import RECIPE_FILE
from paddlemae.system.display_names import display_name, say
from paddlemae.train.checkpoint_folders import BEST, FOLDER, LATEST, STATE_FILE, find_checkpoint
from paddlemae.weights.adapt import Adapted, change_channels, change_image_size, change_patch_size
from paddlemae.weights.description import check_description
from paddlemae.weights.layouts import Imported, import_weights
from paddlemae.weights.model_folder import (
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    Description,
    read_description,
    read_tensors,
)
from paddlemae.weights.open import Foreign, open_weights

ENCODER_FIELDS = tuple(name for name in names_of(EncoderShape) if name != "drop_path")
KIND_NAMES = {
    "mae": "a masked autoencoder",
    "classifier": "a classifier",
    "encoder": "an encoder alone",
    "segmenter": "a segmenter",
}
# what may be other than the weights were trained with, and what brings them to it, in this order
ADAPTED: dict[str, Callable[..., Adapted]] = {
    "channels": change_channels,
    "patch_size": change_patch_size,
    "image_size": change_image_size,
}


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk, read: where it was, what it is, its tensors in the official layout."""

    folder: Path
    description: Description
    tensors: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Reading:
    """How someone's weights are to be read, where neither their keys nor the files next to them state it.

    Attributes:
        key: where in the file the state dict is, see `tree.tensors_of`.
        layout, image_size, target, heads, decoder_heads: see `layouts.import_weights`.
    """

    key: str | None = None
    layout: str | None = None
    image_size: int | tuple[int, int] | None = None
    target: str | None = None
    heads: int | None = None
    decoder_heads: int | None = None


AS_THEY_SAY = Reading()


def read_checkpoint(path: str | Path, reading: Reading = AS_THEY_SAY, *, trust: bool = False) -> Checkpoint:
    """Read the model that a run folder, a checkpoint folder, or any file or folder of MAE or ViT weights holds.

    Which layout other weights have, and how they were read, is printed to stderr.

    Args:
        reading: for someone's weights; ours say it themselves.
        trust: take a checkpoint of ours without checksums too, see `find_checkpoint`.
    Raises:
        FileNotFoundError, ValueError: nothing there, or no model.
    """
    if not is_own(path):
        foreign, imported = read_foreign(path, reading)
        say_origin(foreign, imported)
        return foreign_checkpoint(foreign, imported)
    if reading != AS_THEY_SAY:
        raise ValueError(f"{path} was written by PaddleMAE and takes no options for foreign files; leave them out")
    folder = find_checkpoint(path, trust=trust)
    description = read_description(folder)
    if description.kind == "probe":
        raise ValueError(
            f"{folder} holds the head of a linear probe alone; name the run that it probed "
            f"({display_name(description.provenance.get('init', 'not recorded'))}), or for a classifier fine-tune that "
            "run (paddlemae finetune --init RUN)"
        )
    return Checkpoint(folder, description, read_tensors(folder))


def is_own(path: str | Path) -> bool:
    """Return whether a path names one of our runs, checkpoints or models.

    Raises:
        FileNotFoundError: it names nothing at all.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a run folder, a checkpoint, or MAE or ViT weights")
    if path.is_dir():
        return any((path / name).exists() for name in (DESCRIPTION_FILE, STATE_FILE, RECIPE_FILE, FOLDER))
    if path.name in (LATEST, BEST):
        return path.parent.name == FOLDER
    names = (WEIGHTS_FILE, DESCRIPTION_FILE, STATE_FILE)
    return path.name in names and (path.parent / DESCRIPTION_FILE).exists()


def read_foreign(path: str | Path, reading: Reading) -> tuple[Foreign, Imported]:
    """Read someone's weights, and import them as one of our models.

    Raises:
        FileNotFoundError, ValueError: no weights, of no layout that is known, or with tensors that do not fit it.
    """
    foreign = open_weights(path, reading.key)
    extras = dict(foreign.extras) if isinstance(foreign.extras, Mapping) else {}
    if foreign.preprocessor is not None:
        extras["preprocessor_config.json"] = foreign.preprocessor
    try:
        imported = import_weights(
            foreign.state.tensors,
            config=foreign.config,
            extras=extras,
            layout=reading.layout,
            image_size=reading.image_size,
            target=reading.target,
            heads=reading.heads,
            decoder_heads=reading.decoder_heads,
        )
    except ValueError as fault:
        raise ValueError(f"{path}: {_as_options(str(fault))}") from fault
    return foreign, imported


def foreign_checkpoint(foreign: Foreign, imported: Imported) -> Checkpoint:
    """Return someone's weights as a checkpoint of ours, with ImageNet's mean and std unless the file has its own."""
    mean, std = default_statistics(imported.architecture["channels"])
    numbers = [str(number) for number in range(imported.architecture.get("num_classes") or 0)]
    description = Description(
        kind=imported.kind,
        architecture=imported.architecture,
        mean=list(imported.mean or mean),
        std=list(imported.std or std),
        eval_crop_ratio=Augmentation().eval_crop_ratio,
        classes=(imported.classes or numbers) if imported.kind in ("classifier", "segmenter") else [],
        palette=imported.palette,
        provenance={"weights": foreign.path.name, "layout": imported.layout},
    )
    try:
        check_description(asdict(description))
    except ValueError as fault:
        raise ValueError(f"{foreign.path} does not make a usable model ({fault})") from fault
    return Checkpoint(foreign.path, description, imported.tensors)


def tensors_digest(checkpoint: Checkpoint) -> bytes:
    """Return a digest of the weights in float32, the same for every layout and type that holds the same numbers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, array in sorted(in_float32(checkpoint).items()):
        digest.update(f"{name} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.digest()


def in_float32(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Return the tensors in float32, as a model computes with them."""
    return {name: np.asarray(array, np.float32) for name, array in checkpoint.tensors.items()}


def say_origin(foreign: Foreign, imported: Imported) -> None:
    """Print which layout was recognised, and notes on it, to stderr."""
    say(f"{foreign.path}: weights of the layout {imported.layout}, {KIND_NAMES[imported.kind]}", error=True)
    for note in imported.notes:
        say(f"  {_as_options(display_name(note, 300))}", error=True)


def _as_options(text: str) -> str:
    """Return the text with names of `import_weights`'s arguments as options of the command line."""
    options = re.sub(
        r"\b(key|layout|image_size|target|heads|decoder_heads)=", lambda match: f"--{match[1].replace('_', '-')} ", text
    )
    if options == text:
        return text
    return f"{options.replace('(height, width)', 'HxW').rstrip()} (an option of 'paddlemae weights convert')"


def adapt(checkpoint: Checkpoint, **sizes: int | Sequence[int] | None) -> Checkpoint:
    """Adapt a checkpoint's weights to other images; each change is printed to stderr, with its rule.

    Args:
        sizes: channels, patch_size, image_size; None keeps the checkpoint's.
    Raises:
        ValueError: sizes that don't go together.
    """
    for name, change in ADAPTED.items():
        value = sizes.get(name)
        if value is None or plain(value) == plain(checkpoint.description.architecture[name]):
            continue
        made: Adapted = change(checkpoint.tensors, checkpoint.description.architecture, value)
        say(f"{checkpoint.folder}: {made.note}", error=True)
        description = replace(checkpoint.description, architecture=made.architecture)
        if name == "channels":
            mean, std = (_other_channels(numbers, int(value)) for numbers in (description.mean, description.std))  # type: ignore[arg-type]
            description = replace(description, mean=mean, std=std)
        checkpoint = Checkpoint(checkpoint.folder, description, made.tensors)
    return checkpoint


def _other_channels(numbers: Sequence[float], channels: int) -> list[float]:
    """Return pixel statistics for adapted weights: the mean of all for one channel, else each in turn."""
    if channels == 1:
        return [float(np.mean(numbers))]
    return [numbers[number % len(numbers)] for number in range(channels)]


def plain(value: Any) -> Any:
    """Return one number for a square, so that 16 and [16, 16] compare equal."""
    if isinstance(value, (list, tuple)):
        return value[0] if len(set(value)) == 1 else list(value)
    return value
