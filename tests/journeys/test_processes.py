"""Trainings in several processes, as a user types them: equal to one process, and to themselves after any end.

Each launch takes 6 to 30 s, most of it imports, so tests share the runs that nothing goes wrong in.

What equality to the last bit depends on is said in tests/journeys/test_resume.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from paddlemae.runs.runlog import is_finished, newest_checkpoint, read_metrics, read_skipped
from paddlemae.train.checkpoint_folders import check_intact, find_checkpoint
from tests.support.bfloat16 import needs_avx512
from tests.support.coloured_scenes import write_scenes
from tests.support.launched_jobs import LONG, Job, run
from tests.support.paths import ROOT
from tests.support.pictures import COLOURS, write_png
from tests.support.two_ranks import BATCH, LONGER_THAN_GLOO_WAITS, STEPS

pytestmark = pytest.mark.slow

TINY = ["embed_dim=32", "depth=2", "num_heads=2", "threads=1", "warmup_epochs=0.1", "epochs=1", "log_every=1"]
PRETRAIN = ["pretrain", "digits", *TINY, "batch_size=32", "--quiet"]
TOTAL = 60  # steps
PLAIN = [f"steps={TOTAL}", "checkpoint_every=0.064"]  # epochs: 8 steps
ACCUMULATED = ["steps=50", "accumulation_steps=2", "clip_grad=1"]
CLOCK = ("seconds", "images_per_second", "waiting", "memory_gb")
# in the process of one rank only, or in the command that watches: what no option does
SITE = """
import os
if os.environ.get("PADDLE_TRAINER_ID") == os.environ.get("RAISING_RANK"):
    import signal
    def fail(number, frame):
        raise LookupError("a bug of this rank alone")  # a RuntimeError in a sum of gradients is a lost rank
    signal.signal(signal.SIGUSR2, fail)
if "SHOWN_CPUS" in os.environ:
    os.sched_getaffinity = lambda pid: set(range(int(os.environ["SHOWN_CPUS"])))
"""


def steps_of(out: Path) -> list[int]:
    return [line["step"] for line in read_metrics(out) if "loss" in line]


def losses_of(out: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in read_metrics(out) if "loss" in line}


def tensors_of(out: Path, name: str = "model") -> dict[str, np.ndarray]:
    return load_file(find_checkpoint(out) / f"{name}.safetensors")


def distance(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The L2 norm of the difference of all weights, as a part of the weights' own.

    Biases of attention's keys are left out, and nothing else: softmax doesn't change when all keys move, so that their
    gradient is zero but for rounding, which AdamW makes steps of full size from.
    """
    assert set(one) == set(other) and len(one) > 20
    differences, squares = [], []
    for name, tensor in one.items():
        mine, others = tensor.astype(np.float64).ravel(), other[name].astype(np.float64).ravel()
        if name.endswith("qkv.bias"):
            width = len(mine) // 3
            mine, others = (np.delete(each, slice(width, 2 * width)) for each in (mine, others))
        differences.append(np.square(mine - others).sum())
        squares.append(np.square(mine).sum())
    return float(np.sqrt(sum(differences) / sum(squares)))


