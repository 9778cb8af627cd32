"""The run folder: who may write where, and lines that outlive a crash."""

import errno
import json
import sys
from pathlib import Path

import pytest

from paddlemae.runs import runlog
from paddlemae.runs.runlog import forget_metrics_after, log_metrics, open_run, read_metrics, write_environment


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder that holds a run."""
    folder = tmp_path / "run"
    open_run(folder)
    runlog.write_recipe(folder, "task: pretrain\n")
    log_metrics(folder, 1, 0.5, 1.0, loss=2.0)
    return folder


def test_a_new_folder_is_made_with_its_parents_and_an_empty_one_is_taken(tmp_path) -> None:
    for _ in range(2):
        open_run(tmp_path / "a" / "b")
        assert (tmp_path / "a" / "b").is_dir() and not list(read_metrics(tmp_path / "a" / "b"))


def test_a_run_is_neither_replaced_nor_continued_unasked(run) -> None:
    with pytest.raises(ValueError, match="already holds a run; add --resume to continue it, --overwrite"):
        open_run(run)
    assert list(read_metrics(run))
    with pytest.raises(ValueError, match="--resume and --overwrite exclude each other"):
        open_run(run, resume=True, overwrite=True)
    open_run(run, resume=True)
    assert list(read_metrics(run))
    open_run(run, overwrite=True)
    assert list(run.iterdir()) == []


@pytest.mark.parametrize("asked", [{}, {"overwrite": True}])
def test_a_folder_of_other_files_is_never_taken(tmp_path, asked) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty and holds no run; choose another folder"):
        open_run(tmp_path, **asked)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["thesis.txt", "photos", ".git"])
def test_a_run_among_other_files_is_not_overwritten(run, name: str) -> None:
    """--out . with a recipe.yaml of one's own looks like a run."""
    (run / name).mkdir()
    with pytest.raises(ValueError, match=f"holds more than a run .{name}.; move that"):
        open_run(run, overwrite=True)
    assert (run / name).is_dir() and list(read_metrics(run))


def test_a_folder_of_runs_has_its_own_marker_and_entries(run) -> None:
    outer = dict(marker="run/recipe.yaml", entries=["run", "tuned-*"])
    for folder in ("run", "tuned-1"):
        (run.parent / folder).mkdir(exist_ok=True)
    (run.parent / "untuned-1").mkdir()
    with pytest.raises(ValueError, match="holds more than a run .untuned-1.;"):
        open_run(run.parent, overwrite=True, **outer)
    (run.parent / "untuned-1").rmdir()
    open_run(run.parent, overwrite=True, **outer)
    assert not run.exists()


def test_looking_at_a_folder_changes_nothing(run) -> None:
    runlog.check_folder(run, overwrite=True)
    runlog.check_folder(run / "new")
    assert list(read_metrics(run)) and not (run / "new").exists()


def test_what_a_crash_left_half_written_does_not_stop_overwriting(run) -> None:
    (run / ".metrics.jsonl.partial").write_text("{")
    open_run(run, overwrite=True)
    assert not (run / ".metrics.jsonl.partial").exists()


def test_a_file_is_no_folder(tmp_path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match="is a file; --out needs a folder"):
        open_run(tmp_path / "out", overwrite=True)


def test_nothing_to_resume_makes_nothing(tmp_path) -> None:
    with pytest.raises(ValueError, match="holds no run to resume"):
        open_run(tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_metrics_are_one_object_a_line(run) -> None:
    log_metrics(run, 2, 1.0, 2.123456, loss=1.5, lr=0.1)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(read_metrics(run))
    assert lines[1] == {"step": 2, "epoch": 1.0, "seconds": 2.123, "loss": 1.5, "lr": 0.1}


def test_a_half_written_line_is_left_out(run) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "los')
    assert [line["step"] for line in read_metrics(run)] == [1]
    forget_metrics_after(run, 5)
    log_metrics(run, 2, 1.0, 2.0, loss=1.0)
    assert [line["step"] for line in read_metrics(run)] == [1, 2]


def test_lines_of_steps_to_come_again_are_forgotten(run) -> None:
    for step in (2, 3, 4):
        log_metrics(run, step, 1.0, 2.0, loss=1.0)
    forget_metrics_after(run, 2)
    assert [line["step"] for line in read_metrics(run)] == [1, 2]


def test_no_metrics_yet_is_no_error(tmp_path) -> None:
    assert list(read_metrics(tmp_path)) == []


def test_a_full_disk_is_reported_with_the_way_on(run, monkeypatch) -> None:
    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="could not log step 2 .No space left on device.*metrics.jsonl"):
        log_metrics(run, 2, 1.0, 2.0)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError):
        runlog.write_recipe(run, "task: finetune\n")
    monkeypatch.undo()
    assert (run / "recipe.yaml").read_text() == "task: pretrain\n"


def test_the_environment_has_versions_and_no_secrets(run, monkeypatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "hush-hush")
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/paddlemae", "pretrain", "digits"])
    write_environment(run)
    text = (run / "environment.json").read_text()
    content = json.loads(text)
    assert content["command"] == ["paddlemae", "pretrain", "digits"]
    assert {"paddlemae", "numpy", "safetensors"} <= set(content["packages"]) and content["python"]
    assert "hush-hush" not in text and "somewhere" not in text


@pytest.mark.parametrize("program", ["/usr/bin/paddlemae", "/src/paddlemae/__main__.py"])
def test_a_command_can_be_typed_again(monkeypatch, program: str) -> None:
    monkeypatch.setattr(sys, "argv", [program, "knn", "runs/a"])
    assert runlog.command_line() == ["paddlemae", "knn", "runs/a"]
