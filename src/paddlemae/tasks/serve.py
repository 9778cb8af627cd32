"""Serve the page of a model whose network runs in this process, for models that are too large for a page."""

from __future__ import annotations

import secrets
import threading
import time
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paddlemae.engine import device
from paddlemae.engine.safe_import import paddle
from paddlemae.page.bundle import Content, add_samples, describe_model
from paddlemae.page.write_page import render
from paddlemae.serve.application import Application, endpoint
from paddlemae.serve.jobs import Compute, JobQueue
from paddlemae.serve.listen import accepted_hosts, address_of, check_installed, open_port, running
from paddlemae.serve.messages import Answer, Request, RequestShape
from paddlemae.system.display_names import display_name, say
from paddlemae.system.signals import Preempted
from paddlemae.tasks.models.answers import answer_function, request_shape
from paddlemae.tasks.models.build import load_encoder
from paddlemae.tasks.models.page_samples import CAPTIONS, DEFAULT_SAMPLES, choose_samples, pool_of
from paddlemae.tasks.models.read_model import read_checkpoint

MOST_JOBS = 128
FEWEST_JOBS = 8
QUEUE_BYTES = 2**28  # of requests and answers, which may make the queue shorter
MOST_FAULTS = 10  # of the model that are printed
TOKEN_BYTES = 24
LOOK_SECONDS = 0.5  # between two looks for signals


@dataclass(frozen=True)
class Address:
    """Where to listen.

    Attributes:
        host: a name or number of this machine; others than loopback let other machines in.
        port: 0 is any free one.
        opens_browser: whether to open the page, too.
    """

    host: str = "127.0.0.1"
    port: int = 0
    opens_browser: bool = False


def serve(
    run: str | Path,
    images: list[str],
    address: Address,
    *,
    limit: int = DEFAULT_SAMPLES,
    title: str | None = None,
    trust: bool = False,
) -> None:
    """Serve a model's page until a signal comes.

    Args:
        run: a run folder, a checkpoint, or a file of weights.
        images: samples, as in `choose_samples`.
        limit: sample images at most.
        title: of the page; None is the name of the run.
        trust: see `read_checkpoint`.
    Raises:
        ModuleNotFoundError: waitress is not installed.
        FileNotFoundError, ValueError: no such run, images, host or port.
        KeyboardInterrupt, Preempted: a signal came.
    """
    check_installed()
    with open_port(address.host, address.port) as listener:  # before the model is read, which takes longer
        served = read_served(run, images, limit, title or display_name(Path(run).name), trust=trust)
        seconds = measure(served.answer, served.shape)
        token = secrets.token_urlsafe(TOKEN_BYTES)
        jobs = JobQueue(
            served.answer, most_jobs=most_jobs(served.shape), seconds_a_job=seconds, on_failure=failure_printer()
        )
        try:
            hosts = accepted_hosts(listener)
            application = Application(token, served.page, served.shape, jobs, hosts)
            with running(application, listener):
                if hosts is None:
                    say("warning: other machines can open this page, unencrypted, with its address", error=True)
                url = f"http://{address_of(listener)}/{token}/"
                print(f"serving {display_name(served.title)} at {url} - stop with Ctrl-C", flush=True)
                if address.opens_browser:
                    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
                wait_for_signal()
        finally:
            jobs.close()


@dataclass(frozen=True)
class Served:
    """Hold what the server has of a model.

    Attributes:
        title, page: of the page, and its HTML without weights.
        shape, answer: of requests, and what answers them.
    """

    title: str
    page: bytes
    shape: RequestShape
    answer: Compute


def read_served(run: str | Path, images: list[str], limit: int, title: str, *, trust: bool) -> Served:
    """Read a model and its samples; the file's tensors, which the model has copied, are freed."""
    checkpoint = read_checkpoint(run, trust=trust)
    device.prepare("auto")  # not before: what is freed from then on is kept for tensors
    model, description = load_encoder(checkpoint), checkpoint.description
    content = Content()
    header = describe_model(description, title=title, pool=pool_of(model), captions=CAPTIONS)
    header |= add_samples(content, choose_samples(checkpoint, model, images, limit))
    shape = request_shape(model)
    header |= {"tensors": {}, "endpoint": endpoint(), "blocks": shape.blocks}
    page = render(header, b"".join(content.parts)).encode()
    return Served(title, page, shape, in_its_thread(answer_function(model, description)))


def in_its_thread(answer: Compute) -> Compute:
    """Return what answers requests, for a thread that Paddle does not know yet."""
    place = paddle.get_device()

    def compute(request: Request, check_wanted: Callable[[], None]) -> Answer:
        paddle.set_device(place)  # of this thread
        return answer(request, check_wanted)

    return compute


def measure(answer: Compute, shape: RequestShape) -> float:
    """Return the seconds that a request takes, the second one: the first sets up.

    Raises:
        FloatingPointError: the model's outputs are not finite.
    """
    removed = np.arange(shape.patches) % 4 > 0
    for _ in range(2):
        began = time.perf_counter()
        answer(Request(np.full(shape.image, 0.5, np.float32), removed), lambda: None)
    return time.perf_counter() - began


def most_jobs(shape: RequestShape) -> int:
    """Return how many requests may wait, so that they and their answers take `QUEUE_BYTES` at most."""
    height, width, channels = shape.image
    tokens = shape.patches + 1
    attention = max(max(heads, default=0) for heads in shape.blocks.values()) * tokens**2
    largest = shape.most_bytes + 4 * (height * width * channels + attention)
    return int(min(MOST_JOBS, max(FEWEST_JOBS, QUEUE_BYTES // largest)))


def failure_printer() -> Callable[[Exception], None]:
    """Return a function that prints faults of the model in one line each, the first few different ones."""
    said: set[str] = set()

    def report(fault: Exception) -> None:
        text = display_name(f"{type(fault).__name__}: {fault}", 300)
        if text not in said and len(said) < MOST_FAULTS:
            said.add(text)
            say(f"a request failed: {text}", error=True)

    return report


def wait_for_signal() -> None:
    """Wait until a signal raises its exception."""
    try:
        while True:
            time.sleep(LOOK_SECONDS)
    except Preempted as end:
        raise Preempted(str(end).partition(";")[0]) from None  # there is nothing to resume