def assert_bitwise_equal(out: Path, whole: Path) -> None:
    """Weights, slots, and metrics but for the clock."""
    assert find_checkpoint(out).name == find_checkpoint(whole).name
    check_intact(find_checkpoint(out), whole=True)
    for name in ("model", "optimizer"):
        tensors, others = tensors_of(out, name), tensors_of(whole, name)
        assert set(tensors) == set(others) and len(tensors) > 20
        for key, tensor in tensors.items():
            np.testing.assert_array_equal(tensor, others[key], err_msg=f"{name}: {key}")
    lines = [
        [{key: value for key, value in line.items() if key not in CLOCK} for line in read_metrics(each)]
        for each in (out, whole)
    ]
    assert lines[0] == lines[1] and len(lines[0]) >= TOTAL


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory) -> Callable[..., Path]:
    """The run folder of an undisturbed pretraining on that number of processes. Not to be changed."""
    made: dict[Any, Path] = {}

    def find(processes: int, settings: Sequence[str]) -> Path:
        key = (processes, *settings)
        if key not in made:
            folder = tmp_path_factory.mktemp("whole")
            run(folder, *PRETRAIN, *settings, "--out", folder / "run", "--procs", processes)
            made[key] = folder / "run"
        return made[key]

    return find


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """The run folder of a pretraining on two processes that was stopped by SIGTERM. Not to be changed."""
    folder = tmp_path_factory.mktemp("stopped")
    out = folder / "run"
    with Job(folder, *PRETRAIN, *PLAIN, "--out", out, "--procs", 2) as job:
        job.wait_for(lambda: len(steps_of(out)) >= 5)
        job.process.send_signal(signal.SIGTERM)
        assert job.end() == 75, job.said
    step = steps_of(out)[-1]
    assert 5 <= step < TOTAL and find_checkpoint(out).name == f"step_{step:08d}"
    assert f"stopped after step {step} of {TOTAL} (SIGTERM)" in job.said
    assert "Traceback" not in job.said and "starting again" not in job.said
    return out


# ---------------------------------------------------------------- the same as one process


@pytest.mark.parametrize("settings", [PLAIN, ACCUMULATED], ids=["plain", "accumulated and clipped"])
def test_two_processes_train_as_one(whole_run, settings) -> None:
    one, two = whole_run(1, settings), whole_run(2, settings)
    assert distance(tensors_of(two), tensors_of(one)) < 1e-6  # measured: 3e-8
    losses, others = losses_of(one), losses_of(two)
    assert list(losses) == list(others) == list(range(1, len(losses) + 1)) and len(losses) >= 50
    np.testing.assert_allclose(list(others.values()), list(losses.values()), rtol=1e-5)
    assert losses[1] - losses[len(losses)] > 0.5  # it has learned something, so that they could have drifted apart
    norms = [[line["grad_norm"] for line in read_metrics(out) if "grad_norm" in line] for out in (one, two)]
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-3)
    files = [sorted(str(path.relative_to(out)) for path in out.rglob("*")) for out in (one, two)]
    assert files[0] == files[1]


@needs_avx512
def test_two_processes_train_in_bfloat16_as_one(tmp_path) -> None:
    runs = []
    for processes in (1, 2):
        out = tmp_path / str(processes) / "run"
        words = [*PRETRAIN, "steps=20", "precision=bfloat16", "--out", out, "--procs", processes]
        run(tmp_path / str(processes), *words, PADDLEMAE_EMULATE_BFLOAT16="1")
        runs.append(out)
    losses, others = (list(losses_of(out).values()) for out in runs)
    assert len(losses) == 20 and losses[0] - losses[-1] > 0.1
    np.testing.assert_allclose(others, losses, rtol=1e-3)


@pytest.mark.parametrize("processes", [1, 4])
def test_a_run_resumes_with_another_number_of_processes(tmp_path, whole_run, stopped, processes: int) -> None:
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    step = steps_of(out)[-1]
    job = run(tmp_path, *PRETRAIN, *PLAIN, "--out", out, "--procs", processes)
    losses, expected = losses_of(out), losses_of(whole_run(1, PLAIN))
    assert steps_of(out) == list(range(1, TOTAL + 1))
    np.testing.assert_allclose(list(losses.values()), list(expected.values()), rtol=1e-4)
    assert distance(tensors_of(out), tensors_of(whole_run(1, PLAIN))) < 1e-5
    before = [line for line in read_metrics(stopped) if line["step"] <= step]
    assert list(read_metrics(out))[: len(before)] == before  # went on, and did not begin again
    assert "Traceback" not in job.said


def test_a_run_resumes_bitwise_with_the_same_number(tmp_path, whole_run, stopped) -> None:
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    run(tmp_path, "pretrain", "--resume", "--out", out, "--procs", 2, "--quiet")
    assert_bitwise_equal(out, whole_run(2, PLAIN))


