"""Measure input pipelines on one core: from JPEG files to batches that a step can take."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.worker import Clock, NotAvailable
from benchmarks.works import CHANNELS, MEAN, STD, Job

CROP_SCALE = (0.2, 1.0)  # MAE, appendix A.1
COMPARED = 300  # photos whose views are compared with Pillow's
MEAN_C11, STD_C11 = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (MEAN, STD))
Options = dict[str, Any]


def load(job: Job, options: Options) -> dict[str, object]:
    """Make training batches of photos in this process, on one core."""
    if not job.photos:
        raise NotAvailable("no photos; name a folder of JPEG files with --photos")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(prefix="paddlemae-bench-") as folder:
        source = SOURCES[options["chain"]](job, folder)
        with contextlib.closing(training_batches(job, source) if source else pillow_batches(job)) as batches:
            next(batches)  # maps and caches are filled with it
            clock = Clock(job)
            while not clock.done():
                next(batches)
                clock.mark()
        differences = pixel_differences(job, source) if source else {}
    return {"seconds": clock.seconds(), "threads": 1, **differences}


def pillow_batches(job: Job) -> Generator[np.ndarray, None, None]:
    """Run the usual chain: Pillow decodes, crops, resizes (bicubic) and flips; then floats, then normalised."""
    rng, size, paths = np.random.default_rng(0), job.shape["image_size"], itertools.cycle(jpeg_files(job))
    while True:
        yield np.stack([pillow_view(path, size, rng) for path in itertools.islice(paths, job.batch)])


def jpeg_files(job: Job) -> list[Path]:
    """Return the photos of a job."""
    return sorted(Path(job.photos).rglob("*.[jJ][pP]*[gG]"))


def pillow_view(path: Path, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random crop of a photo, perhaps flipped, float32 [C, size, size], normalised."""
    from PIL import Image

    from paddlemae.data.views.augment import random_crop_box

    with Image.open(path) as file:
        image = file.convert("RGB")
    box = random_crop_box(image.height, image.width, CROP_SCALE, (3 / 4, 4 / 3), rng)
    image = image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(image).transpose(2, 0, 1).astype(np.float32) / 255
    return (pixels - MEAN_C11) / STD_C11


def training_batches(job: Job, source) -> Generator[object, None, None]:
    """Read batches as a training run does; they stay uint8, and normalising them is part of the step."""
    from paddlemae.data.batches import train_batches
    from paddlemae.engine.memory import keep_freed_memory

    keep_freed_memory()  # as a training's process and its data workers do
    return train_batches(source, training_view(job), batch_size=job.batch, seed=0, num_steps=10**6)


def pixel_differences(job: Job, source) -> dict[str, object]:
    """Compare views with the same crops as Pillow decodes and resizes them: mean absolute difference.

    Returns:
        `difference`: the mean view's and the worst one's, of 255; `compared`: how many views.
    """
    from paddlemae.data.batches import training_views
    from paddlemae.data.random_streams import VIEW_STREAM, state_words

    pair, found = ((source, training_view(job)), (_files(job, ""), training_view(job, decode="exact"))), []
    for i in range(min(COMPARED, len(source))):
        states = state_words(0, VIEW_STREAM, [0], [i])  # the same crop of both
        fast, exact = (training_views(one, view, states, i)[0].astype(int) for one, view in pair)
        found.append(float(np.abs(fast - exact).mean()))
    return {"difference": [float(np.mean(found)), max(found)], "compared": len(found)}


def training_view(job: Job, decode: Literal["fast", "exact"] = "fast"):
    """Return the settings of the package's own views: the same crops and flips as `pillow_view`'s."""
    from paddlemae.data.views.augment import View

    size = (job.shape["image_size"],) * 2
    return View(image_size=size, channels=CHANNELS, crop_scale=CROP_SCALE, decode=decode)


def _files(job: Job, folder: str):
    from paddlemae.data.sources import open_source

    return open_source(job.photos)


def _packed(job: Job, folder: str):
    """Open a packed cache of resized images, which is made before the clock starts."""
    from paddlemae.data.cache import cache_images

    return cache_images(_files(job, folder), folder, training_view(job))


SOURCES: dict[str, Callable[[Job, str], Any]] = {"pillow": lambda *_: None, "ours": _files, "packed": _packed}
TASKS = {"input": load}
