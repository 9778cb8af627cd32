"""The documentation as a site: what `make docs` builds, and the check that it is whole by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.check_site import faults
from tests.support.pages import PAGES, README
from tests.support.paths import ROOT

BUILD = ["sphinx", "--quiet", "--nitpicky", "--fail-on-warning", "--fresh-env"]


def test_a_whole_site_has_no_faults(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text("p { background: url(data:image/png;base64,AA==) }")
    (tmp_path / "b c.html").write_text('<h1 id="here">B</h1><a href="https://example.org/x#y">far</a>')
    (tmp_path / "a.html").write_text(
        '<link rel="stylesheet" href="a.css?v=1"><a href="b%20c.html#here">b</a><a href="#top" id="top">a</a>'
        '<img src="data:image/png;base64,AA==">'
    )
    assert list(faults(tmp_path)) == []


@pytest.mark.parametrize(
    ("html", "fault"),
    [
        ('<script src="https://example.org/a.js"></script>', "a.html: loads https://example.org/a.js"),
        ('<img src="//example.org/a.png">', "a.html: loads //example.org/a.png"),
        ('<link rel="preconnect" href="https://example.org">', "a.html: loads https://example.org"),
        ('<p style="background: url(http://example.org/a.png)">', "a.html: loads http://example.org/a.png"),
        ('<img src="gone.png">', "a.html: gone.png is not there"),
        ('<img srcset="a.html 1x, gone.png 2x">', "a.html: gone.png is not there"),
        ('<a href="gone.html">', "a.html: gone.html is not there"),
        ('<a href="a.html#gone">', "a.html: a.html#gone leads to no heading"),
        ('<a href="#gone">', "a.html: #gone leads to no heading"),
    ],
)
def test_what_is_wrong_with_a_page_is_reported(tmp_path: Path, html: str, fault: str) -> None:
    (tmp_path / "a.html").write_text(html)
    assert list(faults(tmp_path)) == [fault]


@pytest.mark.parametrize(
    ("css", "fault"),
    [
        ("@import 'https://example.org/a.css';", "a.css: loads https://example.org/a.css"),
        ('p { src: url("https://example.org/a.woff") }', "a.css: loads https://example.org/a.woff"),
        ("p { background: url(gone.png) }", "a.css: gone.png is not there"),
    ],
)
def test_what_is_wrong_with_a_style_is_reported(tmp_path: Path, css: str, fault: str) -> None:
    (tmp_path / "a.html").write_text("<p>")
    (tmp_path / "a.css").write_text(css)
    assert list(faults(tmp_path)) == [fault]


def test_a_site_without_pages_is_not_whole(tmp_path: Path) -> None:
    assert list(faults(tmp_path)) == [f"{tmp_path}: no page"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("furo", reason="the extra [docs] is not installed")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", *BUILD, "-d", str(tmp_path_factory.mktemp("build")), str(ROOT / "docs"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def left_early(asked: Any) -> bool:
    """Check if a request of an embedded page's worker ended since the browser went to the next page."""
    return asked.url.startswith("blob:") and asked.failure == "net::ERR_ABORTED"


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_show_in_a_browser_without_a_network(site: Path, chromium, width: int) -> None:
    wrong: list[str] = []
    context = chromium.new_context(viewport={"width": width, "height": 900})
    context.set_offline(True)
    page = context.new_page()
    page.on(
        "console", lambda said: wrong.append(f"{page.url}: {said.text}") if said.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: wrong.append(f"{page.url}: {error}"))
    page.on("requestfailed", lambda asked: wrong.append(f"{page.url}: {asked.url}") if not left_early(asked) else None)
    page.on(
        "request", lambda asked: None if asked.url.startswith(("file:", "data:", "blob:")) else wrong.append(asked.url)
    )
    for source in PAGES:
        if source != README:
            page.goto((site / f"{source.stem}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{source.stem} is too wide"
            hidden = "Array.from(document.images).filter(one => !one.naturalWidth).map(one => one.src)"
            assert page.evaluate(hidden) == [], f"{source.stem} lacks pictures"
    context.close()
    assert not wrong


@pytest.mark.browser
def test_the_search_finds_a_page_from_disk(site: Path, chromium) -> None:
    page = chromium.new_page()
    page.goto((site / "search.html").as_uri() + "?q=keep_checkpoints")
    link = page.locator("#search-results a", has_text="Settings").first
    link.wait_for(timeout=10_000)
    assert "settings" in (link.get_attribute("href") or "")
    page.close()
