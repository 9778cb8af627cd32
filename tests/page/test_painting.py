"""Masks are painted with a mouse, fingers and keys, drawn at a ratio and saved; the pictures follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.tasks.models.mask_choice import choose_mask, parse_mask
from tests.support.page_actions import (
    PHONE,
    TOTAL,
    cleared,
    drag,
    expect_removed,
    message,
    middle,
    patches,
)
from tests.support.painted_pages import GRID, canvas, removed_on, stages

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.browser


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
    drag(page, 13, 15)  # removed already: nothing to be undone
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
