"""Own pictures on the page: dropped, pasted, chosen; of any size, type and orientation, or none at all."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from PIL import Image

from tests.support.page_actions import (
    cleared,
    drag,
    encoded,
    expect_removed,
    expected_view,
    message,
    own,
    patches,
    photo,
)
from tests.support.painted_pages import NASTY, canvas

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.browser


@pytest.mark.parametrize("how, turn", [*(("drop", turn) for turn in range(1, 9)), ("paste", 6), ("choose", 6)])
def test_own_photos_are_upright(visit, how: str, turn: int) -> None:
    page = visit()
    upright = photo()
    stored = Image.fromarray(upright)
    if turn > 1:
        transposed = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[turn]  # what undoes the orientation
        stored = stored.transpose(Image.Transpose(transposed))
    exif = Image.Exif()
    exif[274] = turn
    content = encoded(np.asarray(stored), "JPEG", exif=exif, quality=95, subsampling=0)
    if how == "choose":
        page.locator("#file").set_input_files([{"name": "a.jpg", "mimeType": "image/jpeg", "buffer": content}])
    else:
        own(page, ("a.jpg", content), how=how)
    page.locator("#samples [aria-selected=true][aria-label='a.jpg']").wait_for()
    assert np.abs(canvas(page, "original").astype(int) - expected_view(upright)).max() < 12  # a JPEG


def test_gray_models_read_colours(visit) -> None:
    page = visit("gray")
    own(page, ("a.png", encoded(photo())))
    page.locator("#samples [aria-selected=true][aria-label='a.png']").wait_for()
    luma = np.asarray(Image.fromarray(photo()).convert("L"))[..., None].repeat(3, axis=2)
    assert np.abs(canvas(page, "original").astype(int) - expected_view(luma)).max() <= 2


def test_what_is_no_image_is_one_line(visit) -> None:
    page = visit()
    before = canvas(page, "original")
    own(page, (NASTY, b"not an image"), ("cut.jpg", encoded(photo(), "JPEG")[:100]), ("empty.png", b""))
    sync_api.expect(page.locator("#message")).to_contain_text("empty.png")
    assert NASTY in message(page) and "cut.jpg" in message(page)
    assert (canvas(page, "original") == before).all() and page.locator("img").count() == 0
    own(page, ("good.png", encoded(photo())))
    page.locator("#samples [aria-selected=true][aria-label='good.png']").wait_for()
    sync_api.expect(page.locator("#message")).to_be_hidden()


def test_names_with_markup_stay_text(visit) -> None:
    page = visit()
    assert page.locator("#samples [role=option]").first.get_attribute("aria-label") == NASTY
    own(page, (NASTY, encoded(photo())))
    page.locator("#samples [role=option]").nth(6).wait_for()
    assert page.locator("#samples [role=option]").first.get_attribute("aria-label") == NASTY
    assert page.locator("img").count() == 0


def huge_png(side: int) -> bytes:
    """Return a gray PNG of side x side pixels: dark above, bright below."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    packer = zlib.compressobj(1)
    rows = [bytes(1) + bytes([value]) * side for value in (40, 200)]
    data = b"".join(packer.compress(rows[row >= side // 2]) for row in range(side)) + packer.flush()
    header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_hundred_megapixels_are_read_or_refused_in_a_line(visit) -> None:
    page = visit()
    content = huge_png(10_000)
    page.locator("#file").set_input_files([{"name": "huge.png", "mimeType": "image/png", "buffer": content}])
    page.wait_for_function(
        """() => document.querySelector("#samples [aria-label='huge.png']") ||
          document.getElementById('message').dataset.kind === 'warning'""",
        timeout=60_000,
    )
    if page.locator("#samples [aria-label='huge.png']").count():
        shown = canvas(page, "original")
        assert (shown[:12] == 40).all() and (shown[-12:] == 200).all()
    else:
        assert "huge.png" in message(page)


def test_drawings_are_read(visit) -> None:
    page = visit()
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg" width="96" height="64"><rect width="48" height="64"/></svg>'
    page.locator("#file").set_input_files([{"name": "a.svg", "mimeType": "image/svg+xml", "buffer": drawing}])
    page.locator("#samples [aria-selected=true][aria-label='a.svg']").wait_for()
    shown = canvas(page, "original")
    assert (shown[:, :20] < 3).all() and (shown[:, -20:] > 252).all()  # nothing is white


def test_a_page_without_samples_waits_for_a_picture(visit) -> None:
    page = visit("empty")
    assert "open a picture" in message(page)
    drag(page, 0, 3)
    page.keyboard.press("n")
    own(page, ("a.png", encoded(photo())))
    page.locator("#samples [aria-selected=true][aria-label='a.png']").wait_for()
    cleared(page)
    drag(page, 0, 3)
    expect_removed(page, patches(0, 1, 2, 3))
    assert page.locator("#neighbours").is_hidden()


def test_models_of_other_channels_show_samples_only(visit) -> None:
    page = visit("five")
    assert "5 channels" in page.locator("#own").inner_text() and page.locator("#open-file").is_hidden()
    own(page, ("a.png", encoded(photo())))
    sync_api.expect(page.locator("#message")).to_contain_text("only the samples")
    assert page.locator("#samples [role=option]").count() == 6


def test_no_camera_is_one_line(visit) -> None:
    page = visit()
    page.locator("#open-camera").click()
    assert "camera" in message(page).lower() and page.locator("#camera").is_hidden()
