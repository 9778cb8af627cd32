"""Run Python code in a separate process."""

import subprocess
import sys

WITHOUT_PADDLE = """
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name == "paddle" else find_spec(name, *rest)
from paddlemae.cli.app import main
main()
"""


def python(code: str, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
