"""`paddlemae serve` as a user runs it: its line, its page, its numbers, its end."""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import paddlemae as package
from paddlemae.engine.safe_import import paddle
from paddlemae.model.mae import reconstruct
from paddlemae.model.masking import Mask
from paddlemae.serve.messages import RequestShape
from paddlemae.tasks import serve as task
from paddlemae.tasks.models.preprocess import to_input, to_shares
from tests.support.pictures import write_noise
from tests.support.served import Client, read_answer, request_body

OTHER_HOSTS = ("192.0.2.1", "no.such.host.invalid", "a" * 99)
REMOVED = np.array([0, 1, 1, 0], np.uint8)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    write_noise(tmp_path / "photo.png", 3)
    return tmp_path / "photo.png"


def started(process: Any) -> tuple[Client, str]:
    """Return a client of a server that was started, and the line that it printed."""
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:(\d+)/([\w-]+)/", line)
    assert found, (line, process.communicate(timeout=20))
    return Client(int(found[1]), RequestShape((8, 8, 3), 4, {"encoder": [2]}), found[2]), line


def header_of(page: bytes) -> dict[str, Any]:
    found = re.search(rb'<script type="application/json" id="model">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def sample_of(page: bytes) -> np.ndarray:
    """Return the pixels of a page's first sample image, uint8 [8, 8, 3]."""
    found = re.search(rb'id="content">([^<]*)<', page)
    assert found
    first = header_of(page)["samples"][0]
    content = zlib.decompress(base64.b64decode(found[1]))[first["offset"] :][: first["length"]]
    return np.frombuffer(content, np.uint8).reshape(8, 8, 3)


def test_it_serves_what_the_model_computes_until_ctrl_c(start_command: Callable, pretrained: Path, photo: Path) -> None:
    process = start_command("serve", pretrained, photo, "--title", "Ours <b>")
    client, line = started(process)
    assert line.count("\n") == 1 and "Ctrl-C" in line and len(client.token) >= 32
    page = client.ask("GET", f"/{client.token}/")
    header = header_of(page.body)
    assert page.status == 200 and header["title"] == "Ours <b>" and b"Ours <b>" not in page.body
    assert header["endpoint"] == {"url": "reconstruct", "jobs": "jobs/"} and header["tensors"] == {}
    assert [sample["name"] for sample in header["samples"]] == [
        photo.name
    ] and b"/" + photo.name.encode() not in page.body

    model, seen_HWC = package.load(pretrained), sample_of(page.body)
    options = {"attention": {"part": "encoder", "block": 0}, "features": True}
    reply = client.answered(request_body(seen_HWC / np.float32(255), REMOVED, options))
    scalars, arrays = read_answer(reply.body)
    mask = Mask(np.flatnonzero(1 - REMOVED)[None], np.flatnonzero(REMOVED)[None])
    images = to_input(seen_HWC.transpose(2, 0, 1)[None].copy(), model.description)
    expected = to_shares(reconstruct(model.layer, images, mask).plain, model.description)[0]
    plain_HWC = arrays["plain"].reshape(2, 2, 4, 4, 3).transpose(0, 2, 1, 3, 4).reshape(8, 8, 3)
    shares = plain_HWC * np.float32(model.description.std) + np.float32(model.description.mean)
    np.testing.assert_allclose(shares, expected, rtol=0, atol=1e-5)
    feature_D = model.encode(photo, token="cls")[0]
    np.testing.assert_allclose(arrays["features"], feature_D / np.linalg.norm(feature_D), rtol=0, atol=1e-5)
    assert arrays["attention"].shape == (2, 3, 3) and scalars["milliseconds"] > 0

    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        connection.sendall(b"POST /")  # one that never ends its request holds up nothing
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "paddlemae: stopped\n")


def test_a_classifiers_logits_are_those_of_predict(start_command: Callable, tuned: Path, photo: Path) -> None:
    process = start_command("serve", tuned, photo)
    client, _ = started(process)
    page = client.ask("GET", f"/{client.token}/").body
    reply = client.answered(request_body(sample_of(page) / np.float32(255), 0 * REMOVED, {}))
    logits_K = read_answer(reply.body)[1]["logits"]
    expected_K = package.load(tuned).predict(photo).probabilities[0]
    np.testing.assert_allclose(np.exp(logits_K) / np.exp(logits_K).sum(), expected_K, rtol=0, atol=1e-5)
    assert len(header_of(page)["classes"]) == 3
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (75, "", "paddlemae: stopped (SIGTERM)\n")


def test_a_port_in_use_is_one_line(paddlemae: Callable, pretrained: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = paddlemae("serve", pretrained, "--port", port)
    assert done.status == 2 and done.err.count("\n") == 1 and str(port) in done.err and "--port" in done.err


@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_hosts_of_other_machines_are_one_line(paddlemae: Callable, pretrained: Path, host: str) -> None:
    done = paddlemae("serve", pretrained, "--host", host)
    assert done.status == 2 and done.err.count("\n") == 1 and "--host" in done.err


def test_a_run_that_is_none_is_one_line(paddlemae: Callable, tmp_path: Path) -> None:
    done = paddlemae("serve", tmp_path / "none")
    assert done.status == 2 and done.err.count("\n") == 1 and "none" in done.err


def test_without_waitress_it_says_what_to_install(
    paddlemae: Callable, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "waitress", None)
    done = paddlemae("serve", pretrained)
    assert done.status == 2 and done.err.count("\n") == 1 and "pip install 'paddlemae[serve]'" in done.err


def test_other_machines_are_let_in_only_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, pretrained: Path
) -> None:
    monkeypatch.setattr(task, "wait_for_signal", lambda: None)
    opened: list[str] = []
    monkeypatch.setattr(task.webbrowser, "open", opened.append)
    for host in ("127.0.0.1", "0.0.0.0", "::1"):
        if host == "::1" and not socket.has_ipv6:
            continue
        task.serve(pretrained, ["digits"], task.Address(host, opens_browser=True), limit=1)
        out, err = capsys.readouterr()
        assert err.count("warning") == err.count("\n") == (host == "0.0.0.0")
        assert out.split()[out.split().index("at") + 1] == opened.pop()


def test_a_model_without_finite_outputs_is_one_line(
    monkeypatch: pytest.MonkeyPatch, pretrained: Path, paddlemae: Callable
) -> None:
    load = task.load_encoder

    def damaged(checkpoint: Any) -> Any:
        model = load(checkpoint)
        model.decoder.decoder_pred.bias.set_value(paddle.full([48], float("nan")))
        return model

    monkeypatch.setattr(task, "load_encoder", damaged)
    done = paddlemae("serve", pretrained, "digits", "--limit", 1)
    assert done.status == 2 and done.err.count("\n") == 1 and "finite" in done.err


def test_faults_of_the_model_are_printed_once(capsys: pytest.CaptureFixture) -> None:
    report = task.failure_printer()
    for number in range(100):
        report(ValueError(f"fault\n{number % 20}"))
    assert capsys.readouterr().err.count("\n") == task.MOST_FAULTS


def test_large_images_and_attention_make_the_queue_shorter() -> None:
    small = RequestShape((32, 32, 3), 64, {"encoder": [4], "decoder": []})
    large = RequestShape((2048, 2048, 13), 16384, {"encoder": [16], "decoder": [16]})
    assert task.most_jobs(small) == task.MOST_JOBS and task.most_jobs(large) == task.FEWEST_JOBS
