"""Which room may know which, and what is imported before it is needed."""

import ast
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import paddlemae
from tests.support.python_process import WITHOUT_PADDLE, python

ROOT = Path(paddlemae.__file__).parent
TESTS = Path(__file__).parents[1]
# room -> the rooms that it may import, except for itself
ALLOWED = {
    "system": set(),
    "engine": {"system"},
    "recipe": {"data", "model", "system"},
    "model": {"engine"},
    "data": {"engine", "system"},
    "weights": {"engine", "model", "system"},
    "runs": {"system"},
    "report": {"model", "runs", "system"},
    "page": {"model", "system", "weights"},
    "serve": set(),  # HTTP in front of any model: what it knows of one is a function that answers requests
    "train": {"engine", "model", "system", "weights"},
    "launch": {"engine", "recipe", "runs", "system", "train"},
    "tasks": {"__init__", "data", "engine", "launch", "model", "page", "recipe", "report", "runs", "serve", "system"}
    | {"train", "weights"},
    "export": {"__init__", "data", "engine", "model", "recipe", "runs", "system", "tasks", "weights"},
    "api": {"data", "engine", "launch", "model", "recipe", "runs", "system", "tasks", "train", "weights"},
    # cli/auto calls `api.auto`: what it takes to run every command after the other is written down once
    "cli": {"__init__", "api", "engine", "export", "launch", "recipe", "report", "runs", "system", "tasks", "train"},
    "__main__": {"cli", "system"},
    "__init__": {"api", "data", "engine", "model", "recipe"},  # for type checkers only
}
COMMANDS = ("demo", "pretrain", "reconstruct", "finetune", "probe", "study", "knn", "evaluate", "report", "export")
COMMANDS += ("auto", "embed", "page", "plan", "predict", "recipe", "search")


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


@functools.cache
def imports_of(root: Path) -> dict[str, set[str]]:
    """Return module -> the modules of the package that it imports anywhere, in functions too."""
    parts = {path: ["paddlemae", *path.relative_to(root).with_suffix("").parts] for path in root.rglob("*.py")}
    files = {".".join(names).removesuffix(".__init__"): path for path, names in parts.items()}
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        found = ast.walk(ast.parse(path.read_text()))
        nodes = [node for node in found if isinstance(node, (ast.Import, ast.ImportFrom))]
        origins = [f"{node.module}." if isinstance(node, ast.ImportFrom) else "" for node in nodes]
        names = [origin + alias.name for node, origin in zip(nodes, origins) for alias in node.names]
        graph[module] = {name if name in files else name.rpartition(".")[0] for name in names} & set(files) - {module}
    return graph


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that each import, over others or not, all of their group."""

    def reached(module: str) -> set[str]:
        seen, waiting = set(), list(graph[module])
        while waiting:
            if (other := waiting.pop()) not in seen:
                seen.add(other)
                waiting += graph[other]
        return seen

    ways = {module: reached(module) for module in graph}
    groups = {frozenset(other for other in ways[module] if module in ways[other]) for module in graph}
    return sorted(sorted(group) for group in groups if group)


def is_command(module: str) -> bool:
    parent, _, name = module.rpartition(".")
    if parent == "paddlemae.tasks.data":
        return name in ("check", "pack", "split_lists", "statistics")
    if parent == "paddlemae.tasks":
        return name not in ("auto", "baselines", "data", "models", "plan", "predictions", "training")
    return module == "paddlemae.export.write"


def commands_imported(graph: dict[str, set[str]]) -> list[str]:
    """Return the imports of a command by another module below cli and api."""
    return [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in others
        if is_command(other) and not module.startswith(("paddlemae.cli", "paddlemae.api"))
    ]


def test_no_command_is_the_library_of_another() -> None:
    graph = imports_of(ROOT)
    assert sum(map(is_command, graph)) > 12
    assert commands_imported(graph) == []


def test_no_module_imports_itself_through_others() -> None:
    assert cycles(imports_of(ROOT)) == []


def test_both_rules_see_an_import_in_a_function(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "knn.py").write_text("from paddlemae.tasks import embed")
    (tmp_path / "tasks" / "embed.py").write_text("def a():\n    from paddlemae.tasks.knn import knn")
    graph = imports_of(tmp_path)
    assert cycles(graph) == [["paddlemae.tasks.embed", "paddlemae.tasks.knn"]]
    assert len(commands_imported(graph)) == 2


def test_importing_the_package_imports_no_paddle() -> None:
    modules = ["paddlemae", "paddlemae.recipe", "paddlemae.data.batches", "paddlemae.runs.figures"]
    modules += [
        "paddlemae.runs.runlog",
        "paddlemae.weights.model_folder",
        "paddlemae.engine.cpus",
        "paddlemae.engine.memory",
        "paddlemae.cli.app",
    ]
    modules += ["paddlemae.weights.layouts", "paddlemae.weights.adapt"]
    modules += ["paddlemae.tasks.data.statistics", "paddlemae.tasks.data.check", "paddlemae.tasks.data.check_picture"]
    modules += ["paddlemae.tasks.data.pack", "paddlemae.tasks.data.split_lists"]
    done = python(f"import sys, {', '.join(modules)}\nprint('paddle' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


def test_help_imports_nothing_slow() -> None:
    """One process for all pages of help, since starting one takes longer than the page."""
    code = """
