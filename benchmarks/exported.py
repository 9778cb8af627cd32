"""Exported encoders beside our own feature extraction: in one process, in turn.

taskset -c 0 python -m benchmarks.exported --model base --batch 4 --rounds 3
taskset -c 0 python -m benchmarks.exported --model runs/demo/pretrain --batch 16 --token mean
python -m benchmarks.exported --model base --batch 16 --threads 2

On one thread processor time is compared, not that of a clock, so that whoever else uses the machine counts for little.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.ours import feature_model
from benchmarks.works import MODELS, Job
from paddlemae import device

Forward = Callable[[np.ndarray], np.ndarray]


def sides(model, description, token: str, folder: Path, threads: int) -> dict[str, Forward]:
    """What makes features of uint8 images [B, C, H, W], by its name; ours first."""
    import onnx
    import onnxruntime

    from paddlemae.export.interface import interface_of
    from paddlemae.export.onnx_graph import onnx_model
    from paddlemae.export.paddle_program import load_program, save_program
    from paddlemae.tasks.inference import FeatureKind, forward_function

    interface, statistic = interface_of(model, "encoder", token), (description.mean, description.std)
    onnx.save_model(onnx_model(model, interface, *statistic), str(folder / "m.onnx"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(folder / "m.onnx"), options, providers=["CPUExecutionProvider"])
    save_program(model, interface, *statistic, folder)
    plain, onednn = (load_program(folder, threads, onednn=wanted) for wanted in (False, True))
    return {
        "PaddleMAE": forward_function(model, description, FeatureKind(token), threads=threads),
        "ONNX Runtime": lambda images: session.run(None, {"images": images})[0],
        "ONNX Runtime, image by image": lambda images: np.concatenate(
            [session.run(None, {"images": images[[one]]})[0] for one in range(len(images))]
        ),
        "Paddle inference": lambda images: plain(images)[0],
        "Paddle inference, oneDNN": lambda images: onednn(images)[0],
    }


def measure(
    forwards: dict[str, Forward], images: np.ndarray, rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each round by a clock; one before them is not counted, and every other is in reverse order.

    Raises:
        RuntimeError: features that differ from ours by more than 1e-4.
    """
    wanted = next(iter(forwards.values()))(images)
    seconds: dict[str, list[float]] = {name: [] for name in forwards}
    for number in range(rounds + 1):
        for name, forward in list(forwards.items())[:: (-1) ** number]:
            started = clock()
            found = forward(images)
            took = clock() - started
            if not np.abs(found - wanted).max() <= 1e-4:  # nor nan
                raise RuntimeError(f"{name} computes something else in round {number}")
            if number:
                seconds[name].append(took)
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    usage = argparse.ArgumentParser(
        prog="python -m benchmarks.exported",
        description=(__doc__ or "").partition("\n")[0],
        epilog=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    usage.add_argument("--model", default="base", help=f"{', '.join(MODELS)}, or a run folder (default: base)")
    usage.add_argument("--batch", type=int, default=16, help="images (default: 16)")
    usage.add_argument("--token", choices=("cls", "mean"), default="cls")
    usage.add_argument("--rounds", type=int, default=3)
    usage.add_argument("--threads", type=int, default=1, help="of more than one the clock's time counts (default: 1)")
    given = usage.parse_args(arguments)

    device.prepare("cpu", given.threads)
    if given.model in MODELS:
        model, description = feature_model(Job("features", "", given.model, given.batch))
    else:
        from paddlemae.tasks.checkpoints import read_checkpoint
        from paddlemae.tasks.models import load_encoder

        checkpoint = read_checkpoint(given.model)
        model, description = load_encoder(checkpoint), checkpoint.description
    shape = (given.batch, model.channels, *(grid * patch for grid, patch in zip(model.grid, model.patch_size)))
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with tempfile.TemporaryDirectory(prefix="paddlemae-bench-") as folder:
        forwards = sides(model, description, given.token, Path(folder), given.threads)
        clock = time.process_time if given.threads == 1 else time.perf_counter
        seconds = measure(forwards, images, given.rounds, clock)
    ours = next(iter(seconds.values()))
    print(f"{given.model}, {given.batch} images, {given.token} token, {given.rounds} rounds, {given.threads} threads")
    for name, each in seconds.items():
        middle = statistics.median(each)
        spread = f"({1000 * min(each):.1f}–{1000 * max(each):.1f})"
        ratio = statistics.median(our / its for our, its in zip(ours, each))  # of each round, whose minute is the same
        print(f"{name:30} {1000 * middle:9.1f} ms {spread:20} {ratio:5.2f} times our speed", flush=True)


if __name__ == "__main__":
    main()
