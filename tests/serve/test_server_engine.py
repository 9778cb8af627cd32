"""The browser's side of the server, in Node: requests, waiting, cancelling, errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import paddlemae
from paddlemae.serve.application import endpoint
from paddlemae.serve.messages import Answer, Request
from paddlemae.serve.rate_limit import RateLimit
from tests.support.served import TOKEN, Client, served

ENGINE = Path(paddlemae.__file__).parent / "page/assets/server_engine.js"
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="there is no Node")
SET_UP = """
const request = (value, more = {}) => ({
  pixels: new Float32Array(72).fill(value), removed: Uint8Array.from([0, 1, 1, 1, 1, 0]), attention: null,
  features: false, ...more,
});
const told = [];
const tell = (progress) => told.push(progress);
const plainly = (result) => JSON.parse(JSON.stringify(result, (key, value) =>
  ArrayBuffer.isView(value) ? { type: value.constructor.name, values: [...value] } : value));
const outcome = (promise) => promise.then(plainly, ({ name, message }) => ({ name, message }));
"""


def run_script(client: Client, script: str) -> Any:
    """Run a script with `engine`, `request`, `tell`, `told` and `outcome` in Node; return what it returns."""
    header = json.dumps({"endpoint": endpoint()})
    document = json.dumps({"baseURI": f"http://127.0.0.1:{client.port}/{TOKEN}/"})
    code = (
        f"const document = {document};\n{ENGINE.read_text()}\n{SET_UP}\nconst engine = createServerEngine({header});\n"
    )
    code += f"(async () => {{ {script} }})().then((found) => console.log(JSON.stringify(found)));"
    assert NODE is not None
    done = subprocess.run([NODE, "-e", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def everything(request: Request) -> Answer:
    arrays = {
        "plain": request.pixels.reshape(6, 12) * 2,
        "attention": np.arange(8, dtype=np.float32).reshape(2, 2, 2),
        "query_patches": np.array([-1, 0], np.int32),
        "key_patches": np.array([0, 5], np.int32),
        "features": np.array([request.features, request.removed.sum()], np.float32),
    }
    if request.attention is None:
        arrays = {name: array for name, array in arrays.items() if name in ("plain", "features")}
    return Answer(arrays, {"milliseconds": 1.5})


def test_an_answer_is_what_the_other_engines_give() -> None:
    with served(everything) as client:
        found = run_script(
            client,
            "const more = {attention: {part: 'decoder', block: 0}, features: true};"
            "return plainly(await engine.run(request(0.25, more)));",
        )
    assert found["plain"] == {"type": "Float32Array", "values": [0.5] * 72}
    assert found["features"]["values"] == [1, 4] and found["milliseconds"] == 1.5
    attention = found["attention"]
    assert (attention["heads"], attention["queries"], attention["keys"]) == (2, 2, 2)
    assert attention["queryPatches"] == {"type": "Int32Array", "values": [-1, 0]}
    assert attention["keyPatches"]["values"] == [0, 5] and attention["weights"]["values"] == list(range(8))
    assert found["logits"] is None is found["logitsGrid"]


def test_logits_of_a_grid_and_of_an_image() -> None:
    for shape, grid in (((2, 3, 4), [2, 3]), ((5,), None)):
        with served(lambda request, shape=shape: Answer({"logits": np.ones(shape, np.float32)}, {})) as client:
            found = run_script(client, "return plainly(await engine.run(request(0)));")
        assert len(found["logits"]["values"]) == np.prod(shape)
        assert found["logitsGrid"] == grid and found["plain"] is None is found["attention"]


def test_who_waits_is_told_its_place() -> None:
    def slow(request: Request) -> Answer:
        time.sleep(2 if request.pixels.max() == 0.125 else 0)
        return everything(request)

    with served(slow, seconds_a_job=3.0) as client:
        client.post(client.body(value=0.125))
        found = run_script(client, "return [await outcome(engine.run(request(0.5), tell)), told];")
    result, told = found
    assert result["plain"]["values"] == [1.0] * 72
    assert told and told[0]["position"] == 1 and told[0]["seconds"] > 1 and told[0]["done"] == 0


def test_a_newer_request_cancels_the_older_one_in_the_server_too() -> None:
    computed = []

    def note(request: Request) -> Answer:
        computed.append(float(request.pixels.max()))
        time.sleep(2 if request.pixels.max() == 0.125 else 0)
        return everything(request)

    with served(note, seconds_a_job=3.0) as client:
        client.post(client.body(value=0.125))  # what is in progress
        found = run_script(
            client,
            """
            const first = outcome(engine.run(request(0.25), tell));
            while (!told.length) await new Promise((go) => setTimeout(go, 10));
            const second = outcome(engine.run(request(0.5)));
            return [await first, await second];
            """,
        )
    assert found[0]["name"] == "AbortError" and found[1]["plain"]["values"] == [1.0] * 72
    assert computed == [0.125, 0.5]


def test_requests_in_haste_are_sent_when_they_rest() -> None:
    computed = []

    def note(request: Request) -> Answer:
        computed.append(round(float(request.pixels.max()) * 100))
        return everything(request)

    with served(note) as client:
        found = run_script(
            client,
            """
            const all = [];
            for (let i = 1; i <= 20; i++) {
              all.push(outcome(engine.run(request(i / 100))));
              await new Promise((go) => setTimeout(go, 1));
            }
            return await Promise.all(all);
            """,
        )
    assert [one.get("name") for one in found] == ["AbortError"] * 19 + [None]
    assert computed[-1] == 20 and len(computed) <= 2


def test_cancelling_ends_a_request() -> None:
    with served(everything, seconds_a_job=30.0) as client:
        found = run_script(client, "const one = outcome(engine.run(request(0.25))); engine.cancel(); return await one;")
    assert found["name"] == "AbortError"


def test_refused_requests_are_sent_again_when_they_may() -> None:
    with served(everything, model_rate=RateLimit(per_second=2, burst=1)) as client:
        found = run_script(
            client,
            "const one = () => outcome(engine.run(request(0.5), tell)); return [[await one(), await one()], told];",
        )
    results, told = found
    assert [one["plain"]["values"][0] for one in results] == [1, 1]
    assert {"done": 0, "total": 1, "position": None, "seconds": 1} in told


def test_errors_are_the_servers_line() -> None:
    with served(everything) as client:
        wrong = run_script(client, "return await outcome(engine.run(request(2)));")
    assert wrong == {"name": "Error", "message": "pixels must be numbers from 0 to 1"}


def test_a_server_that_is_gone_is_an_error_of_one_line() -> None:
    with served(everything) as client:
        pass
    found = run_script(client, "return await outcome(engine.run(request(0)));")
    assert found["name"] == "Error" and "\n" not in found["message"]


def test_what_the_server_has_forgotten_is_sent_again() -> None:
    begun = threading.Event()

    def slow(request: Request) -> Answer:
        begun.set()
        time.sleep(0.6)
        return everything(request)

    with served(slow, seconds_a_job=3.0) as client:
        client.post()
        found: list[Any] = []
        thread = threading.Thread(
            target=lambda: found.append(run_script(client, "return await outcome(engine.run(request(0.5)));"))
        )
        thread.start()
        assert begun.wait(20)
        for _ in range(200):
            with client.queue._changed:
                waiting = [
                    job for job in client.queue._jobs.values() if job.request and job.request.pixels[0, 0, 0] == 0.5
                ]
                if waiting:
                    client.queue._jobs.pop(waiting[0].ticket)
                    break
            time.sleep(0.01)
        thread.join(60)
    assert found[0]["plain"]["values"] == [1.0] * 72
