"""Measure time and memory of `paddlemae data check` on very many images.

python -m benchmarks.check --data cifar10 --images 1000000 --into million

The images are JPEGs, a thousand to a class folder of FOLDER, made first if it is not there: each blends two random
images of the data, either of which may be mirrored, so that all are distinct; with --links they are links to the data's
files instead, so that all are copies. The check runs in a process of its own, without workers.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from paddlemae.data.sources import Source, open_source

FOLDER_IMAGES = 1000
SHARES = (64, 193)  # of 256, that the first of two images has in a blend
CHECK = """
import resource, sys, time
from pathlib import Path
from paddlemae.data.inspect import duplicates
from paddlemae.tasks.data import check as task

def timed(room, name):
    call = getattr(room, name)
    def noted(*arguments, **settings):
        started = time.process_time()
        result = call(*arguments, **settings)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        print(f"{name}: {time.process_time() - started:.1f} s of CPU time, peak so far {peak:.2f} GB", flush=True)
        return result
    setattr(room, name, noted)

for room, name in ((task, "_open_splits"), (task, "survey_sources"), (duplicates, "find_exact_groups"),
                   (duplicates, "find_near_groups"), (task, "summarize"), (task, "write_check")):
    timed(room, name)
started, out = time.perf_counter(), Path(sys.argv[2])
found = task.check(sys.argv[1], workers=0, quiet=True)
print(task.summarize(found))
out.mkdir(exist_ok=True)
task.write_check(found, out)
computing, count = time.process_time(), len(found.exact)
print(f"{count} images in {computing:.0f} s of CPU time ({time.perf_counter() - started:.0f} s by the clock), "
      f"{count / computing:.0f} images/s; wrote " +
      ", ".join(f"{path.name} of {path.stat().st_size / 1e6:.1f} MB" for path in sorted(out.iterdir())))
"""


def paths_of(count: int, root: Path) -> list[Path]:
    """Return the paths of the images to make, and make their folders."""
    for first in range(0, count, FOLDER_IMAGES):
        (root / f"class{first // FOLDER_IMAGES:05}").mkdir(parents=True)
    return [root / f"class{i // FOLDER_IMAGES:05}" / f"{i:08}.jpg" for i in range(count)]


def make_links(source: Source, count: int, root: Path) -> None:
    for i, path in enumerate(paths_of(count, root)):
        os.symlink(os.path.abspath(source.describe(i % len(source))), path)


def make_blends(source: Source, count: int, root: Path) -> None:
    images = np.stack([source.read(i, 3) for i in range(len(source))]).astype(np.uint16)
    rng = np.random.default_rng(0)
    for path in paths_of(count, root):
        one, other = images[rng.integers(len(images), size=2)]
        mirrored, upside_down = rng.integers(2, size=2)
        one, other = (one[:, ::-1] if mirrored else one), (other[::-1] if upside_down else other)
        share = int(rng.integers(*SHARES))
        Image.fromarray(((one * share + other * (256 - share)) >> 8).astype(np.uint8)).save(path, quality=85)


def main() -> None:
    usage = argparse.ArgumentParser(prog="python -m benchmarks.check", description=__doc__.partition("\n")[0])
    usage.add_argument("--data", required=True, help="a folder of images of one size")
    usage.add_argument("--images", type=int, default=1_000_000)
    usage.add_argument("--into", type=Path, required=True, help="the folder to make; taken as it is if it is there")
    usage.add_argument("--links", action="store_true", help="copies instead of blends")
    options = usage.parse_args()
    if not options.into.exists():
        make = make_links if options.links else make_blends
        make(open_source(options.data), options.images, options.into)
    out = options.into.with_name(f"{options.into.name}-check")
    subprocess.run([sys.executable, "-c", CHECK, str(options.into), str(out)], check=True)


if __name__ == "__main__":
    main()
