"""Do on a page, driven by Playwright, what readers do, and say what it should show."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from paddlemae.data.views.augment import View, eval_view
from tests.support.painted_pages import GRID, removed_on

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
TOTAL = GRID[0] * GRID[1]


def middle(page, place: int) -> tuple[float, float]:
    """Return where the middle of a patch is on the screen."""
    box = page.locator("#patches").bounding_box()
    row, column = divmod(place, GRID[1])
    return box["x"] + (column + 0.5) * box["width"] / GRID[1], box["y"] + (row + 0.5) * box["height"] / GRID[0]


def drag(page, *places: int, button: Any = "left") -> None:
    page.mouse.move(*middle(page, places[0]))
    page.mouse.down(button=button)
    for place in places[1:]:
        page.mouse.move(*middle(page, place), steps=3)
    page.mouse.up(button=button)


def patches(*places: int) -> np.ndarray:
    removed = np.zeros(TOTAL, bool)
    removed[list(places)] = True
    return removed


def expect_removed(page, removed: np.ndarray) -> None:
    """Wait until the caption counts the given number of removed patches; check which they are."""
    from playwright.sync_api import expect  # an extra of those who develop

    expect(page.locator("#caption")).to_contain_text(f"{removed.sum()} of {TOTAL} patches removed")
    np.testing.assert_array_equal(removed_on(page), removed)


def cleared(page):
    page.locator("#clear").click()
    expect_removed(page, patches())
    return page


def message(page) -> str:
    page.locator("#message").wait_for(state="visible")
    return page.locator("#message").inner_text()


def own(page, *files: tuple[str, bytes], how: str = "drop") -> None:
    """Drop or paste files on the page."""
    script = """([how, files]) => {
      const transfer = new DataTransfer();
      for (const [name, content] of files) transfer.items.add(new File([Uint8Array.from(content)], name));
      const event = how === 'drop' ? new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true })
        : new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true });
      document.body.dispatchEvent(event);
    }"""
    page.evaluate(script, [how, [[name, list(content)] for name, content in files]])


def encoded(pixels: np.ndarray, kind: str = "PNG", **settings: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **settings)
    return stream.getvalue()


def expected_view(pixels: np.ndarray) -> np.ndarray:
    """Return what an evaluation sees of a picture, uint8 [H, W, 3]."""
    return eval_view(pixels, View(image_size=(32, 48), channels=3)).transpose(1, 2, 0)


def photo(height: int = 90, width: int = 200) -> np.ndarray:
    rows, columns = np.indices((height, width))
    return np.stack([255 * rows / height, 255 * columns / width, 60 + 0 * rows], axis=2).astype(np.uint8)
