"""Extract features with Paddle's inference engine, for comparison with PaddleMAE's own (`tasks.models.inference`)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.ours import Options, feature_model, prepare, timed
from benchmarks.worker import images_u8
from benchmarks.works import Job


def features(job: Job, options: Options) -> dict[str, object]:
    """Time the cls token of whole images, from uint8 images to a NumPy array; the engine is compiled before.

    Args:
        options: "onednn" or not.
    Raises:
        RuntimeError: the engine's features differ from ours by more than 1e-4, or are no numbers.
    """
    started = prepare(job)
    from paddlemae.export.interface import interface_of
    from paddlemae.export.paddle_program import load_program, save_program
    from paddlemae.tasks.models.inference import FeatureKind, forward_function

    model, description = feature_model(job)
    with tempfile.TemporaryDirectory(prefix="paddlemae-bench-") as folder:
        save_program(model, interface_of(model, "encoder", "cls"), description.mean, description.std, Path(folder))
        engine = load_program(Path(folder), job.threads, onednn=bool(options.get("onednn")))
    few, found = images_u8(job)[0][:1], []
    wanted = forward_function(model, description, FeatureKind("cls"), threads=1)(few)

    def run(images: np.ndarray) -> None:
        found.extend(engine(images))

    run(few)
    measured = timed(job, run)
    run(few)
    if not max(np.abs(each - wanted).max() for each in (found[0], found[-1])) <= 1e-4:
        raise RuntimeError("the engine computes something else")
    if not all(np.isfinite(each).all() for each in found):  # PaddlePaddle 3.3.1 may give nan from the second run on
        raise RuntimeError("the engine computes what is no number")
    return {**measured, "start_bytes": started}


TASKS = {"features": features}
