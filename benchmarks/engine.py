"""Features by Paddle's inference engine with oneDNN, for which PaddleMAE's own way was chosen (`tasks.inference`)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.ours import Options, feature_model, prepare, timed
from benchmarks.works import Job


def features(job: Job, options: Options) -> dict[str, object]:
    """The cls token of whole images, from uint8 images to a NumPy array; compiled before the clock starts."""
    started = prepare(job)
    from paddlemae.export.interface import interface_of
    from paddlemae.export.paddle_program import load_program, save_program

    model, description = feature_model(job)
    with tempfile.TemporaryDirectory(prefix="paddlemae-bench-") as folder:
        save_program(model, interface_of(model, "encoder", "cls"), description.mean, description.std, Path(folder))
        engine = load_program(Path(folder), job.threads, onednn=True)
    return {**timed(job, engine), "start_bytes": started}


TASKS = {"features": features}
