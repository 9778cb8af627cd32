"""Listen on a port, and run an application on it with waitress; slow and many connections are bounded.

waitress is an extra, imported when it is needed.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from paddlemae.serve.application import Application
from paddlemae.serve.responses import PROTECTION

MISSING = "paddlemae serve needs waitress; pip install 'paddlemae[serve]', or write a page with `paddlemae page`"
THREADS = 8  # that read requests and write answers; the model has its own
MOST_CONNECTIONS = 200
SILENT_SECONDS = 20  # without a byte, after which a connection is closed
REQUEST_SECONDS = 30.0  # from a request's first byte to its last
MOST_HEADER_BYTES = 16_384
END_SECONDS = 5.0  # that the end waits for threads


def check_installed() -> None:
    """Raise a ModuleNotFoundError that says what to install, if waitress is missing."""
    try:
        import waitress  # noqa: F401
    except ModuleNotFoundError as fault:
        raise ModuleNotFoundError(MISSING, name="waitress") from fault


def open_port(host: str, port: int) -> socket.socket:
    """Return a socket bound to a host's address and a port, of which 0 is any free one.

    Raises:
        ValueError: a host that is no address of this machine, or a port that can't be taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as fault:
        raise ValueError(f"--host {host} is no address of this machine; leave it out for 127.0.0.1") from fault
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would let two programs take one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as fault:
        listener.close()
        raise ValueError(_why_not(fault, host, port)) from fault
    return listener


def _why_not(fault: OSError, host: str, port: int) -> str:
    if fault.errno == errno.EADDRINUSE:
        return f"port {port} is in use; choose another with --port, or leave it out for a free one"
    if fault.errno == errno.EACCES:
        return f"port {port} needs more rights; choose one of 1024 to 65535, or leave --port out for a free one"
    return f"--host {host} is no address of this machine ({fault.strerror}); leave it out for 127.0.0.1"


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only programs of this machine reach a port."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def address_of(listener: socket.socket) -> str:
    """Return HOST:PORT as in a URL; a socket of all addresses has this machine's name."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = socket.gethostname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def accepted_hosts(listener: socket.socket) -> tuple[str, ...] | None:
    """Return the names of this machine that browsers on it ask for; None for a port that other machines reach."""
    if not is_loopback(listener):
        return None
    return (address_of(listener).rpartition(":")[0], "127.0.0.1", "localhost", "[::1]")


@contextmanager
def running(application: Application, listener: socket.socket) -> Iterator[None]:
    """Serve inside the context, with threads of its own; afterwards the port and all connections are closed."""
    from waitress.server import create_server

    logging.getLogger("waitress").addHandler(logging.NullHandler())  # else Python prints what it warns of
    logging.getLogger("waitress").propagate = False
    server: Any = create_server(
        application,
        sockets=[listener],
        threads=THREADS,
        ident=None,  # no header Server
        connection_limit=MOST_CONNECTIONS,
        channel_timeout=SILENT_SECONDS,
        cleanup_interval=SILENT_SECONDS // 4,
        max_request_header_size=MOST_HEADER_BYTES,
        max_request_body_size=application.shape.most_bytes + 1,
        channel_request_lookahead=1,  # so that it sees clients go
        clear_untrusted_proxy_headers=True,
    )
    server.channel_class = bounded_channel(server.channel_class)
    loop = threading.Thread(target=server.run, name="server", daemon=True)
    loop.start()
    try:
        yield
    finally:
        pulled = threading.Event()

        def close() -> None:
            pulled.wait(END_SECONDS)  # another thread may have woken the loop, and our own pull needs the trigger
            _close_all(server)

        server.trigger.pull_trigger(close)
        pulled.set()
        loop.join(END_SECONDS)
        server.task_dispatcher.shutdown(timeout=END_SECONDS)


def bounded_channel(channel_class: Any) -> Any:
    """Return waitress's class of connections with one more bound, and with our headers on its own errors.

    A request takes `REQUEST_SECONDS` at most: waitress closes silent connections only, and one that sends a byte now
    and then would stay.
    """

    class ProtectedError(channel_class.error_task_class):  # type: ignore[misc]
        def __init__(self, channel: Any, request: Any) -> None:
            super().__init__(channel, request)
            self.response_headers += PROTECTION.items()
            request.error.body = ""  # which names limits

    class BoundedChannel(channel_class):  # type: ignore[misc]
        error_task_class = ProtectedError
        began = 0.0

        def received(self, data: bytes) -> bool:
            now = time.monotonic()
            if self.request is None:
                self.began = now
            elif now - self.began > REQUEST_SECONDS:
                self.will_close = True
                return False
            return super().received(data)

    return BoundedChannel


def _close_all(server: Any) -> None:
    """Close a server and its connections, in the thread that serves them."""
    for channel in list(server.active_channels.values()):
        channel.handle_close()
    server.close()
