"""Write a page on which a model's reconstructions are played with."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from paddlemae.data.sources.output_folders import check_outside
from paddlemae.engine import device
from paddlemae.page.bundle import Precision, bundle
from paddlemae.page.write_page import render
from paddlemae.system.atomic import replace_text
from paddlemae.system.display_names import display_name
from paddlemae.tasks.models.build import load_encoder
from paddlemae.tasks.models.page_samples import CAPTIONS, DEFAULT_SAMPLES, choose_samples, pool_of
from paddlemae.tasks.models.read_model import Checkpoint, read_checkpoint
from paddlemae.weights.description import count_weights

MOST_BYTES = 64 << 20  # of weights in a page; browsers open more, but slowly


class Written(NamedTuple):
    """Describe the file that `write_page` wrote.

    Attributes:
        bytes: size of the file.
        samples: names of the images inside.
    """

    bytes: int
    samples: list[str]


def write_page(
    run: str | Path,
    images: list[str],
    out: Path,
    *,
    exact: bool = False,
    limit: int = DEFAULT_SAMPLES,
    title: str | None = None,
    overwrite: bool = False,
    trust: bool = False,
) -> Written:
    """Write one HTML file in which the model of a run runs, with sample images.

    Args:
        run: a run folder, a checkpoint, or a file of weights.
        images: files, folders, lists ... or "digits"; none takes images of the data that the run was trained on, where
            they can be read.
        out: the file, ending in .html.
        exact: store weights in 32 bits instead of 16, in a file twice as large.
        limit: sample images at most.
        title: of the page; None is the name of the run.
        overwrite: replace an existing file.
        trust: see `read_checkpoint`.
    Raises:
        FileExistsError: `out` exists.
        FileNotFoundError, ValueError: no such run or images, or a model that is too large for a page.
    """
    precision: Precision = "float32" if exact else "float16"
    check_out(out, images, overwrite=overwrite)
    device.prepare("auto")
    checkpoint = read_checkpoint(run, trust=trust)
    check_size(checkpoint, precision)
    model = load_encoder(checkpoint)
    samples = choose_samples(checkpoint, model, images, limit)
    header, content = bundle(
        checkpoint.description,
        checkpoint.tensors,
        samples,
        title=title or display_name(Path(run).name),
        pool=pool_of(model),
        captions=CAPTIONS,
        precision=precision,
    )
    page = render(header, content)
    replace_text(out, page)
    return Written(len(page.encode()), list(samples.names))


def check_out(out: Path, images: list[str], *, overwrite: bool) -> None:
    """Raise an error unless `out` can be written."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out must be a file that ends in .html, got {out}")
    check_outside(out, images)
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; --overwrite replaces it")


def check_size(checkpoint: Checkpoint, precision: Precision) -> None:
    """Raise a ValueError for a model that is too large to be opened as a page."""
    description = checkpoint.description
    size = count_weights(description.kind, description.architecture) * np.dtype(precision).itemsize
    if size > MOST_BYTES:
        raise ValueError(
            f"{checkpoint.folder} has {size >> 20} MB of {precision} weights, and a page holds at most "
            f"{MOST_BYTES >> 20}; use a smaller model, or paddlemae serve"
        )
