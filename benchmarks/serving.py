"""Ask `paddlemae serve` for reconstructions: one client's times, then many at once.

python -m benchmarks.serving --model base --clients 50

By the clock, so leave the machine alone meanwhile. The model has random weights, which take the time of trained ones.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

PERCENTILES = (50, 90, 100)
REMOVED = 0.75
ASKED: dict[str, dict[str, Any]] = {
    "reconstruction": {},
    "with attention": {"attention": {"part": "decoder", "block": 0}},
    "with features": {"features": True},
}


@dataclass
class Server:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    port: int
    token: str

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request(method, f"/{self.token}/{path}", body, {"Content-Type": "application/octet-stream"})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, content

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_megabytes(self) -> float:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found
        return int(found[1]) / 1024


@dataclass
class Visit:
    """What one client waited for.

    Attributes:
        silences: seconds between each of its questions and the answer or place in the queue.
        seconds: until the answer.
        status: of the last response.
    """

    silences: list[float] = field(default_factory=list)
    seconds: float = 0.0
    status: int = 0


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve a model until the context ends."""
    command = [sys.executable, "-m", "paddlemae", "serve", str(folder), "digits", "--limit", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    found = re.search(r":(\d+)/([\w-]+)/", process.stdout.readline())
    assert found, "it did not start"
    yield Server(process, int(found[1]), found[2])
    process.send_signal(signal.SIGINT)
    process.wait(60)


def request_body(image_size: list[int], patches: int, options: dict[str, Any], seed: int) -> bytes:
    """Return a message as the page sends it: noise, and a random mask."""
    random = np.random.default_rng(seed)
    removed = np.zeros(patches, np.uint8)
    removed[random.permutation(patches)[: int(REMOVED * patches)]] = 1
    text = json.dumps(options).encode()
    pixels = random.random((*image_size, 3), dtype=np.float32)
    return struct.pack("<I", len(text)) + text + removed.tobytes() + pixels.tobytes()


def visit(server: Server, body: bytes) -> Visit:
    """Ask as the page does, until there is an answer."""
    seen, begun = Visit(), time.perf_counter()

    def ask(*request: Any) -> bytes:
        asked = time.perf_counter()
        seen.status, content = server.ask(*request)
        seen.silences.append(time.perf_counter() - asked)
        return content

    content = ask("POST", "reconstruct", body)
    while seen.status == 202:
        place = json.loads(content)
        time.sleep(min(2, max(0.15, place["seconds"] / 2)))
        content = ask("GET", f"jobs/{place['ticket']}")
    seen.seconds = time.perf_counter() - begun
    return seen


def visits_at_once(server: Server, bodies: list[bytes]) -> list[Visit]:
    seen: list[Visit] = []
    threads = [threading.Thread(target=lambda body=body: seen.append(visit(server, body))) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def percentiles(values: list[float]) -> str:
    return " | ".join(f"{np.percentile(values, share):.2f}" for share in PERCENTILES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="base", help="a size of the paper, or a folder with a model")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=10, help="requests of the single client, of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(options.model) if Path(options.model).exists() else untrained(options.model, Path(folder))
        shape = json.loads((run / "model.json").read_text())["architecture"]
        size, patch = shape["image_size"], shape["patch_size"]
        patches = size[0] // patch[0] * (size[1] // patch[1])
        with serving(run) as server:
            report_one(server, size, patches, options.rounds)
            report_many(server, [request_body(size, patches, {}, seed) for seed in range(options.clients)])


def report_one(server: Server, size: list[int], patches: int, rounds: int) -> None:
    print("| one client | median, s | 90%, s | longest, s | CPU seconds each |\n|---|---:|---:|---:|---:|")
    for name, asked in ASKED.items():
        cpu = server.cpu_seconds()
        seen = [visit(server, request_body(size, patches, asked, seed)) for seed in range(rounds)]
        cpu = (server.cpu_seconds() - cpu) / rounds
        assert all(one.status == 200 for one in seen)
        print(f"| {name} | {percentiles([one.seconds for one in seen])} | {cpu:.2f} |")


def report_many(server: Server, bodies: list[bytes]) -> None:
    seen = visits_at_once(server, bodies)
    failed = sum(one.status != 200 for one in seen)
    print(
        f"\n| {len(bodies)} clients at once, {failed} failed | median, s | 90%, s | longest, s |\n|---|---:|---:|---:|"
    )
    print(f"| until the first answer or place | {percentiles([one.silences[0] for one in seen])} |")
    print(f"| any silence | {percentiles([value for one in seen for value in one.silences])} |")
    print(f"| until the answer | {percentiles([one.seconds for one in seen])} |")
    print(f"\npeak memory of the server: {server.peak_megabytes():.0f} MB")


def untrained(size: str, folder: Path) -> Path:
    """Write a masked autoencoder of a size of the paper with random weights."""
    from paddlemae.engine.safe_import import paddle
    from paddlemae.model.mae import MaskedAutoencoder
    from paddlemae.model.shape import SIZES
    from paddlemae.recipe import default_statistics
    from paddlemae.tasks.models.build import describe
    from paddlemae.weights.model_folder import write_model
    from paddlemae.weights.transfer import to_official

    paddle.seed(0)
    model = MaskedAutoencoder(**SIZES[size])
    write_model(folder, to_official(model), describe(model, default_statistics(3), eval_crop_ratio=0.875))
    return folder


if __name__ == "__main__":
    main()
