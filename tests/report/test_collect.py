"""A report's figures: from run folders alone, like results in one row, and nothing left out without a word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paddlemae.report.collect import collect
from paddlemae.report.missing import OF_SCENES
from paddlemae.report.results import gain, markdown, spread
from paddlemae.runs.exhibit_files import EXHIBIT_TITLES, write_exhibit
from paddlemae.runs.runlog import (
    forget_metrics_after,
    is_finished,
    log_metrics,
    log_result,
    mark_finished,
    read_metrics,
)
from paddlemae.system.documents import read_lines
from tests.support.command_line import parsed
from tests.support.run_folders import make_run, result

SPRITE = {"file": "exhibits/mistakes.jpg", "tile": [8, 8], "columns": 1, "count": 1}


def tuned(top1: float, start: str = "pretrained", seed: int = 0, labels: int | None = None, blocks=None, **changes):
    protocol = {"labels": labels, "trainable_blocks": blocks, "steps": 9, "seed": seed}
    return result("finetune", top1, start, protocol=protocol, train_images=labels or 4000, **changes)


def only(*runs: Path) -> dict:
    (found,) = collect(runs)["runs"]
    return found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_what_was_run_is_read_from_the_folder(run: Path) -> None:
    found = only(run)
    assert (found["name"], found["folder"], found["task"]) == ("run", str(run), "pretrain")
    assert found["setup"]["recipe"] == {"task": "pretrain", "data": "digits", "training.batch_size": 8}
    assert found["setup"]["data"] == {"name": "digits (train)", "images": 4000, "classes": None}
    assert found["setup"]["model"] == {"kind": "mae", "parameters": 1234, "architecture": {"depth": 1}}
    assert found["setup"]["environment"]["cpus"] == 2
    assert found["totals"] == {"steps": 4, "epochs": 0.4, "seconds": 6.0}
    assert found["curves"]["loss"] == {"step": [2, 4], "epoch": [0.2, 0.4], "seconds": [3.0, 6.0], "value": [0.5, 0.25]}
    assert set(found["curves"]) == {"loss", "lr"} and not found["problems"]


def test_a_curve_has_only_the_steps_that_logged_it(run: Path) -> None:
    log_metrics(run, 6, 0.6, 9.0, top1=0.75, note="words", flag=True)  # type: ignore[arg-type]
    curves = only(run)["curves"]
    assert curves["top1"]["step"] == [6] and curves["loss"]["step"] == [2, 4]
    assert "note" not in curves and "flag" not in curves


def test_the_same_thing_from_other_starts_is_one_row(run: Path) -> None:
    log_result(run, [result(top1=0.75), result(top1=0.25, start="random"), result("probe", 0.5, protocol={})])
    knn, probe = only(run)["results"]
    assert {start: cell["top1"] for start, cell in knn["starts"].items()} == {"pretrained": [0.75], "random": [0.25]}
    assert knn["title"] == "kNN, k = 20, weighted votes"
    assert (
        "mean of the patch tokens after the last block, norm: layer; searched 4,000 images: digits (train)"
        in knn["detail"]
    )
    assert gain(knn) == 0.5 and gain(probe) is None


@pytest.mark.parametrize(
    "change",
    [
        dict(eval_images=500),
        dict(train_images=50),
        dict(checkpoint="step_00000002"),
        dict(train="others"),
        dict(eval="others"),
        dict(protocol={"token": "cls", "layer": None, "norm": "layer", "k": 20, "votes": "weighted"}),
        dict(protocol={"token": "mean", "layer": 1, "norm": "layer", "k": 20, "votes": "weighted"}),
        dict(protocol={"token": "mean", "layer": None, "norm": "layer", "k": 20, "votes": "plain"}),
        dict(
            protocol={"token": "mean", "layer": None, "norm": "layer", "k": 20, "votes": "weighted", "temperature": 1}
        ),
    ],
    ids=str,
)
def test_what_was_done_otherwise_is_another_row(run: Path, change: dict) -> None:
    log_result(run, [result(top1=0.75), result(top1=0.25, start="random", **change)])
    rows = only(run)["results"]
    assert len(rows) == 2 and all(len(row["starts"]) == 1 for row in rows)


def test_seeds_are_averaged_and_what_was_done_again_counts_once(run: Path) -> None:
    log_result(run, [tuned(top1, seed=seed, labels=100) for seed, top1 in enumerate((0.1, 0.6, 0.7))])
    log_result(run, [tuned(0.5, seed=0, labels=100)])
    (row,) = only(run)["results"]
    cell = row["starts"]["pretrained"]
    assert cell["top1"] == [0.5, 0.6, 0.7] and cell["mean"] == pytest.approx(0.6) and cell["std"] == pytest.approx(0.1)
    assert spread(cell) == "60.0% ± 10.0%" and cell["command"]


def test_results_stand_in_the_order_of_their_numbers(run: Path) -> None:
    """With and without numbers in their titles."""
    log_result(run, [tuned(0.9, labels=1000), tuned(0.8), tuned(0.7, labels=50), tuned(0.6, blocks=0.5)])
    log_result(run, [tuned(0.5, blocks=0), result("probe", protocol={}), result("probe", protocol={"labels": 100})])
    for k in (100, 20):
        log_result(run, [result(protocol={"k": k, "votes": "plain"})])
    assert [row["title"] for row in only(run)["results"]] == [
        "kNN, k = 20, plain votes",
        "kNN, k = 100, plain votes",
        "linear probe",
        "linear probe, 100 labels",
        "last 0 blocks fine-tuned",
        "last 0.5 blocks fine-tuned",
        "fine-tuned",
        "fine-tuned, 50 labels",
        "fine-tuned, 1000 labels",
    ]


def test_the_table_says_what_pretraining_is_worth(run: Path) -> None:
    log_result(run, [result(top1=0.75), result(top1=0.5, start="random")])
    log_result(run, [tuned(0.5), tuned(0.75, start="scratch"), tuned(0.9, start="scratch", labels=10)])
    table = collect([run])["markdown"].splitlines()
    assert table[0] == "| accuracy | pretrained | untrained | from scratch | points gained |"
    assert table[2:] == [
        "| kNN, k = 20, weighted votes | 75.0% | 50.0% |  | +25.0 |",
        "| fine-tuned | 50.0% |  | 75.0% | -25.0 |",
        "| fine-tuned, 10 labels |  |  | 90.0% |  |",
    ]
    assert {line.count("|") for line in table} == {6}


def test_the_primary_metric_is_shown_with_its_interval_and_the_commonest_class(run: Path) -> None:
    measured = {
        "balanced_accuracy": 0.5,
        "primary": "balanced_accuracy",
        "intervals": {"balanced_accuracy": [0.4, 0.6]},
    }
    majority = {"class": "a|b", "top1": 0.8, "balanced_accuracy": 0.25}
    log_result(run, [{**tuned(0.75), **measured, "majority": majority}, {**result(top1=0.7), "majority": "damaged"}])
    knn, row = only(run)["results"]
    assert knn["metric"] == "top1" and knn["majority"] is None
    assert row["metric"] == "balanced_accuracy" and row["title"] == "fine-tuned, balanced accuracy"
    cell = row["starts"]["pretrained"]
    assert cell["mean"] == 0.5 and cell["interval"] == [0.4, 0.6] and cell["top1"] == [0.75]
    lines = collect([run])["markdown"].splitlines()
    assert lines[0].startswith("| accuracy, balanced accuracy |")
    assert lines[3] == "| fine-tuned, balanced accuracy | 50.0% (40.0 to 60.0) |  |  |  |"
    assert lines[4] == "| always the commonest class, 'a\\|b' | 25.0% | 25.0% | 25.0% |  |"


def test_the_commonest_class_is_compared_too(run: Path, tmp_path: Path) -> None:
    for folder in (run, make_run(tmp_path / "other")):
        log_result(folder, [{**result(top1=0.75), "majority": {"class": "a", "top1": 0.5}}])
    *_, last = collect([run, tmp_path / "other"])["comparison"]["results"]
    assert last["top1"] == [0.5, 0.5] and last["difference"] is None and "commonest" in last["title"]


def test_without_results_the_table_says_so(run: Path, tmp_path: Path) -> None:
    assert "| not measured yet | | | | |" in collect([run])["markdown"]
    runs = collect([run, make_run(tmp_path / "other")])["runs"]
    assert markdown(runs).count("not measured yet") == 2
    assert "### run\n" in markdown(runs) and "### other\n" in markdown(runs)


@pytest.mark.parametrize("file", ["metrics.jsonl", "results.jsonl"])
@pytest.mark.parametrize("line", ["{", "3", "[1]", "null", "{}", "", "1" * 5000, "[" * 100_000, "\x00ÿ"], ids=range(9))
def test_a_damaged_line_is_named_by_its_number(run: Path, file: str, line: str) -> None:
    log_result(run, [result()])
    whole = (run / file).read_text().splitlines()
    (run / file).write_text("\n".join([whole[0], line, *whole[1:]]) + "\n")
    found = only(run)
    assert found["problems"] == [f"{file}: line 2 is damaged and was left out"]
    assert found["curves"]["loss"]["step"] == [2, 4] and len(found["results"]) == 1


def test_many_damaged_lines_are_not_all_named(run: Path) -> None:
    (run / "metrics.jsonl").write_text("{\n" * 9)
    assert only(run)["problems"] == ["metrics.jsonl: line 1, 2, 3, 4, 5 ... is damaged and was left out"]


def test_bytes_that_are_no_text_damage_their_line_alone(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b'{"step": 1}\n\xff\xfe\n{"step": 2}\n{"other": 2}\n{"step"')
    has_step = lambda line: "step" in line  # noqa: E731
    assert read_lines(tmp_path / "lines", has_step) == ([{"step": 1}, {"step": 2}], [2, 4, 5])
    assert read_lines(tmp_path / "none", has_step) == ([], [])


@pytest.mark.parametrize(
    "line",
    [
        '{"step": "1"}',
        '{"step": true}',
        '{"step": -1}',
        '{"step": 1.5}',
        '{"step": 1, "epoch": "x"}',
        '{"step": 3, "seconds": []}',
        '{"step": 1' + 50 * "0" + "}",
    ],
)
def test_a_line_of_metrics_whose_place_is_no_number_is_damaged(run: Path, line: str) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    assert only(run)["problems"] == ["metrics.jsonl: line 3 is damaged and was left out"]
    forget_metrics_after(run, 2)
    assert [one["step"] for one in read_metrics(run)] == [2]


def test_a_line_without_end_takes_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "lines").open("wb") as file:
        file.write(b'{"step": 1}\n' + b"x" * 3_000_000 + b'\n{"step": 2}\n')
    assert read_lines(tmp_path / "lines", lambda line: True) == ([{"step": 1}, {"step": 2}], [2])


@pytest.mark.parametrize(
    "text", ["", "[1]", "7", '{"cpus": "many"}', '{"packages": [1]}', "[" * 99_999, '{"finished": 5}']
)
def test_a_damaged_environment_costs_no_run_its_end(run: Path, text: str) -> None:
    (run / "environment.json").write_text(text)
    assert "environment.json is damaged and was left out" in only(run)["problems"]
    assert not is_finished(run)
    mark_finished(run)
    assert is_finished(run)


@pytest.mark.parametrize(
    "change",
    [
        dict(top1=None),
        dict(top1="0.5"),
        dict(top1=True),
        dict(protocol=None),
        dict(protocol=[1]),
        dict(eval_images="many"),
        dict(train_images="many"),
        dict(task=["knn"]),
        dict(start=["random"]),
        dict(start="elsewhere"),
        dict(command=[1, 2]),
        dict(command="knn"),
        dict(protocol={"seed": [1], "k": 1}),
        dict(checkpoint=5),
    ],
    ids=str,
)
def test_a_senseless_result_is_a_problem_and_the_others_stay(run: Path, change: dict) -> None:
    with (run / "results.jsonl").open("w") as file:
        file.writelines(json.dumps(one) + "\n" for one in (result(top1=0.75), {**result(top1=0.125), **change}))
    found = only(run)
    top1 = [cell["top1"] for row in found["results"] for cell in row["starts"].values()]
    assert [0.75] in top1
    if change != dict(checkpoint=5):
        assert top1 == [[0.75]] and len(found["problems"]) == 1 and "results.jsonl" in found["problems"][0]


@pytest.mark.parametrize("name", ["environment.json", "checkpoints/step_00000004/model.json"])
@pytest.mark.parametrize("text", [None, b"{", b"[]", b"\xff"])
def test_a_file_that_is_missing_or_damaged_is_named(run: Path, name: str, text: bytes | None) -> None:
    if text is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(text)
    (problem,) = only(run)["problems"]
    assert problem.startswith(f"{Path(name).name} is {'missing' if text is None else 'damaged'}")


@pytest.mark.parametrize(
    "content", [{"provenance": []}, {"classes": 5}, {"provenance": None, "classes": None}], ids=str
)
def test_a_model_of_another_making_is_no_traceback(run: Path, content: dict) -> None:
    (run / "checkpoints/step_00000004/model.json").write_text(json.dumps(content))
    found = only(run)
    assert found["problems"] == ["model.json is damaged and was left out"] and found["setup"]["model"] == {}


@pytest.mark.parametrize("pointer", [None, b"", b"step_00000099", b"\xff\xff", b"x\0y"])
def test_a_run_without_its_checkpoint_is_still_shown(run: Path, pointer: bytes | None) -> None:
    latest = run / "checkpoints/latest"
    latest.unlink() if pointer is None else latest.write_bytes(pointer)
    found = only(run)
    assert len(found["problems"]) == 1 and found["curves"]["loss"]


@pytest.mark.parametrize("part", EXHIBIT_TITLES)
def test_a_damaged_exhibit_is_named_and_missing(run: Path, part: str) -> None:
    write_exhibit(run, part, {"caption": "whole"})
    assert only(run)["exhibits"][part] == {"caption": "whole"}
    (run / f"exhibits/{part}.json").write_text("{")
    found = only(run)
    assert found["exhibits"][part] is None and part in {one["part"] for one in found["missing"]}
    (problem,) = found["problems"]
    assert f"{part}.json is damaged" in problem


def test_mistakes_are_shown_of_the_newest_classifier_that_came_of_it(run: Path, tmp_path: Path) -> None:
    for name in ("older", "newer"):
        write_exhibit(tmp_path / name, "mistakes", {"source": name, "sprite": SPRITE, "items": []})
        log_result(run, [tuned(0.5, run=f"../{name}")])
    log_result(run, [tuned(0.5, run="../gone"), result()])
    shown = only(run)["exhibits"]["mistakes"]
    assert shown["source"] == "newer" and shown["sprite"] == {**SPRITE, "file": "../newer/exhibits/mistakes.jpg"}
    write_exhibit(run, "mistakes", {"source": "own", "sprite": SPRITE, "items": []})
    shown = only(run)["exhibits"]["mistakes"]
    assert shown["source"] == "own" and shown["sprite"] == SPRITE


def test_the_runs_folder_may_be_named_from_anywhere(run: Path, tmp_path: Path, monkeypatch) -> None:
    write_exhibit(tmp_path / "tuned", "confusion", {"sheet": {"file": "exhibits/a.jpg"}})
    log_result(run, [tuned(0.5, run="../tuned")])
    monkeypatch.chdir(run)
    found = only(Path("."))
    assert found["name"] == "run" and found["exhibits"]["confusion"]["sheet"]["file"] == "../tuned/exhibits/a.jpg"


@pytest.mark.parametrize(
    ("task", "data"),
    [
        ("pretrain", "my 'own' images"),
        ("pretrain", None),
        ("finetune", "my 'own' images"),
        ("probe", "digits"),
        ("segment", "my 'own' images"),
    ],
)
def test_what_is_missing_is_named_with_a_command_that_parses(tmp_path: Path, task: str, data: str | None) -> None:
    run = make_run(tmp_path / "a run", task, data=data, init="runs/origin")
    missing = only(run)["missing"]
    expected = {*OF_SCENES, "confusion"} if task == "segment" else set(EXHIBIT_TITLES) - set(OF_SCENES)
    assert {one["part"] for one in missing if not one["part"].startswith("results.")} == expected
    ways = [one["command"] for one in missing if one["command"]]
    assert bool(ways) == (task != "probe")
    for command in dict.fromkeys(ways):
        named = parsed(command).params
        assert str(run) in (named.get("run"), named.get("init")), command
        assert named["data"] == (data or "FOLDER"), command
    with pytest.raises(Exception, match="No such option"):
        parsed("paddlemae knn somewhere --data digits --nonsense")


def test_what_was_done_is_not_missing(run: Path) -> None:
    def missing() -> dict[str, dict]:
        return {one["part"]: one for one in only(run)["missing"] if one["part"] not in EXHIBIT_TITLES}

    ways = [f"{way}.pretrained" for way in ("knn", "probe", "partial", "finetune")]
    ways += ["knn.random", "probe.random", "finetune.scratch"]
    assert set(missing()) == {f"results.{way}" for way in ways}
    assert missing()["results.knn.random"]["title"] == "kNN, of the untrained encoder"
    log_result(run, [result(), result(start="random"), tuned(0.5, start="scratch")])
    assert set(missing()) == {f"results.{way}" for way in ways if not way.startswith("knn.") and way != ways[-1]}
    log_result(run, [tuned(0.5, blocks=0), tuned(0.5), result("probe"), result("probe", start="random")])
    assert not missing()


def test_runs_are_compared_by_what_differs(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", mask_ratio=0.5)
    log_result(run, [result(top1=0.25, checkpoint="step_00000002"), result(top1=0.5), result("probe", 0.5)])
    log_result(other, [result(top1=0.75, checkpoint="step_00000009")])
    assert collect([run])["comparison"] is None
    compared = collect([run, other])["comparison"]
    assert compared["recipes"] == [{"key": "mask_ratio", "values": [None, 0.5]}]
    assert compared["environments"] == []
    assert [(one["top1"], one["difference"]) for one in compared["results"]] == [
        ([0.5, 0.75], 0.25),  # each run's newest checkpoint
        ([0.5, None], None),
    ]


def test_a_model_is_not_compared_with_itself(run: Path, tmp_path: Path) -> None:
    segmenter = make_run(tmp_path / "segmenter")
    log_result(segmenter, [tuned(0.5)])
    log_result(run, [tuned(0.5, run="../segmenter")])
    (row,) = collect([run, segmenter])["comparison"]["results"]
    assert row["top1"] == [0.5, 0.5] and row["difference"] is None
    log_result(segmenter, [tuned(0.75)])
    (row,) = collect([run, segmenter])["comparison"]["results"]
    assert row["difference"] == 0.25


def test_no_run_is_refused() -> None:
    with pytest.raises(ValueError, match="name at least one run folder"):
        collect([])


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (b"task: [", "recipe.yaml is damaged .*restore it"),
        (b"\xff\xfe\x00", "recipe.yaml is damaged"),
        (b"", "is no recipe of PaddleMAE; its task must be one of finetune, pretrain, probe"),
        (b"task: cook", "is no recipe of PaddleMAE"),
        (b"task: [pretrain]", "is no recipe of PaddleMAE"),
        (b"- task", "is no recipe of PaddleMAE"),
    ],
)
def test_a_damaged_recipe_is_one_line(run: Path, recipe: bytes, message: str) -> None:
    (run / "recipe.yaml").write_bytes(recipe)
    with pytest.raises(ValueError, match=message) as fault:
        collect([run])
    assert "\n" not in str(fault.value) and str(run) in str(fault.value)


def test_settings_of_another_type_are_shown_as_they_are(run: Path) -> None:
    (run / "recipe.yaml").write_text("task: pretrain\ndata: 5\n1: 2\n")
    found = only(run)
    assert found["setup"]["recipe"] == {"task": "pretrain", "data": 5, "1": 2}
    assert parsed(found["missing"][0]["command"]).params["data"] == "5"


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("gone", "does not exist; expected a run folder"),
        ("file", "is a file; expected a run folder"),
        ("empty", "holds no run .*name folders that pretrain, finetune or probe wrote"),
    ):
        with pytest.raises(FileNotFoundError if name != "file" else ValueError, match=message):
            collect([tmp_path / name])
