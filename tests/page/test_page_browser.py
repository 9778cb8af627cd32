"""The page as readers use it: painting, own pictures, panels, themes and phones, with the network cut."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.views.augment import View, eval_view
from paddlemae.engine.safe_import import paddle
from paddlemae.tasks.models.mask_choice import choose_mask, parse_mask
from tests.support.painted_pages import (
    GRID,
    NASTY,
    Page,
    canvas,
    classifier,
    mae,
    removed_on,
    segmenter,
    stages,
    write_page,
)

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.browser

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
TOTAL = GRID[0] * GRID[1]
WAIT = 5000  # milliseconds for what takes a few


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Page]:
    """Write a page once for each kind of model."""
    pages: dict[str, Page] = {}
    kinds: dict[str, Callable[[], Any]] = {
        "raw": lambda: mae(),
        "normalised": lambda: mae(norm_pix_loss=True),
        "five": lambda: mae(5),
        "gray": lambda: mae(1),
        "empty": lambda: mae(),
        "classifier": classifier,
        "labels": classifier,
        "encoder": classifier,
        "segmenter": segmenter,
    }
    settings = {
        "labels": {"thresholds": [0.1] * 6 + [0.9]},
        "empty": {"samples": 0},
        "encoder": {"kind": "encoder"},
        "segmenter": {"palette": [[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]], "classes": [NASTY, "b", "c", "d"]},
    }

    def make(kind: str) -> Page:
        if kind not in pages:
            paddle.seed(1)
            pages[kind] = write_page(tmp_path_factory.mktemp("page"), kinds[kind](), **settings.get(kind, {}))
        return pages[kind]

    return make


@pytest.fixture
def visit(chromium, made: Callable[..., Page]) -> Iterator[Callable]:
    """Open a page; at the end nothing may have gone wrong in it and nothing been asked of a network."""
    wrong: list[str] = []
    contexts = []

    def open_page(kind: str = "raw", script: str | None = None, **settings):
        path = made(kind).path
        context = chromium.new_context(**{"viewport": {"width": 1300, "height": 900}, **settings})
        contexts.append(context)
        context.set_offline(True)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        allowed = (path.as_uri(), "data:", "blob:")
        page.on("request", lambda asked: None if asked.url.startswith(allowed) else wrong.append(asked.url))
        page.on("dialog", lambda shown: (wrong.append(f"dialog: {shown.message}"), shown.dismiss()))
        if script:
            page.add_init_script(script)
        page.goto(path.as_uri())
        page.locator("body[data-ready]").wait_for()
        if kind != "empty":
            page.locator("#status", has_text="Computed").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


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
    """Wait until the caption counts so many removed patches; check which they are."""
    sync_api.expect(page.locator("#caption")).to_contain_text(f"{removed.sum()} of {TOTAL} patches removed")
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


@pytest.mark.parametrize("kind", ["raw", "normalised"])
def test_the_mouse_paints_and_the_model_fills_in(visit, made, kind: str) -> None:
    page = cleared(visit(kind))
    drag(page, 8, 10, 22)
    removed = patches(8, 9, 10, 16, 22)
    expect_removed(page, removed)
    expected = stages(made(kind), 0, removed)
    for name, stage in {"completed": "prediction + visible", "prediction": "prediction", "masked": "masked"}.items():
        assert np.abs(canvas(page, name).astype(int) - expected[stage]).max() <= 1, name
    if kind == "normalised":
        page.locator("#plain").check()
        sync_api.expect(page.locator("#caption")).to_contain_text("plain")
        assert np.abs(canvas(page, "prediction").astype(int) - expected["plain prediction"]).max() <= 1
    else:
        assert page.locator("#plain-switch").is_hidden()


def test_erasers_right_buttons_and_boxes(visit) -> None:
    page = cleared(visit())
    page.locator("[data-tool=box]").click()
    drag(page, 1, 15)
    expect_removed(page, patches(1, 2, 3, 7, 8, 9, 13, 14, 15))
    page.locator("[data-tool=eraser]").click()
    drag(page, 7, 9)
    expect_removed(page, patches(1, 2, 3, 13, 14, 15))
    page.locator("[data-tool=brush]").click()
    drag(page, 2, button="right")
    expect_removed(page, patches(1, 3, 13, 14, 15))
    for removed in (patches(1, 2, 3, 13, 14, 15), patches(1, 2, 3, 7, 8, 9, 13, 14, 15), patches()):
        page.keyboard.press("Control+z")
        expect_removed(page, removed)


def test_the_pictures_follow_while_the_button_is_down(visit) -> None:
    page = cleared(visit())
    page.mouse.move(*middle(page, 0))
    page.mouse.down()
    for place in range(1, 5):
        page.mouse.move(*middle(page, place), steps=2)
        expect_removed(page, patches(*range(place + 1)))
    page.mouse.up()


def test_fingers_paint_and_do_not_scroll(visit) -> None:
    page = cleared(visit(**PHONE))
    touch = page.context.new_cdp_session(page)
    for kind, place in (("touchStart", 6), ("touchMove", 7), ("touchMove", 13), ("touchMove", 19)):
        x, y = middle(page, place)
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect_removed(page, patches(6, 7, 13, 19))
    assert page.evaluate("scrollY") == 0


def test_keys_paint(visit) -> None:
    page = cleared(visit())
    page.locator("#patches").focus()
    for key in ("ArrowDown", "ArrowRight", "Space", "Shift+ArrowRight", "Shift+ArrowDown"):
        page.keyboard.press(key)
    expect_removed(page, patches(7, 8, 14))
    cell = page.locator("#patches [role=gridcell]")
    assert cell.get_attribute("aria-selected") == "true" and cell.get_attribute("aria-colindex") == "3"
    assert page.locator("#patches").get_attribute("aria-activedescendant") == cell.get_attribute("id")
    page.keyboard.press("Space")
    expect_removed(page, patches(7, 8))
    for key in ("x", "Control+Home", "Space", "Control+End", "Space"):
        page.keyboard.press(key)
    sync_api.expect(page.locator("#message")).to_contain_text("One patch must be kept")
    for key in ("z", "e", "ArrowUp"):
        page.keyboard.press(key)
    expect_removed(page, patches(7, 8))
    page.keyboard.press("i")
    expect_removed(page, ~patches(7, 8))
    page.keyboard.press("?")
    assert page.locator("#help").is_visible() and page.locator("#help kbd").count() > 15
    page.keyboard.press("Escape")
    assert page.locator("#help").is_hidden()


def test_what_changed_is_said_to_screen_readers(visit) -> None:
    page = cleared(visit())
    drag(page, 8, 10)
    said = page.locator("#live[role=status]")
    sync_api.expect(said).to_contain_text("3 of 24 patches removed; reconstructed in")
    unnamed = """() => [...document.querySelectorAll('button, input, select, canvas:not([aria-hidden]), [role=option]')]
      .filter((one) => !one.getAttribute('aria-label') && !one.textContent.trim() && !one.labels?.length).length"""
    assert page.evaluate(unnamed) == 0


def test_masks_are_drawn_at_the_slider(visit) -> None:
    page = visit()
    counts = []
    for kind in ("random", "block", "grid"):
        page.locator(f"[data-mask={kind}]").click()
        counts.append(removed_on(page).sum())
    assert counts == [18, 18, 18]
    page.locator("[data-mask=block]").click()
    page.locator("#ratio").fill("50")
    sync_api.expect(page.locator("#caption")).to_contain_text("12 of 24")
    before = removed_on(page)
    page.locator("[data-mask=block]").click()
    assert removed_on(page).sum() == 12 and (removed_on(page) != before).any()
    sync_api.expect(page.locator("#ratio-value")).to_have_text("50%")


@pytest.mark.parametrize("way", ["invert", "slider", "brush"])
def test_one_patch_is_always_kept(visit, way: str) -> None:
    page = cleared(visit())
    if way == "invert":
        page.locator("#invert").click()
    elif way == "slider":
        page.locator("#ratio").fill("100")
    else:
        drag(page, *(place for row in range(4) for place in (6 * row, 6 * row + 5)))
    assert "One patch must be kept" in message(page)
    expect_removed(page, ~patches(*np.flatnonzero(~removed_on(page))))
    assert removed_on(page).sum() == TOTAL - 1
    page.locator("#undo").click()
    assert page.locator("#message").is_hidden()


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


def test_a_classifier_shows_bars(visit) -> None:
    page = visit("classifier")
    bars = page.locator("#bars li")
    assert bars.count() == 5 and page.locator("#panel-completed").is_hidden()
    shares = [float(text.rstrip("%")) for text in page.locator("#bars .share").all_inner_texts()]
    assert shares == sorted(shares, reverse=True) and page.locator("#bars .said").count() == 1
    page.locator("#more-classes").click()
    assert bars.count() == 7
    before = page.locator("#bars").inner_text()
    drag(page, 0, 5, 11, 6)
    expect_removed(page, patches(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11))
    assert page.locator("#bars").inner_text() != before
    marks = "() => [...document.querySelectorAll('#bars .whole')].map((one) => one.style.left)"
    fills = "() => [...document.querySelectorAll('#bars .fill')].map((one) => one.style.width)"
    changed = page.evaluate(marks)
    assert len(changed) == 7 and changed != page.evaluate(fills)
    page.locator("#clear").click()
    sync_api.expect(page.locator("#bars")).to_have_text(before, use_inner_text=True)
    assert page.evaluate(marks) == page.evaluate(fills)  # the probabilities with nothing removed


def test_classes_that_do_not_exclude_each_other_have_thresholds(visit) -> None:
    page = visit("labels")
    page.locator("#more-classes").click()
    shares = [float(text.rstrip("%")) for text in page.locator("#bars .share").all_inner_texts()]
    names = page.locator("#bars .name").all_inner_texts()
    said = page.locator("#bars .said .name").all_inner_texts()
    assert said == [name for name, share in zip(names, shares) if share >= (90 if name == "class 6" else 10)]
    assert sum(shares) > 150 and page.locator("#bars .threshold").count() == 7


def test_a_segmenter_shows_its_mask_and_legend(visit) -> None:
    page = visit("segmenter")
    labels = canvas(page, "labels")
    legend = page.locator("#legend .entry")
    shares = dict(zip(page.locator("#legend .entry span:nth-child(2)").all_inner_texts(), legend.all()))
    palette = {NASTY: (255, 0, 0), "b": (0, 255, 0), "c": (0, 0, 255), "d": (9, 9, 9)}
    for name, entry in shares.items():
        share = (labels == palette[name]).all(axis=2).mean()
        assert f"{100 * share:.1f}%" == entry.locator(".share").inner_text()
    blended = canvas(page, "overlay").astype(int)
    assert np.abs(blended - (canvas(page, "original").astype(int) + labels) / 2).max() <= 1
    box = page.locator("#overlay").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    name = next(name for name, colour in palette.items() if (labels[0, 0] == colour).all())
    sync_api.expect(page.locator("#pointed")).to_have_text(name)


def test_an_encoder_alone_shows_attention_and_neighbours(visit) -> None:
    page = visit("encoder")
    shown = {
        name: page.locator(f"#{name}").is_visible() for name in ("masked", "completed", "bars", "overlay", "labels")
    }
    assert shown == {"masked": True, "completed": False, "bars": False, "overlay": False, "labels": False}
    sync_api.expect(page.locator("#attention-text")).to_contain_text("looks most at")
    assert page.locator("#attention-part option").all_inner_texts() == ["encoder"]
    assert page.locator("#neighbour-list li").count() == 5


def test_attention_says_where_a_patch_looks(visit) -> None:
    page = cleared(visit())
    text = page.locator("#attention-text")
    sync_api.expect(text).to_contain_text("looks most at")
    assert page.locator("#attention-part option").count() == 2 and page.locator("#attention-block option").count() == 2
    page.locator("#attention-head").select_option("1")
    one = text.inner_text()
    page.locator("#attention-head").select_option("mean")
    sync_api.expect(text).not_to_have_text(one)
    page.locator("#attention-map").focus()
    page.keyboard.press("Control+Home")
    sync_api.expect(text).to_contain_text("The patch at row 1, column 1 looks")
    drag(page, 0)
    sync_api.expect(text).to_contain_text("row 1, column 1 is removed")
    page.locator("#attention-part").select_option("decoder")
    sync_api.expect(text).to_contain_text("row 1, column 1 looks most at")
    page.locator("#attention-map").hover(position={"x": 3, "y": 60})
    sync_api.expect(text).not_to_contain_text("The patch at row 1, column 1")


def test_neighbours_are_ranked_and_opened(visit, made) -> None:
    page = visit()
    cosines = [float(text) for text in page.locator("#neighbour-list .small").all_inner_texts()]
    assert len(cosines) == 5 and cosines == sorted(cosines, reverse=True)
    first = page.locator("#neighbour-list button").first
    title = first.get_attribute("title").rsplit(",", 1)[0]
    first.click()
    assert page.locator("#samples [aria-selected=true]").get_attribute("aria-label") == title
    own(page, ("a.png", encoded(photo())))
    sync_api.expect(page.locator("#neighbour-list li")).to_have_count(6)  # an own picture is none of the samples


def test_saved_masks_are_read_by_the_command(visit, tmp_path: Path) -> None:
    page = cleared(visit())
    drag(page, 8, 10)
    expect_removed(page, patches(8, 9, 10))
    saved = {}
    for name in ("mask", "completed"):
        with page.expect_download() as download:
            page.locator(f"#save-{name}").click()
        saved[name] = tmp_path / f"{name}.png"
        download.value.save_as(saved[name])
    mask = choose_mask(parse_mask(str(saved["mask"])), GRID, 1, (8, 8))
    assert mask.as_map()[0].tolist() == patches(8, 9, 10).tolist()
    assert (np.asarray(Image.open(saved["completed"]).convert("RGB")) == canvas(page, "completed")).all()


def test_without_workers_the_page_computes(visit, made) -> None:
    page = cleared(visit(script="delete window.Worker"))
    assert page.locator("body").get_attribute("data-ready") == "page"
    assert "no workers" in page.locator("#status").inner_text()
    drag(page, 3, 9)
    expect_removed(page, patches(3, 9))
    expected = stages(made("raw"), 0, patches(3, 9))["prediction + visible"]
    assert np.abs(canvas(page, "completed").astype(int) - expected).max() <= 1


FAKE = """() => {
  window.log = [];
  const engine = {
    run: (request, onProgress) => new Promise((resolve, reject) => {
      engine.stop = () => reject(new DOMException('', 'AbortError'));
      engine.end = () => resolve({ milliseconds: 1000 });
      engine.say = onProgress;
      log.push(`run ${request}`);
    }),
    cancel: () => { log.push('cancel'); engine.stop(); },
  };
  window.engine = engine;
  window.number = 0;
  window.runs = paddlemaeRuns.createRuns(engine, {
    request: () => ++number, finished: (asked) => log.push(`finished ${asked}`), failed: () => log.push('failed'),
    cancelled: () => log.push('cancelled'),
  });
  runs.ask();
}"""


def test_long_runs_show_progress_and_can_be_cancelled(visit) -> None:
    page = visit()
    page.evaluate(FAKE)
    page.locator("#progress").wait_for()
    page.evaluate("engine.say({ done: 1, total: 4 })")
    assert page.evaluate("document.getElementById('progress').value") == 0.25
    page.evaluate("engine.say({ position: 3, seconds: 7.2 })")
    assert page.locator("#progress-text").inner_text() == "3 before you, about 8 s"
    page.evaluate("runs.ask()")  # a newer request cancels one that takes long
    page.wait_for_function("() => log.includes('run 2')")
    page.evaluate("engine.end()")
    page.wait_for_function("() => log.includes('finished 2')")
    page.evaluate("runs.ask()")
    page.locator("#cancel").click()
    assert page.evaluate("log") == ["run 1", "cancel", "run 2", "finished 2", "run 3", "cancel", "cancelled"]
    assert page.locator("#progress").is_hidden() and page.locator("#cancel").is_hidden()


def test_the_scheme_follows_the_screen_and_the_button(visit) -> None:
    page = visit(color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(18, 22, 28)"
    page.locator("#theme").click()
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.locator("#theme").click()
    assert page.evaluate(ground) == "rgb(18, 22, 28)"


CONTRASTS = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (one) => {
    for (; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const one of document.querySelectorAll('body *')) {
    const isText = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!isText || !one.getClientRects().length || one.disabled || one.matches('option, script, style')) continue;
    const [a, b] = [light(parse(getComputedStyle(one).color)), light(ground(one))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) low.push([one.outerHTML.slice(0, 80), contrast]);
  }
  return low;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["normalised", "classifier", "segmenter"])
def test_words_have_contrast(visit, kind: str, scheme: Any) -> None:
    page = visit(kind, color_scheme=scheme)
    own(page, ("a.txt", b"no image"))
    message(page)
    assert page.evaluate(CONTRASTS) == []
    page.locator("#open-help").click()
    assert page.evaluate(CONTRASTS) == []


@pytest.mark.parametrize("width", [320, 390, 768, 1000, 1300])
@pytest.mark.parametrize("kind", ["normalised", "classifier", "segmenter"])
def test_the_page_is_no_wider_than_the_screen(visit, kind: str, width: int) -> None:
    page = visit(kind, viewport={"width": width, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_on_a_phone_pictures_are_in_two_columns_and_targets_are_large(visit) -> None:
    page = visit(**PHONE)
    boxes = [page.locator(f"#{name}").bounding_box() for name in ("original", "completed", "masked", "prediction")]
    assert {round(box["x"]) for box in boxes} == {round(boxes[0]["x"]), round(boxes[1]["x"])}
    assert boxes[0]["y"] == boxes[1]["y"] < boxes[2]["y"] == boxes[3]["y"]
    small = """() => [...document.querySelectorAll('button, select, [role=option]')].filter((one) => {
      const box = one.getBoundingClientRect();
      return box.width && Math.min(box.width, box.height) < 39.5;
    }).map((one) => one.outerHTML)"""
    assert page.evaluate(small) == []
