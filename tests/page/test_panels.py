"""What the page shows of each kind of model: bars, masks with a legend, attention, neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.page_actions import (
    cleared,
    drag,
    encoded,
    expect_removed,
    own,
    patches,
    photo,
)
from tests.support.painted_pages import NASTY, canvas

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.browser


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


def test_attention_of_a_cross_decoder_is_shown_with_nothing_removed(visit) -> None:
    page = cleared(visit("cross"))
    page.locator("#attention-part").select_option("decoder")
    sync_api.expect(page.locator("#attention-text")).to_contain_text("looks most at")
    assert (canvas(page, "completed") == canvas(page, "original")).all()


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
