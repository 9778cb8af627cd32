"""The page in a browser with its network in the server: pictures as in Python, waiting, cancelling, errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddlemae.engine.safe_import import paddle
from paddlemae.page.bundle import Content, Samples, add_samples, describe_model
from paddlemae.page.write_page import render
from paddlemae.serve.application import endpoint
from paddlemae.serve.messages import Answer, Request
from paddlemae.tasks.models.answers import answer_function, request_shape
from paddlemae.tasks.models.build import describe
from paddlemae.tasks.models.page_samples import CAPTIONS, pool_of
from tests.support.firefox import find_firefox, started_firefox
from tests.support.painted_pages import (
    NASTY,
    STATISTICS,
    Page,
    canvas,
    classifier,
    mae,
    removed_on,
    segmenter,
    smooth_images,
    stages,
)
from tests.support.served import TOKEN, Client, served

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.browser

WAIT = 10_000  # milliseconds


class Hold:
    """A model's answers, which can be held back."""

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        self.answer, self.free, self.fails, self.seen = answer, threading.Event(), False, list[Request]()
        self.free.set()

    def __call__(self, request: Request) -> Answer:
        self.seen.append(request)
        assert self.free.wait(30)
        if self.fails:
            raise RuntimeError("broken")
        return self.answer(request)


def described(model: Any) -> tuple[Page, bytes]:
    """Return a model with images, and the HTML of its page as `tasks.serve` makes it."""
    classes = [f"class {i}" for i in range(model.config.get("num_classes", 0))]
    description = describe(model, STATISTICS[3], bits=8, eval_crop_ratio=0.875, classes=classes)
    images, content = smooth_images(4, 3, 8), Content()
    features = np.eye(4, model.config["embed_dim"], dtype=np.float32)
    header = describe_model(description, title=NASTY, pool=pool_of(model), captions=CAPTIONS)
    header |= add_samples(content, Samples([NASTY, "b", "c", "d"], images, features))
    header |= {"tensors": {}, "endpoint": endpoint()}
    html = render(header, b"".join(content.parts)).encode()
    return Page(None, model, description, images, header), html  # type: ignore[arg-type]


@pytest.fixture
def visit(chromium) -> Iterator[Callable[..., tuple[Any, Page, Hold, Client]]]:
    """Serve a model and open its page; nothing may go wrong in it but what a test expects."""
    wrong: list[str] = []
    with ExitStack() as stack:

        def open_page(model: Any, expected: str = "", **settings: Any) -> tuple[Any, Page, Hold, Client]:
            made, html = described(model)
            answer = answer_function(made.model, made.description)
            hold = Hold(lambda request: answer(request, lambda: None))
            shape = request_shape(made.model)
            client = stack.enter_context(served(hold, shape=shape, page=html, **settings))
            page = stack.enter_context(chromium.new_context(viewport={"width": 1300, "height": 900})).new_page()
            page.set_default_timeout(WAIT)
            page.on("pageerror", lambda error: wrong.append(str(error)))

            def note(message: Any) -> None:
                if message.type in ("error", "warning") and not (expected and expected in message.text):
                    wrong.append(message.text)

            page.on("console", note)
            page.on("request", lambda asked: None if allowed(asked.url, client) else wrong.append(asked.url))
            page.goto(f"http://127.0.0.1:{client.port}/{TOKEN}/")
            page.locator("body[data-ready=server]").wait_for()
            return page, made, hold, client

        yield open_page
    assert not wrong


def allowed(url: str, client: Client) -> bool:
    return url.startswith((f"http://127.0.0.1:{client.port}/{TOKEN}/", "data:", "blob:"))


def computed(page: Any) -> None:
    page.locator("#status", has_text="on the server").wait_for()


def kept(page: Any, count: int) -> None:
    page.locator("#caption", has_text=f"{count} of 24 patches removed").wait_for()


@pytest.mark.parametrize("settings", [{}, {"norm_pix_loss": True}, {"decoder": "cross"}], ids=str)
def test_the_pictures_are_those_of_the_model(visit: Callable, settings: dict[str, Any]) -> None:
    paddle.seed(2)
    page, made, hold, _ = visit(mae(**settings))
    computed(page)
    for draw in (lambda: None, lambda: page.locator("[data-mask=block]").click()):
        draw()
        page.wait_for_timeout(300)
        computed(page)
        expected = stages(made, 0, removed_on(page))
        for name, stage in (("completed", "prediction + visible"), ("prediction", "prediction")):
            assert np.abs(canvas(page, name).astype(int) - expected[stage]).max() <= 1, name
    assert page.locator("#title").inner_text() == NASTY
    assert not any(request.features for request in hold.seen)  # the samples' are in the page


