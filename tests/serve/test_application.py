"""The server over HTTP: what it answers, and to whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from paddlemae.serve import jobs as jobs_module
from paddlemae.serve.messages import Answer, Request
from paddlemae.serve.rate_limit import RateLimit
from paddlemae.serve.responses import HTML
from tests.support.served import OCTETS, PAGE, TOKEN, Client, add, read_answer, served


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with served() as client:
        yield client


def slow(request: Request) -> Answer:
    time.sleep(0.3)
    return add(request)


def test_the_page_is_at_its_token(client: Client) -> None:
    reply = client.ask("GET", f"/{TOKEN}/")
    assert (reply.status, reply.body, reply.headers["Content-Type"]) == (200, PAGE, HTML)
    moved = client.ask("GET", f"/{TOKEN}")
    assert moved.status == 308 and moved.headers["Location"] == f"/{TOKEN}/"


def test_a_request_is_answered(client: Client) -> None:
    reply = client.post(client.body(value=0.25))
    assert reply.status == 200 and reply.headers["Content-Type"] == OCTETS
    np.testing.assert_array_equal(read_answer(reply.body)[1]["plain"], np.full((4, 6, 3), 1.25, np.float32))


@pytest.mark.parametrize(
    "path",
    ["/", "/favicon.ico", f"/{TOKEN}x/", f"/{TOKEN[:-1]}/", f"//x/{TOKEN}/", "/token/reconstruct", "/%c3%a9/"]
    + [f"/{TOKEN}/../", f"/{TOKEN}/x", f"/{TOKEN}/reconstruct/", f"/{TOKEN}/%2e%2e/etc/passwd", "/../../etc/passwd"]
    + [f"/x/{TOKEN}/", f"/{TOKEN}/jobs", f"/?token={TOKEN}", "/%00/", f"/{TOKEN}/%00", "//etc/passwd"],
)
def test_everything_else_is_not_found_and_says_nothing(client: Client, path: str) -> None:
    for method in ("GET", "POST", "DELETE", "OPTIONS", "PROPFIND"):
        reply = client.ask(method, path)
        assert reply.status == 404 and reply.json == {"error": "not found"}, (method, path)


def test_methods_that_a_path_does_not_have(client: Client) -> None:
    for method, path, allowed in (
        ("POST", "", "GET"),
        ("GET", "reconstruct", "POST"),
        ("PUT", "jobs/x", "GET, DELETE"),
        ("HEAD", "", "GET"),
    ):
        reply = client.ask(method, f"/{TOKEN}/{path}")
        assert reply.status == 405 and reply.headers["Allow"] == allowed


def test_every_response_is_protected(client: Client) -> None:
    replies = [client.ask("GET", f"/{TOKEN}/"), client.post(), client.ask("GET", "/"), client.post(b"x" * 100)]
    own = client.post(bytes(2 * client.shape.most_bytes))  # which waitress refuses
    for reply in (*replies, own):
        assert "Server" not in reply.headers
        assert reply.headers["X-Frame-Options"] == "DENY" and reply.headers["X-Content-Type-Options"] == "nosniff"
    for reply in replies:
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        assert reply.headers["Cache-Control"] == "no-store"
        assert "frame-ancestors 'none'" in reply.headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in reply.headers
    assert "connect-src 'self'" in replies[0].headers["Content-Security-Policy"]
    assert "default-src 'none'" in replies[1].headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "localhost.evil", "127.0.0.1.evil:80", "127.0.0.1:80:80", "evil@127.0.0.1"]
    + ["x, 127.0.0.1", "127.0.0.1:", "127.0.0.1:a", ":80", "[::2]", "127.0.0.1:\u00b2", "127.0.0.1:999999"],
)
def test_other_hosts_are_refused_on_loopback(client: Client, host: str) -> None:
    assert client.ask("GET", f"/{TOKEN}/", Host=host).status == 404
    assert client.post(Host=host).status == 404


def test_the_names_of_this_machine_are_hosts(client: Client) -> None:
    for name in ("localhost", "LOCALHOST", "127.0.0.1", "[::1]"):
        for port in ("", f":{client.port}", ":9000"):  # that of a forwarding
            assert client.ask("GET", f"/{TOKEN}/", Host=f"{name}{port}").status == 200


def test_requests_of_other_sites_are_refused(client: Client) -> None:
    for headers in (
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"https://127.0.0.1:{client.port}"},
        {"Origin": f"http://127.0.0.1:{client.port + 1}"},
    ):
        assert client.post(**headers).status == 403, headers
    assert client.post(Sec_Fetch_Site="same-origin", Origin=f"http://127.0.0.1:{client.port}").status == 200


def test_bodies_of_another_kind_or_length_are_refused(client: Client) -> None:
    assert client.post(Content_Type="text/plain").status == 415
    assert client.post(Content_Type="").status == 415
    assert client.post(client.body() + b"x").status == 400
    assert client.post(client.body()[:-1]).status == 400
    assert client.post(bytes(client.shape.most_bytes + 1)).status == 413
    assert client.ask("POST", f"/{TOKEN}/reconstruct", b"").status == 400


def test_what_waits_is_told_at_once_and_can_be_fetched() -> None:
    with served(slow, seconds_a_job=0.6) as client:
        began = time.monotonic()
        threads = [threading.Thread(target=client.post) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        asked = time.monotonic()
        reply = client.post()
        assert time.monotonic() - asked < 0.5
        assert reply.status == 202 and reply.json["position"] >= 1 and reply.json["seconds"] > 0.1
        ticket = reply.json["ticket"]
        while (reply := client.job(ticket)).status == 202:
            assert time.monotonic() - began < 20
        assert reply.status == 200
        read_answer(reply.body)
        assert client.job(ticket).status == 404  # an answer is fetched once
        for thread in threads:
            thread.join()


def test_a_job_can_be_cancelled() -> None:
    computed = []

    def count(request: Request) -> Answer:
        computed.append(float(request.pixels.max()))
        return slow(request)

    with served(count, seconds_a_job=2.0) as client:
        first, second, third = (client.post(client.body(value=value)) for value in (0.25, 0.5, 0.75))
        assert (first.status, second.status, third.status) == (202, 202, 202)
        assert client.job(second.json["ticket"], "DELETE").status == 204
        assert client.job(second.json["ticket"]).status == 404
        assert client.job("unknown", "DELETE").status == 204
        while client.job(third.json["ticket"]).status == 202:
            pass
    assert computed == [0.25, 0.75]


def test_a_client_that_goes_while_it_waits_is_not_computed_for() -> None:
    import socket

    computed, begun, go = [], threading.Event(), threading.Event()

    def hold(request: Request) -> Answer:
        begun.set()
        assert go.wait(20)
        computed.append(float(request.pixels.max()))
        return add(request)

    with served(hold, seconds_a_job=0.2) as client:
        other = threading.Thread(target=client.post)
        other.start()
        assert begun.wait(20)
        body = client.body(value=0.75)
        head = f"POST /{TOKEN}/reconstruct HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\nContent-Type: {OCTETS}\r\n"
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            time.sleep(0.15)
        time.sleep(0.4)
        go.set()
        other.join()
        assert client.answered(client.body(value=0.25)).status == 200
    assert computed == [0.5, 0.25]


def test_a_full_queue_says_when_to_come_back() -> None:
    with served(slow, most_jobs=2, seconds_a_job=5.0) as client:
        replies = [client.post() for _ in range(3)]
        assert [reply.status for reply in replies] == [202, 202, 503]
        assert int(replies[2].headers["Retry-After"]) >= 1 and "\n" not in replies[2].json["error"]


def test_an_address_that_asks_too_often_is_slowed() -> None:
    with served(model_rate=RateLimit(per_second=0.5, burst=2)) as client:
        assert [client.post().status for _ in range(3)] == [200, 200, 429]
        assert client.post().headers["Retry-After"] == "2"
        assert client.ask("GET", f"/{TOKEN}/").status == 200
    with served(any_rate=RateLimit(per_second=0.5, burst=2)) as client:
        assert [client.ask("GET", "/").status for _ in range(3)] == [404, 404, 429]


def test_a_fault_of_the_model_is_one_line_without_its_text() -> None:
    def fail(request: Request) -> Answer:
        raise RuntimeError("/home/somebody/secret.py is broken")

    with served(fail) as client:
        reply = client.post()
        assert reply.status == 500 and reply.json == {"error": jobs_module.FAILED}
        assert "secret" in str(client.failures[0])
        assert client.post().status == 500  # it still answers


def test_fifty_clients_at_once_are_all_answered_and_told() -> None:
    """None fails, and none waits longer than a bound without an answer or a place in the queue."""
    silences: list[float] = []
    results: list[int] = []
    places: list[int] = []

    def work(request: Request) -> Answer:
        time.sleep(0.05)
        return add(request)

    with served(work, seconds_a_job=0.05) as client:

        def visit() -> None:
            asked = time.monotonic()
            reply = client.post()
            silences.append(time.monotonic() - asked)
            while reply.status == 202:
                places.append(reply.json["position"])
                time.sleep(min(0.5, max(0.05, reply.json["seconds"])))
                asked = time.monotonic()
                reply = client.job(reply.json["ticket"])
                silences.append(time.monotonic() - asked)
            results.append(reply.status)
            read_answer(reply.body)

        threads = [threading.Thread(target=visit) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert results == [200] * 50
    assert max(silences) < 4, "a second to wait, and a busy machine"
    assert places and max(places) >= 10
