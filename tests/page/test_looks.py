"""The page in light and dark, on screens of every width, with contrast and large targets."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.page_actions import (
    PHONE,
    message,
    own,
)

pytestmark = pytest.mark.browser


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
