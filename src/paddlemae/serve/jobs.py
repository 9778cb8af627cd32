"""A bounded queue of requests, which one thread computes one after the other.

Each request is a job with a ticket, a secret that its client asks with. A client that stops asking has vanished, and
its job is dropped.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from paddlemae.serve.messages import Answer, Request, write_answer

Compute = Callable[[Request, Callable[[], None]], Answer]  # the second: call it now and then, it raises `Unwanted`

VANISHED_SECONDS = 20.0  # without a question about a job, after which it is dropped
SMOOTHING = 0.3  # weight of the last job in the estimate of seconds a job
CLOSE_SECONDS = 20.0  # that the end waits for the job in progress
FAILED = "the model could not compute this"


class QueueFull(Exception):
    """There are as many jobs as there may be."""


class Unwanted(Exception):
    """The client has gone or cancelled, or the server ends: nobody reads the answer that is computed."""


class Place(NamedTuple):
    """Where a job waits: the number of jobs before it, and the estimated seconds until it is done."""

    position: int
    seconds: float


@dataclass(eq=False)
class Job:
    """A request in the queue.

    Attributes:
        asked: when its client last asked for it, by the queue's clock.
        page: see `Request`.
        answer: the message, once it is computed; `error` instead if it failed.
        finished: set when there is an answer or an error.
    """

    request: Request | None
    asked: float
    page: str = ""
    ticket: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    answer: bytes | None = None
    error: str | None = None
    finished: threading.Event = field(default_factory=threading.Event)


class JobQueue:
    """Jobs by ticket, in the order in which they came; for several threads.

    Args:
        compute: called by one thread only.
        most_jobs: that there are at once, computed ones that nobody has fetched included.
        seconds_a_job: the first estimate.
        on_failure: called with what `compute` raised.
        clock: seconds, from any start.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        most_jobs: int,
        seconds_a_job: float,
        on_failure: Callable[[Exception], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self.seconds_a_job, self.most_jobs = seconds_a_job, most_jobs
        self._compute, self._on_failure, self._clock = compute, on_failure, clock
        self._jobs: dict[str, Job] = {}
        self._running: Job | None = None
        self._started = 0.0  # the running job
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Job:
        """Append a job, or let it take the place of the one of the same page.

        Raises:
            QueueFull: there is no room, also after jobs of clients that vanished were dropped.
        """
        with self._changed:
            self._drop_vanished()
            replaced = [other for other in self._jobs.values() if request.page and other.page == request.page]
            if self._closed or len(self._jobs) - len(replaced) >= self.most_jobs:
                raise QueueFull
            job = Job(request, self._clock(), request.page)
            waiting = [other for other in replaced if other is not self._running and not other.finished.is_set()]
            in_order = [job if other in waiting else other for other in self._jobs.values()]
            for other in replaced:
                self._forget(other)
            self._jobs = {one.ticket: one for one in [*in_order, job] if one not in replaced}
            self._changed.notify()
            return job

    def find(self, ticket: str) -> Job | None:
        """Return a job whose client asks for it; None if there is none, or no more."""
        with self._changed:
            job = self._jobs.get(ticket)
            if job is not None:
                job.asked = self._clock()
            return job

    def remove(self, job: Job) -> None:
        """Forget a job: its answer was fetched, or nobody wants it."""
        with self._changed:
            self._forget(job)

    def place(self, job: Job) -> Place:
        """Return a job's place in the queue."""
        with self._changed:
            running = self._running
            if job is running:
                return Place(0, max(0.0, self.seconds_a_job - (self._clock() - self._started)))
            position = 0
            for other in self._jobs.values():
                if other is job:
                    break
                position += not other.finished.is_set() and other is not running
            rest = 0.0
            if running is not None:  # whether its client still waits or not
                rest = max(0.0, self.seconds_a_job - (self._clock() - self._started))
                position += 1
            waiting = position - (running is not None) + 1
            return Place(position, rest + waiting * self.seconds_a_job)

    def __len__(self) -> int:
        with self._changed:
            return len(self._jobs)

    def close(self) -> None:
        """Take no more jobs, drop those that there are, and wait `CLOSE_SECONDS` at most for the one in progress."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS)

    def _drop_vanished(self) -> None:
        """Forget the jobs of clients that stopped asking."""
        oldest = self._clock() - VANISHED_SECONDS
        for job in [job for job in self._jobs.values() if job.asked < oldest]:
            self._forget(job)

    def _forget(self, job: Job) -> None:
        self._jobs.pop(job.ticket, None)
        job.request = None  # and its memory

    def _next(self) -> tuple[Job, Request] | None:
        """Wait for a job and return it with its request; None at the end."""
        with self._changed:
            self._running = None
            while not self._closed:
                self._drop_vanished()
                for job in self._jobs.values():
                    if not job.finished.is_set() and job.request is not None:
                        self._running, self._started = job, self._clock()
                        return job, job.request
                self._changed.wait(VANISHED_SECONDS)
            return None

    def _work(self) -> None:
        while (found := self._next()) is not None:
            job, request = found
            try:
                job.answer = write_answer(self._compute(request, partial(self._check_wanted, job)))
            except Unwanted:
                continue
            except Exception as fault:  # whatever it is, the next job is another one
                job.error = FAILED
                self._on_failure(fault)
            with self._changed:
                took = self._clock() - self._started
                self.seconds_a_job += SMOOTHING * (took - self.seconds_a_job)
                job.request = None
                job.finished.set()

    def _check_wanted(self, job: Job) -> None:
        if self._closed or job.ticket not in self._jobs:
            raise Unwanted
