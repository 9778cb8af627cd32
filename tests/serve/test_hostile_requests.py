"""Whatever is sent, the server answers with an error or closes, keeps serving others, and takes no more memory."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from paddlemae.serve import listen
from paddlemae.serve.messages import RequestShape
from paddlemae.serve.rate_limit import RateLimit
from tests.support.served import OCTETS, PAGE, TOKEN, Client, served

UNLIMITED = dict(any_rate=RateLimit(1e9, 10**9), model_rate=RateLimit(1e9, 10**9))
TELLING = re.compile(rb"Traceback|File \"|/site-packages|/usr/|/root|/home|\.py\b|waitress|Python")


@pytest.fixture
def client() -> Iterator[Client]:
    with served(**UNLIMITED) as client:
        yield client
        assert client.post().status == 200, "it serves others at the end"


def exchange(
    client: Client, sent: bytes, *, half_closes: bool = False, responses: int = 1, patience: float = 0.5
) -> bytes:
    """Send bytes as they are; return that number of responses, fewer if the server closes or is silent."""
    received = b""
    with socket.create_connection(("127.0.0.1", client.port), timeout=5) as connection, contextlib.suppress(OSError):
        connection.sendall(sent)
        if half_closes:
            connection.shutdown(socket.SHUT_WR)
        connection.settimeout(patience)
        while count_responses(received) < responses and (data := connection.recv(65536)):
            received += data
    return received


def count_responses(received: bytes) -> int:
    """Return how many whole responses bytes hold."""
    count = 0
    while (end := received.find(b"\r\n\r\n")) >= 0:
        length = re.search(rb"\r\nContent-Length: (\d+)", received[:end])
        rest = received[end + 4 :]
        if length and len(rest) < int(length[1]):
            break
        count, received = count + 1, rest[int(length[1]) if length else 0 :]
    return count


def head(client: Client, *more: str, method: str = "POST", path: str = f"/{TOKEN}/reconstruct") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{client.port}", f"Content-Type: {OCTETS}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def check(received: bytes, sent: bytes) -> None:
    """Check that a raw response is an error or nothing, and tells nothing of the machine."""
    status = re.match(rb"HTTP/1\.[01] (\d{3})", received)
    assert not received or (status and status[1] >= b"400"), (sent[:200], received[:200])
    assert not TELLING.search(received), received
    assert PAGE not in received and b"Server:" not in received


def malformed(client: Client) -> Iterator[bytes]:
    """Yield requests that are none, and requests that ask for what there is not."""
    host = f"Host: 127.0.0.1:{client.port}\r\n".encode()
    good = client.body()
    length = f"Content-Length: {len(good)}"
    for path in (
        "/",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/\\..\\..\\",
        "//etc",
    ):
        for prefix in ("", f"/{TOKEN}", f"/{TOKEN}/jobs"):
            if path != "/" or not prefix:
                yield f"GET {prefix}{path} HTTP/1.1\r\n".encode() + host + b"\r\n"
    yield f"GET http://evil.example/{TOKEN}/ HTTP/1.1\r\nHost: evil.example\r\n\r\n".encode()
    yield b"GET file:///etc/passwd HTTP/1.1\r\n" + host + b"\r\n"
    yield f"GET /{TOKEN}/ HTTP/1.1\r\n\r\n".encode()  # no host
    yield f"GET /{TOKEN}/ HTTP/1.0\r\n\r\n".encode()
    yield f"GET /{TOKEN}/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".encode()
    yield b"CONNECT evil.example:80 HTTP/1.1\r\n" + host + b"\r\n"
    yield b"\0" * 1000 + b"\r\n\r\n"
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n\r\n"  # TLS
    yield b"GET / HTTP/9.9\r\n\r\n"
    yield b"GET\r\n\r\n"
    yield b"GET / HTTP/1.1\nHost: x\n\n"
    yield b"GET / HTTP/1.1\r\nno colon\r\n\r\n"
    yield b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 200_000 + b"\r\n\r\n"
    yield b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n" + host + b"\r\n"
    yield b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 50_000 + b"\r\n"
    for value in ("-1", "1e3", "0x10", "", "9" * 30, "9" * 5000, "1, 2", "+5", "\u00b2", f"{len(good)}, {len(good)}"):
        yield head(client, f"Content-Length: {value}") + good
    yield head(client, length, "Transfer-Encoding: chunked") + good
    yield head(client, "Transfer-Encoding: gzip") + good
    yield head(client, "Transfer-Encoding: chunked") + b"zz\r\n" + good
    yield head(client, "Transfer-Encoding: chunked") + b"ffffffffffffffff\r\n" + good
    yield head(client, "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n"
    yield head(client, f"Content-Length: {len(good) - 1}") + good[:-1]
    yield head(client, f"Content-Length: {len(good) + 1}") + good + b"x"
    yield head(client, f"Content-Length: {10**12}") + good
    yield head(client) + good
    for options in (b"{", b"[]", b"null", b"\xff\xff", b'{"attention":{"part":"encoder","block":1e99}}', b"[" * 900):
        body = struct.pack("<I", len(options)) + options + bytes(client.shape.array_bytes)
        yield head(client, f"Content-Length: {len(body)}") + body
    for value in (np.nan, np.inf, -np.inf, 1e30, -1.0):
        body = good[:-4] + struct.pack("<f", value)
        yield head(client, f"Content-Length: {len(body)}") + body
    yield head(client, method="GET", path=f"/{TOKEN}/jobs/{'a' * 5000}")
    yield head(client, method="GET", path=f"/{TOKEN}/jobs/%00%ff..%2f")
    yield head(client, length, "Origin: http://evil.example") + good


def test_malformed_requests(client: Client) -> None:
    for sent in malformed(client):
        check(exchange(client, sent), sent)


def test_half_closed_connections(client: Client) -> None:
    good = head(client, f"Content-Length: {len(client.body())}") + client.body()
    for size in (0, 1, 20, len(good) // 2, len(good) - 1):
        check(exchange(client, good[:size], half_closes=True), good[:size])
    received = exchange(client, good, half_closes=True)
    assert not received or received.startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_answered_in_order_or_closed(client: Client) -> None:
    one = head(client, f"Content-Length: {len(client.body())}") + client.body()
    received = exchange(client, one * 20, responses=20, patience=5)
    assert received.count(b"HTTP/1.1 200") == 20


def test_a_request_that_drips_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "REQUEST_SECONDS", 0.5)
    with served(**UNLIMITED) as client:
        begun = time.monotonic()
        for content in (head(client, "Content-Length: 300") + bytes(300), b"GET / HTTP/1.1\r\nX: " + b"y" * 300):
            with socket.create_connection(("127.0.0.1", client.port), timeout=5) as connection:
                try:
                    for byte in content:
                        connection.sendall(bytes([byte]))
                        time.sleep(0.02)
                    pytest.fail("it was read to its end")
                except ConnectionError:
                    pass
        assert time.monotonic() - begun < 10 and client.post().status == 200


def test_a_silent_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "SILENT_SECONDS", 1)
    with served(**UNLIMITED) as client, socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
        connection.sendall(b"POST /")
        assert connection.recv(10) == b""


def test_many_connections_leave_room_when_they_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "MOST_CONNECTIONS", 20)
    with served(**UNLIMITED) as client:
        with contextlib.ExitStack() as stack:
            for _ in range(60):
                connection = socket.create_connection(("127.0.0.1", client.port), timeout=5)
                stack.enter_context(connection).sendall(b"GET / HT")
            time.sleep(0.2)
        assert client.post().status == 200


@pytest.mark.slow
def test_connections_that_never_read_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "SILENT_SECONDS", 1)
    large = RequestShape((1024, 1024, 3), 6, {"encoder": [1]})
    with served(shape=large, **UNLIMITED) as client, contextlib.ExitStack() as stack:
        body = client.body()
        sent = head(client, f"Content-Length: {len(body)}") + body
        deaf = []
        for _ in range(3):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", client.port))
            stack.enter_context(connection).sendall(sent)
            deaf.append(connection)
        assert client.answered().status == 200
        time.sleep(3)
        connection = deaf[0]
        connection.settimeout(5)
        received = 0
        with contextlib.suppress(ConnectionError):
            while data := connection.recv(65536):
                received += len(data)
        assert received < 4 * np.prod(large.image), "the rest was not kept for it"


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_random_bytes_and_many_clients_leave_memory_bounded() -> None:
    """A minute of everything at once, from several threads, while a well-behaved client is served."""
    rng = random.Random(7)
    shape = RequestShape((64, 64, 3), 16, {"encoder": [2], "decoder": []})
    with served(shape=shape, most_jobs=32, seconds_a_job=0.01, **UNLIMITED) as client:
        sent = list(malformed(client))
        good = head(client, f"Content-Length: {len(client.body())}") + client.body()
        stop, failures = threading.Event(), list[str]()

        def attack(seed: int) -> None:
            own = random.Random(seed)
            while not stop.is_set():
                kind = own.randrange(4)
                if kind == 0:
                    content = own.choice(sent)
                elif kind == 1:
                    content = own.randbytes(own.randrange(5000))
                else:
                    flipped = bytearray(good)
                    for _ in range(own.randrange(1, 20)):
                        flipped[own.randrange(min(len(flipped), 400))] = own.randrange(256)
                    content = bytes(flipped[: own.randrange(1, len(flipped) + 1)] if kind == 3 else flipped)
                try:
                    received = exchange(client, content, half_closes=own.random() < 0.2, patience=0.3)
                except OSError:
                    continue
                if TELLING.search(received.split(b"\r\n\r\n")[0]) or b"HTTP/1.1 500" in received:
                    failures.append(repr(received[:300]))

        threads = [threading.Thread(target=attack, args=(rng.random(),)) for _ in range(12)]
        for thread in threads:
            thread.start()
        time.sleep(10)
        before, until, waits = resident_bytes(), time.monotonic() + 60, []
        while time.monotonic() < until:
            asked = time.monotonic()
            reply = client.post()
            assert reply.status in (200, 202, 503), reply
            waits.append(time.monotonic() - asked)
            time.sleep(0.05)
        grown = resident_bytes() - before
        stop.set()
        for thread in threads:
            thread.join(30)
        assert client.answered().status == 200
    assert not failures, failures[:3]
    assert grown < 50e6, f"{grown / 1e6:.0f} MB"
    assert max(waits) < 5 and not client.failures
