"""The hostile corpus, whole: no file runs code, hangs, crashes or takes memory; each ends as it must."""

import sys
from collections import Counter
from pathlib import Path

import pytest
from guarded import MAX_SECONDS, answers
from hostile import build

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="guards by /proc and limits of Linux")


def test_every_hostile_file_ends_as_it_must(tmp_path: Path) -> None:
    cases = build(tmp_path)
    assert len({case[:2] for case in cases}) == len(cases) > 200
    wrong = []
    for case, answer in zip(cases, answers(case.path for case in cases)):
        if answer.outcome != case.ends or answer.seconds > MAX_SECONDS:
            wrong.append(f"{case.group}: {case.name}: {answer.outcome} {answer.message} ({answer.seconds:.1f} s)")
        if answer.outcome == "loaded" and not answer.correct and "12,000" not in case.name:
            wrong.append(f"{case.group}: {case.name}: other weights than were written")
    print(*Counter((case.group, case.ends) for case in cases).items(), sep="\n")
    assert not wrong, "\n".join(wrong)
    assert not (tmp_path / "witness").exists()
