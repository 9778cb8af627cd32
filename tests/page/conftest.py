"""Pages of tiny models, opened with the network cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from paddlemae.engine.safe_import import paddle
from tests.support.painted_pages import NASTY, Page, classifier, mae, segmenter, write_page

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
        "cross": lambda: mae(decoder="cross"),
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
