"""Measure PaddleMAE in several processes: the same step with a shared batch, started by Paddle's launcher.

Run by the launcher as each of its processes: `processes.py JOB OPTIONS FILE`; the first one leaves what it measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks import ours
from benchmarks.works import Job


def pretrain(job: Job, options: ours.Options) -> dict[str, object]:
    """Time `ours.pretrain` on `options["processes"]` processes of `job.threads` threads each."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        launch = ["-W", "ignore", "-m", "paddle.distributed.launch", "--nproc_per_node", str(options["processes"])]
        words = [*launch, "--log_dir", f"{folder}/logs", __file__, json.dumps(asdict(job)), str(found)]
        quiet = {**os.environ, "GLOG_minloglevel": "2"}
        subprocess.run([sys.executable, *words], env=quiet, check=True, stdout=subprocess.DEVNULL)
        return json.loads(found.read_text())


def rank(job: Job, found: Path) -> None:
    """Run the work of one process."""
    ours.prepare(job)
    from paddlemae.train.parallel.ranks import join

    ranks = join()
    measured = ours.pretrain(job, {}, ranks)
    if ranks.is_first:
        found.write_text(json.dumps(measured))
    ranks.wait()
    ranks.leave()


TASKS = {"pretrain": pretrain}

if __name__ == "__main__":
    rank(Job(**json.loads(sys.argv[1])), Path(sys.argv[2]))
