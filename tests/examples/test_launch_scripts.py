"""The launch examples, with stand-ins for a cluster's commands: two launchers on this machine's loopback."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SECONDS = 180
SETTINGS = "epochs=10 warmup_epochs=0.1 batch_size=32 threads=1 checkpoint_every=0.1 embed_dim=32 depth=2 num_heads=2"
STAND_INS = {
    "scontrol": """
        if [ "$1" = show ]; then echo 127.0.0.1; echo 127.0.0.1; else echo "$*" >> "$CALLS"; fi
    """,
    "srun": """
        pids=()
        for node in 0 1; do SLURM_NODEID=$node "$@" & pids+=($!); done
        echo $$ > "$CALLS.srun"
        trap 'kill -USR1 "${pids[@]}"' USR1 # as --signal=USR1@300 does, to each task
        status=0
        for pid in "${pids[@]}"; do
          while kill -0 "$pid" 2>/dev/null; do wait "$pid"; code=$?; done
          if [ "$code" -gt "$status" ]; then status=$code; fi
        done
        exit "$status"
    """,
    "ssh": 'shift; exec bash -c "$*"',
}

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on a cluster of stand-ins."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {**STAND_INS, "paddlemae": f'exec {sys.executable} -m paddlemae "$@"'}
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    slurm = {"SLURM_JOB_NODELIST": "some", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "PROCS": "1", "PORT": port}
    calls = {"CALLS": str(tmp_path / "calls")}
    return {**os.environ, **slurm, **calls, "PATH": f"{folder}:{os.environ['PATH']}"}


def run(script: list[str], environment: dict[str, str]) -> None:
    """To a good end, or all of it is ended."""
    job = subprocess.Popen(script, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        _, said = job.communicate(timeout=SECONDS)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)  # and with each command that watches, its processes
    assert job.returncode == 0, said


def test_a_slurm_job_trains_on_all_of_its_hosts(tmp_path: Path, cluster) -> None:
    environment = {**cluster, "TRAINING": f"digits --out {tmp_path / 'run'} steps=20 {SETTINGS}"}
    script = ["bash", str(ROOT / "examples/slurm.sh")]
    run(script, environment)
    assert (tmp_path / "run/checkpoints/latest").read_text() == "step_00000020\n"
    assert not (tmp_path / "calls").exists()


def test_a_slurm_job_whose_time_is_up_queues_itself_again(tmp_path: Path, cluster) -> None:
    environment = {**cluster, "TRAINING": f"digits --out {tmp_path / 'run'} steps=100000 {SETTINGS}"}
    script = ["bash", str(ROOT / "examples/slurm.sh")]
    job = subprocess.Popen(script, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + SECONDS
        while not (tmp_path / "run/checkpoints/latest").exists():
            assert job.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(int((tmp_path / "calls.srun").read_text()), signal.SIGUSR1)
        _, said = job.communicate(timeout=SECONDS)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode == 75, said
    assert (tmp_path / "calls").read_text() == "requeue 7\n"
    assert said.count("(SIGUSR1); kept ") == 2 and "None" not in said  # a line of each host
    step = (tmp_path / "run/checkpoints/latest").read_text().strip()
    assert said.count(f"checkpoints/{step}") == 2


def test_hosts_without_a_scheduler_train_together(tmp_path: Path, cluster) -> None:
    words = ["digits", "--out", str(tmp_path / "run"), "--procs", "1", "steps=20", *SETTINGS.split()]
    script = ["bash", str(ROOT / "examples/hosts.sh"), "127.0.0.1 127.0.0.1", *words]
    run(script, cluster)
    assert (tmp_path / "run/checkpoints/latest").read_text() == "step_00000020\n"
