"""Drive the system's Firefox by its own protocol, Marionette, since Playwright drives only its own builds of it."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("firefox-esr", "firefox")
START_SECONDS = 60
OFFLINE = {  # no update, no telemetry, no connection at all: a proxy that is not there, also for this machine
    "network.proxy.type": 1,
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
    "network.proxy.no_proxies_on": "",
    "app.update.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "browser.shell.checkDefaultBrowser": False,
}

CANVAS = """const one = document.getElementById(arguments[0]);
const data = one.getContext('2d').getImageData(0, 0, one.width, one.height).data;
return [one.height, one.width, Array.from(data)];"""


def find_firefox() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Firefox:
    """A window of Firefox."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=START_SECONDS)
        self.number = 0
        self._receive()  # who it is
        self.ask("WebDriver:NewSession", {})

    def _receive(self) -> Any:
        length = b""
        while (sign := self.socket.recv(1)) != b":":
            if not sign:
                raise ConnectionError("Firefox has ended")
            length += sign
        content = b""
        while len(content) < int(length):
            content += self.socket.recv(int(length) - len(content))
        return json.loads(content)

    def ask(self, command: str, parameters: dict[str, Any]) -> Any:
        """Give a command; return its result."""
        self.number += 1
        message = json.dumps([0, self.number, command, parameters])
        self.socket.sendall(f"{len(message.encode())}:{message}".encode())
        _, _, error, result = self._receive()
        if error:
            raise RuntimeError(f"{command}: {error['message']}")
        return result

    def open(self, page: Path | str, width: int = 1300, height: int = 900) -> None:
        """Open a file or an address of this machine."""
        self.ask("WebDriver:SetWindowRect", {"width": width, "height": height})
        self.ask("WebDriver:Navigate", {"url": page if isinstance(page, str) else page.as_uri()})

    def evaluate(self, script: str, *arguments: Any) -> Any:
        """Return what the body of a function returns; it may be a promise."""
        return self.ask("WebDriver:ExecuteScript", {"script": script, "args": list(arguments)})["value"]

    def canvas(self, name: str) -> np.ndarray:
        """Return what a canvas of the page holds, uint8 [H, W, 3]."""
        height, width, data = self.evaluate(CANVAS, name)
        return np.array(data, np.uint8).reshape(height, width, 4)[..., :3]

    def wait_for(self, condition: str, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not self.evaluate(f"return Boolean({condition})"):
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds} s: {condition}")
            time.sleep(0.02)

    def drag(self, *points: tuple[float, float]) -> None:
        """Move the mouse over points of the window with its button down."""
        moves = [{"type": "pointerMove", "x": round(x), "y": round(y), "duration": 30} for x, y in points]
        actions = [moves[0], {"type": "pointerDown", "button": 0}, *moves[1:], {"type": "pointerUp", "button": 0}]
        pointer = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions}
        self.ask("WebDriver:PerformActions", {"actions": [pointer]})

    def press(self, *keys: str) -> None:
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.ask("WebDriver:PerformActions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def screenshot(self) -> bytes:
        return base64.b64decode(self.ask("WebDriver:TakeScreenshot", {"full": False})["value"])


@contextmanager
def started_firefox(executable: str, folder: Path) -> Iterator[Firefox]:
    """Start Firefox without a window, with a new profile in the folder; end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"marionette.port": port, **OFFLINE}
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in settings.items()]
    (folder / "user.js").write_text("\n".join(lines))
    command = [executable, "--headless", "--marionette", "--no-remote", "--profile", str(folder)]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        browser = _connect(process, port)
        with browser.socket:
            yield browser
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _connect(process: subprocess.Popen[bytes], port: int) -> Firefox:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            return Firefox(port)
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.2)
