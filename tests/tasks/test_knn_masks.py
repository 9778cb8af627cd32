"""Patches by their nearest patches: nothing is trained, and what a patch can't tell apart is not claimed."""

import shutil

import numpy as np
import pytest

from paddlemae.runs.runlog import read_results
from paddlemae.tasks.knn_masks import knn_masks, patch_classes, result_text
from tests.support.coloured_scenes import write_scenes


def test_patches_take_the_class_of_most_of_their_counted_pixels() -> None:
    mask = np.array([[0, 0, 2, -1], [1, 0, 1, 2], [-1, -1, 1, 0], [-1, -1, 0, 1]], np.int16)[None]
    assert patch_classes(mask, (2, 2), 3).tolist() == [0, 2, -1, 0]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes") / "land")


def test_colours_are_found_by_their_neighbours(pretrained, scenes, tmp_path) -> None:
    run = shutil.copytree(pretrained, tmp_path / "run")
    said: list[dict] = []
    result = knn_masks(str(run), str(scenes), k=3, threads=1, say=said.append)
    assert result["miou"] > result["majority"]["miou"] and "boundary_f1" not in result
    assert result["eval_images"] == 5 and result["protocol"]["k"] == 3 and said == [result]
    logged, _ = read_results(run)
    assert logged[-1]["task"] == "knn" and logged[-1]["miou"] == result["miou"]
    assert "mean IoU (primary)" in result_text(result) and "water" in result_text(result)
    few = knn_masks(str(run), str(scenes), k=3, labels=2, random=True, threads=1)
    assert few["start"] == "random" and few["train_images"] == 2


def test_the_command_prints_the_table(paddlemae, pretrained, scenes, tmp_path) -> None:
    run = shutil.copytree(pretrained, tmp_path / "run")
    done = paddlemae("knn", run, "--data", scenes, "--masks", "--k", 2)
    assert done.status == 0 and "nearest of" in done.out and "ground" in done.out
    assert paddlemae("knn", run, "--data", scenes, "--masks", "--k", 2, "--k", 3).status == 2
    assert paddlemae("knn", run, "--data", scenes, "--masks", "--k", 10**6).status == 2
