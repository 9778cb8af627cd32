"""The page in Firefox, where there is one: painting, an own photo, widths."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.views.augment import View, eval_view
from paddlemae.engine.safe_import import paddle
from tests.support.firefox import Firefox, find_firefox, started_firefox
from tests.support.painted_pages import GRID, NASTY, Page, mae, stages, write_page

pytestmark = pytest.mark.browser

ARROW_DOWN, ARROW_RIGHT = "\ue015", "\ue014"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Page:
    paddle.seed(1)
    return write_page(tmp_path_factory.mktemp("page"), mae(norm_pix_loss=True))


@pytest.fixture(scope="module")
def firefox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firefox]:
    executable = find_firefox()
    if executable is None:
        pytest.skip("there is no Firefox")
    with started_firefox(executable, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(firefox: Firefox, made: Page) -> Firefox:
    """The page, with nothing removed."""
    firefox.open(made.path)
    firefox.wait_for("document.body.dataset.ready && document.getElementById('status').textContent")
    assert firefox.evaluate("return document.body.dataset.ready") == "worker"
    firefox.evaluate("document.getElementById('clear').click()")
    expect_count(firefox, 0)
    return firefox


def expect_count(page: Firefox, count: int) -> None:
    page.wait_for(f"document.getElementById('caption').textContent.startsWith('{count} of 24 ')")


def expect_pictures(page: Firefox, made: Page, *places: int) -> None:
    """Check the pictures against Paddle's."""
    removed = np.zeros(GRID[0] * GRID[1], bool)
    removed[list(places)] = True
    expected = stages(made, 0, removed)
    for name, stage in {"completed": "prediction + visible", "prediction": "prediction", "masked": "masked"}.items():
        assert np.abs(page.canvas(name).astype(int) - expected[stage]).max() <= 1, name


def test_the_mouse_paints(page: Firefox, made: Page) -> None:
    left, top, width, height = page.evaluate(
        "const box = document.getElementById('patches').getBoundingClientRect();"
        "return [box.left, box.top, box.width, box.height]"
    )
    row = top + 1.5 * height / GRID[0]
    page.drag(*((left + (column + 0.5) * width / GRID[1], row) for column in (1, 3)))
    expect_count(page, 3)
    expect_pictures(page, made, 7, 8, 9)


def test_keys_paint(page: Firefox, made: Page) -> None:
    page.evaluate("document.getElementById('patches').focus()")
    page.press(ARROW_DOWN, " ", ARROW_RIGHT, " ")
    expect_count(page, 2)
    expect_pictures(page, made, 6, 7)
    page.press("i")
    expect_count(page, 22)
    page.press("z")
    expect_count(page, 2)


def test_a_turned_photo_is_dropped_in(page: Firefox) -> None:
    rows, columns = np.indices((60, 130))
    upright = np.stack([4 * rows, columns, 255 - columns], axis=2).astype(np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    stream = io.BytesIO()
    turned = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    turned.save(stream, "JPEG", exif=exif, quality=95, subsampling=0)
    script = """const transfer = new DataTransfer();
      for (const [name, content] of arguments[0]) transfer.items.add(new File([Uint8Array.from(content)], name));
      document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: transfer, bubbles: true }));"""
    page.evaluate(script, [["turned.jpg", list(stream.getvalue())], [NASTY, [1, 2, 3]]])
    page.wait_for("document.getElementById('message').dataset.kind === 'warning'")
    assert NASTY in page.evaluate("return document.getElementById('message').textContent")
    assert page.evaluate("return document.querySelectorAll('img').length") == 0
    chosen = "document.querySelector('#samples [aria-selected=true]').title"
    assert page.evaluate(f"return {chosen}") == "turned.jpg"
    expected = eval_view(upright, View(image_size=(32, 48), channels=3)).transpose(1, 2, 0)
    assert np.abs(page.canvas("original").astype(int) - expected).max() < 12  # a JPEG


@pytest.mark.parametrize("width", [450, 1300])
def test_the_page_is_no_wider_than_the_window(firefox: Firefox, made: Page, width: int) -> None:
    firefox.open(Path(made.path), width)
    firefox.wait_for("document.body.dataset.ready")
    assert firefox.evaluate("return document.documentElement.scrollWidth <= innerWidth")
