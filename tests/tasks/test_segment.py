"""Segmentation: it learns, from what it was told, resumes bitwise, and reports what it measured."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.batches import whole_scenes
from paddlemae.data.sources import BadMask
from paddlemae.data.views.scenes import SceneView
from paddlemae.recipe import SegmentRecipe, load_recipe
from paddlemae.report.write_report import write_report
from paddlemae.runs.exhibit_files import read_exhibit
from paddlemae.runs.runlog import read_metrics, read_results
from paddlemae.tasks.evaluate import evaluate, result_text
from paddlemae.tasks.models.build import load_segmenter
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.models.segment_image import windows_of
from paddlemae.tasks.segment import dry_run, segment
from paddlemae.tasks.study import Study, study, table
from paddlemae.tasks.training.evaluate_masks import WindowOptions
from paddlemae.tasks.training.evaluate_segmenter import evaluate_segmenter
from paddlemae.tasks.training.mask_splits import open_mask_test_part
from paddlemae.tasks.training.patch_cache import scene_windows
from paddlemae.tasks.training.run_start import Start
from paddlemae.tasks.training.segmentation_setup import prepare
from paddlemae.train.checkpoint_folders import find_checkpoint
from paddlemae.train.parallel.ranks import ALONE
from paddlemae.weights.model_folder import read_description, read_tensors
from tests.support.coloured_scenes import CLASSES, write_scenes
from tests.support.mask_folders import save, write_pairs
from tests.support.resumed_runs import REPEATABLE, assert_same_run, stopped_and_resumed

QUICK = ["threads=1", "log_every=1", "batch_size=4", "steps=3", "warmup_epochs=0.5", "epochs=3", "image_size=16"]
LEARNING = [
    "steps=60",
    "epochs=20",
    "base_lr=0.6",
    "layer_decay=1",
    "drop_path=0",
    "evaluate_every=10",
    "scale=[0.9,1.1]",
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes") / "land")


@pytest.fixture
def recipe(encoder, scenes):
    """Build a segmentation of the scenes, by default from scratch."""

    def build(*overrides: str) -> SegmentRecipe:
        return load_recipe("segment", None, [f"data={scenes}", "init=scratch", *encoder, *QUICK, *overrides])

    return build


@pytest.fixture(scope="module")
def trained(tmp_path_factory, encoder, scenes):
    """(run folder, result) of a training from scratch that learned the colours."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    recipe = load_recipe("segment", None, [f"data={scenes}", "init=scratch", *encoder, *QUICK, *LEARNING])
    return out, segment(recipe, Start(out, quiet=True))


def test_colours_are_learned_from_scratch(trained) -> None:
    out, result = trained
    assert result["miou"] > 0.5 > result["majority"]["miou"] and result["primary"] == "miou"
    counts = ("steps", "train_images", "validation_images", "eval_images")
    assert [result[name] for name in counts] == [60, 10, 2, 5]
    assert set(result["per_class"]) == set(CLASSES) and result["per_class"]["water"]["iou"] > 0.3
    assert result["ignored_pixels"] == pytest.approx(1 / 24)
    assert json.loads((out / "result.json").read_text()) == result


def test_a_run_folder_is_complete(trained) -> None:
    out, result = trained
    for name in ("confusion.png", "curves.png"):
        with Image.open(out / "figures" / name) as figure:
            assert figure.format == "PNG" and min(figure.size) > 200
    description = read_description(find_checkpoint(out))
    assert description.kind == "segmenter" and description.classes == list(CLASSES)
    assert description.palette is not None and len(description.palette) == 3
    evaluated = [line for line in read_metrics(out) if "miou" in line]
    assert len(evaluated) == 3 and {"miou", "dice", "pixel_accuracy", "eval_loss"} <= set(evaluated[0])
    assert result["best_miou"] == max(line["miou"] for line in evaluated)
    shown, worst = read_exhibit(out, "scenes"), read_exhibit(out, "worst_scenes")
    assert len(shown["items"]) == len(worst["items"]) == 5 and shown["sprite"]["columns"] == 4
    mious = [item["miou"] for item in worst["items"]]
    assert mious == sorted(mious)


