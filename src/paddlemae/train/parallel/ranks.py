"""Connect the processes that train one model: their ranks, their messages, and the sums of their gradients.

Two channels. Tensors go through Paddle's collectives (gloo on CPU; NCCL and the other vendors' libraries on
accelerators), which must find all ranks at hand: gloo gives up after 30 s, whatever its setting. Everything else (what
to do next, losses, skipped images, predictions, errors) goes as JSON through one connection of each rank to the first,
and waits for as long as it takes: one rank may save, evaluate or wait for its disk while the others wait for it. A
rank that dies closes its connection, so the others know at once. (Paddle's TCP store takes 40 ms a call, measured on
loopback, and can't tell.)
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any, TypeVar

from paddlemae.engine import private
from paddlemae.engine.safe_import import nn, paddle
from paddlemae.train.stopping import EndedElsewhere, RankLost

CONNECT_SECONDS = 300
HELLO_SECONDS = 5  # for a connection to say who it is
CLOSE_SECONDS = 20
PIECE = 1 << 16  # bytes
KEEP_ALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 4}  # a host that is cut off is noticed in 17 s
LINK_KEY = "paddlemae/link"
SMALL = 1 << 18  # numbers: gradients below this travel together

Value = TypeVar("Value")


class _Line:
    """A connection that carries JSON, a line each."""

    def __init__(self, connection: socket.socket, peer: int):
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEP_ALIVE.items():
            if hasattr(socket, name):  # Linux
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self.peer, self.connection, self.come = peer, connection, bytearray()

    def send(self, message: Any) -> None:
        try:
            self.connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError as fault:
            raise self._lost() from fault

    @property
    def has_message(self) -> bool:
        """Check for a message that has arrived with an earlier one, so the connection does not announce it."""
        return b"\n" in self.come

    def receive(self) -> Any:
        seen = 0
        while (end := self.come.find(b"\n", seen)) < 0:
            seen = len(self.come)
            try:
                piece = self.connection.recv(PIECE)
            except OSError as fault:
                raise self._lost() from fault
            if not piece:
                raise self._lost()
            self.come += piece
        line, self.come = self.come[:end], self.come[end + 1 :]
        return json.loads(line)

    def close(self) -> None:
        """Send nothing more, and read until the peer does the same: else what it has not read yet may be lost."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(CLOSE_SECONDS)
            while self.connection.recv(PIECE):
                pass
        self.drop()

    def drop(self) -> None:
        """Close it at once."""
        self.connection.close()

    def _lost(self) -> RankLost:
        return RankLost(f"lost rank {self.peer}: it died, or its host can't be reached")


@dataclass(eq=False)
class Ranks:
    """The processes of a training, as one of them sees it; on its own without any, where everything is a no-op.

    All ranks must call the same methods in the same order.

    Attributes:
        rank: this process, counted from 0 over all hosts.
        world: how many there are.
        local_rank: this process, counted on its host.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    lines: list[_Line] = field(default_factory=list)  # rank 0 has one to each other rank, these have one to rank 0

    @property
    def is_first(self) -> bool:
        """Check if this is the rank that writes."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's JSON value in the ranks' order, on every rank. Waits for all, without a limit.

        Raises:
            RankLost: a rank died.
            EndedElsewhere: a rank came to an end instead, see `end`.
        """
        if not self.lines:
            return [value]
        if not self.is_first:
            self.lines[0].send({"own": value})
            return _opened(self.lines[0].receive())
        messages = list(self._received())
        ends = [message for _, message in messages if "end" in message]
        others = [message["own"] for _, message in sorted(messages, key=lambda message: message[0])] if not ends else []
        reply = ends[0] if ends else {"all": [value, *others]}
        for line in self.lines:
            with contextlib.suppress(RankLost) if ends else contextlib.nullcontext():
                line.send(reply)
        return _opened(reply)

    def _received(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (rank, message) on arrival, so that a death is noticed while others are busy; an end comes last."""
        silent = list(self.lines)
        while silent:
            here = [line for line in silent if line.has_message]
            ready = [] if here else wait([line.connection for line in silent])
            for line in here or [line for line in silent if line.connection in ready]:
                silent.remove(line)
                message = line.receive()
                yield line.peer, message
                if "end" in message:
                    return

    def wait(self) -> None:
        """Wait until every rank has come here."""
        self.gather(None)

    def any(self, value: bool) -> bool:
        """Check if the value is true on any rank."""
        return any(self.gather(value))

    def mean(self, value: float) -> float:
        """Return the mean of a number over the ranks, bitwise the same on all."""
        values = self.gather(value)
        return sum(values) / len(values)

    def from_first(self, make: Callable[[], Value]) -> Value:
        """Return the JSON value of `make` on the first rank; the others wait for it and do not call theirs."""
        return self.gather(make() if self.is_first else None)[0]

    def end(self, status: int, text: str) -> None:
        """Tell the others that this rank ends, and why: an `EndedElsewhere` to them, now or when they come to talk."""
        for line in self.lines:
            with contextlib.suppress(RankLost):
                line.send({"end": [self.rank, status, text]})
        self.leave()

    def leave(self) -> None:
        """Close the connections."""
        for line in self.lines:
            line.close()
        self.lines = []

    def add_up(self, gradients: Sequence[paddle.Tensor]) -> None:
        """Replace gradients by their sums over the ranks, in place. The small ones travel together."""
        if self.world == 1:
            return
        with paddle.no_grad():
            large = [gradient for gradient in gradients if gradient.size >= SMALL]
            small = [gradient for gradient in gradients if gradient.size < SMALL]
            for gradient in large:
                _sum_in_place(gradient)
            if small:
                together = paddle.concat([gradient.reshape([-1]) for gradient in small])
                _sum_in_place(together)
                parts = paddle.split(together, [gradient.size for gradient in small])
                for gradient, part in zip(small, parts, strict=True):
                    gradient.set_value(part.reshape(gradient.shape))

    def parallel(self, model: nn.Layer) -> nn.Layer:
        """Wrap the model so that its backward pass averages gradients over the ranks (`DataParallel`)."""
        return model if self.world == 1 else paddle.DataParallel(model)


