"""Input pipelines on one core: from JPEG files to batches that a step can take."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.worker import Clock, NotAvailable
from benchmarks.works import CHANNELS, MEAN, STD, Job

CROP_SCALE = (0.2, 1.0)  # MAE, appendix A.1
Options = dict[str, Any]


def load(job: Job, options: Options) -> dict[str, object]:
    """Make training batches of photos in this process, on one core."""
    if not job.photos:
        raise NotAvailable("no photos; name a folder of JPEG files with --photos")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with contextlib.closing(CHAINS[options["chain"]](job)) as batches:
        next(batches)  # workers, maps and the pack are made with it
        clock = Clock(job)
        while not clock.done():
            next(batches)
            clock.mark()
    return {"seconds": clock.seconds(), "threads": 1}


def pillow_batches(job: Job) -> Generator[np.ndarray, None, None]:
    """The usual chain: Pillow decodes, crops, resizes (bicubic) and flips; then floats, then normalised."""
    from PIL import Image

    from paddlemae.data.augment import random_crop_box

    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (MEAN, STD))
    rng, size = np.random.default_rng(0), (job.shape["image_size"],) * 2
    paths = itertools.cycle(sorted(Path(job.photos).rglob("*.[jJ][pP]*[gG]")))
    while True:
        images = []
        for path in itertools.islice(paths, job.batch):
            with Image.open(path) as file:
                image = file.convert("RGB")
            box = random_crop_box(image.height, image.width, CROP_SCALE, (3 / 4, 4 / 3), rng)
            image = image.crop(box).resize(size, Image.Resampling.BICUBIC)
            if rng.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            pixels = np.asarray(image).transpose(2, 0, 1).astype(np.float32) / 255
            images.append((pixels - mean) / std)
        yield np.stack(images)


def our_batches(job: Job) -> Generator[object, None, None]:
    """What a training run reads; it stays uint8, and normalising it is part of the step."""
    from paddlemae.data.sources import open_source

    return _training_batches(job, open_source(job.photos))


def packed_batches(job: Job) -> Generator[object, None, None]:
    """The same from a packed cache of resized images, which is made before the first batch and removed at the end."""
    from paddlemae.data.packed import pack
    from paddlemae.data.sources import open_source

    with tempfile.TemporaryDirectory(prefix="paddlemae-bench-") as folder:
        yield from _training_batches(job, pack(open_source(job.photos), folder, _view(job)))


def _training_batches(job: Job, source) -> Generator[object, None, None]:
    from paddlemae.data.batches import train_batches
    from paddlemae.device import keep_freed_memory

    keep_freed_memory()  # as a training's process and its data workers do
    return train_batches(source, _view(job), batch_size=job.batch, seed=0, num_steps=10**6)


def _view(job: Job):
    from paddlemae.data.augment import View

    return View(image_size=(job.shape["image_size"],) * 2, channels=CHANNELS, crop_scale=CROP_SCALE)


CHAINS = {"pillow": pillow_batches, "ours": our_batches, "packed": packed_batches}
TASKS = {"input": load}
