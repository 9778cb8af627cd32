"""The benchmark of outcomes: its lists, tables and judgements. Nothing is trained here."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks import outcomes
from benchmarks.outcomes import CASES, Case, chosen, judged, main, prepare, summaries, table


def test_each_class_keeps_as_many_labels_as_the_case_says() -> None:
    labels = np.repeat([0, 1, 2], [100, 24, 30])
    assert np.bincount(labels[chosen(labels, 20, keep_all=24)]).tolist() == [20, 24, 20]
    assert np.bincount(labels[chosen(labels, 0.1, keep_all=0)]).tolist() == [10, 2, 3]


def test_a_list_has_all_images_and_some_labels(colours: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "colours.tar", "w") as archive:
        archive.add(colours, "colours")
    (tmp_path / "out").mkdir()
    path = prepare(Case("colours.tar", "", labels=2), "few", tmp_path, tmp_path / "out")
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    assert len(rows) == 36 and all(Path(row[0]).is_file() for row in rows)
    assert sum(row[1] != "" for row in rows if row[2] == "train") == 6
    assert all(row[1] for row in rows if row[2] == "test")


def write_run(folder: Path, ours: float, scratch: float) -> Path:
    rows = [{"key": key, "title": key, "top1": value} for key, value in (("finetuned", ours), ("scratch", scratch))]
    folder.mkdir(parents=True)
    summary = {"primary": "top1", "rows": rows, "verdict": "v"}
    (folder / "report.json").write_text(json.dumps({"summary": summary}))
    return folder


def test_the_table_has_the_mean_over_seeds(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a", 0.6, 0.5), write_run(tmp_path / "b", 0.8, 0.5), tmp_path / "unfinished"]
    text = "\n".join(table("tiles", CASES["tiles"], list(summaries(runs))))
    assert "2 runs" in text and "70.0% ± 14.1%" in text and "+20.0 points above scratch" in text
    assert "no finished run" in table("tiles", CASES["tiles"], [])[1]


@pytest.mark.parametrize(("ours", "word"), [(0.65, "reached"), (0.55, "missed")])
def test_a_target_is_reached_or_missed(ours: float, word: str) -> None:
    case = Case("a.tar", "", points=10, least=0.6)
    lines = list(judged(case, {"finetuned": [ours], "scratch": [0.5], "colour": [0.1]}))
    assert len(lines) == 2 and all(line.endswith(word) for line in lines)


def test_tables_of_finished_runs_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(outcomes, "_run", lambda *_: pytest.fail("it ran"))
    write_run(tmp_path / "tiles-30-0", 0.7, 0.5)
    assert main(["tiles", "--table", "--out", str(tmp_path)]) == 0
    assert "1 runs" in capsys.readouterr().out
