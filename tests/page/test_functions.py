"""The page's scripts make masks, pictures and views as Python does."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.decode.display import as_displayed
from paddlemae.data.views.augment import View, eval_view
from paddlemae.engine.safe_import import paddle
from paddlemae.model.mae import predict, reconstruct
from paddlemae.model.masking import block_mask, given_mask, grid_mask, num_kept, random_mask
from paddlemae.page.write_page import APP, ASSETS
from paddlemae.tasks.models.preprocess import to_input, to_shares
from tests.support.painted_pages import GRID, mae, write_page

pytestmark = pytest.mark.browser

SHAPES = [(8, 8), (7, 5), (14, 14), (1, 6)]


@pytest.fixture(scope="module")
def evaluate(chromium, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Evaluate a script in a page that has all of the page's functions, and does nothing."""
    path = tmp_path_factory.mktemp("functions") / "functions.html"
    scripts = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in APP if name != "app.js")
    path.write_text(f"<!doctype html><meta charset=utf-8><script>{scripts}</script>", encoding="utf-8")
    page = chromium.new_page()
    page.goto(path.as_uri())
    yield page.evaluate
    page.close()


class Drawn:
    """Draw as NumPy's generator does, from the numbers in [0, 1) that the script draws too."""

    def __init__(self, numbers: list[float]) -> None:
        self.numbers = iter(numbers)

    def uniform(self, low: float, high: float) -> float:
        return low + next(self.numbers) * (high - low)

    def integers(self, count: int) -> int:
        return int(next(self.numbers) * count)


@pytest.mark.parametrize("grid", SHAPES)
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.75, 0.8])
def test_masks_are_those_of_python(evaluate, grid: tuple[int, int], ratio: float) -> None:
    total = grid[0] * grid[1]
    keep = num_kept(total, ratio)
    numbers = np.random.default_rng(4).random(2000)
    script = """([grid, ratio, noise, numbers]) => {
      const { numKept, randomMask, gridMask, blockMask } = paddlemaeMasks;
      const keep = numKept(grid[0] * grid[1], ratio);
      let place = 0;
      const masks = [randomMask(noise, keep), gridMask(grid), blockMask(() => numbers[place++], grid, keep)];
      return [keep, ...masks.map((mask) => Array.from(mask))];
    }"""
    found = evaluate(script, [list(grid), ratio, numbers[:total].tolist(), numbers.tolist()])
    assert found[0] == keep
    blocks: Any = [Drawn(numbers.tolist())]
    for mask, script_made in zip(
        (random_mask(numbers[None, :total], keep), grid_mask(1, grid), block_mask(blocks, grid, keep)), found[1:]
    ):
        np.testing.assert_array_equal(mask.as_map()[0], script_made)


