"""Predict the class of every pixel of the images of a source, and write a folder of masks.

A stopped command is resumed by the same command: images whose mask is there are not computed again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace

from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.disk.errors import report_unreadable
from paddlemae.engine import device
from paddlemae.runs.progress import progress
from paddlemae.system.display_names import display_name
from paddlemae.system.locks import lock_folder
from paddlemae.tasks.models.build import load_segmenter
from paddlemae.tasks.models.inference import Logits, forward_function, unusual_precision
from paddlemae.tasks.models.open_images import open_images
from paddlemae.tasks.models.parts import about_source
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.predictions.join_masks import Segmented, write_together
from paddlemae.tasks.predictions.mask_names import mask_names
from paddlemae.tasks.predictions.mask_outputs import Done, MaskOutputs, Record, prepare_folder
from paddlemae.tasks.predictions.table_file import FORMATS
from paddlemae.tasks.predictions.window_choice import WindowChoice, palette_of
from paddlemae.tasks.predictions.write_masks import MaskWriter
from paddlemae.train.parallel.ranks import ALONE, Ranks, check_same

AS_TRAINED = WindowChoice()


def predict_masks(
    run: str,
    images: Sequence[str],
    outputs: MaskOutputs,
    *,
    windows: WindowChoice = AS_TRAINED,
    split: str | None = None,
    threads: int | str = "auto",
    precision: str = "float32",
    overwrite: bool = False,
    quiet: bool = False,
    ranks: Ranks = ALONE,
    trust: bool = False,
) -> Segmented:
    """Predict the class of every pixel; unreadable images are listed with the reason.

    Args:
        run: a run of `segment`, a checkpoint of it, or anyone's segmenter, see `read_checkpoint`.
        images, split: see `open_images`.
        outputs: what to write.
        windows: in which images are segmented.
        threads: as in `embed`.
        precision: see `engine.precision`.
        overwrite: replace predictions that are in the folder.
        ranks: processes that share the images; all of them see the same files.
        trust: see `read_checkpoint`.
    Returns:
        what was found, on every rank.
    Raises:
        ValueError, FileNotFoundError: images, weights, settings or files that can't be used.
        DataFault: no image can be read.
        KeyboardInterrupt: the text says what was kept.
    """
    outputs.check(images)
    with lock_folder(outputs.folder) if ranks.is_first else nullcontext():
        device.prepare("auto", threads, precision)
        checkpoint = read_checkpoint(run, trust=trust)
        if checkpoint.description.kind == "classifier":
            raise ValueError(
                f"expected a file that ends in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}; got {outputs.folder}, and "
                f"{checkpoint.folder} holds a classifier, whose predictions are a table"
            )
        model = load_segmenter(checkpoint)
        description = checkpoint.description
        cut = windows.of(description)
        _check_classes(outputs, description.classes)
        source = replace(open_images(images, split), targets=None)
        about = {**about_source(checkpoint, list(images), split, source), "windows": asdict(cut), **outputs.settings()}
        about = json.loads(json.dumps(about | unusual_precision(precision)))  # as it is read back
        check_same(ranks, about)  # a run that is still trained may have another checkpoint for each
        ranks.from_first(lambda: prepare_folder(outputs.folder, about, overwrite=overwrite))
        palette = palette_of(description)
        names = mask_names(source)
        forward = forward_function(model, description, Logits(precision), threads=threads)
        writer = MaskWriter(source, names, outputs, forward, description, cut, palette)
        _write_missing(writer, ranks, quiet=quiet)
        return Segmented(
            **ranks.from_first(
                lambda: asdict(write_together(source, names, outputs, description.classes, palette, about))
            )
        )


def _check_classes(outputs: MaskOutputs, classes: Sequence[str]) -> None:
    unknown = [name for name in outputs.polygon_classes or () if name not in classes]
    if unknown:
        raise ValueError(
            f"--polygon-classes: the segmenter has no class {display_name(unknown[0])}; it has "
            f"{display_name(', '.join(classes))}"
        )


def _write_missing(writer: MaskWriter, ranks: Ranks, *, quiet: bool) -> None:
    """Write what a stopped command left out; the processes share the images."""
    source, record = writer.source, Record(writer.outputs.folder)
    before = record.read(len(source))
    due = [i for i in range(len(source)) if i not in before][ranks.rank :: ranks.world]
    bad = sum(done.error is not None for done in before.values())
    with progress("segmenting", len(source), len(before), show=not quiet) as show:
        try:
            for count, i in enumerate(due, 1):
                try:
                    done = writer.write(i)
                except UnreadableImage as fault:
                    bad += 1
                    report_unreadable(bad, fault)
                    done = Done(i, fault.reason)
                record.add(done, ranks.rank)
                show(min(len(source), len(before) + count * ranks.world))
            ranks.wait()
        except KeyboardInterrupt as stop:
            found = len(record.read(len(source)))
            raise KeyboardInterrupt(
                f"stopped with {found} of {len(source)} images in {writer.outputs.folder}; rerun the same command to "
                "resume"
            ) from stop
