"""The journey from images to a report, as examples/journey.sh has it, on a few small images."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.pictures import write_noise

SECONDS = 300
SMALL = "steps=2 batch_size=4 embed_dim=16 depth=1 num_heads=2 threads=1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(8):
        write_noise(tmp_path / f"photos/{number}.png", number)
        for place, label in enumerate(("cat", "dog")):
            for at, split in enumerate(("train", "test")):
                write_noise(tmp_path / f"labelled/{split}/{label}/{number}.png", 100 + 40 * number + 10 * at + place)
    command = tmp_path / "bin" / "paddlemae"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m paddlemae "$@"\n')
    command.chmod(0o755)
    return tmp_path


@pytest.mark.slow
def test_the_script_leads_from_images_to_a_report(folder: Path) -> None:
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PRETRAIN": SMALL, "FINETUNE": SMALL}
    words = ["bash", str(ROOT / "examples/journey.sh"), "photos", "labelled", "out"]

    def run_journey() -> None:
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr

    run_journey()
    report = (folder / "out/pretrained/report.html").read_text()
    assert "from scratch" in report
    assert (folder / "out/reconstructions.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "out/tuned/result.json").exists() and (folder / "out/probe/result.json").exists()
    assert (folder / "out/predictions.csv").read_text().count("\n") == 1 + 8
    written = (folder / "out/tuned/result.json").stat().st_mtime_ns
    run_journey()  # finished trainings are skipped: run again, they would be refused
    assert (folder / "out/tuned/result.json").stat().st_mtime_ns == written
