"""Run ranks as threads of this process, connected by sockets."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import paddle

from paddlemae.train.parallel.ranks import Ranks, _admitted, _admitted_by_first

HOST = "127.0.0.1"
SOON = 5.0  # seconds: far more than anything here takes, far less than any limit of the connections


def begin(call: Callable[[], Any]) -> Future:
    """Start a call in a thread of its own, which holds up neither the test nor the interpreter's end if it hangs."""
    future: Future = Future()

    def work() -> None:
        paddle.set_device("cpu")  # each thread has its own
        try:
            future.set_result(call())
        except BaseException as fault:
            future.set_exception(fault)

    threading.Thread(target=work, daemon=True).start()
    return future


def outcome(future: Future) -> Any:
    """Return what a call returned, or the exception that it raised."""
    fault = future.exception(SOON)
    return future.result() if fault is None else fault


def on_each(ranks: Sequence[Ranks], call: Callable[[Ranks], Any]) -> list[Any]:
    """Return what `call` returns or raises on every rank, all at the same time."""
    return [outcome(future) for future in [begin(partial(call, one)) for one in ranks]]


def meet(world: int, strangers: Callable[[dict[str, Any]], None] = lambda address: None) -> list[Ranks]:
    """Connect ranks as `join` does; `strangers` connect before all but the first."""
    published: Future[str] = Future()
    first = begin(lambda: list(_admitted(HOST, world, published.set_result)))
    address = json.loads(published.result(SOON))
    strangers(address)
    # the last one comes first: order of arrival means nothing
    lines = {rank: [_admitted_by_first(address, rank)] for rank in reversed(range(1, world))}
    lines[0] = first.result(SOON)
    return [Ranks(rank, world, rank, lines[rank]) for rank in range(world)]


def close(ranks: Sequence[Ranks]) -> None:
    for one in ranks:
        for line in one.lines:
            line.drop()