def test_the_head_starts_new_on_a_pretrained_encoder(recipe, pretrained, tmp_path) -> None:
    shutil.copytree(pretrained, tmp_path / "start")
    before = read_checkpoint(tmp_path / "start")
    parts = prepare(
        load_recipe("segment", None, [f"data={recipe().data}", f"init={tmp_path / 'start'}", "image_size=16"])
    )
    assert parts.model.config["image_size"] == [16, 16] and parts.model.config["embed_dim"] == 16
    block = "blocks.0.attn.qkv.weight"
    assert np.array_equal(parts.model.encoder.blocks[0].attn.qkv.weight.numpy().T, before.tensors[block])
    assert parts.description.mean == before.description.mean


def test_a_frozen_encoder_stays_as_it_was(recipe, pretrained, tmp_path) -> None:
    shutil.copytree(pretrained, tmp_path / "start")
    frozen = recipe(f"init={tmp_path / 'start'}", "frozen=true", "base_lr=1")
    segment(frozen, Start(tmp_path / "run", quiet=True))
    before, after = read_checkpoint(tmp_path / "start").tensors, read_tensors(find_checkpoint(tmp_path / "run"))
    same = [name for name in after if name.startswith("blocks.") or name == "patch_embed.proj.weight"]
    assert len(same) > 5 and all(np.array_equal(before[name], after[name]) for name in same)
    logged, _ = read_results(tmp_path / "start")
    assert logged[-1]["task"] == "segment" and logged[-1]["protocol"]["frozen"] and logged[-1]["start"] == "pretrained"


@pytest.mark.parametrize("head", ["linear", "conv"])
def test_a_head_is_trained_on_features_computed_once(recipe, pretrained, tmp_path, monkeypatch, head: str) -> None:
    shutil.copytree(pretrained, tmp_path / "start")
    shape = [f"head={head}", "head_width=8"] if head == "conv" else []
    start = [f"init={tmp_path / 'start'}", "frozen=true", "cached=true", *shape]
    learning = [*REPEATABLE, "steps=40", "epochs=16", "base_lr=3", "evaluate_every=8"]
    chosen = recipe(*start, *learning)
    result = segment(chosen, Start(tmp_path / "whole", quiet=True))
    assert result["miou"] > result["majority"]["miou"]
    stopped_and_resumed(segment, chosen, tmp_path / "parts", [13], monkeypatch)
    assert_same_run(tmp_path / "whole", tmp_path / "parts", least=2)


def test_images_with_rare_classes_are_repeated(recipe, tmp_path) -> None:
    data = write_pairs(tmp_path / "land", ("train", "test"), 8, classes=2)
    for number in range(6):  # of eight training images two have the second class
        save(data / "masks" / "train" / f"{number}.png", np.zeros((12, 16), np.uint8))
    plain, balanced = (
        prepare(recipe(f"data={data}", "validation=0", *more))
        for more in ([], ["sampling=balanced", "augment.rare_crops=1"])
    )
    assert plain.order is None and plain.views == 8 and balanced.views == 12
    masks = balanced.splits.train.masks
    assert np.mean([(masks.read(i) == 1).any() for i in balanced.order]) == 0.5
    result = segment(
        recipe(f"data={data}", "validation=0", "sampling=balanced", "rare_crops=1", "epochs=2"),
        Start(tmp_path / "run", quiet=True),
    )
    assert 0 <= result["miou"] <= 1
    with pytest.raises(ValueError, match="leave sampling out"):
        recipe("sampling=balanced", "frozen=true", "cached=true", "init=somewhere")


def test_a_new_head_begins_with_the_shares_of_the_classes(recipe, trained, tmp_path) -> None:
    data = write_pairs(tmp_path / "land", ("train", "test"), 4, classes=2)
    mask = np.zeros((12, 16), np.uint8)
    mask[0, :6] = 1
    for number in range(4):
        save(data / "masks" / "train" / f"{number}.png", mask)

    def biases(*overrides: str) -> np.ndarray:
        return prepare(recipe("validation=0", *overrides)).model.head.classifier.bias.numpy()

    plain = biases(f"data={data}")
    assert plain[0] - plain[1] == pytest.approx(np.log((192 - 6) / 6), rel=1e-5)
    assert biases(f"data={data}", "class_weights=balanced") == pytest.approx([0, 0], abs=1e-6)
    kept = read_tensors(find_checkpoint(trained[0]))["head.classifier.bias"]
    assert np.array_equal(biases(f"init={trained[0]}"), kept)


