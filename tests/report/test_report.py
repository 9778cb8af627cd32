"""`paddlemae report`, from the trainings to the page, as a user types it; and all that can be wrong with a run."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from paddlemae.cli import app
from paddlemae.engine.device import used_memory
from paddlemae.report.collect import collect
from paddlemae.report.missing import OF_SCENES
from paddlemae.report.write_report import write_report
from paddlemae.runs.exhibit_files import EXHIBIT_TITLES, write_exhibit
from paddlemae.runs.runlog import RUN_ENTRIES, check_folder
from tests.support.command_line import parsed
from tests.support.python_process import WITHOUT_PADDLE, python
from tests.support.report_example import Seen
from tests.support.run_folders import make_run, result

SMALL = ("patch_size=7", "embed_dim=16", "depth=1", "num_heads=2")
KS = (10, 20, 100, 200)
DECODER = ("decoder_embed_dim=16", "decoder_depth=1", "decoder_num_heads=2")


def typed(*arguments: object) -> None:
    """Run `paddlemae ARGUMENTS` in this process, for a fixture of the whole module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warnings, "showwarning", warnings.showwarning)
        patch.setattr(sys, "argv", ["paddlemae", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            app.main()
    assert not end.value.code, arguments


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pretraining of digits, `a run`, and what a report of it asked for. Not to be changed."""
    root = tmp_path_factory.mktemp("journey")
    run = root / "a run"
    typed("pretrain", "digits", "--out", run, "--quiet", "steps=3", "batch_size=8", "log_every=1", *SMALL, *DECODER)
    missing = {one["part"]: one["command"] for one in collect([run])["runs"][0]["missing"]}
    short = ("--quiet", "steps=1", "batch_size=10", "eval_split=val")
    for way, more in {
        "knn.pretrained": ["--queries", "val", "--labels", 300],
        "knn.random": ["--queries", "val", "--labels", 300],
        "probe.pretrained": ["labels=50", *short],
        "finetune.pretrained": short,
        "finetune.scratch": ["--seeds", 1, *short],
    }.items():
        words = [str(root / word) if word.isupper() else word for word in shlex.split(missing[f"results.{way}"])]
        typed(*words[1:], *more)
    return root


@pytest.fixture(scope="module")
def written(journey: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the journey's run, in a folder of its own."""
    return write_report([journey / "a run"], tmp_path_factory.mktemp("report") / "new/folder").page.parent


def figures(folder: Path) -> dict:
    def never(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((folder / "report.json").read_text(), parse_constant=never)


def test_the_report_is_a_page_its_figures_and_a_table(journey: Path, paddlemae, tmp_path: Path) -> None:
    run = shutil.copytree(journey / "a run", tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = paddlemae("report", run)
    assert (done.status, done.err) == (0, "")
    assert done.out == f"wrote {run / 'report.html'}, report.json and report.md\n"
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert {path.name for path in set(after) - set(before)} == {"report.html", "report.json", "report.md"}
    assert all(after[path] == content for path, content in before.items())
    check_folder(run, overwrite=True, entries=RUN_ENTRIES)  # a report does not keep a run from being replaced


def test_the_figures_are_those_of_the_trainings(journey: Path, written: Path) -> None:
    found = figures(written)
    (run,) = found["runs"]
    assert run["problems"] == [] and found["comparison"] is None and found["format"] == 2
    logged = [json.loads(line) for line in (journey / "a run/metrics.jsonl").read_text().splitlines()]
    assert run["curves"]["loss"]["value"] == [line["loss"] for line in logged] and len(logged) == 3
    assert run["totals"] == {"steps": 3, "epochs": logged[-1]["epoch"], "seconds": logged[-1]["seconds"]}
    assert run["setup"]["data"] == {"name": "digits (train)", "images": 4000, "classes": None}
    assert run["setup"]["recipe"]["training.batch_size"] == 8 and run["setup"]["model"]["parameters"] > 1000
    assert run["setup"]["environment"]["command"][:3] == ["paddlemae", "pretrain", "digits"]
    shape = run["setup"]["model"]["architecture"]
    assert f"mae, {shape['depth']} blocks x {shape['embed_dim']}, " in (written / "report.html").read_text()

    rows = {row["title"]: row for row in run["results"]}
    assert {title: list(row["starts"]) for title, row in rows.items()} == {
        **{
            f"kNN, k = {k}, {votes} votes, 300 labels": ["pretrained", "random"]
            for k in KS
            for votes in ("plain", "weighted")
        },
        "linear probe, cached features, 50 labels": ["pretrained"],
        "fine-tuned": ["pretrained"],
        "fine-tuned, 1000 labels": ["pretrained", "scratch"],
    }
    top1 = json.loads((journey / "STUDY/study.json").read_text())["top1"]
    for start, cell in rows["fine-tuned, 1000 labels"]["starts"].items():
        assert cell["top1"] == top1[start]["1000"]
    for title, folder in (("linear probe, cached features, 50 labels", "PROBE"), ("fine-tuned", "TUNED")):
        own = json.loads((journey / folder / "result.json").read_text())
        assert rows[title]["starts"]["pretrained"]["top1"] == [own["top1"]]
    for row in rows.values():
        for cell in row["starts"].values():
            assert cell["command"].startswith("paddlemae ") and cell["at"]
            assert all(0 <= one <= 1 for one in cell["top1"])


def test_every_exhibit_is_there_and_what_is_missing_can_be_made(journey: Path, written: Path) -> None:
    (run,) = figures(written)["runs"]
    assert all(run["exhibits"][part] for part in EXHIBIT_TITLES if part not in OF_SCENES)
    assert {one["part"] for one in run["missing"]} == {"results.probe.random", "results.partial.pretrained"}
    for one in run["missing"]:
        assert parsed(one["command"]).params["init"] == str(journey / "a run")


def test_the_table_is_the_figures(written: Path) -> None:
    found = figures(written)
    assert (written / "report.md").read_text() == found["markdown"]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in found["markdown"].splitlines()[2:]]
    *results, majority = rows
    assert results == [row["title"] for row in found["runs"][0]["results"]]
    assert majority.startswith("always the commonest class")


def test_the_page_shows_all_of_it(written: Path) -> None:
    seen = Seen((written / "report.html").read_text())
    ids = {attributes.get("id") for _, attributes in seen.tags}
    shown = {*EXHIBIT_TITLES, "setup", "results", "curves"} - set(OF_SCENES)
    assert {f"run-0-{part}" for part in shown} <= ids
    assert "fine-tuned, 1000 labels" in seen.text and "problem found" not in seen.text
    assert "paddlemae study --init" in seen.text, "what is missing comes with its command"


def test_each_task_s_own_folder_can_be_reported(journey: Path, tmp_path: Path) -> None:
    runs = [journey / "TUNED", journey / "PROBE", journey / "STUDY/labels-1000-scratch-0"]
    write_report(runs, tmp_path)
    tuned, probe, scratch = figures(tmp_path)["runs"]
    assert [run["task"] for run in (tuned, probe, scratch)] == ["finetune", "probe", "finetune"]
    assert not any(run["problems"] for run in (tuned, probe, scratch))
    for run, start in ((tuned, "pretrained"), (probe, "pretrained"), (scratch, "scratch")):
        (row,) = run["results"]
        assert list(row["starts"]) == [start]
    assert {part for part, shown in tuned["exhibits"].items() if shown} == {"attention", "confusion", "mistakes"}
    assert {part for part, shown in probe["exhibits"].items() if shown} == {"confusion", "mistakes"}
    reasons = {one["part"]: one["reason"] for one in tuned["missing"]}
    assert reasons["reconstructions"] == "not part of fine-tuning: a classifier has no decoder"
    for one in (*tuned["missing"], *probe["missing"]):
        assert one["command"] is None or parsed(one["command"])


def test_runs_are_compared_on_one_page(journey: Path, tmp_path: Path, paddlemae) -> None:
    other = shutil.copytree(journey / "a run", tmp_path / "other")
    recipe = yaml.safe_load((other / "recipe.yaml").read_text())
    (other / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "mask_ratio": 0.875}))
    done = paddlemae("report", journey / "a run", other, "--out", tmp_path / "compared")
    assert done.status == 0, done.err
    assert not (other / "report.html").exists() and not (journey / "a run/report.html").exists()
    found = figures(tmp_path / "compared")
    assert found["comparison"]["recipes"] == [{"key": "mask_ratio", "values": [recipe["mask_ratio"], 0.875]}]
    assert found["comparison"]["environments"] == []
    *compared, majority = found["comparison"]["results"]
    assert {one["difference"] for one in compared} == {0.0} and majority["difference"] is None
    seen = Seen((tmp_path / "compared/report.html").read_text())
    assert f"mask_ratio {recipe['mask_ratio']} 0.875" in seen.text
    assert "### a run" in found["markdown"] and "### other" in found["markdown"]


def test_a_report_needs_no_paddle(journey: Path, written: Path, tmp_path: Path) -> None:
    done = python(WITHOUT_PADDLE, "report", str(journey / "a run"), "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, "")
    with_paddle, without = figures(written)["runs"], figures(tmp_path / "out")["runs"]
    assert without == with_paddle


def test_a_report_imports_no_paddle(journey: Path, tmp_path: Path) -> None:
    code = "import sys\nfrom paddlemae.report.write_report import *\n"
    code += "write_report([Path(sys.argv[1])], Path(sys.argv[2]))\n"
    done = python(code + "print('paddle' in sys.modules)", str(journey / "a run"), str(tmp_path))
    assert done.stdout == "False\n", done.stderr


def test_a_report_is_written_again(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_report([run])
    write_exhibit(run, "mistakes", {"source": "kNN", "classes": ["a"], "sprite": None, "items": []})
    first = (run / "report.json").read_text()
    write_report([run])
    assert (run / "report.json").read_text() != first and not list(run.glob("*.partial"))
    assert "There was no mistake." in (run / "report.html").read_text()


def test_a_run_without_a_mistake_has_no_problem(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_exhibit(run, "mistakes", {"source": "kNN", "classes": ["a"], "sprite": None, "items": []})
    seen = Seen(write_report([run]).page.read_text())
    assert "There was no mistake." in seen.text and "problem found" not in seen.text


def test_numbers_that_json_lacks_do_not_spoil_the_figures(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "epoch": 0.6, "seconds": 9, "loss": NaN, "lr": Infinity}\n')
    write_report([run])
    curves = figures(run)["runs"][0]["curves"]
    assert curves["loss"]["value"] == [0.5, 0.25, None] and curves["lr"]["value"][-1] is None
    assert "loss: 1 values are no finite numbers" in Seen((run / "report.html").read_text()).text


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda run: shutil.rmtree(run), "does not exist; expected a run folder"),
        (lambda run: (run / "recipe.yaml").unlink(), "holds no run (no recipe.yaml); name folders that pretrain"),
        (lambda run: (run / "recipe.yaml").write_text("task: ["), "recipe.yaml is damaged"),
        (lambda run: (run / "recipe.yaml").write_bytes(b"\xff"), "recipe.yaml is damaged"),
        (lambda run: (run / "recipe.yaml").write_text("task: cook"), "is no recipe of PaddleMAE"),
    ],
)
def test_bad_runs_are_one_line(run: Path, paddlemae, tmp_path: Path, harm: Callable, message: str) -> None:
    harm(run)
    good = make_run(tmp_path / "good")
    for runs in ([run], [good, run]):
        done = paddlemae("report", *runs, "--out", tmp_path / "out")
        assert done.status == 2 and done.err.count("\n") == 1 and not done.out
        assert message in done.err and str(run) in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_out_must_be_a_folder(run: Path, paddlemae, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("mine")
    done = paddlemae("report", run, "--out", tmp_path / out)
    assert done.status == 2 and done.err.count("\n") == 1
    assert str(tmp_path / "file") in done.err and (tmp_path / "file").read_text() == "mine"


def test_no_run_is_a_mistake(paddlemae) -> None:
    done = paddlemae("report")
    assert done.status == 2 and "Missing argument 'runs" in done.err.replace("RUNS", "runs")


def test_damage_is_reported_on_the_page(run: Path, paddlemae) -> None:
    with (run / "results.jsonl").open("w") as file:
        file.write(json.dumps(result()) + '\n{"task": "knn", \n')
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "loss"')
    write_exhibit(run, "map", {})
    (run / "exhibits/map.json").write_text("{")
    (run / "environment.json").unlink()
    assert paddlemae("report", run).status == 0
    problems = figures(run)["runs"][0]["problems"]
    text = Seen((run / "report.html").read_text()).text
    for words in (
        "metrics.jsonl: line 3 is damaged",
        "results.jsonl: line 2 is damaged",
        "map.json is damaged",
        "environment.json is missing",
    ):
        assert any(words in problem for problem in problems) and words in text, words
    assert "4 problems found" in text and "kNN, k = 20" in text


def test_the_memory_of_a_training_is_shown(written: Path) -> None:
    (run,) = figures(written)["runs"]
    used = run["curves"]["memory_gb"]["value"]
    assert len(used) == 3 and all(0.05 < one < 50 for one in used)
    block = np.ones((64, 1 << 20), np.uint8)
    before, held = used_memory(), [block + 1]
    after = used_memory()
    assert before is not None and after is not None
    assert len(held) == 1 and math.isclose(after - before, 64 << 20, rel_tol=0.5)


def test_without_a_system_that_tells_there_is_no_memory_to_show(monkeypatch) -> None:
    def gone(path: Path, *_: object) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", gone)
    assert used_memory() is None
