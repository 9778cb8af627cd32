"""Open pages of models in browsers: size, difference from Paddle, time of a reconstruction.

python -m benchmarks.pages [MODEL ...]    # model folders; default: those of docs/models and an untrained ViT-Tiny/16

Needs Chromium; Firefox too where there is one. One core, by the clock, so leave the machine alone meanwhile. The time
runs from the request of a reconstruction, as a brush makes it, until its numbers are back in the page. Firefox keeps a
page's scripts to itself, so there it is what the page shows under its pictures, of masks that the page draws.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from paddlemae.engine.safe_import import paddle
from paddlemae.model.mae import MaskedAutoencoder, predict
from paddlemae.model.masking import given_mask
from paddlemae.tasks.models.build import describe, load_autoencoder
from paddlemae.tasks.models.preprocess import to_input
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.page import write_page
from paddlemae.weights.model_folder import write_model
from paddlemae.weights.transfer import to_official
from tests.support.firefox import find_firefox, started_firefox

MODELS = Path(__file__).parent.parent / "docs" / "models"
REMOVED = (0.75, 0.02)  # of the patches
TIMES = 9
RUN = """async (removed, times) => {
  const header = JSON.parse(document.getElementById('model').textContent);
  const bytes = await paddlemaeEngines.contentOf(document.getElementById('content').textContent);
  const engine = await paddlemaeEngines.createEngine(header, bytes, document.getElementById('engine').textContent);
  const values = header.image[0] * header.image[1] * header.channels;
  const pixels = Float32Array.from({length: values}, (_, i) => (i * 7919 % 256) / 255);
  const request = {pixels, removed: Uint8Array.from(removed), attention: null, features: false};
  const milliseconds = [];
  let result;
  for (let i = 0; i < times; i++) {
    const begun = performance.now();
    result = await engine.run(request);
    milliseconds.push(performance.now() - begun);
  }
  engine.close();
  return [Array.from(result.plain), milliseconds];
}"""
Run = Callable[[list[int], int], Any]


def untrained_tiny(folder: Path) -> Path:
    """Write ViT-Tiny/16 for 224 pixels with a decoder of two blocks."""
    paddle.seed(0)
    shape = dict(image_size=224, patch_size=16, embed_dim=192, depth=12, num_heads=3)
    model = MaskedAutoencoder(**shape, decoder_embed_dim=192, decoder_depth=2, decoder_num_heads=3)
    folder.mkdir()
    write_model(folder, to_official(model), describe(model, ([0.5] * 3, [0.25] * 3), eval_crop_ratio=1.0, bits=8))
    return folder


@contextlib.contextmanager
def chromium(page: Path) -> Iterator[Run]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(page.as_uri())
        tab.locator("body[data-ready]").wait_for(timeout=60_000)
        yield lambda removed, times: tab.evaluate(f"([removed, times]) => ({RUN})(removed, times)", [removed, times])
        browser.close()


def in_firefox(page: Path) -> list[float]:
    """Return the milliseconds that the page shows, of several random masks."""
    executable = find_firefox()
    assert executable
    shown = "document.getElementById('status').textContent"
    with tempfile.TemporaryDirectory() as profile, started_firefox(executable, Path(profile)) as browser:
        browser.open(page)
        browser.wait_for(f"document.body.dataset.ready && {shown}.includes('Computed in')", 60)
        found = []
        for _ in range(TIMES):
            browser.evaluate("document.querySelector('[data-mask=random]').click()")
            browser.wait_for("!document.body.dataset.busy", 60)
            time.sleep(1)
            words = browser.evaluate(f"return {shown}")
            match = re.search(r"Computed in ([\d.,]+) (ms|s)", words)
            assert match, words
            number, unit = match.groups()
            found.append(float(number.replace(",", "")) * (1000 if unit == "s" else 1))
    return found


def expected(folder: Path, removed: np.ndarray) -> np.ndarray:
    """Return what Paddle predicts for the pixels that the page is given."""
    checkpoint = read_checkpoint(folder)
    model = load_autoencoder(checkpoint)
    shape = (model.grid[0] * model.encoder.patch_size[0], model.grid[1] * model.encoder.patch_size[1])
    values = np.arange(shape[0] * shape[1] * model.encoder.channels) * 7919 % 256
    pixels = values.astype(np.uint8).reshape(1, *shape, -1).transpose(0, 3, 1, 2)
    with paddle.no_grad():
        return (
            predict(model, to_input(pixels, checkpoint.description), given_mask(removed[None], model.grid))
            .numpy()
            .ravel()
        )


def measure(folder: Path, work: Path) -> None:
    patches = int(np.prod(load_autoencoder(read_checkpoint(folder)).grid))
    for exact in (False, True):
        page = work / f"{folder.name}{'-exact' * exact}.html"
        size = write_page(folder, ["digits"], page, exact=exact, limit=8).bytes
        front = f"| {folder.name}, {32 if exact else 16} bits | {size / 1e6:.1f}"
        with chromium(page) as run:
            for share in REMOVED:
                removed = np.arange(patches) * 7919 % patches < max(1, share * patches)
                plain, times = run(removed.astype(int).tolist(), TIMES)
                wanted = expected(folder, removed)
                error = np.abs(np.array(plain) - wanted).max() / np.ptp(wanted)
                print(
                    f"{front} | Chromium | {removed.sum()} of {patches} | {summary(times)} | {error:.1e} |", flush=True
                )
        if find_firefox():
            print(f"{front} | Firefox | 75% | {summary(in_firefox(page))} | |", flush=True)


def summary(times: list[float]) -> str:
    return f"{statistics.median(times):.0f} | {max(times):.0f}"


def main() -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print("| page | MB | browser | patches removed | median ms | longest ms | largest difference / range |")
    print("|---|---:|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        named = [Path(name) for name in sys.argv[1:]]
        for model in named or [*sorted(MODELS.iterdir()), untrained_tiny(work / "vit-tiny")]:
            measure(model, work)


if __name__ == "__main__":
    main()
