"""The hostile corpus, whole: no file runs code, hangs, crashes or takes memory; each ends as it must."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.fuzz import weights as fuzz
from tests.support import guarded_open as guarded
from tests.support.guarded_open import MAX_SECONDS, answers
from tests.support.hostile_corpus import build
from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="guards by /proc and limits of Linux")


def test_every_hostile_file_ends_as_it_must(tmp_path: Path) -> None:
    cases = build(tmp_path)
    assert len({case[:2] for case in cases}) == len(cases) > 200
    wrong, slowest = [], 0.0
    for case, answer in zip(cases, answers(case.path for case in cases)):
        slowest = max(slowest, answer.seconds)
        if answer.outcome != case.ends or answer.seconds > MAX_SECONDS:
            wrong.append(f"{case.group}: {case.name}: {answer.outcome} {answer.message} ({answer.seconds:.1f} s)")
        if answer.outcome == "loaded" and not answer.correct and "12,000" not in case.name:
            wrong.append(f"{case.group}: {case.name}: other weights than were written")
    print(*Counter((case.group, case.ends) for case in cases).items(), sep="\n")
    print(f"the slowest took {slowest:.2f} s of computing")
    assert not wrong, "\n".join(wrong)
    assert not (tmp_path / "witness").exists()


def test_the_guard_sees_what_it_guards_against(tmp_path: Path) -> None:
    """Each act, where a reader did it, would be stopped and noted."""
    acts = {
        "os.system": "os.system('true')",
        "subprocess": "import subprocess; subprocess.run(['true'])",
        "open": f"open({str(tmp_path / 'written')!r}, 'w')",
        "os.open": f"os.open({str(tmp_path / 'written')!r}, os.O_WRONLY | os.O_CREAT)",
        "import": "import wave",
        "socket": "import socket; socket.socket()",
        "compile": "eval('1')",
        "pickle": "import pickle; pickle.loads(b'cos\\nsystem\\n.')",
    }
    code = "import os, sys\nfrom tests.support.guarded_open import _Guard\n"
    code += "guard = _Guard()\nguard.on = True\ntry:\n    {}\n"
    code += "except BaseException: pass\nguard.on = False\nprint(len(guard.noted))"
    for name, act in acts.items():
        done = subprocess.run([sys.executable, "-c", code.format(act)], cwd=ROOT, capture_output=True, text=True)
        assert done.stdout.strip() not in ("", "0"), (name, done.stderr)
    assert not (tmp_path / "written").exists()


def test_hangs_crashes_and_memory_are_distinguished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guarded process with a reader that misbehaves as the file's name says."""
    code = (
        "import os\n"
        "from tests.support import guarded_open as guarded\n"
        "def misbehave(path):\n"
        "    word = os.path.basename(path)\n"
        "    if word == 'memory': bytearray(2**28)\n"
        "    if word == 'crash': os.abort()\n"
        "    if word == 'hang':\n        while True: pass\n"
        "    if word == 'exception': raise KeyError('x')\n"
        "    if word == 'message': raise ValueError('two\\nlines')\n"
        "    raise ValueError('fine')\n"
        "import paddlemae.weights.open as foreign\n"
        "real, count = foreign.open_weights, [0]\n"
        "def opened(path):\n"
        "    count[0] += 1\n"
        "    return real(path) if count[0] <= 4 else misbehave(path)\n"
        "foreign.open_weights = opened\n"
        "guarded.MAX_SECONDS = 0.5\n"
        "guarded._serve()\n"
    )
    script = tmp_path / "child.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{code}")
    monkeypatch.setattr(guarded, "COMMAND", [sys.executable, str(script)])
    words = ["fine", "memory", "crash", "hang", "exception", "message", "fine"]
    for word in words:
        (tmp_path / word).touch()
    found = [answer.outcome for answer in answers(tmp_path / word for word in words)]
    assert found == ["refused", *words[1:-1], "refused"]


def test_some_hundred_fuzzed_files_are_loaded_or_refused() -> None:
    """`make fuzz` does 20,000."""
    counts, failures, _ = fuzz.run(600, seed=1)
    assert not failures and counts["loaded"] > 20 and counts["refused"] > 400
