"""The report's page as a browser shows it, with the network cut."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from paddlemae.report.exhibit_views import PARTS
from paddlemae.report.missing import OF_SCENES
from paddlemae.report.page import render
from paddlemae.runs.confusion import Confusion
from tests.support.report_example import NASTY, bare_run, example, report_of

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.browser

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    path = folder / "report.html"
    path.write_text(render(*example(folder)), encoding="utf-8")
    return path


@pytest.fixture
def visit(chromium, file: Path) -> Iterator[Callable]:
    """Open the page; at the end nothing may have gone wrong in it and nothing been asked of a network."""
    wrong: list[str] = []
    contexts = []

    def request(asked) -> None:
        if asked.url != file.as_uri() and not asked.url.startswith("data:"):
            wrong.append(f"request of {asked.url}")

    def dialog(shown) -> None:
        wrong.append(f"dialog: {shown.message}")
        shown.dismiss()

    def open_page(**settings):
        context = chromium.new_context(**{"viewport": {"width": 1300, "height": 900}, **settings})
        contexts.append(context)
        context.set_offline(True)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", request)
        page.on("dialog", dialog)
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def chart(page, name: str = "loss"):
    """A chart of the whole run, drawn."""
    group = page.locator(".charts[data-runs='0']")
    group.scroll_into_view_if_needed()
    over = group.locator(f".chart[data-curve='{name}'] .u-over")
    over.scroll_into_view_if_needed()
    return group, over


def middle(page, locator, x: float = 0.5, y: float = 0.5) -> tuple[float, float]:
    box = locator.bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def tip_at(page, locator) -> str:
    """The words that are shown while the pointer is on something."""
    locator.scroll_into_view_if_needed()
    page.wait_for_timeout(100)  # a scroll, of which the page learns late, hides what was shown
    locator.hover()
    page.locator(".tip").wait_for(state="visible")
    return page.locator(".tip").inner_text()


def drag(page, over, start: float, end: float) -> None:
    page.mouse.move(*middle(page, over, start))
    page.mouse.down()
    page.mouse.move(*middle(page, over, end), steps=5)
    page.mouse.up()


def shown_range(group) -> list[float]:
    return [float(number) for number in (group.get_attribute("data-range") or "").split()]


def test_every_section_is_there(visit) -> None:
    page = visit()
    for number in (0, 1):
        for part in {*PARTS, "setup", "results", "curves"} - set(OF_SCENES):
            assert page.locator(f"#run-{number}-{part} h3").is_visible()
    for part in ("results", "curves", "recipes", "environments"):
        assert page.locator(f"#compared-{part} h3").is_visible()


def test_a_drag_zooms_and_reset_zooms_out(visit) -> None:
    group, over = chart(page := visit())
    reset = group.locator(".reset")
    assert reset.is_disabled() and not shown_range(group)
    drag(page, over, 0.25, 0.5)
    low, high = shown_range(group)
    assert low == pytest.approx(104, abs=8) and high == pytest.approx(202, abs=8)  # of steps 5 to 400
    assert re.fullmatch(r"step 1\d\d\S* to step (19|20)\d\S*", group.locator(".shown").inner_text())
    reset.click()
    assert not shown_range(group) and reset.is_disabled()
    drag(page, over, 0.5, 0.7)
    assert shown_range(group)
    over.dblclick()
    assert not shown_range(group)


def test_the_curves_axes_can_be_chosen(visit) -> None:
    group, over = chart(page := visit())
    group.locator("[data-axis='epoch']").click()
    drag(page, over, 0.25, 0.5)
    assert 0 < shown_range(group)[0] < 1.03
    group.locator("[data-axis='seconds']").click()
    assert not shown_range(group)
    group.locator("[data-log='log']").click()
    assert group.locator("[data-log='log']").get_attribute("aria-pressed") == "true"
    assert group.locator("[data-curve='loss'] .legend").inner_text() == "0.6006 at 2.33 min"


def test_overlaid_runs_tell_their_values_where_the_pointer_is(visit) -> None:
    page = visit()
    over = page.locator("#compared-curves [data-curve='loss'] .u-over")
    over.scroll_into_view_if_needed()
    page.mouse.move(*middle(page, over, 0.52))  # of steps 5 to 400; one run logs every 5th, the other every 8th
    legend = page.locator("#compared-curves [data-curve='loss'] .legend").inner_text()
    assert re.fullmatch(r"whole 0\.6\d+ at step 210\s+bare 0\.7\d+ at step 208", legend)


def test_zoom_by_touch(visit) -> None:
    group, over = chart(page := visit(**PHONE))
    devtools = page.context.new_cdp_session(page)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        devtools.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})

    touch("Start", middle(page, over, 0.3))
    for x in (0.4, 0.5, 0.6):
        touch("Move", middle(page, over, x))
    touch("End")
    low, high = shown_range(group)
    assert 90 < low < 160 and 220 < high < 270
    group.locator(".reset").tap()
    over.scroll_into_view_if_needed()
    touch("Start", middle(page, over, 0.4), middle(page, over, 0.6))
    for part in (0.05, 0.1, 0.2):
        touch("Move", middle(page, over, 0.4 - part), middle(page, over, 0.6 + part))
    touch("End")
    low, high = shown_range(group)
    assert 100 < low < high < 310


def point_at_a_mark(page) -> bool:
    """Move the pointer over the map until something is shown."""
    canvas = page.locator("#run-0-map canvas")
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(100)
    box = canvas.bounding_box()
    for y in range(1, 20):
        for x in range(1, 20):
            page.mouse.move(box["x"] + x / 20 * box["width"], box["y"] + y / 20 * box["height"])
            if page.locator(".tip").is_visible():
                return True
    return False


def test_the_map_shows_the_image_under_the_pointer(visit) -> None:
    page = visit()
    assert point_at_a_mark(page)
    tile = page.locator(".tip .tile")
    size = tile.bounding_box()
    assert min(size["width"], size["height"]) >= 64
    assert tile.evaluate("one => getComputedStyle(one).backgroundImage").startswith('url("data:image/jpeg')
    assert tile.evaluate("one => getComputedStyle(one).imageRendering") == "pixelated"
    page.locator("#run-0-map .classes button.none").click()
    assert not point_at_a_mark(page)
    page.locator("#run-0-map .list button", has_text=NASTY).click()
    assert point_at_a_mark(page) and page.locator(".tip").inner_text() == NASTY


def test_on_a_phone_a_tap_shows_the_image(visit) -> None:
    page = visit(**PHONE)
    canvas = page.locator("#run-0-map canvas")
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(100)
    for x in (0.2, 0.35, 0.5, 0.65, 0.8):
        for y in (0.2, 0.5, 0.8):
            page.touchscreen.tap(*middle(page, canvas, x, y))
            if page.locator(".tip .tile").is_visible():
                page.locator("#run-0-map h3").tap()
                assert not page.locator(".tip").is_visible()
                return
    pytest.fail("no tap showed an image")


def test_classes_of_the_map_are_switched_off_and_on(visit) -> None:
    page = visit()
    canvas, button = page.locator("#run-0-map canvas"), page.locator("#run-0-map .list button").first
    before = canvas.evaluate("one => one.toDataURL()")
    button.click()
    assert button.get_attribute("aria-pressed") == "false" and canvas.evaluate("one => one.toDataURL()") != before
    button.click()
    assert canvas.evaluate("one => one.toDataURL()") == before


def test_the_confusion_matrix_tells_its_cells(visit) -> None:
    page = visit()
    tip = tip_at(page, page.locator("table.confusion tbody tr").nth(0).locator("td").nth(2))
    assert re.fullmatch(r"true: plane\npredicted: bird\n6 of \d+ images, \d+\.\d%", tip)


def test_the_matrix_of_many_classes_is_drawn_in_few_pixels(chromium, tmp_path: Path) -> None:
    """A canvas of 21,000 x 21,000 pixels is more than browsers make."""
    size = 21_000
    labels = np.arange(size)
    content = {"source": "", "classes": [f"class {i}" for i in labels], **Confusion.of(labels, labels, size).as_json()}
    run = {**bare_run(), "exhibits": {**bare_run()["exhibits"], "confusion": content}}
    (tmp_path / "a.html").write_text(render(report_of([run]), [tmp_path]), encoding="utf-8")
    page = chromium.new_page(viewport={"width": 1300, "height": 900})
    page.goto((tmp_path / "a.html").as_uri())
    canvas = page.locator(".matrix canvas")
    assert canvas.evaluate("one => [one.width, one.height]") == [1024, 1024]
    on_the_diagonal = (
        "one => [...one.getContext('2d').getImageData(0, 0, 1024, 1024).data.filter((_, i) => i % 4 === 3)]"
    )
    assert (np.array(canvas.evaluate(on_the_diagonal)).reshape(1024, 1024) > 0).sum() == 1024
    x, y = middle(page, canvas, 100.5 / 1024, 100.5 / 1024)
    canvas.dispatch_event("pointermove", {"clientX": x, "clientY": y})
    said = page.locator(".tip").inner_text().split("\n")
    assert said[0].removeprefix("true: ") == said[1].removeprefix("predicted: ") and said[2] == "1 of 1 images, 100.0%"
    page.close()


def test_the_slider_shows_a_time_in_training(visit) -> None:
    page = visit()
    page.locator("#run-0-reconstructions input").evaluate(
        "one => { one.value = 0; one.dispatchEvent(new Event('input')) }"
    )
    assert page.locator("#run-0-reconstructions output").inner_text() == "step 0, epoch 0"
    shown, first = (page.locator(f"#run-0-reconstructions {row} img").first for row in (".watched", ".snapshot"))
    assert shown.get_attribute("src") == first.get_attribute("src")


@pytest.mark.parametrize("width", [390, 768, 1100, 1300])
def test_the_page_is_no_wider_than_the_screen(visit, width: int) -> None:
    page = visit(viewport={"width": width, "height": 844})
    for details in page.locator("section details").all():
        details.evaluate("one => { one.open = true }")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_on_a_phone_the_contents_fold(visit) -> None:
    page = visit(**PHONE)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    link = page.locator(".toc a[href='#run-0-map']")
    assert not link.is_visible()
    page.locator(".toc summary").tap()
    link.tap()
    assert not link.is_visible() and page.url.endswith("#run-0-map")


def test_the_scheme_follows_the_screen_and_the_button(visit) -> None:
    page = visit(color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(18, 22, 28)"
    chart(page)
    drawn = page.locator(".charts[data-runs='0'] [data-curve='loss'] canvas").first
    dark = drawn.evaluate("one => one.toDataURL()")
    page.locator(".theme").click()
    assert page.evaluate(ground) == "rgb(255, 255, 255)" and page.locator(".theme").inner_text() == "Theme: light"
    drawn = page.locator(".charts[data-runs='0'] [data-curve='loss'] canvas").first
    assert drawn.evaluate("one => one.toDataURL()") != dark


def test_a_strangers_class_name_is_shown_and_runs_nothing(visit) -> None:
    page = visit()
    assert page.locator("table.confusion tbody th", has_text=NASTY).inner_text() == NASTY
    assert page.locator("img[src='x']").count() == 0
    assert f"true: {NASTY}" in tip_at(page, page.locator("table.confusion tbody tr").nth(3).locator("td").first)
    assert page.locator(".map .list button", has_text=NASTY).is_visible()


def test_copying_takes_the_command(visit) -> None:
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    page.locator("#run-0-setup .copy").click()
    sync_api.expect(page.locator("#run-0-setup .copy")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "paddlemae pretrain 'cifar 10'"


def test_without_scripts_tables_and_pictures_are_there(visit) -> None:
    page = visit(java_script_enabled=False)
    assert page.locator("#run-0-results table").is_visible() and page.locator("table.confusion").is_visible()
    assert page.locator("#run-0-reconstructions img").first.is_visible()
    assert page.locator("#run-0-mistakes .tile").first.is_visible()
    assert not page.locator(".copy").first.is_visible() and not page.locator(".controls").first.is_visible()
    assert "first 1.06, last 0.6006" in page.locator("#run-0-curves").inner_text()


def test_it_prints_in_light_with_its_commands(visit) -> None:
    page = visit(color_scheme="dark")
    assert not page.locator("#run-1-curves canvas").count()  # drawn when it comes near the screen
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator(".swatch").first.get_attribute("style") == "background: rgb(194, 65, 12);"
    assert page.locator("#run-0-results .made code").first.is_visible()
    assert not page.locator("nav").is_visible()
    assert page.locator("#run-1-curves canvas").count() > 0  # though never scrolled to
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.locator("#run-0-results .made code").first.is_visible()
