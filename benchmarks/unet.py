"""Train a small U-Net in PyTorch on images with masks, to compare it with pretrained segmenters of about its size.

    python -m benchmarks.unet --data nuclei --labels 5% --seconds 600 --size 256 --out unet.jsonl

It is the network of Ronneberger et al. (2015, arXiv 1505.04597) with padding and batch norm, about a million
parameters. PyTorch trains it faster on a processor than Paddle: 1.9 s for 2.8 s a step with its data (measured, 8 crops
of 128 pixels, one core). Images, splits, training views, loss and metrics are those of `paddlemae segment`;
AdamW and a cosine schedule that ends with the time or the steps. One line of JSON is appended for each training.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from paddlemae.data.batches import train_batches, whole_scenes
from paddlemae.data.decode.pixel_format import default_bits
from paddlemae.data.sources import Source
from paddlemae.data.views.scenes import SceneView
from paddlemae.recipe import default_statistics, load_recipe
from paddlemae.system.atomic import append_text
from paddlemae.tasks.models.windows import windowed_logits
from paddlemae.tasks.training.mask_splits import open_mask_splits
from paddlemae.tasks.training.segmentation import MapAnswer, MapEvaluation, evaluation_of_maps

WIDTH = 24  # channels of the first level; each further one has twice as many
LEVELS = 4
LEARNING_RATE, WEIGHT_DECAY, WARMUP = 1e-3, 0.01, 0.05  # of AdamW; the share of the training that it warms up
IGNORE = -1


class DoubleConvolution(nn.Module):
    """Two 3 x 3 convolutions, each with batch norm and ReLU."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)

    def forward(self, x_BCHW):
        x_BCHW = F.relu(self.first_norm(self.first(x_BCHW)))
        return F.relu(self.second_norm(self.second(x_BCHW)))


class UNet(nn.Module):
    """A U-Net: `levels` resolutions, each half of the one before; images of sizes that 2 ** (levels - 1) divides."""

    def __init__(self, channels: int, num_classes: int, width: int = WIDTH, levels: int = LEVELS):
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        self.down = nn.ModuleList([DoubleConvolution(a, b) for a, b in zip([channels, *widths], widths)])
        pairs = list(zip(widths[:0:-1], widths[-2::-1]))
        self.up = nn.ModuleList([nn.ConvTranspose2d(wide, narrow, 2, stride=2) for wide, narrow in pairs])
        self.merge = nn.ModuleList([DoubleConvolution(2 * narrow, narrow) for _, narrow in pairs])
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x_BCHW):
        """Return logits [B, K, H, W]."""
        skipped = []
        for number, convolve in enumerate(self.down):
            x_BCHW = convolve(F.max_pool2d(x_BCHW, 2) if number else x_BCHW)
            skipped.append(x_BCHW)
        for up, merge, skip in zip(self.up, self.merge, skipped[-2::-1]):
            x_BCHW = merge(torch.cat([up(x_BCHW), skip], dim=1))
        return self.head(x_BCHW)


def normalised(images_u8: np.ndarray) -> torch.Tensor:
    """Return images as the network sees them, float32 [B, C, H, W]."""
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in default_statistics(images_u8.shape[1]))
    white = np.iinfo(images_u8.dtype).max
    images = torch.from_numpy((images_u8.astype(np.float32) / white - mean) / std)
    return images.contiguous(memory_format=torch.channels_last)


def share_done(seconds: float | None, steps: int | None, started: float, step: int) -> float:
    """Return how much of a training is over, 0 to 1."""
    return (time.perf_counter() - started) / seconds if seconds else step / (steps or 1)


def learning_rate(share: float) -> float:
    """Return the rate: linear warmup, then a half cosine to 0."""
    if share < WARMUP:
        return LEARNING_RATE * max(share, 1e-3) / WARMUP
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * min(1.0, (share - WARMUP) / (1 - WARMUP))))