def test_a_classifier_and_a_segmenter_show_their_classes(visit: Callable) -> None:
    paddle.seed(2)
    page, made, _, _ = visit(classifier())
    computed(page)
    logits = made.model(paddle.to_tensor(normalised(made)))[0].numpy()
    assert page.locator("#bars li").first.inner_text().startswith(f"class {logits.argmax()}")
    page, made, _, _ = visit(segmenter())
    computed(page)
    best = made.model(paddle.to_tensor(normalised(made)))[0].numpy().argmax(0)
    labels = canvas(page, "labels").reshape(-1, 3)
    assert len(np.unique(labels, axis=0)) == len(np.unique(best))


def test_an_encoder_shows_neighbours_and_attention(visit: Callable) -> None:
    page, _, hold, _ = visit(classifier(0))
    computed(page)
    assert hold.seen[-1].attention is not None
    assert page.locator("#neighbour-list li").count() == 3


def normalised(made: Page) -> np.ndarray:
    mean, std = (np.float32(values).reshape(1, 3, 1, 1) for values in STATISTICS[3])
    made.model.eval()
    return ((made.images[:1] / np.float32(255) - mean) / std).astype(np.float32)


def test_attention_is_shown(visit: Callable) -> None:
    page, _, hold, _ = visit(mae())
    computed(page)
    page.locator("#attention").scroll_into_view_if_needed()
    page.locator("#attention-part").select_option(index=1)
    page.wait_for_timeout(500)
    computed(page)
    page.locator("#attention-map").hover()
    assert hold.seen[-1].attention is not None and hold.seen[-1].attention.part == "decoder"
    assert page.locator("#attention-text").inner_text()


def test_who_waits_reads_its_place_and_can_give_up(visit: Callable) -> None:
    page, _, hold, client = visit(mae(), seconds_a_job=20.0)
    computed(page)
    client.queue.seconds_a_job = 20.0
    hold.free.clear()
    client.post()
    page.locator("#clear").click()
    page.locator("#progress-text", has_text="1 before you, about").wait_for()
    page.locator("#cancel").click()
    page.locator("#status", has_text="Cancelled").wait_for()
    for _ in range(100):
        if len(client.queue) == 1:
            break
        page.wait_for_timeout(50)
    assert len(client.queue) == 1  # the other visitor's
    hold.free.set()
    page.locator("#invert").click()
    computed(page)


def test_a_brush_that_moves_leaves_few_requests(visit: Callable) -> None:
    page, _, hold, client = visit(mae())
    computed(page)
    page.locator("#clear").click()
    kept(page, 0)
    hold.free.clear()
    before = len(hold.seen)
    box = page.locator("#patches").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    for step in range(60):
        page.mouse.move(box["x"] + 5 + (box["width"] - 10) * step / 60, box["y"] + box["height"] * (step % 10) / 10)
        page.wait_for_timeout(10)
    page.mouse.up()
    page.wait_for_timeout(500)
    assert len(client.queue) <= 2
    hold.free.set()
    computed(page)
    page.wait_for_timeout(500)
    assert len(hold.seen) - before <= 4
    np.testing.assert_array_equal(hold.seen[-1].removed, removed_on(page))


def test_errors_are_lines_on_the_page(visit: Callable) -> None:
    page, _, hold, _ = visit(mae(), expected="Failed to load resource")
    computed(page)
    hold.fails = True
    page.locator("#clear").click()
    page.locator("#message", has_text="could not").wait_for()
    hold.fails = False
    page.locator("#invert").click()
    computed(page)


def test_firefox_shows_the_same(tmp_path: Path) -> None:
    executable = find_firefox()
    if executable is None:
        pytest.skip("there is no Firefox")
    paddle.seed(2)
    made, html = described(mae(norm_pix_loss=True))
    answer, removed = answer_function(made.model, made.description), np.zeros(24, bool)
    with (
        served(lambda request: answer(request, lambda: None), shape=request_shape(made.model), page=html) as client,
        started_firefox(executable, tmp_path) as browser,
    ):
        browser.open(f"http://127.0.0.1:{client.port}/{TOKEN}/")
        browser.wait_for("document.body.dataset.ready === 'server'")
        browser.wait_for("document.getElementById('caption').textContent.startsWith('18 of 24 ')")
        browser.evaluate("document.getElementById('clear').click()")
        browser.wait_for("document.getElementById('caption').textContent.startsWith('0 of 24 ')")
        for name, stage in (("completed", "prediction + visible"), ("prediction", "prediction")):
            assert np.abs(browser.canvas(name).astype(int) - stages(made, 0, removed)[stage]).max() <= 1, name
