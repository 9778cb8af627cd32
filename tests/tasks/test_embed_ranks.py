"""`paddlemae embed --procs N`: the file of one process, bit for bit, whoever computed which part and whoever died."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paddlemae.data.disk.errors import DataFault
from paddlemae.tasks.models import parts as task
from paddlemae.train.stopping import EndedElsewhere
from tests.support.embed_files import Killed, stop_after, written
from tests.support.launched_jobs import Job, run

PARTS = 3  # of 4 of 12 images each


def parts_of(out: Path) -> list[str]:
    return sorted(path.name for path in out.with_name(f"{out.name}.parts").glob("*.npz"))


@pytest.mark.parametrize("world", [2, 5])
def test_several_processes_write_the_file_of_one(tmp_path, pretrained, photos, together, monkeypatch, world) -> None:
    whole, out = written(pretrained, photos, tmp_path / "whole.npz").read_bytes(), tmp_path / "f.npz"
    writers: list[tuple[str, int]] = []
    write = task.replace_bytes

    def noted(path: Path, content) -> None:
        writers.append((path.name, threading.get_ident()))
        write(path, content)

    monkeypatch.setattr(task, "replace_bytes", noted)
    assert together(world, lambda ranks: written(pretrained, photos, out, ranks=ranks)) == [out] * world
    assert out.read_bytes() == whole
    assert sorted(name for name, _ in writers) == [f"{number:08d}.npz" for number in range(PARTS)], "each part once"
    assert len({writer for _, writer in writers}) == min(world, PARTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npz", "whole.npz"], "no parts are left"


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)])
def test_a_stopped_command_resumes_with_another_number_of_processes(
    tmp_path, pretrained, photos, together, monkeypatch, before: int, after: int
) -> None:
    whole, out = written(pretrained, photos, tmp_path / "whole.npz").read_bytes(), tmp_path / "f.npz"
    with monkeypatch.context() as stopped:
        stop_after(stopped, 1)
        ends = together(before, lambda ranks: written(pretrained, photos, out, ranks=ranks))
    assert any(isinstance(end, Killed) for end in ends) and all(
        isinstance(end, Killed | EndedElsewhere) for end in ends
    )
    assert len(kept := parts_of(out)) == 1 and not out.exists()
    write = task.replace_bytes

    def another(path: Path, content) -> None:
        assert path.name not in kept, "finished parts are not computed again"
        write(path, content)

    monkeypatch.setattr(task, "replace_bytes", another)
    assert together(after, lambda ranks: written(pretrained, photos, out, ranks=ranks)) == [out] * after
    assert out.read_bytes() == whole


def test_unreadable_images_of_all_processes_are_reported_and_counted(tmp_path, pretrained, some_bad, together, capsys):
    whole, out = tmp_path / "whole.npz", tmp_path / "f.npz"
    written(pretrained, some_bad, whole, max_bad_images=0.5)
    alone = set(capsys.readouterr().err.splitlines())
    assert len(alone) == 5
    # the first process meets one and the second four, which are allowed
    ends = together(2, lambda ranks: written(pretrained, some_bad, out, max_bad_images=0.3, ranks=ranks))
    assert [type(end) for end in ends] == [DataFault, EndedElsewhere]
    assert "5 of 12 images" in str(ends[0]) and "max_bad_images=0.3 allows 4" in str(ends[0])
    assert len(parts_of(out)) == PARTS, "what was computed is kept"
    capsys.readouterr()
    together(2, lambda ranks: written(pretrained, some_bad, out, max_bad_images=0.5, ranks=ranks))
    assert set(capsys.readouterr().err.splitlines()) == alone
    assert out.read_bytes() == whole.read_bytes()


def test_processes_that_see_other_weights_write_nothing(tmp_path, pretrained, photos, together, monkeypatch) -> None:
    """As when a run's training saves a checkpoint while they start."""
    digest = task.weights_digest
    monkeypatch.setattr(task, "weights_digest", lambda checkpoint: f"{digest(checkpoint)} {threading.get_ident()}")
    ends = together(2, lambda ranks: written(pretrained, photos, tmp_path / "f.npz", ranks=ranks))
    for end in ends:
        assert isinstance(end, ValueError) and "all processes must have the same weights" in str(end)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- as a user types it, through Paddle's launcher


@pytest.fixture(scope="module")
def embed_digits(tmp_path_factory) -> Callable[..., list[Any]]:
    """`embed` of all 5,000 digits by a model that takes a while, to FILE."""
    folder = tmp_path_factory.mktemp("model")
    shape = ["embed_dim=64", "depth=6", "num_heads=2", "threads=1", "steps=1", "warmup_epochs=0"]
    run(folder, "pretrain", "digits", *shape, "batch_size=8", "--out", folder / "run", "--quiet")

    def command(out: Path, *arguments: object) -> list[Any]:
        known = ["--data", "digits", "--split", "train", "--threads", 1, "--workers", 0, "--batch-size", 16]
        return ["embed", folder / "run", *known, "--out", out, *arguments]

    return command


@pytest.mark.slow
def test_a_killed_process_ends_all_and_the_same_command_resumes(tmp_path, embed_digits) -> None:
    job = run(tmp_path, *embed_digits(tmp_path / "whole.npz"))
    assert "wrote" in job.said
    out = tmp_path / "f.npz"
    with Job(tmp_path / "killed", *embed_digits(out, "--procs", 2)) as job:
        job.wait_for(lambda: parts_of(out))
        os.kill(job.ranks()[1], signal.SIGKILL)
        assert job.end() == 1, job.said
    assert "process 1 of this host exited without a status: killed" in job.said
    assert "fix the cause, then rerun the same command to resume" in job.said and "gave up" not in job.said
    assert 1 <= len(parts_of(out)) < 84 and not out.exists()  # of 48 images each
    with Job(tmp_path / "stopped", *embed_digits(out, "--procs", 3)) as job:
        job.wait_for(lambda: len(job.ranks()) == 3)
        job.process.send_signal(signal.SIGTERM)
        assert job.end() == 75, job.said
    assert "rerun the same command to resume" in job.said and "Traceback" not in job.said
    job = run(tmp_path / "rest", *embed_digits(out, "--procs", 2))
    assert f"wrote {out}: 4000 images x 64 features" in job.said and "Traceback" not in job.said
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert not out.with_name("f.npz.parts").exists()


@pytest.mark.slow
def test_a_mistake_is_one_line_of_one_process(tmp_path, embed_digits) -> None:
    (tmp_path / "there.npz").write_bytes(b"")
    with Job(tmp_path, *embed_digits(tmp_path / "there.npz", "--procs", 2)) as job:
        assert job.end() == 2
    assert job.said.count("\n") == 1 and "there.npz exists already" in job.said