def test_two_launchers_train_one_model(tmp_path, whole_run) -> None:
    """As two hosts would, which must see the same folder."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    out = tmp_path / "run"
    hosts = ["--nodes", 2, "--master", f"127.0.0.1:{port}", "--out", out]
    command = [*PRETRAIN, *PLAIN, *hosts]
    with (
        Job(tmp_path / "0", *command, "--node-rank", 0) as first,
        Job(tmp_path / "1", *command, "--node-rank", 1) as second,
    ):
        assert (first.end(), second.end()) == (0, 0), first.said + second.said
    assert steps_of(out) == list(range(1, TOTAL + 1)) and is_finished(out)
    assert_bitwise_equal(out, whole_run(2, PLAIN))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "run"]


def test_auto_tries_and_then_trains(tmp_path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE)
    out = tmp_path / "run"
    arguments = [*PRETRAIN, "steps=3", "--out", out, "--procs", "auto"]
    job = run(tmp_path, *arguments, FIRST_PATH=str(tmp_path), SHOWN_CPUS="2")
    speeds = {int(n): float(speed) for n, speed in re.findall(r"--procs (\d+): ([\d.e+]+) images/s\n", job.said)}
    assert set(speeds) == {1, 2} and min(speeds.values()) > 0
    chosen = max(speeds, key=lambda number: speeds[number])
    assert f"training in {chosen} process" in job.said
    assert steps_of(out) == [1, 2, 3] and is_finished(out)


# ---------------------------------------------------------------- classifiers


def test_fine_tuning_in_two_processes_is_that_of_one(tmp_path) -> None:
    """With an unreadable image, which both may meet; 26 held-out images, which no batch size here divides."""
    data = tmp_path / "data"
    for part, count in (("train", 24), ("test", 26)):
        for number in range(count):
            name = list(COLOURS)[number % 3]
            write_png(data / part / name / f"{number}.png", COLOURS[name], number + 100 * (part == "test"))
    bad = data / "train" / "red" / "2.png"
    bad.write_bytes(bad.read_bytes()[:60])
    shape = ["size=mini", "image_size=8", "patch_size=4", "embed_dim=16", "depth=2", "num_heads=2", "drop_path=0.2"]
    few = ["steps=9", "batch_size=8", "threads=1", "log_every=1", "mixup=0.8", "cutmix=1", "ema_decay=0.8"]
    few += [
        "base_lr=1.5e-4",
        "validation=0",
    ]  # partners of mixed images are of the same process, so larger steps would differ more
    command = ["finetune", *shape, *few, "evaluate_every=1", "max_bad_images=0.1", "--init", "scratch", "--data", data]
    results, skipped = [], []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        job = run(folder, *command, "--out", folder / "run", "--procs", processes)
        results.append(json.loads((folder / "run" / "result.json").read_text()))
        skipped.append([line["path"] for line in read_skipped(folder / "run")])
        assert "Traceback" not in job.said and "times an image could not be read" in job.said
    assert skipped == [[str(bad)]] * 2
    one, two = results
    assert one["eval_images"] == two["eval_images"] == 26
    assert one["top1"] == two["top1"] and one["majority"] == two["majority"] and one["best_step"] == two["best_step"]
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], rel=1e-4)
    counts = [[line["skipped"] for line in read_metrics(tmp_path / n / "run") if "skipped" in line] for n in "12"]
    assert counts[0] == counts[1] and counts[0][-1] >= 3  # once an epoch


# ---------------------------------------------------------------- what dies


def test_a_segmentation_in_two_processes_is_that_of_one(tmp_path) -> None:
    """Images with as many counted pixels as they have, and one mask of which none counts; five are tested, by turns."""
    data = write_scenes(tmp_path / "land", train=9, test=5)
    Image.fromarray(np.full((24, 32), 255, np.uint8)).save(data / "masks/train/03.png")
    settings = ["size=mini", "image_size=16", "patch_size=4", *TINY, "drop_path=0.2", "dice=0.5", "rotate=true"]
    schedule = ["batch_size=4", "steps=6", "evaluate_every=1", "validation=0.3"]
    runs = {}
    for processes in (1, 2):
        out = tmp_path / f"run-{processes}"
        common = ["--init", "scratch", "--data", data, "--out", out, "--quiet"]
        run(tmp_path, "segment", *settings, *schedule, *common, "--procs", processes)
        runs[processes] = out
    assert distance(tensors_of(runs[2]), tensors_of(runs[1])) < 1e-5
    one, two = (json.loads((out / "result.json").read_text()) for out in runs.values())
    for name in ("miou", "dice", "pixel_accuracy", "eval_loss", "best_miou"):
        assert two[name] == pytest.approx(one[name], abs=2e-3), name
    assert two["eval_images"] == 5 and (runs[2] / "exhibits/worst_scenes.json").exists()


def test_a_run_restarts_by_itself_when_a_process_is_killed(tmp_path, whole_run) -> None:
    out = tmp_path / "run"
    with Job(tmp_path, *PRETRAIN, *PLAIN, "--out", out, "--procs", 2, "--overwrite") as job:
        job.wait_for(lambda: newest_checkpoint(out) and len(steps_of(out)) > 10)
        os.kill(job.ranks()[1], signal.SIGKILL)
        assert job.end() == 0, job.said
    assert "process 1 of this host exited without a status: killed, perhaps for lack of memory" in job.said
    assert re.search(r"starting again from step_000000\d\d \(1 of 3 restarts\)", job.said)
    assert_bitwise_equal(out, whole_run(2, PLAIN))


def test_without_restarts_a_killed_process_ends_the_command(tmp_path) -> None:
    out = tmp_path / "run"
    with Job(tmp_path, *PRETRAIN, *PLAIN, "--out", out, "--procs", 2, "--restarts", 0) as job:
        job.wait_for(lambda: len(steps_of(out)) > 2)
        os.kill(job.ranks()[0], signal.SIGKILL)
        assert job.end(30) == 1, job.said
    assert "process 0 of this host exited without a status: killed" in job.said
    assert "fix the cause, then rerun the same command to resume" in job.said
    assert "gave up" not in job.said and "starting again" not in job.said


def test_a_bug_in_one_process_is_shown_and_ends_all(tmp_path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE)
    out = tmp_path / "run"
    arguments = [*PRETRAIN, *PLAIN, "--out", out, "--procs", 2, "--restarts", 0]
    with Job(tmp_path, *arguments, FIRST_PATH=str(tmp_path), RAISING_RANK="1") as job:
        job.wait_for(lambda: len(steps_of(out)) > 2)
        os.kill(job.ranks()[1], signal.SIGUSR2)
        assert job.end(60) == 1, job.said
    assert "process 1 of this host crashed" in job.said
    assert (
        job.said.count("Traceback (most recent call last)") == 1 and "LookupError: a bug of this rank alone" in job.said
    )
    assert "process 0 of this host crashed" not in job.said


def test_nothing_survives_a_killed_command_and_it_resumes(tmp_path, whole_run) -> None:
    """With processes that make batches ahead, which are children of children of its."""
    out = tmp_path / "run"
    arguments = [*PRETRAIN, *PLAIN, "workers=1", "--out", out, "--procs", 2]
    with Job(tmp_path, *arguments) as job:
        job.wait_for(lambda: newest_checkpoint(out) and len(steps_of(out)) > 10)
        assert len(job.alive()) >= 6  # itself, the launcher, two processes and a worker of each
        job.process.kill()
        job.process.wait()
        deadline = time.monotonic() + 10
        while job.alive():
            assert time.monotonic() < deadline, "processes are left"
            time.sleep(0.05)
    assert len(steps_of(out)) < TOTAL
    for folder in job.temporary.iterdir():  # which nobody could delete, nor may look into
        assert folder.stat().st_mode & 0o777 == 0o700
        shutil.rmtree(folder)
    run(tmp_path, *arguments)
    assert_bitwise_equal(out, whole_run(2, PLAIN))


def files_that_hold(folder: Path, secret: bytes) -> Iterator[Path]:
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # it may be gone
            if path.is_file() and secret in path.read_bytes():
                yield path


def test_secrets_of_the_environment_are_nobodys(tmp_path) -> None:
    """Paddle's launcher writes the whole environment into its logs."""
    secret, out = "hunter2-and-no-other", tmp_path / "run"
    with Job(tmp_path, *PRETRAIN, *PLAIN, "--out", out, "--procs", 2, SECRET_TOKEN=secret) as job:
        job.wait_for(lambda: len(steps_of(out)) > 2)
        found = list(files_that_hold(tmp_path, secret.encode()))
        for path in found:
            private = job.temporary / path.relative_to(job.temporary).parts[0]
            assert private.is_dir() and private.stat().st_mode & 0o777 == 0o700, path
        assert found, "the launcher has become better: is a private folder still needed?"
        job.process.send_signal(signal.SIGTERM)
        assert job.end() == 75
    assert list(files_that_hold(tmp_path, secret.encode())) == []