import contextlib, io, json, sys
from paddlemae.cli.app import main
for line in sys.argv[1:]:
    sys.argv = ["paddlemae", *line.split()]
    status = None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            main()
        except SystemExit as end:
            status = end.code
    slow = [name for name in ("paddle", "numpy", "yaml", "matplotlib", "PIL") if name in sys.modules]
    print(json.dumps([line, status, printed.getvalue(), slow]))
"""
    lines = ["--help", "--version", *(f"{command} --help" for command in COMMANDS)]
    done = python(code, *lines)
    assert done.returncode == 0 and not done.stderr, done.stderr
    pages = [json.loads(page) for page in done.stdout.splitlines()]
    assert [page[0] for page in pages] == lines
    for line, status, printed, slow in pages:
        assert not status and slow == [], line
        assert "0.1" in printed if line == "--version" else "paddlemae" in printed, line


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo"],
        ["pretrain", "digits", "--out", "unmade"],
        ["pretrain", "--resume", "--out", "unmade"],
        ["reconstruct", "unmade", "digits"],
        ["finetune", "digits", "--init", "scratch", "--out", "unmade"],
        ["knn", "unmade", "--data", "digits"],
        ["plan", "--data", "digits", "--out", "unmade.yaml"],
        ["embed", "unmade", "--data", "digits", "--out", "unmade.npz"],
        ["predict", "unmade", "digits", "--out", "unmade.csv"],
        ["search", "unmade.npz", "unmade.png", "--run", "unmade"],
        ["export", "unmade", "--to", "paddle", "--out", "unmade-too"],
        ["serve", "unmade"],
    ],
    ids=" ".join,
)
def test_without_paddle_a_command_says_what_to_install(arguments: list[str], tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = python(WITHOUT_PADDLE, *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "pip install 'paddlemae[cpu]'" in done.stderr
    assert not list(tmp_path.iterdir())


def test_type_checkers_see_the_public_names() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert ast.unparse(block.test) == "TYPE_CHECKING" and len(imports) == len(block.body)
    seen = {alias.asname: node.module for node in imports for alias in node.names if alias.name == alias.asname}
    assert seen == paddlemae._HOMES
    assert (ROOT / "py.typed").exists()


def test_public_names_are_all_there() -> None:
    for name in paddlemae.__all__:
        assert getattr(paddlemae, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        paddlemae.nonsense  # noqa: B018


def test_no_test_imports_from_another_test_file() -> None:
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            local = [name for name in modules if (TESTS / f"{name.split('.')[0]}.py").exists() or ".test_" in name]
            assert not local, f"{path.relative_to(TESTS)}: what {local} share belongs in tests/support"
