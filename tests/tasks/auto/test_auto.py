"""`auto` from images to a report: labelled and not, stopped and resumed, and with images that can't be used."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paddlemae.recipe import load_recipe
from paddlemae.runs.runlog import is_finished
from paddlemae.system.signals import Preempted
from paddlemae.tasks.auto.auto_state import AUTO_FILE
from paddlemae.tasks.auto.commands import Commands
from paddlemae.tasks.auto.run_auto import auto
from tests.support.mask_folders import save, scene, write_pairs
from tests.support.pictures import COLOURS, write_png
from tests.tasks.auto.conftest import tiny_plan

METHODS = {"majority", "gradients", "colour", "knn_untrained", "knn", "finetuned"}


def stored(out: Path) -> dict[str, Any]:
    return json.loads((out / AUTO_FILE).read_text())


def test_labelled_images_end_in_one_table(colours: Path, commands: Commands, request_for: Callable) -> None:
    request = request_for(colours)
    found = auto(request, commands)
    assert {row["key"] for row in found["rows"]} == METHODS
    for row in found["rows"]:
        assert row["eval_images"] == 12 and 0 <= row["top1"] <= 1 and row["title"]
        assert row["intervals"]["top1"][0] <= row["top1"] <= row["intervals"]["top1"][1]
    page = (request.out / "report.html").read_text()
    for text in (found["verdict"], *(row["title"].replace("'", "&#39;") for row in found["rows"])):
        assert text in page
    assert page.index("<h1>") < page.index(found["verdict"], page.index("<h1>"))
    for task in ("pretrain", "finetune"):
        assert is_finished(request.out / task)
        load_recipe(task, str(request.out / "plan" / f"{task}.yaml"))
    assert "leaks" in stored(request.out)["stages"]["check"]["findings"] or (request.out / "check/check.json").is_file()
    assert found["seconds"] <= stored(request.out)["seconds"]


def test_images_without_labels_end_in_pictures(tmp_path: Path, commands: Commands, request_for: Callable) -> None:
    for number in range(12):
        write_png(tmp_path / "photos" / f"{number}.png", (20 * number, 60, 90), number)
    request = request_for(tmp_path / "photos")
    found, out = auto(request, commands), request.out
    assert found["rows"] == [] and found["helped"] is None
    assert not (out / "finetune").exists()
    page = (out / "report.html").read_text()
    assert "all images" in page  # the map
    assert (out / "pretrain/figures/reconstruction.png").is_file()


@pytest.mark.parametrize("splits", [("train", "test"), ("train", "val", "test"), ("train",)])
def test_images_with_masks_end_in_a_segmenter(
    tmp_path: Path, commands: Commands, request_for: Callable, capsys, splits: tuple[str, ...]
) -> None:
    request = request_for(write_pairs(tmp_path / "scenes", splits, 8), compare=True)
    found = auto(replace(request, quiet=False), commands)
    assert [row["key"] for row in found["rows"]].count("finetuned") == 1 and len(found["rows"]) == 2
    for row in found["rows"]:
        assert row["intervals"]["miou"][0] <= row["miou"] <= row["intervals"]["miou"][1]
        assert row["eval_images"] == (8 if "test" in splits else 2)
    assert found["primary"] == "miou" and "mean IoU" in (request.out / "report.html").read_text()
    assert not (request.out / "finetune").exists() and is_finished(request.out / "segment")
    scratch = load_recipe("segment", str(request.out / "scratch" / "recipe.yaml"))
    assert scratch.init == "scratch" and scratch.layer_decay == 1
    printed = capsys.readouterr().out
    assert "one folder per class" not in printed and "paddlemae segment" not in printed


def test_images_with_labels_and_masks_are_classified_and_the_next_command_is_named(
    tmp_path: Path, commands: Commands, request_for: Callable
) -> None:
    for split in ("train", "test"):
        for number in range(8):
            image, ids = scene(number)
            name = f"{split}/{('good', 'bad')[number % 2]}/{number}.png"
            save(tmp_path / "parts" / "images" / name, image)
            save(tmp_path / "parts" / "masks" / name, ids)
    request = request_for(tmp_path / "parts")
    found = auto(request, commands)
    assert "finetuned" in {row["key"] for row in found["rows"]} and not (request.out / "segment").exists()
    assert f"paddlemae segment --init {request.out / 'pretrain'} --data {request.data}" in " ".join(found["remarks"])


def test_masks_that_cannot_be_used_are_named(tmp_path: Path, commands: Commands, request_for: Callable) -> None:
    folder = write_pairs(tmp_path / "scenes", count=3)
    found = auto(request_for(folder), commands)
    assert found["rows"] == [] and any("paddlemae segment" in remark for remark in found["remarks"])
    notes = tiny_plan(str(folder), 1, device="cpu", seed=0, cache="", quiet=True).survey.notes
    assert any("masks can't be used: 3 images" in note for note in notes)


def test_images_of_several_classes_are_fine_tuned(tmp_path: Path, commands: Commands, request_for: Callable) -> None:
    folder, rows = tmp_path / "photos", []
    folder.mkdir()
    for number in range(40):
        names = (["left"], ["right"], ["left", "right"])[number % 3]
        pixels = np.random.default_rng(number).integers(0, 60, (16, 16, 3), np.uint8)
        for name in names:
            pixels[:, slice(0, 8) if name == "left" else slice(8, 16)] += 150
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append([f"{number}.png", "|".join(names), "test" if number % 5 == 4 else "train"])
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "labels", "split"], *rows])
    request = request_for(folder / "list.csv")
    found = auto(request, commands)
    assert [row["key"] for row in found["rows"]] == ["finetuned"] and found["primary"] == "mean_average_precision"
    assert 0 <= found["rows"][0]["mean_average_precision"] <= 1 and found["helped"] is None
    assert "--compare" in found["verdict"] and found["verdict"] in (request.out / "report.html").read_text()
    found = auto(replace(request, compare=True), commands)
    assert {row["key"] for row in found["rows"]} == {"finetuned", "scratch"} and "ining" in found["verdict"]


def test_a_test_part_is_held_out_with_its_duplicates(tmp_path: Path, commands: Commands, request_for: Callable) -> None:
    for place, (name, colour) in enumerate(COLOURS.items()):
        for number in range(10):
            write_png(tmp_path / "flat" / name / f"{number}.png", colour, 100 * place + number, (16, 16))
        shutil.copy(tmp_path / "flat" / name / "0.png", tmp_path / "flat" / name / "copy.png")
    request = request_for(tmp_path / "flat")
    found = auto(request, commands)
    rows = (request.out / "data/split.csv").read_text().splitlines()
    part_of = {Path(row.split(",")[0]).parts[-2:]: row.split(",")[2] for row in rows[1:]}
    for name in COLOURS:
        assert part_of[name, "0.png"] == part_of[name, "copy.png"]
    tested = sum(part == "test" for part in part_of.values())
    assert 0 < tested < len(part_of) and {row["eval_images"] for row in found["rows"]} == {tested}
    pretrained = load_recipe("pretrain", str(request.out / "pretrain/recipe.yaml"))
    assert pretrained.data == str(request.out / "data/split.csv")  # it sees no image of the test part


def test_images_that_a_list_cannot_name_are_held_out_by_share(
    tmp_path: Path, commands: Commands, request_for: Callable
) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 2
    images = (rng.integers(0, 100, (24, 8, 8, 3)) + 100 * labels[:, None, None, None]).astype(np.uint8)
    np.savez(tmp_path / "both.npz", images=images, labels=labels)
    found = auto(request_for(tmp_path / "both.npz"), commands)
    assert {row["eval_images"] for row in found["rows"]} == {6}
    assert "duplicates" in stored(request_for(tmp_path).out)["stages"]["split"]["note"]


def test_a_comparison_can_follow_later(colours: Path, commands: Commands, request_for: Callable) -> None:
    request = request_for(colours)
    auto(request, commands)

    def again(*_: object, **__: object) -> None:
        pytest.fail("a finished stage was repeated")

    known = replace(commands, make_plan=again, pretrain=again, check=again, classify_by_neighbours=again)
    found = auto(replace(request, compare=True), known)
    assert {row["key"] for row in found["rows"]} == METHODS | {"scratch"}
    recipe = load_recipe("finetune", str(request.out / "scratch/recipe.yaml"))
    assert recipe.init == "scratch" and recipe.model.embed_dim == 16 and recipe.layer_decay == 1
    assert "scratch" in found["verdict"]


@pytest.mark.parametrize(
    ("stage", "end"), [("make_plan", KeyboardInterrupt), ("pretrain", Preempted), ("finetune", KeyboardInterrupt)]
)
def test_a_stopped_run_goes_on_where_it_was(
    stage: str, end: type[BaseException], colours: Path, commands: Commands, request_for: Callable
) -> None:
    request, calls = request_for(colours), []

    def stopped(*_: object, **__: object) -> None:
        raise end()

    with pytest.raises(end, match="same command resumes"):
        auto(request, replace(commands, **{stage: stopped}))
    before = stored(request.out)
    assert before["began"] is None and before["seconds"] > 0

    def counted(name: str) -> Callable:
        def call(*arguments: Any, **settings: Any) -> Any:
            calls.append(name)
            return getattr(commands, name)(*arguments, **settings)

        return call

    names = ("make_plan", "pretrain", "classify_by_neighbours", "finetune")
    auto(request, replace(commands, **{name: counted(name) for name in names}))
    assert [name for name in names if name in calls] == list(names[names.index(stage) :])
    assert stored(request.out)["seconds"] > before["seconds"]


def test_a_training_that_was_stopped_is_resumed(colours: Path, commands: Commands, request_for: Callable) -> None:
    request, steps = request_for(colours), []

    def stopped(recipe: Any, start: Any) -> None:
        commands.pretrain(
            recipe.model_copy(update={"training": recipe.training.model_copy(update={"max_hours": 1e-9})}), start
        )

    def as_by_a_signal(recipe: Any, start: Any) -> None:
        try:
            stopped(recipe, start)
        except Preempted as fault:
            raise Preempted(str(fault)) from fault

    with pytest.raises(Preempted):
        auto(request, replace(commands, pretrain=as_by_a_signal))

    def watched(recipe: Any, start: Any) -> Any:
        steps.append(start.resume)
        return commands.pretrain(recipe, start)

    auto(request, replace(commands, pretrain=watched))
    assert steps == [True] and is_finished(request.out / "pretrain")


def test_a_dry_run_writes_nothing(colours: Path, commands: Commands, request_for: Callable, capsys) -> None:
    request = request_for(colours, dry_run=True)
    assert auto(request, commands) == {}
    assert not request.out.exists() and "labels" in capsys.readouterr().out


def test_labels_of_one_class_are_not_fine_tuned(tmp_path: Path, commands: Commands, request_for: Callable) -> None:
    for number in range(8):
        write_png(tmp_path / "one/train/cat" / f"{number}.png", (10, 20, 30), number)
    found = auto(request_for(tmp_path / "one"), commands)
    assert found["rows"] == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"minutes": 0.0}, "above 0"), ({"minutes": -1.0}, "above 0"), ({"minutes": float("nan")}, "above 0")],
)
def test_a_time_that_is_none_is_refused(
    changes: dict, words: str, colours: Path, commands: Commands, request_for: Callable
) -> None:
    with pytest.raises(ValueError, match=words):
        auto(request_for(colours, **changes), commands)
    assert not request_for(colours).out.exists()


def test_one_image_is_refused(tmp_path: Path, commands: Commands, request_for: Callable) -> None:
    write_png(tmp_path / "few/0.png", (10, 20, 30), 0)
    with pytest.raises(ValueError, match="two"):
        auto(request_for(tmp_path / "few"), commands)
    assert not request_for(tmp_path).out.exists()


def test_a_folder_among_the_images_is_refused(colours: Path, commands: Commands, request_for: Callable) -> None:
    with pytest.raises(ValueError, match="folder of the images"):
        auto(request_for(colours, out=colours / "run"), commands)


def test_a_time_too_short_for_the_plan_is_one_line(photos: Path, paddlemae: Callable, tmp_path: Path) -> None:
    done = paddlemae("auto", "--data", photos, "--minutes", 0.01, "--out", tmp_path / "run", "--quiet")
    assert done.status == 2 and done.err.count("\n") == 1 and "minutes" in done.err