def test_the_generator_repeats_and_is_even(evaluate) -> None:
    script = """seed => { const draw = paddlemaeMasks.generator(seed); return Array.from({length: 4000}, draw); }"""
    first, again, other = (np.array(evaluate(script, seed)) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()
    assert first.min() >= 0 and first.max() < 1 and abs(first.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.05


def test_a_full_mask_keeps_the_last_patch_that_was_kept(evaluate) -> None:
    script = """() => {
      const full = new Uint8Array(6).fill(1);
      return [paddlemaeMasks.keepOne(full, Uint8Array.of(1, 0, 0, 1, 1, 1)), Array.from(full)];
    }"""
    assert evaluate(script) == [True, [1, 1, 0, 1, 1, 1]]


@pytest.mark.parametrize("size, expected", [(1, 1), (2, 5), (3, 9)])
def test_a_brush_has_a_size(evaluate, size: int, expected: int) -> None:
    script = """size => {
      const mask = new Uint8Array(49);
      paddlemaeMasks.paintLine(mask, [7, 7], [3.5, 3.5], [3.5, 3.5], size, 1);
      const line = new Uint8Array(49);
      paddlemaeMasks.paintLine(line, [7, 7], [0.5, 0.5], [6.5, 6.5], size, 1);
      const box = new Uint8Array(49);
      paddlemaeMasks.paintBox(box, [7, 7], [4.2, 9], [2.9, 5.5], 1);
      return [mask, line, box].map((one) => Array.from(one));
    }"""
    dot, line, box = (np.array(one).reshape(7, 7) for one in evaluate(script, size))
    assert dot.sum() == (1 if size == 1 else dot.sum()) and dot[3, 3] == 1 and dot.sum() <= expected
    assert np.diag(line).all()
    assert box.sum() == 6 and box[2:5, 5:7].all()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("target", ["raw", "normalised", "normalised from a floor on"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_stages_are_those_of_python(evaluate, tmp_path: Path, target: str, channels: int, bits: int) -> None:
    paddle.seed(2)
    keys = {"norm_pix_loss": target != "raw", "norm_pix_floor": 0.3 if target.endswith("on") else 0.0}
    page = write_page(tmp_path, mae(channels, **keys), bits=bits, samples=2)
    removed = np.random.default_rng(1).random(GRID[0] * GRID[1]) < 0.6
    mask = given_mask(removed.reshape(1, *GRID), GRID)
    images = to_input(page.images[:1], page.description)
    with paddle.no_grad():
        plain = predict(page.model, images, mask).numpy()[0]
        expected = reconstruct(page.model, images, mask)
    pixels = page.images[0].transpose(1, 2, 0) / np.float32(2**bits - 1)
    script = """([header, pixels, removed, plain]) => {
      const given = Float32Array.from(pixels);
      const stages = paddlemaePictures.drawStages(header, given, removed, Float32Array.from(plain));
      const range = paddlemaePictures.shownRange(header, given);
      stages.rgba = paddlemaePictures.toRgba(header, given, range);
      return Object.fromEntries(Object.entries(stages).map(([name, one]) => [name, Array.from(one)]));
    }"""
    header = json.loads(json.dumps(page.header))
    found = evaluate(script, [header, pixels.ravel().tolist(), removed.astype(int).tolist(), plain.ravel().tolist()])
    for name in ("prediction", "completed", "plain"):
        shares = to_shares(getattr(expected, name), page.description)[0]
        np.testing.assert_allclose(found[name], shares.ravel(), rtol=0, atol=1e-5)
    shown = as_displayed(page.images[:1].transpose(0, 2, 3, 1))[0]
    rgb = np.array(found["rgba"]).reshape(32, 48, 4)[..., :3]
    assert np.abs(rgb - shown[..., :3].astype(int)).max() <= (0 if bits == 8 else 1)


def test_labels_are_those_of_python(evaluate) -> None:
    logits = np.random.default_rng(0).normal(size=(4, 6, 5)).astype(np.float32)
    script = """logits => Array.from(paddlemaePictures.labelPixels(Float32Array.from(logits), [4, 6], [32, 49]))"""
    found = np.array(evaluate(script, logits.ravel().tolist())).reshape(32, 49)
    resized = paddle.nn.functional.interpolate(
        paddle.to_tensor(logits.transpose(2, 0, 1)[None]), size=[32, 49], mode="bilinear", align_corners=False
    )
    assert (found == resized.numpy()[0].argmax(axis=0)).mean() > 0.999


def test_probabilities_and_ranks(evaluate) -> None:
    script = """() => [paddlemaePictures.toProbabilities([1000, 1001], false),
      paddlemaePictures.toProbabilities([0, 3], true),
      paddlemaePictures.rankByCosine([0, 1], [1, 0, 0, 1, 0.6, 0.8], 2).map(({ place }) => place)]"""
    softmax, sigmoid, order = evaluate(script)
    assert softmax == pytest.approx([0.26894, 0.73106], abs=1e-5) and sigmoid == pytest.approx([0.5, 0.95257], abs=1e-5)
    assert order == [1, 2, 0]


VIEW = """async ([content, type, header]) => {
  const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
  return Array.from(await paddlemaeImages.readFile(new File([bytes], 'a', { type }), header));
}"""


def view_of(evaluate, image: Image.Image, view: View, format: str = "PNG", **settings: Any) -> np.ndarray:
    """Return the page's view of an image, [C, H, W] with values 0..255."""
    stream = io.BytesIO()
    image.save(stream, format, **settings)
    height, width = view.image_size
    header = {
        "image": [height, width],
        "channels": view.channels,
        "bits": 8,
        "fit": view.fit,
        "eval_crop_ratio": view.eval_crop_ratio,
    }
    found = evaluate(VIEW, [base64.b64encode(stream.getvalue()).decode(), f"image/{format.lower()}", header])
    return 255 * np.array(found).reshape(height, width, view.channels).transpose(2, 0, 1)


def detailed(height: int, width: int) -> np.ndarray:
    """Return an image with noise and edges, uint8 [H, W, 3]."""
    generator = np.random.default_rng(height)
    rows, columns = np.indices((height, width))
    waves = 128 + 60 * np.sin(rows / 7)[..., None] + 40 * np.cos(columns / 5)[..., None] * [1, -1, 0.5]
    return np.clip(waves + generator.normal(0, 10, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("fit", ["crop", "stretch"])
@pytest.mark.parametrize("size", [(32, 48), (31, 17), (200, 90), (75, 333), (700, 1100), (1, 1), (3, 400)])
@pytest.mark.parametrize("channels, ratio", [(3, 1.0), (1, 0.875)])
def test_views_are_those_of_an_evaluation(evaluate, size, fit, channels: int, ratio: float) -> None:
    image = Image.fromarray(detailed(*size))
    view = View(image_size=(32, 48), channels=channels, fit=fit, eval_crop_ratio=ratio)
    pixels = np.asarray(image if channels == 3 else image.convert("L")).reshape(*size, channels)
    expected = eval_view(pixels, view).astype(float)
    found = view_of(evaluate, image, view)
    assert np.abs(found - expected).max() <= (2 if max(size) < 700 else 6)  # larger ones are averaged first
    assert np.abs(found - expected).mean() < 0.6


def test_transparency_is_on_white(evaluate) -> None:
    pixels = np.zeros((32, 48, 4), np.uint8)
    pixels[:, :24, 3] = 255
    found = view_of(evaluate, Image.fromarray(pixels), View(image_size=(32, 48), channels=3, eval_crop_ratio=1.0))
    assert (found[:, :, :24] == 0).all() and (found[:, :, 24:] == 255).all()
