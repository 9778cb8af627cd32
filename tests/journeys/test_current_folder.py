"""Nothing of the current folder is imported or executed, whatever the files are called that lie there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import paddlemae
from paddlemae.system.run_module import module_command

ROOT = Path(paddlemae.__file__).parents[1]
OTHERS = ("numpy", "paddle", "yaml", "typer", "rich", "pydantic", "matplotlib", "PIL", "jinja2", "safetensors")
# what Python itself imports for `-m`, before the first line of ours is reached
BEFORE_ALL = {"importlib", "runpy", "warnings", "contextlib", "collections", "keyword", "operator", "reprlib"}
BEFORE_ALL |= {"functools", "types", "pkgutil", "threading", "_weakrefset", "weakref"}


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with a file named like each module of the standard library, which leaves a trace when it is executed."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in {*sys.stdlib_module_names, *OTHERS} - {*sys.builtin_module_names}:
        trace = tmp_path / "executed" / name
        leave_trace = f"import posix\nposix.close(posix.open({str(trace)!r}, posix.O_CREAT | posix.O_WRONLY))\n"
        (folder / f"{name}.py").write_text(leave_trace + "raise SystemExit(9)")
    (tmp_path / "executed").mkdir()
    return folder


def executed(hostile: Path) -> set[str]:
    return {path.name for path in (hostile.parent / "executed").iterdir()}


def test_the_files_would_be_executed(hostile) -> None:
    subprocess.run([sys.executable, "-c", "import random"], cwd=hostile, capture_output=True)
    assert executed(hostile) == {"random"}


def test_a_module_of_a_process_of_ours_is_run_without_them(hostile) -> None:
    done = subprocess.run([*module_command("json.tool"), "--help"], cwd=hostile, capture_output=True, text=True)
    assert done.returncode == 0 and "usage" in done.stdout and executed(hostile) == set()


def test_data_workers_start_without_them(hostile) -> None:
    script = hostile.parent / "script.py"
    script.write_text(
        "from paddlemae.data.workers import make_ahead\nif __name__ == '__main__':\n"
        "    print(list(make_ahead(abs, [-1, -2, 3], 2)))\n"
    )
    done = subprocess.run([sys.executable, script], cwd=hostile, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, executed(hostile)) == ("[1, 2, 3]\n", "", set())


def test_the_module_imports_none_of_them(hostile, photos) -> None:
    for name in BEFORE_ALL:
        (hostile / f"{name}.py").unlink(missing_ok=True)
    command = [sys.executable, "-m", "paddlemae", "data", "check", photos, "--quiet"]
    done = subprocess.run(command, cwd=hostile, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr, executed(hostile)) == (0, "", set())


def test_a_checkout_as_current_folder_is_imported_from() -> None:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "paddlemae", "--version"]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.stdout == f"{paddlemae.__version__}\n"


def test_no_file_is_named_like_a_standard_module() -> None:
    """The folder of a script is looked at before its first line takes it away."""
    names = {path.stem for path in Path(paddlemae.__file__).parent.iterdir()}
    assert not names & set(sys.stdlib_module_names)


@pytest.mark.slow
def test_no_command_executes_them(hostile, photos, colours, tiny, encoder, tmp_path) -> None:
    run, tuned, features = tmp_path / "run", tmp_path / "tuned", tmp_path / "f.npz"
    commands = [
        ["pretrain", *tiny, "--data", photos, "--out", run, "--quiet", "--procs", "2"],
        ["pretrain", *tiny, "--data", photos, "--out", run, "--quiet", "--overwrite", "workers=2"],
        ["pretrain", *tiny, "--data", photos, "--dry-run"],
        ["finetune", *encoder, "steps=2", "batch_size=8", "--init", run, "--data", colours, "--out", tuned],
        ["evaluate", tuned, "--data", colours],
        ["knn", run, "--data", colours, "--k", "1"],
        ["embed", run, "--data", photos, "--out", features, "--procs", "2"],
        ["embed", run, "--data", photos, "--out", features, "--workers", "2", "--overwrite"],
        ["predict", tuned, photos, "--out", tmp_path / "p.csv", "--procs", "2"],
        ["search", features, photos, "--run", run],
        ["reconstruct", run, photos, "--out", tmp_path / "r.png"],
        ["report", run],
        ["weights", "inspect", run],
        ["data", "check", photos, "--workers", "2"],
        ["data", "stats", photos, "--workers", "2"],
        ["data", "pack", photos, "--out", tmp_path / "pack", "--workers", "2"],
        ["export", run, "--to", "paddle", "--out", tmp_path / "exported"],
    ]
    script = tmp_path / "paddlemae"  # as it is installed
    script.write_text("from paddlemae.__main__ import main\nif __name__ == '__main__':\n    main()\n")
    for words in commands:
        command = [sys.executable, script, *map(str, words)]
        done = subprocess.run(command, cwd=hostile, capture_output=True, text=True, timeout=300)
        assert (done.returncode, executed(hostile)) == (0, set()), (words, done.stderr)
