"""Where the server listens, and which hosts it accepts there."""

from __future__ import annotations

import os
import socket
import time

import pytest
from waitress.trigger import trigger

from paddlemae.serve.listen import accepted_hosts, address_of, open_port
from tests.support.served import served


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2", "::1"])
def test_on_loopback_its_own_names_are_accepted(host: str) -> None:
    if host == "::1" and not socket.has_ipv6:
        pytest.skip("there is no IPv6")
    with open_port(host, 0) as listener:
        accepted = accepted_hosts(listener)
        assert accepted is not None
        assert {"127.0.0.1", "localhost", "[::1]", address_of(listener).rpartition(":")[0]} == set(accepted)


def test_where_other_machines_come_in_any_name_is_accepted() -> None:
    with open_port("0.0.0.0", 0) as listener:
        assert accepted_hosts(listener) is None
        assert address_of(listener) == f"{socket.gethostname()}:{listener.getsockname()[1]}"


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "a" * 99, "-", "a\0b"])
def test_hosts_of_other_machines_are_refused(host: str) -> None:
    with pytest.raises(ValueError, match="--host"):
        open_port(host, 0)


def test_a_port_in_use_is_refused() -> None:
    with open_port("127.0.0.1", 0) as listener, pytest.raises(ValueError, match="--port"):
        open_port("127.0.0.1", listener.getsockname()[1])


def test_the_end_may_meet_an_answer_that_wakes_the_server_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pull = trigger._physical_pull

    def pull_behind_another(self: trigger) -> None:
        os.write(self.trigger, b"x")  # of another thread, between our request to close and our pull
        time.sleep(0.2)
        pull(self)

    with served() as client:
        assert client.ask("GET", "/").status == 404
        monkeypatch.setattr(trigger, "_physical_pull", pull_behind_another)
    with pytest.raises(OSError):
        client.ask("GET", "/")
