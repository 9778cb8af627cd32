"""examples/journey.ipynb: its cells, run in order with shorter trainings, and what each of them shows."""

import ast
import json
import re

from tests.support.paths import EXAMPLES

NOTEBOOK = EXAMPLES / "journey.ipynb"


def run_cell(source: str, names: dict) -> object:
    """Run a cell, and return what it shows: the value of its last line, if that is one."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), names)
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names) if last else None


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells), "outputs are not committed"
    names: dict = {}
    shown = []
    for cell in cells:
        if cell["cell_type"] == "code":
            short = "steps=2, batch_size=16, embed_dim=32, num_heads=2, threads=1, quiet=True"
            shown.append(run_cell(re.sub(r"steps=\d+", short, "".join(cell["source"])), names))
    figures = [each._repr_png_() for each in shown if hasattr(each, "_repr_png_")]
    assert len(figures) == 2 and all(figure.startswith(b"\x89PNG") for figure in figures)
    assert repr(names["model"]).startswith("<a masked autoencoder") and names["model"] in shown
    best = shown[-1]
    assert isinstance(best, list) and [len(one) for one in best] == [2] * 8
    out = capsys.readouterr().out
    assert "of the test digits have a nearest neighbour" in out and out.count("held-out digits") == 2
