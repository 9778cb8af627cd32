"""Which room may know which, and what is imported before it is needed."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import paddlemae
from tests.support.python_process import WITHOUT_PADDLE, python

ROOT = Path(paddlemae.__file__).parent
# room -> the rooms that it may import, except for itself
ALLOWED = {
    "system": set(),
    "sincos": set(),
    "engine": {"system"},
    "recipe": {"system"},
    "model": {"engine", "sincos"},
    "data": {"engine", "system"},
    "weights": {"sincos", "system"},
    "runs": {"system"},
    "report": {"__init__", "runs", "system"},
    "train": {"engine", "model", "system", "weights"},
    "launch": {"engine", "recipe", "runs", "system", "train"},
    "tasks": {"__init__", "data", "engine", "launch", "model", "recipe", "report", "runs", "sincos", "system"}
    | {"train", "weights"},
    "export": {"__init__", "data", "engine", "model", "recipe", "runs", "system", "tasks", "weights"},
    "api": {"data", "engine", "model", "recipe", "runs", "system", "tasks", "train", "weights"},
    "cli": {"__init__", "engine", "export", "launch", "recipe", "report", "runs", "system", "tasks", "train"},
    "__main__": {"cli", "system"},
    "__init__": {"engine"},
}
COMMANDS = ("demo", "pretrain", "reconstruct", "finetune", "probe", "study", "knn", "evaluate", "report", "export")
COMMANDS += ("embed", "search")


def rooms_imported(path: Path) -> Iterator[str]:
    """Yield the rooms of this package that a file imports anywhere, in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("paddlemae."))


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_imports_point_one_way() -> None:
    wrong, seen = [], set()
    for path in ROOT.rglob("*.py"):
        own = room(path)
        assert own in ALLOWED, f"{path.relative_to(ROOT)} is in no known room; add the room to ALLOWED"
        for other in set(rooms_imported(path)) - {own}:
            seen.add((own, other))
            if other not in ALLOWED[own] and other in ALLOWED:
                wrong.append(f"{path.relative_to(ROOT)} imports {other}")
    assert not wrong
    assert {("cli", "tasks"), ("tasks", "train"), ("train", "weights")} <= seen  # else nothing was read


def test_pretraining_does_not_know_the_demo() -> None:
    for path in (ROOT / "tasks").glob("*.py"):
        assert path.name == "demo.py" or "tasks.demo" not in path.read_text(), path


def test_importing_the_package_imports_no_paddle() -> None:
    modules = ["paddlemae", "paddlemae.recipe", "paddlemae.data.batches", "paddlemae.runs.figures"]
    modules += [
        "paddlemae.runs.runlog",
        "paddlemae.weights.model_folder",
        "paddlemae.engine.device",
        "paddlemae.cli.app",
    ]
    modules += ["paddlemae.weights.layouts", "paddlemae.weights.adapt"]
    modules += ["paddlemae.tasks.data.statistics", "paddlemae.tasks.data.check", "paddlemae.tasks.data.check_picture"]
    modules += ["paddlemae.tasks.data.pack"]
    done = python(f"import sys, {', '.join(modules)}\nprint('paddle' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)])
def test_help_imports_nothing_slow(arguments: list[str]) -> None:
    code = """
import sys
from paddlemae.cli.app import main
try:
    main()
finally:
    print("slow:", [name for name in ("paddle", "numpy", "yaml", "matplotlib", "PIL") if name in sys.modules])
"""
    done = python(code, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("slow: []\n")
    assert "0.1" in done.stdout if arguments == ["--version"] else "paddlemae" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo"],
        ["pretrain", "digits", "--out", "unmade"],
        ["pretrain", "--resume", "--out", "unmade"],
        ["reconstruct", "unmade", "digits"],
        ["finetune", "digits", "--init", "scratch", "--out", "unmade"],
        ["knn", "unmade", "--data", "digits"],
        ["embed", "unmade", "--data", "digits", "--out", "unmade.npz"],
        ["search", "unmade.npz", "unmade.png", "--run", "unmade"],
        ["export", "unmade", "--to", "paddle", "--out", "unmade-too"],
    ],
    ids=" ".join,
)
def test_without_paddle_a_command_says_what_to_install(arguments: list[str], tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = python(WITHOUT_PADDLE, *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "pip install 'paddlemae[cpu]'" in done.stderr
    assert not list(tmp_path.iterdir())


def test_public_names_are_all_there() -> None:
    for name in paddlemae.__all__:
        assert getattr(paddlemae, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        paddlemae.nonsense  # noqa: B018
