"""Trainings on images that are no good: they end well, say what they left out, and stop where that is too much."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from paddlemae.runs.runlog import log_skipped, read_metrics, read_skipped
from paddlemae.tasks.training.skipped_images import SkippedImages
from paddlemae.train.checkpoint_folders import find_checkpoint
from tests.support.image_corpus import READABLE, UNREADABLE, Case, write_corpus


def name_of(path: str) -> bytes:
    return os.fsencode(os.path.basename(path))


@pytest.fixture
def few_bad(tmp_path: Path, photos: Path) -> Path:
    """12 photos of which 3 are damaged."""
    folder = tmp_path / "few bad"
    shutil.copytree(photos, folder)
    for path in sorted(folder.rglob("*.png"))[2:9:3]:
        path.write_bytes(path.read_bytes()[:60])
    return folder


def unreadable(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.png")) if path.stat().st_size <= 60]


def test_training_on_the_corpus_lists_exactly_what_is_bad(tmp_path, paddlemae, tiny) -> None:
    write_corpus(tmp_path / "corpus")
    out, total = tmp_path / "run", len(READABLE) + len(UNREADABLE)
    few = [f"steps={-(-2 * total // 8)}", "max_bad_images=1", "workers=1"]
    done = paddlemae("pretrain", *tiny, *few, "--data", tmp_path / "corpus", "--out", out)
    assert done.status == 0, done.err
    listed = list(read_skipped(out))
    reasons: dict[bytes, Case] = {case.name: case for case in UNREADABLE}
    assert sorted(name_of(line["path"]) for line in listed) == sorted(reasons)
    assert all(re.search(reasons[name_of(line["path"])].reason, line["reason"]) for line in listed)
    assert all(set(line) == {"path", "reason", "step"} for line in listed)
    steps = [line["step"] for line in listed]
    assert steps == sorted(steps) and steps[0] == 0 and steps[-1] < -(-total // 8)  # all in the first epoch
    events = list(read_metrics(out))[-1]["skipped"]
    assert events >= 2 * len(UNREADABLE)  # in two epochs, and as neighbours of others
    assert f"{events} times an image could not be read and was left out; see {out / 'skipped.jsonl'}" in done.out
    assert done.err.count("skipped: cannot read image") == 5 and "skipped: more images" in done.err


def test_too_many_stop_the_run_which_resumes_once_they_are_repaired(tmp_path, paddlemae, tiny, few_bad, photos) -> None:
    out = tmp_path / "run"
    command = ["pretrain", *tiny, "batch_size=2", "steps=12", "--data", few_bad, "--out", out]
    done = paddlemae(*command)
    assert done.status == 2
    bad = list(read_skipped(out))
    assert len(bad) == 2 and {line["path"] for line in bad} < {str(path) for path in unreadable(few_bad)}
    (last,) = [line for line in done.err.splitlines() if line.startswith("paddlemae: error: ")]
    assert f"2 of 12 images of {few_bad} can't be read, listed in {out / 'skipped.jsonl'}" in last
    assert (
        "max_bad_images=0.01 allows 1; fix or remove them, or raise the limit; first: " in last
        and bad[0]["path"] in last
    )
    step = bad[-1]["step"]
    assert f"kept {out / 'checkpoints' / f'step_{step:08d}'}; resume with: paddlemae pretrain --resume" in last
    assert find_checkpoint(out).name == f"step_{step:08d}"

    again = paddlemae("pretrain", "--resume", "--out", out)
    assert again.status == 2 and "2 of 12 images" in again.err and len(list(read_skipped(out))) == 2

    for path in unreadable(few_bad)[:2]:
        shutil.copy(photos / path.relative_to(few_bad), path)
    resumed = paddlemae("pretrain", "--resume", "--out", out)
    assert resumed.status == 0, resumed.err
    assert "of 2 images that were left out can be read now" in resumed.out
    assert [line["path"] for line in read_skipped(out)] == [str(path) for path in unreadable(few_bad)]
    assert [line["step"] for line in read_metrics(out)] == list(range(1, 13))


def test_a_run_stopped_by_bad_images_resumes_bitwise(tmp_path, paddlemae, tiny, few_bad) -> None:
    command = ["pretrain", *tiny, "batch_size=2", "accumulation_steps=2", "steps=8", "--data", few_bad, "--out"]
    assert paddlemae(*command, tmp_path / "whole", "max_bad_images=0.2").status == 0
    assert paddlemae(*command, tmp_path / "parts").status == 2
    assert paddlemae("pretrain", "--resume", "--out", tmp_path / "parts", "max_bad_images=0.2").status == 0
    weights = [(find_checkpoint(tmp_path / run) / "model.safetensors").read_bytes() for run in ("whole", "parts")]
    lists = [sorted(line["path"] for line in read_skipped(tmp_path / run)) for run in ("whole", "parts")]
    assert weights[0] == weights[1]
    assert lists[0] == lists[1] == [str(path) for path in unreadable(few_bad)]


def test_a_limit_is_rounded_up_and_counts_each_image_once(few_bad, capsys) -> None:
    from paddlemae.data.decode.images import UnreadableImage
    from paddlemae.data.sources import open_source, subset

    source = open_source(str(few_bad))
    allowed = {limit: SkippedImages(source, limit).allowed for limit in (0, 0.01, 1 / 12, 0.25, 0.26, 1)}
    assert allowed == {0: 0, 0.01: 1, 1 / 12: 1, 0.25: 3, 0.26: 4, 1: 12}
    assert SkippedImages(subset(source, [0] * 100), 0.07).allowed == 7
    skipped = SkippedImages(source)
    for _ in range(3):
        skipped(UnreadableImage("a.png", "damaged"))
    with pytest.raises(ValueError, match=r"2 of 12 images of .* can't be read, and max_bad_images=0\.01 allows 1; .*"):
        skipped(UnreadableImage("b.png", "damaged"))
    assert capsys.readouterr().err.count("a.png") == 1


def damage(folder: Path, part: str, count: int) -> None:
    for path in sorted((folder / part).rglob("*.png"))[:count]:
        path.write_bytes(b"")


@pytest.mark.parametrize("part", ["train", "test"])
def test_classifiers_and_neighbours_have_the_same_limit(
    tmp_path, paddlemae, encoder, colours, pretrained, part
) -> None:
    data, run = tmp_path / "colours", tmp_path / "pretrained"  # which gets results
    shutil.copytree(colours, data)
    shutil.copytree(pretrained, run)
    damage(data, part, 2)
    count = 24 if part == "train" else 12
    few = ["epochs=1", "warmup_epochs=0", "batch_size=8", "threads=1", "checkpoint_every=9", "validation=0"]
    commands = {
        "finetune": ["finetune", *encoder, *few, "--init", "scratch", "--data", data, "--out", tmp_path / "tuned"],
        "probe": ["probe", *few, "cached=true", "--init", run, "--data", data, "--out", tmp_path / "probe"],
        "knn": ["knn", run, "--data", data],
    }
    for name, command in commands.items():
        done = paddlemae(*command)
        assert done.status == 2 and f"2 of {count} images of {data / part} can't be read" in done.err, (name, done.err)
        assert done.err.count("skipped: cannot read image") == 2
        allowed = ["--max-bad-images", "0.2"] if name == "knn" else ["max_bad_images=0.2"]
        if name != "knn":
            assert len(list(read_skipped(command[-1]))) == 2
            command = [name, "--resume", "--out", command[-1]]
        done = paddlemae(*command, *allowed)
        assert done.status == 0, (name, done.err)


def test_a_name_of_any_bytes_is_listed_on_one_line_and_read_again(tmp_path) -> None:
    paths = [os.fsdecode(case.name) for case in UNREADABLE]
    for path in paths:
        log_skipped(tmp_path, 3, path, "why")
    content = (tmp_path / "skipped.jsonl").read_bytes()
    assert content.isascii() and content.count(b"\n") == len(paths)
    assert [line["path"] for line in read_skipped(tmp_path)] == paths
    (tmp_path / "skipped.jsonl").write_bytes(content[:-5])
    assert len(list(read_skipped(tmp_path))) == len(paths) - 1


def processes_of(session: int) -> dict[int, str]:
    """pid -> command line of what runs in a session, zombies left out."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, its_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def workers_of(session: int) -> list[int]:
    return [pid for pid, command in processes_of(session).items() if "spawn_main" in command]


def until(condition, seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_training_outlives_its_worker_and_leaves_nothing(tmp_path, start_command, tiny, photos) -> None:
    out = tmp_path / "run"
    process = start_command("pretrain", *tiny, "steps=1000000", "workers=1", "--data", photos, "--out", out)
    metrics = out / "metrics.jsonl"
    until(lambda: metrics.exists() and metrics.stat().st_size)
    (worker,) = workers_of(process.pid)
    for pid in processes_of(process.pid):
        assert "/dev/shm" not in Path(f"/proc/{pid}/maps").read_text()
    os.kill(worker, signal.SIGKILL)
    until(lambda: workers_of(process.pid) not in ([], [worker]))
    size = metrics.stat().st_size
    until(lambda: metrics.stat().st_size > size)
    os.kill(workers_of(process.pid)[0], signal.SIGSTOP)  # hangs, and must not keep Ctrl-C from ending all
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "a data worker died (SIGKILL); its batch is computed again (1 of" in err
    until(lambda: not processes_of(process.pid), 10)
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()][:3] == [1, 2, 3]