# ---------------------------------------------------------------- two processes at work, see `ranks_at_work`


@pytest.fixture(scope="module")
def facts(tmp_path_factory) -> list[dict[str, Any]]:
    """What each of two processes wrote down."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "found").mkdir()
    options = ["--nproc_per_node", 2, "--log_dir", folder / "logs", ROOT / "tests" / "support" / "two_ranks.py"]
    arguments = [*options, folder / "found"]
    with Job(folder, *arguments, module="paddle.distributed.launch", PADDLE_DISTRI_BACKEND="gloo") as job:
        status = job.process.wait(LONG)
    logs = "\n".join(path.read_text() for path in sorted((folder / "logs").glob("workerlog.*")))
    assert status == 0, job.said + logs
    return [json.loads((folder / "found" / f"{rank}.json").read_text()) for rank in range(2)]


def test_processes_know_their_place(facts) -> None:
    assert [found["rank"] for found in facts] == [[0, 2, 0], [1, 2, 1]]


def test_gradients_of_all_sizes_are_added_up(facts) -> None:
    assert all(found["added up"] == [True] * 7 for found in facts)


def test_a_rank_that_is_late_is_waited_for_longer_than_gloo_would(facts) -> None:
    assert facts[1]["waited"] > 30.0 and LONGER_THAN_GLOO_WAITS > 30.0
    assert all(found["added up later"] == [True] * 7 for found in facts)


@pytest.mark.parametrize("path", ["whole", "afterwards", "shards"])
@pytest.mark.parametrize("trouble", ["none", "loss", "gradient"])
def test_steps_of_two_are_steps_of_one(facts, path: str, trouble: str) -> None:
    """Also where a loss or a gradient of one of them is not a number: the step is dropped on both."""
    dropped = [False, False, trouble != "none", False, trouble != "none", False]
    start = None
    for found in facts:
        together, alone = found[f"{path} {trouble}"], found[f"{path} {trouble} alone"]
        assert together["dropped"] == alone["dropped"] == dropped and len(dropped) == STEPS
        assert together["images"] == [2 * BATCH] * STEPS
        for name in ("losses", "norms"):
            np.testing.assert_allclose(together[name], alone[name], rtol=1e-5)
        for mine, others in zip(together["weights"], alone["weights"], strict=True):
            np.testing.assert_allclose(mine, others, rtol=1e-5, atol=1e-6)
        start = start or together["weights"]
        assert together["weights"] == start  # the same on both to the last bit
    undisturbed = facts[0][f"{path} none"]["weights"]
    assert (start == undisturbed) == (trouble == "none")  # else nothing was dropped