def test_windows_cover_an_image_once(scenes) -> None:
    source = open_mask_test_part(str(scenes), "test")
    (scene, *_) = whole_scenes(source, 3, 8)
    view = SceneView((12, 16), 3)
    windows = list(scene_windows(scene, view))
    assert len(windows) == 4 and all(image.shape == (3, 12, 16) for image, _ in windows)
    rows = [np.concatenate([windows[2 * row + column][1] for column in (0, 1)], axis=1) for row in (0, 1)]
    assert (np.concatenate(rows) == scene.mask).all()


@pytest.mark.parametrize("labels", ["4", "50%"])
def test_few_masks_are_part_of_more(recipe, labels: str) -> None:
    few = prepare(recipe(f"labels={labels}", "validation=0")).splits.train
    more = prepare(recipe("labels=8", "validation=0")).splits.train
    names = [{source.describe(i) for i in range(len(source))} for source in (few, more)]
    assert names[0] < names[1] and len(names[0]) == {"4": 4, "50%": 6}[labels]


def test_a_run_resumes_bitwise(recipe, tmp_path, monkeypatch) -> None:
    """With all that a segmentation draws. Two blocks, since the first one never drops."""
    drawn = ["rotate=true", "flip_vertical=true", "photometric=1", "drop_path=0.5", "depth=2", "ema_decay=0.8"]
    parts = ["dice=0.5", "focal=1", "class_weights=balanced", "accumulation_steps=2"]
    chosen = recipe(*REPEATABLE, *drawn, *parts, "batch_size=3", "steps=8", "evaluate_every=0.5")
    segment(chosen, Start(tmp_path / "whole", quiet=True))
    stopped_and_resumed(segment, chosen, tmp_path / "parts", [3, 2], monkeypatch)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("head", ["conv", "upernet"])
def test_heads_with_batch_statistics_train_and_resume(recipe, tmp_path, monkeypatch, head: str) -> None:
    shape = [f"head={head}", "head_width=8", "depth=4", "image_size=32", "batch_size=2", "steps=4"]
    chosen = recipe(*REPEATABLE, *shape, "evaluate_every=1")
    segment(chosen, Start(tmp_path / "whole", quiet=True))
    stopped_and_resumed(segment, chosen, tmp_path / "parts", [2], monkeypatch)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    if head == "upernet":
        data = [f"data={recipe().data}"]
        with pytest.raises(ValueError, match="has head=upernet"):
            prepare(load_recipe("segment", None, [*data, f"init={tmp_path / 'whole'}", "frozen=true", "cached=true"]))


def test_a_segmenter_can_be_trained_on(trained, recipe, tmp_path, capsys) -> None:
    out, result = trained
    shutil.copytree(out, tmp_path / "start")
    again = segment(recipe(f"init={tmp_path / 'start'}", "base_lr=1e-6"), Start(tmp_path / "again", quiet=True))
    assert again["miou"] > 0.5 * result["miou"] and "its head is kept" in capsys.readouterr().err
    assert load_segmenter(read_checkpoint(tmp_path / "again")).config["num_classes"] == 3


def test_a_dry_run_names_pixels_and_choices(recipe, untried) -> None:
    plan = dry_run(recipe())
    assert plan["validation images"].startswith("2 ") and "ground" in plan["pixels"] and "ignored" in plan["pixels"]
    assert "head linear" in plan["model"] and "layer_decay" in plan


