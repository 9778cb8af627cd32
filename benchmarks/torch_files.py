"""Load JPEG files as PyTorch's users do: Pillow in the worker processes of a DataLoader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.input_pipeline import jpeg_files, pillow_view
from benchmarks.works import Job

WORKERS = 2


class Files:
    """Training views of JPEG files, float32 [C, H, W]: random crops and flips, normalised."""

    def __init__(self, paths: list[Path], size: int):
        self.paths, self.size = paths, size
        self.rng: np.random.Generator | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.rng is None:  # each worker its own
            self.rng = np.random.default_rng(torch.initial_seed())
        return torch.from_numpy(pillow_view(self.paths[index], self.size, self.rng))


def shuffled_batches(job: Job) -> Iterator[tuple[torch.Tensor]]:
    """Yield batches, float32 [B, C, H, W], epoch after epoch."""
    files = Files(jpeg_files(job), job.shape["image_size"])
    loader = torch.utils.data.DataLoader(
        files, job.batch, shuffle=True, num_workers=WORKERS, drop_last=True, persistent_workers=True
    )
    while True:
        yield from ((batch,) for batch in loader)
