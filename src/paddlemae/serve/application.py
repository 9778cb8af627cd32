"""Answer the requests of the page: the page itself, reconstructions, and jobs that wait; nothing else exists.

A request that can be answered within about a second is. Others get a ticket at once, with their place in the queue.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from paddlemae.serve.checks import Environ, check_body, check_host, check_origin, check_token
from paddlemae.serve.jobs import Job, JobQueue, QueueFull
from paddlemae.serve.messages import BadRequest, RequestShape, read_request
from paddlemae.serve.rate_limit import RateLimit
from paddlemae.serve.responses import BINARY, HTML, Refused, Response, as_json, not_found, queue_full, too_many

RECONSTRUCT = "reconstruct"  # paths behind the token
JOBS = "jobs/"
WAIT_SECONDS = 1.0  # for an answer, before a ticket is given
MOST_WAITING = 4  # requests that wait so at once, each of which holds a thread
LOOK_SECONDS = 0.1  # between two looks whether a client that waits has gone


def endpoint() -> dict[str, str]:
    """Return what the page's header says of the server, relative to the page's address."""
    return {"url": RECONSTRUCT, "jobs": JOBS}


@dataclass
class Application:
    """A WSGI application: one page, one model.

    Args:
        token: the first part of every path.
        page: HTML.
        shape: of the requests that the model takes.
        jobs: which computes them.
        hosts: see `check_host`.
        any_rate, model_rate: limits of all requests and of those to the model, for each address.
    """

    token: str
    page: bytes
    shape: RequestShape
    jobs: JobQueue
    hosts: Collection[str] | None
    any_rate: RateLimit = field(default_factory=lambda: RateLimit(per_second=400, burst=800))
    model_rate: RateLimit = field(default_factory=lambda: RateLimit(per_second=40, burst=200))

    def __post_init__(self) -> None:
        self._waiting = threading.Semaphore(MOST_WAITING)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            response = self._respond(environ)
        except Refused as refused:
            response = refused.response
        start_response(response.line, response.headers)
        return [response.body] if response.status != HTTPStatus.NO_CONTENT else []

    def _respond(self, environ: Environ) -> Response:
        if wait := self.any_rate.seconds_to_wait(environ["REMOTE_ADDR"]):
            raise too_many(wait)
        check_host(environ, self.hosts)
        path, method = check_token(environ["PATH_INFO"], self.token), environ["REQUEST_METHOD"]
        if path == "":
            _allow(method, "GET")
            return Response(HTTPStatus.PERMANENT_REDIRECT, b"", HTML, {"Location": f"/{self.token}/"})
        if path == "/":
            _allow(method, "GET")
            return Response(HTTPStatus.OK, self.page, HTML)
        if path == f"/{RECONSTRUCT}":
            _allow(method, "POST")
            check_origin(environ)
            return self._reconstruct(environ)
        if path.startswith(f"/{JOBS}"):
            _allow(method, "GET", "DELETE")
            check_origin(environ)
            return self._job(path.removeprefix(f"/{JOBS}"), method, environ)
        raise not_found()

    def _reconstruct(self, environ: Environ) -> Response:
        if wait := self.model_rate.seconds_to_wait(environ["REMOTE_ADDR"]):
            raise too_many(wait)
        length = check_body(environ, self.shape.most_bytes)
        try:
            request = read_request(environ["wsgi.input"].read(length), self.shape)
        except BadRequest as fault:
            raise Refused(HTTPStatus.BAD_REQUEST, str(fault)) from fault
        try:
            job = self.jobs.submit(request)
        except QueueFull as full:
            raise queue_full(len(self.jobs) * self.jobs.seconds_a_job) from full
        return self._answer(job, environ)

    def _job(self, ticket: str, method: str, environ: Environ) -> Response:
        job = self.jobs.find(ticket)
        if method == "DELETE":
            if job is not None:
                self.jobs.remove(job)
            return Response(HTTPStatus.NO_CONTENT, b"", BINARY)
        if job is None:
            raise Refused(HTTPStatus.NOT_FOUND, "this request is not in the queue any more; send it again")
        return self._answer(job, environ)

    def _answer(self, job: Job, environ: Environ) -> Response:
        """Return a job's answer if it is there within `WAIT_SECONDS`, else its place."""
        place = self.jobs.place(job)
        if not job.finished.is_set() and place.seconds <= WAIT_SECONDS and self._waiting.acquire(blocking=False):
            try:
                self._wait(job, environ["waitress.client_disconnected"])
            finally:
                self._waiting.release()
            place = self.jobs.place(job)
        if not job.finished.is_set():
            content = {"ticket": job.ticket, "position": place.position, "seconds": round(place.seconds, 2)}
            return as_json(content, HTTPStatus.ACCEPTED)
        self.jobs.remove(job)
        if job.answer is None:
            raise Refused(HTTPStatus.INTERNAL_SERVER_ERROR, job.error or "no answer")
        return Response(HTTPStatus.OK, job.answer, BINARY)

    def _wait(self, job: Job, client_has_gone: Callable[[], bool]) -> None:
        until = time.monotonic() + WAIT_SECONDS
        while not job.finished.wait(LOOK_SECONDS) and time.monotonic() < until:
            if client_has_gone():
                self.jobs.remove(job)
                return


def _allow(method: str, *allowed: str) -> None:
    if method not in allowed:
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"only {' and '.join(allowed)}", Allow=", ".join(allowed))
