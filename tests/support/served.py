"""A server in the test's own process with a model that only adds, and a client that speaks its messages."""

from __future__ import annotations

import http.client
import json
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from paddlemae.serve.application import Application
from paddlemae.serve.jobs import JobQueue
from paddlemae.serve.listen import accepted_hosts, open_port, running
from paddlemae.serve.messages import TYPES, Answer, Request, RequestShape

TOKEN = "token-of_the-tests"
SHAPE = RequestShape(image=(4, 6, 3), patches=6, blocks={"encoder": [2, 2], "decoder": [4]})
PAGE = b"<!doctype html><title>page</title>"
OCTETS = "application/octet-stream"


def request_body(pixels: np.ndarray, removed: np.ndarray, options: object) -> bytes:
    """Return a request's message."""
    text = json.dumps(options).encode()
    head = struct.pack("<I", len(text)) + text
    return head + removed.astype(np.uint8).tobytes() + pixels.astype("<f4").tobytes()


def read_answer(message: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return (scalars, arrays) of an answer's message, which must have no byte too many."""
    (size,) = struct.unpack_from("<I", message)
    scalars = json.loads(message[4 : 4 + size])
    arrays, offset = {}, 4 + size
    for one in scalars.pop("arrays"):
        count = int(np.prod(one["shape"]))
        arrays[one["name"]] = np.frombuffer(message, TYPES[one["type"]], count, offset).reshape(one["shape"])
        offset += 4 * count
    assert offset == len(message)
    return scalars, arrays


def add(request: Request) -> Answer:
    """Answer as a model would: the pixels of each request plus one."""
    return Answer({"plain": request.pixels + 1}, {"milliseconds": 0.0})


@dataclass
class Reply:
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Asks a server; each request has a connection of its own."""

    port: int
    shape: RequestShape = SHAPE
    token: str = TOKEN
    failures: list[Exception] = field(default_factory=list)  # of the model
    queue: Any = None

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        """Send a request; underscores in the names of headers are hyphens, and an empty value leaves one out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            given = {"Content-Type": OCTETS, **given}
        try:
            connection.request(method, path, body, {name: value for name, value in given.items() if value})
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def body(self, options: object = None, value: float = 0.5) -> bytes:
        pixels = np.full(self.shape.image, value, np.float32)
        removed = np.zeros(self.shape.patches, np.uint8)
        removed[1:] = 1
        return request_body(pixels, removed, {} if options is None else options)

    def post(self, body: bytes | None = None, **headers: str) -> Reply:
        return self.ask("POST", f"/{self.token}/reconstruct", self.body() if body is None else body, **headers)

    def job(self, ticket: str, method: str = "GET") -> Reply:
        return self.ask(method, f"/{self.token}/jobs/{ticket}")

    def answered(self, body: bytes | None = None, timeout: float = 60) -> Reply:
        """Send a request, and ask until it is answered."""
        reply, until = self.post(body), time.monotonic() + timeout
        while reply.status == 202 and time.monotonic() < until:
            time.sleep(min(0.1, reply.json["seconds"] / 2))
            reply = self.job(reply.json["ticket"])
        return reply


@contextmanager
def served(
    compute: Callable[[Request], Answer] = add,
    *,
    most_jobs: int = 100,
    seconds_a_job: float = 0.01,
    shape: RequestShape = SHAPE,
    page: bytes = PAGE,
    **limits: Any,
) -> Iterator[Client]:
    """Serve inside the context; `limits` are fields of `Application`."""
    listener = open_port("127.0.0.1", 0)
    client = Client(listener.getsockname()[1], shape)
    jobs = JobQueue(
        lambda request, check_wanted: compute(request),
        most_jobs=most_jobs,
        seconds_a_job=seconds_a_job,
        on_failure=client.failures.append,
    )
    client.queue = jobs
    application = Application(TOKEN, page, shape, jobs, accepted_hosts(listener), **limits)
    with running(application, listener):
        yield client
    jobs.close()
