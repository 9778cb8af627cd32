"""Measure time and memory of listing a folder of very many images.

python -m benchmarks.listing --images 1000000

The images are links to one, a thousand to a class folder, made first (which takes longer than listing them). Listing is
timed in a process of its own, the folders being in the system's cache.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

FOLDER_IMAGES = 1000
LIST = """
import os, pickle, resource, sys, time
from paddlemae.data.sources import open_source
started, before = time.perf_counter(), sum(os.times()[:2])
source = open_source(sys.argv[1], labelled=True)
seconds, computing = time.perf_counter() - started, sum(os.times()[:2]) - before
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(f"{len(source)} images of {len(source.classes)} classes in {seconds:.1f} s, {computing:.1f} s of them CPU time; "
      f"peak {peak / 1e9:.2f} GB; {len(pickle.dumps(source)) / 1e6:.0f} MB to each worker")
"""


def make_links(root: Path, count: int) -> Path:
    """Make a folder of links, with one folder per class."""
    target = root / "one.png"
    Image.new("L", (2, 2)).save(target)
    for start in range(0, count, FOLDER_IMAGES):
        folder = root / "images" / f"class{start // FOLDER_IMAGES:05}"
        folder.mkdir(parents=True)
        for i in range(start, min(start + FOLDER_IMAGES, count)):
            os.symlink(target, folder / f"image_{i:08}.png")
    return root / "images"


def main() -> None:
    usage = argparse.ArgumentParser(prog="python -m benchmarks.listing", description=__doc__.partition("\n")[0])
    usage.add_argument("--images", type=int, default=1_000_000)
    options = usage.parse_args()
    with tempfile.TemporaryDirectory(prefix="paddlemae-listing-") as folder:
        links = make_links(Path(folder), options.images)
        subprocess.run([sys.executable, "-c", LIST, str(links)], check=True)


if __name__ == "__main__":
    main()