def train(
    model: UNet, source: Source, view: SceneView, batch_size: int, seed: int, seconds: float | None, steps: int | None
) -> int:
    """Train for a time or for a number of steps; return the steps taken."""
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    model.train()
    started, taken = time.perf_counter(), 0
    most = steps or 10**9
    for taken, batch in enumerate(train_batches(source, view, batch_size=batch_size, seed=seed, num_steps=most), 1):
        share = share_done(seconds, steps, started, taken - 1)
        if share >= 1:
            return taken - 1
        optimizer.param_groups[0]["lr"] = learning_rate(share)
        assert batch.targets is not None
        masks = torch.from_numpy(batch.targets.astype(np.int64))
        F.cross_entropy(model(normalised(batch.images)), masks, ignore_index=IGNORE).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return taken


def evaluate(model: UNet, source: Source, channels: int, size: int, short_side: int | None = None) -> MapEvaluation:
    """Evaluate in windows as `paddlemae segment` does."""
    model.eval()

    def forward(images_u8: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(normalised(images_u8)).numpy()

    def answers() -> Iterator[MapAnswer]:
        for scene in whole_scenes(source, channels, default_bits(channels)):
            scale = short_side / min(scene.mask.shape) if short_side else 1.0
            logits = windowed_logits(forward, scene.image, size, scales=(scale,))
            yield MapAnswer(scene.index, scene.mask, logits)

    return evaluation_of_maps(answers(), len(source.classes))


def run(
    data: str,
    *,
    labels: str | None,
    size: int,
    batch_size: int,
    seed: int,
    seconds: float | None = None,
    steps: int | None = None,
    channels: int = 3,
    turned: bool = False,
    short_side: int | None = None,
) -> dict[str, Any]:
    """Train one U-Net and return a row: its settings and its metrics on the test part.

    Args:
        data, labels: as `paddlemae segment` takes them; without a validation part: the last step counts.
        size: height and width of a crop and of a window, pixels, a multiple of 8.
        seconds, steps: one of them.
        turned: train on views turned by 90 degrees and mirrored both ways, for scenes without up and down.
        short_side: of the images in training and in evaluation, pixels; None: their own.
    """
    if size % 2 ** (LEVELS - 1):
        raise ValueError(f"--size must be a multiple of {2 ** (LEVELS - 1)}; got {size}")
    if (seconds is None) == (steps is None):
        raise ValueError("name --seconds or --steps, one of them")
    chosen = int(labels) if labels and labels.isdigit() else labels
    recipe = load_recipe("segment", None, dict(data=data, init="scratch", labels=chosen, seed=seed, validation=0))
    splits = open_mask_splits(recipe, data)
    mean, _ = default_statistics(channels)
    view = SceneView(
        (size, size),
        channels,
        flip_vertical=turned,
        rotate=turned,
        photometric=0.5,
        fill=tuple(mean),
        short_side=short_side,
    )
    torch.manual_seed(seed)
    model = UNet(channels, len(splits.train.classes), WIDTH).to(memory_format=torch.channels_last)
    started = time.perf_counter()
    taken = train(model, splits.train, view, batch_size, seed, seconds, steps)
    trained = time.perf_counter() - started
    evaluation = evaluate(model, splits.held_out, channels, size, short_side)
    result = evaluation.result(splits.held_out.classes, "miou")
    return {
        "model": "unet",
        "data": data,
        "labels": labels,
        "images": len(splits.train),
        "seed": seed,
        "size": size,
        "batch_size": batch_size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": taken,
        "seconds": round(trained, 1),
        **{name: value for name, value in result.items() if isinstance(value, float)},
        "per_class": result["per_class"],
    }


def main() -> None:
    """Train one U-Net and append its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--labels")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--turned", action="store_true")
    parser.add_argument("--short-side", type=int)
    parser.add_argument("--out", type=Path)
    given = vars(parser.parse_args())
    out = given.pop("out")
    row = run(**given)
    print(json.dumps(row))
    if out is not None:
        append_text(out, json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