ALONE = Ranks()


def _opened(reply: dict[str, Any]) -> list[Any]:
    if "end" in reply:
        raise EndedElsewhere(*reply["end"])
    return reply["all"]


def _sum_in_place(tensor: paddle.Tensor) -> None:
    try:
        paddle.distributed.all_reduce(tensor)
    except RuntimeError as fault:
        raise RankLost(
            f"lost another rank while gradients were summed ({str(fault).strip().splitlines()[-1]})"
        ) from fault


def is_launched() -> bool:
    """Check if this process is one of several that `paddle.distributed.launch` started."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) > 1


def join() -> Ranks:
    """Meet the other processes of this launch; alone without one.

    Raises:
        RankLost: they can't be reached.
    """
    if not is_launched():
        return ALONE
    environment = paddle.distributed.ParallelEnv()
    with contextlib.redirect_stderr(io.StringIO()):  # Paddle's words on flags that were not touched
        paddle.distributed.init_parallel_env()
    store = private.rendezvous_store()
    host = environment.current_endpoint.rsplit(":", 1)[0]
    if environment.rank == 0:
        lines = list(_admitted(host, environment.world_size, lambda text: store.set(LINK_KEY, text)))
    else:
        address = json.loads(bytes(store.get(LINK_KEY)).decode())
        lines = [_admitted_by_first(address, environment.rank)]
    local_rank = int(os.environ.get("PADDLE_LOCAL_RANK", environment.rank))
    return Ranks(environment.rank, environment.world_size, local_rank, lines)


def _admitted(host: str, world: int, publish: Callable[[str], None]) -> Iterator[_Line]:
    """Yield rank 0's lines to the others, in their order; each shows the key that it read from the launch's store."""
    key = secrets.token_hex(16)
    lines: dict[int, _Line] = {}
    with socket.create_server((host, 0), backlog=world) as server:
        server.settimeout(CONNECT_SECONDS)
        publish(json.dumps({"host": host, "port": server.getsockname()[1], "key": key}))
        while len(lines) < world - 1:
            try:
                connection, _ = server.accept()
            except TimeoutError as fault:
                raise RankLost(
                    f"{world - 1 - len(lines)} of {world} ranks did not connect within {CONNECT_SECONDS} s"
                ) from fault
            line = _Line(connection, -1)
            connection.settimeout(HELLO_SECONDS)  # a stranger may say nothing at all
            with contextlib.suppress(RankLost, ValueError, TypeError, KeyError):  # or something else
                hello = line.receive()
                if secrets.compare_digest(hello["key"], key):
                    connection.settimeout(None)
                    line.peer = int(hello["rank"])
                    lines[line.peer] = line
                    continue
            line.drop()
    yield from (lines[rank] for rank in sorted(lines))


def _admitted_by_first(address: dict[str, Any], rank: int) -> _Line:
    try:
        connection = socket.create_connection((address["host"], address["port"]), CONNECT_SECONDS)
    except OSError as fault:
        raise RankLost(f"rank 0 can't be reached at {address['host']}:{address['port']} ({fault})") from fault
    line = _Line(connection, 0)
    line.send({"key": address["key"], "rank": rank})
    return line


def check_same(ranks: Ranks, values: dict[str, Any]) -> None:
    """Refuse to train where processes, on other hosts say, would not do the same.

    Args:
        values: name -> value of what must be equal.
    Raises:
        ValueError: on every rank, for the first difference.
    """
    first, *others = ranks.gather(values)
    for rank, other in enumerate(others, start=1):
        for name in {**first, **other}:
            if first.get(name) != other.get(name):
                raise ValueError(
                    f"all processes must have the same {name}; it is {first.get(name)!r} on rank 0 and "
                    f"{other.get(name)!r} on rank {rank}"
                )