def ids(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.mark.parametrize("fault", ["size", "id"])
def test_a_bad_mask_ends_a_training_before_its_first_step(scenes, recipe, tmp_path, fault: str) -> None:
    broken = shutil.copytree(scenes, tmp_path / "broken")
    shape = (10, 10) if fault == "size" else (24, 32)
    ids(broken / "masks" / "train" / "03.png", np.full(shape, 0 if fault == "size" else 77))
    with pytest.raises(BadMask, match=r"03\.png") as raised:
        segment(recipe(f"data={broken}"), Start(tmp_path / "run", quiet=True))
    assert ("10 x 10" if fault == "size" else "77") in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_one_class_alone_is_refused(scenes, recipe, tmp_path) -> None:
    plain = shutil.copytree(scenes, tmp_path / "plain")
    for path in (plain / "masks").rglob("*.png"):
        ids(path, np.zeros((24, 32)))
    with pytest.raises(ValueError, match="two classes or more"):
        segment(recipe(f"data={plain}"), Start(tmp_path / "run", quiet=True))


def test_an_ignored_image_is_counted_and_gives_no_nan(scenes, recipe, tmp_path) -> None:
    some = shutil.copytree(scenes, tmp_path / "some")
    for split in ("train", "test"):
        ids(some / "masks" / split / "00.png", np.full((24, 32), 255))
    with pytest.warns(match="ignored as a whole"):
        result = segment(recipe(f"data={some}", "validation=0", "dice=1"), Start(tmp_path / "run", quiet=True))
    assert result["empty_images"] == 1 and result["eval_images"] == 5 and np.isfinite(result["eval_loss"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["frozen=true"], "frozen=true needs pretrained weights"),
        (["cached=true"], "cached=true needs frozen=true"),
        (["cache=packs"], "segment takes none"),
        (["labels=5/class"], "pixels of several classes"),
        (["class_weights=[1,2]"], "class_weights needs a weight for each of the 3 classes"),
        (["labels=100"], "labels: expected 1 to 12 images"),
    ],
)
def test_settings_that_make_no_sense_are_one_line(recipe, tmp_path, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as fault:
        segment(recipe(*overrides), Start(tmp_path / "run", quiet=True))
    assert "\n" not in str(fault.value) and not (tmp_path / "run").exists()


def test_two_processes_evaluate_as_one(trained, scenes, together) -> None:
    checkpoint = read_checkpoint(trained[0])
    model, source = load_segmenter(checkpoint), open_mask_test_part(str(scenes), "test")
    windows = windows_of(checkpoint.description, 1 / 3, "smooth", 4)

    def call(ranks):
        return evaluate_segmenter(model, checkpoint.description, source, windows, threads=1, ranks=ranks)

    alone, both = call(ALONE), together(2, call)
    assert alone.metrics == pytest.approx({name: trained[1][name] for name in alone.metrics}, abs=1e-5)
    for one in both:
        assert one.metrics == alone.metrics and (one.answers.indices == alone.answers.indices).all()


def test_evaluate_repeats_the_test_and_takes_windows(trained, scenes, tmp_path) -> None:
    out = shutil.copytree(trained[0], tmp_path / "run")
    said: list[dict] = []
    result = evaluate(str(out), str(scenes), windows=WindowOptions(1 / 3), threads=1, say=said.append)
    same = ("miou", "dice", "boundary_f1", "pixel_accuracy", "eval_loss")
    assert {name: result[name] for name in same} == pytest.approx({name: trained[1][name] for name in same}, abs=1e-5)
    assert said == [result] and "mean IoU (primary)" in result_text(result) and "water" in result_text(result)
    options = WindowOptions(0.75, "mean", "both", (1.0, 1.5))
    other = evaluate(str(out), str(scenes), windows=options, image_size=32, threads=1)
    assert other["protocol"]["flips"] == "both" and other["protocol"]["image_size"] == [32, 32]
    logged, _ = read_results(out)
    assert [line["task"] for line in logged[-2:]] == ["evaluate", "evaluate"] and "per_class" not in logged[-1]


def test_evaluating_other_classes_is_one_line(trained, tmp_path) -> None:
    other = write_scenes(tmp_path / "other")
    (other / "classes.txt").write_text("ground\nsea\nroof\n")
    with pytest.raises(ValueError, match="has others: 'sea'"):
        evaluate(str(trained[0]), str(other), threads=1)


@pytest.mark.slow
def test_a_study_varies_the_number_of_masks(recipe, pretrained, tmp_path) -> None:
    start = shutil.copytree(pretrained, tmp_path / "start")
    given = recipe().model_dump(exclude_unset=True)["training"] | {"data": recipe().data, "steps": 2}
    shape = {"model.size": "mini", "image_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    plan = Study(None, {**given, **shape}, "labels", {"4": 4, "50%": "50%"}, (0,), str(start), True, "segment")
    found = study(plan, tmp_path / "study", segment, quiet=True)
    assert found["primary"] == "miou" and set(found["miou"]) == {"pretrained", "scratch"}
    assert all(0 <= value <= 1 for one in found["miou"].values() for values in one.values() for value in values)
    again = study(plan, tmp_path / "study", segment, quiet=True)
    assert again["miou"] == found["miou"] and "mean IoU" in table(found)


def test_the_report_shows_scenes_and_classes(trained, tmp_path) -> None:
    written = write_report([trained[0]], tmp_path)
    page = written.page.read_text()
    assert all(f'id="run-0-{part}"' in page for part in ("confusion", "classes", "scenes", "worst_scenes"))
    assert 'id="run-0-neighbours"' not in page and "Segmentation" in page and "pixels right" in page
    assert page.count("truth of ") == page.count("errors of ") == 10
    assert "| segmenter, linear head, mean IoU |" in written.table.read_text()
