"""Compare exported encoders, run directly and by examples/run_exported.py, with our own feature extraction, in turns.

taskset -c 0 python -m benchmarks.exported --model base --batch 4 --rounds 9
taskset -c 0 python -m benchmarks.exported --model runs/demo/pretrain --batch 16 --token mean
python -m benchmarks.exported --model base --batch 16 --threads 2

By the clock, so leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.ours import feature_model
from benchmarks.works import MODELS, Job
from paddlemae.engine import device

EXAMPLES = Path(__file__).parent.parent / "examples"
Forward = Callable[[np.ndarray], np.ndarray]


@contextlib.contextmanager
def sides(
    run: Path, token: str, folder: Path, threads: int, batch: int
) -> Iterator[tuple[dict[str, Forward], tuple[int, ...]]]:
    """Yield (name -> function that computes features of uint8 images [B, C, H, W], ours first; the shape of an image).

    Args:
        run: a run folder or a checkpoint, which is exported into `folder`.
    """
    import onnxruntime

    sys.path.insert(0, str(EXAMPLES))
    import run_exported

    from paddlemae.export.paddle_program import load_program
    from paddlemae.export.write import export
    from paddlemae.tasks.models.build import load_encoder
    from paddlemae.tasks.models.inference import FeatureKind, forward_function
    from paddlemae.tasks.models.read_model import read_checkpoint

    checkpoint = read_checkpoint(run)
    model, description = load_encoder(checkpoint), checkpoint.description
    file, program = folder / "m.onnx", folder / "m"
    for to, place in (("onnx", file), ("paddle", program)):
        export(run, to, place, what="encoder", token=token)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    device.prepare("cpu", threads)  # which the exports have set otherwise
    plain, onednn = (load_program(program, threads, onednn=wanted) for wanted in (False, True))
    ours = forward_function(model, description, FeatureKind(token), threads=threads)
    with contextlib.ExitStack() as pools:

        def example(place: Path) -> Forward:
            _, infer, pool = run_exported.load(str(place), threads, batch)
            pools.enter_context(pool)
            return lambda images: infer(images=images)[0]

        forwards = {
            "PaddleMAE": ours,
            "ONNX Runtime, the example": example(file),
            "ONNX Runtime, one call": lambda images: session.run(None, {"images": images})[0],
            "Paddle inference, the example": example(program),
            "Paddle inference, one call": lambda images: plain(images)[0],
            "the same with oneDNN": lambda images: onednn(images)[0],
        }
        height, width = (grid * patch for grid, patch in zip(model.grid, model.encoder.patch_size))
        yield forwards, (model.encoder.channels, height, width)


def measure(forwards: dict[str, Forward], images: np.ndarray, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each round; a first round is not counted, and every second one is in reverse order.

    Raises:
        RuntimeError: features that differ from ours by more than 1e-4.
    """
    wanted = next(iter(forwards.values()))(images)
    seconds: dict[str, list[float]] = {name: [] for name in forwards}
    for number in range(rounds + 1):
        for name, forward in list(forwards.items())[:: (-1) ** number]:
            started = time.perf_counter()
            found = forward(images)
            took = time.perf_counter() - started
            if not np.abs(found - wanted).max() <= 1e-4:  # nor nan
                raise RuntimeError(f"{name} computes something else in round {number}")
            if number:
                seconds[name].append(took)
    return seconds


def save_model(name: str, folder: Path) -> Path:
    """Write a checkpoint of a model in one of the benchmarks' sizes, and return its folder."""
    from paddlemae.weights.model_folder import write_model
    from paddlemae.weights.transfer import to_official

    model, description = feature_model(Job("features", "", name, 1))
    folder.mkdir()
    write_model(folder, to_official(model), description)
    return folder


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
    usage.add_argument("--threads", type=int, default=1, help="default: 1")
    given = usage.parse_args(arguments)

    device.prepare("cpu", given.threads)
    with tempfile.TemporaryDirectory(prefix="paddlemae-bench-") as folder:
        run = save_model(given.model, Path(folder) / "model") if given.model in MODELS else Path(given.model)
        with sides(run, given.token, Path(folder), given.threads, given.batch) as (forwards, shape):
            images = np.random.default_rng(0).integers(0, 256, (given.batch, *shape), np.uint8)
            seconds = measure(forwards, images, given.rounds)
    ours = next(iter(seconds.values()))
    print(f"{given.model}, {given.batch} images, {given.token} token, {given.rounds} rounds, {given.threads} threads")
    for name, each in seconds.items():
        middle = statistics.median(each)
        spread = f"({1000 * min(each):.1f}–{1000 * max(each):.1f})"
        ratio = statistics.median(our / its for our, its in zip(ours, each))  # of each round, whose minute is the same
        print(f"{name:30} {1000 * middle:9.1f} ms {spread:20} {ratio:5.2f} times our speed", flush=True)


if __name__ == "__main__":
    main()
