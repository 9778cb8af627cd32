"""The queue in front of the model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from paddlemae.serve import jobs as jobs_module
from paddlemae.serve.jobs import JobQueue, Place, QueueFull
from paddlemae.serve.messages import Answer, Request
from tests.support.served import add, read_answer


def request(value: float = 0.0, page: str = "") -> Request:
    return Request(np.full((2, 2, 1), value, np.float32), np.zeros(4, bool), page=page)


class Gate:
    """A model that computes when it is let."""

    def __init__(self) -> None:
        self.open, self.began, self.seen = threading.Semaphore(0), threading.Semaphore(0), list[float]()

    def compute(self, asked: Request, check_wanted: Callable[[], None]) -> Answer:
        self.began.release()
        assert self.open.acquire(timeout=20)
        check_wanted()
        self.seen.append(float(asked.pixels.max()))
        if self.seen[-1] == 0.5:
            raise FloatingPointError("not finite")
        return add(asked)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@pytest.fixture
def failures() -> list[Exception]:
    return []


@pytest.fixture
def queue(gate: Gate, clock: list[float], failures: list[Exception]) -> Iterator[JobQueue]:
    made = JobQueue(gate.compute, most_jobs=4, seconds_a_job=2.0, on_failure=failures.append, clock=lambda: clock[0])
    yield made
    gate.open.release(100)
    made.close()


def test_jobs_are_computed_in_order(queue: JobQueue, gate: Gate) -> None:
    jobs = [queue.submit(request(value)) for value in (0.1, 0.2, 0.3)]
    gate.open.release(3)
    assert all(job.finished.wait(20) for job in jobs)
    np.testing.assert_allclose(gate.seen, [0.1, 0.2, 0.3], rtol=1e-6)
    for job, value in zip(jobs, (0.1, 0.2, 0.3)):
        assert job.answer is not None
        np.testing.assert_allclose(read_answer(job.answer)[1]["plain"], value + 1, rtol=1e-6)


def test_places_say_how_many_are_before_and_how_long_they_take(queue: JobQueue, gate: Gate, clock: list[float]) -> None:
    jobs = [queue.submit(request()) for _ in range(3)]
    gate.began.acquire()
    clock[0] = 0.5
    assert [queue.place(job) for job in jobs] == [Place(0, 1.5), Place(1, 3.5), Place(2, 5.5)]
    queue.remove(jobs[1])
    assert queue.place(jobs[2]) == Place(1, 3.5)
    queue.remove(jobs[0])  # it ends at its next look
    assert queue.place(jobs[2]) == Place(1, 3.5)
    gate.open.release(10)
    assert jobs[2].finished.wait(20) and len(gate.seen) == 1


def test_the_estimate_follows_what_jobs_take(queue: JobQueue, gate: Gate, clock: list[float]) -> None:
    for _ in range(30):
        job = queue.submit(request())
        gate.began.acquire()
        clock[0] += 4.0
        gate.open.release()
        assert job.finished.wait(20)
        queue.remove(job)
    assert queue.seconds_a_job == pytest.approx(4.0, abs=0.01)


def test_a_full_queue_takes_no_more_until_one_is_fetched(queue: JobQueue, gate: Gate) -> None:
    jobs = [queue.submit(request()) for _ in range(4)]
    with pytest.raises(QueueFull):
        queue.submit(request())
    gate.open.release(4)
    assert all(job.finished.wait(20) for job in jobs)
    with pytest.raises(QueueFull):  # answers that nobody fetched take memory too
        queue.submit(request())
    queue.remove(jobs[0])
    assert queue.submit(request())


def test_jobs_of_clients_that_vanished_make_room_and_are_not_computed(
    queue: JobQueue, gate: Gate, clock: list[float]
) -> None:
    jobs = [queue.submit(request(value / 10)) for value in range(1, 5)]
    gate.began.acquire()
    clock[0] = jobs_module.VANISHED_SECONDS - 1
    assert queue.find(jobs[2].ticket) is jobs[2]
    clock[0] += 2
    last = queue.submit(request(0.9))
    assert queue.find(jobs[1].ticket) is None
    gate.open.release(10)
    assert last.finished.wait(20)
    np.testing.assert_allclose(gate.seen, [0.3, 0.9], rtol=1e-6)


def test_removed_jobs_are_not_computed(queue: JobQueue, gate: Gate) -> None:
    first, second, third = (queue.submit(request(value)) for value in (0.1, 0.2, 0.3))
    gate.began.acquire()
    queue.remove(second)
    gate.open.release(10)
    assert third.finished.wait(20) and first.finished.is_set()
    np.testing.assert_allclose(gate.seen, [0.1, 0.3], rtol=1e-6)


def test_a_pages_newest_request_takes_the_place_of_those_before(queue: JobQueue, gate: Gate) -> None:
    running = queue.submit(request(0.1, "a"))
    gate.began.acquire()
    for value, page in ((0.2, "a"), (0.3, "b"), (0.4, "a"), (0.6, "a")):
        last = queue.submit(request(value, page))
    assert len(queue) == 2 and queue.find(running.ticket) is None
    other, again = queue.submit(request(0.7)), queue.submit(request(0.8, "b"))
    assert [queue.place(job).position for job in (last, again, other)] == [1, 2, 3]
    gate.open.release(10)
    assert other.finished.wait(20)
    np.testing.assert_allclose(gate.seen, [0.6, 0.8, 0.7], rtol=1e-6)


def test_a_full_queue_takes_what_replaces_another(queue: JobQueue, gate: Gate) -> None:
    for page in ("a", "b", "c", "d"):
        queue.submit(request(0.1, page))
    queue.submit(request(0.2, "c"))
    with pytest.raises(QueueFull):
        queue.submit(request(0.2, "e"))


def test_a_job_that_fails_ends_no_other(queue: JobQueue, gate: Gate, failures: list[Exception]) -> None:
    gate.open.release(10)
    wrong, right = queue.submit(request(0.5)), queue.submit(request(0.6))
    assert right.finished.wait(20)
    assert wrong.finished.is_set() and wrong.answer is None and wrong.error == jobs_module.FAILED
    assert [str(fault) for fault in failures] == ["not finite"] and right.answer


def test_closing_drops_the_job_in_progress_and_begins_no_other(queue: JobQueue, gate: Gate) -> None:
    jobs = [queue.submit(request(0.1)), queue.submit(request(0.2))]
    gate.began.acquire()
    threading.Timer(0.2, lambda: gate.open.release(10)).start()
    queue.close()
    assert not queue._thread.is_alive() and not any(job.finished.is_set() for job in jobs) and gate.seen == []
    with pytest.raises(QueueFull):
        queue.submit(request())


def test_tickets_can_not_be_guessed(queue: JobQueue) -> None:
    tickets = {queue.submit(request()).ticket for _ in range(4)}
    assert len(tickets) == 4 and min(map(len, tickets)) >= 20
    assert queue.find("") is None is queue.find("x" * 22)


def test_the_clock_is_the_systems_by_default() -> None:
    made = JobQueue(
        lambda asked, check_wanted: add(asked), most_jobs=1, seconds_a_job=1.0, on_failure=lambda fault: None
    )
    assert abs(made.submit(request()).asked - time.monotonic()) < 5
    made.close()
