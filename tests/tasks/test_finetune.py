"""Fine-tuning: it learns, from what it was told, and reports what it measured."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from paddlemae.model.positions import resize_positions
from paddlemae.recipe import load_recipe
from paddlemae.runs.class_metrics import Answers
from paddlemae.runs.runlog import read_metrics
from paddlemae.tasks import finetune as task
from paddlemae.tasks.finetune import finetune
from paddlemae.tasks.models.build import arguments_with_head, build_classifier
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.training import classification as evaluating
from paddlemae.tasks.training import supervised
from paddlemae.tasks.training.classification import Evaluation
from paddlemae.tasks.training.evaluate_classifier import evaluate_classifier
from paddlemae.tasks.training.finetuning_loss import soft_targets
from paddlemae.tasks.training.finetuning_setup import Parts, prepare
from paddlemae.tasks.training.labelled_splits import open_labelled_splits
from paddlemae.tasks.training.run_start import Start
from paddlemae.train.checkpoint_folders import find_checkpoint
from paddlemae.weights.model_folder import read_description, read_tensors, write_model
from paddlemae.weights.transfer import to_official

QUICK = ["threads=1", "log_every=1", "batch_size=8", "steps=3", "warmup_epochs=0.5", "epochs=3"]


@pytest.fixture
def recipe(encoder, colours):
    """Build a fine-tuning of the colours, by default from scratch."""

    def build(*overrides: str):
        chosen = [f"data={colours}", "init=scratch", *encoder, *QUICK, *overrides]
        return load_recipe("finetune", None, chosen)

    return build


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, encoder, colours):
    """(run folder, result) of a training from scratch that learned the colours."""
    out = tmp_path_factory.mktemp("runs") / "tuned"
    chosen = ["steps=60", "epochs=20", "base_lr=0.3", "layer_decay=1", "drop_path=0", "evaluate_every=4"]
    recipe = load_recipe("finetune", None, [f"data={colours}", "init=scratch", *encoder, *QUICK, *chosen])
    return out, finetune(recipe, Start(out, quiet=True))


def evaluated(parts: Parts, batch_size: int) -> Evaluation:
    return evaluate_classifier(parts.model, parts.description, parts.splits.held_out, batch_size=batch_size)


def test_separable_colours_are_learned_from_scratch(tuned) -> None:
    out, result = tuned
    assert result["top1"] == result["best_top1"] == result["auroc"] == 1.0 and result["eval_loss"] < 1.0
    counts = ("steps", "train_images", "validation_images", "eval_images")
    assert [result[name] for name in counts] == [60, 21, 3, 12] and "top5" not in result, "three classes"
    assert json.loads((out / "result.json").read_text()) == result


def test_a_run_folder_is_complete(tuned) -> None:
    out, _ = tuned
    for name in ("confusion.png", "curves.png"):
        with Image.open(out / "figures" / name) as figure:
            assert figure.format == "PNG" and min(figure.size) > 200
    description = read_description(find_checkpoint(out))
    assert description.kind == "classifier" and description.classes == ["blue", "green", "red"]
    assert read_tensors(find_checkpoint(out))["head.weight"].shape == (3, 16)
    evaluated = [line for line in read_metrics(out) if "top1" in line]
    assert [line["step"] for line in evaluated] == [10, 20, 30, 40, 50, 60]
    assert {"top1", "balanced_accuracy", "eval_loss"} <= set(evaluated[0])


def test_positions_are_learned_from_the_fixed_table_of_the_weights(recipe, pretrained: Path, tmp_path: Path) -> None:
    """As the official fine-tuning does it."""
    chosen = recipe(f"init={pretrained}", "positions=learned", "base_lr=1", "layer_decay=1", "fit_head=false")
    fixed = read_checkpoint(str(pretrained))
    assert fixed.description.architecture["positions"] == "sincos2d"
    parts = prepare(chosen)
    table = fixed.tensors["pos_embed"]
    np.testing.assert_array_equal(parts.model.encoder.pos_embed.numpy(), table)
    finetune(chosen, Start(tmp_path / "run", quiet=True))
    tuned = read_tensors(find_checkpoint(tmp_path / "run"))["pos_embed"]
    assert 0 < np.abs(tuned - table).max() < 0.1
    assert read_description(find_checkpoint(tmp_path / "run")).architecture["positions"] == "learned"


def test_learned_positions_do_not_become_fixed_ones(recipe, tmp_path: Path, photos: Path, tiny) -> None:
    learned = load_recipe("pretrain", None, [*tiny, f"data={photos}", "positions=learned"])
    run = pretrain(learned, Start(tmp_path / "run", quiet=True))
    with pytest.raises(ValueError, match="positions is learned in the checkpoint and sincos2d in the recipe"):
        prepare(recipe(f"init={run}", "positions=sincos2d"))


def test_confusion_counts_every_held_out_image_once(recipe) -> None:
    parts = prepare(recipe())
    evaluations = [evaluated(parts, batch_size=batch_size) for batch_size in (5, 100)]
    for evaluation in evaluations:
        assert evaluation.confusion.images_of_class().tolist() == [4, 4, 4]
        assert evaluation.metrics["top1"] == evaluation.confusion.right / 12
    assert (evaluations[0].confusion.matrix() == evaluations[1].confusion.matrix()).all()
    assert evaluations[0].loss == pytest.approx(evaluations[1].loss, rel=1e-6)
    assert parts.model.training


def test_rows_of_the_confusion_are_true_classes(recipe, monkeypatch) -> None:
    parts = prepare(recipe())
    always_red = paddle.to_tensor(np.tile(np.array([0.0, 1.0, 2.0], np.float32), (12, 1)))
    monkeypatch.setattr(type(parts.model), "forward", lambda model, images: always_red[: images.shape[0]])
    assert evaluated(parts, batch_size=12).confusion.matrix().tolist() == [[0, 0, 4]] * 3


def test_top5_and_loss_are_over_all_images(recipe, tmp_path, encoder) -> None:
    """Seven classes whose logits are always in the classes' order: the first is top-1, the first five top-5."""
    for name in "abcdefg":
        for part, count in (("train", 2), ("test", 3)):
            for number in range(count):
                path = tmp_path / part / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8)).save(path)
    parts = prepare(recipe(f"data={tmp_path}"))
    parts.model.head.weight.set_value(np.zeros((16, 7), np.float32))
    parts.model.head.bias.set_value(-np.arange(7, dtype=np.float32))
    evaluation = evaluated(parts, batch_size=4)
    assert evaluation.metrics["top1"] == 3 / 21 and evaluation.metrics["top5"] == 15 / 21
    wanted = np.log(np.exp(-np.arange(7.0)).sum()) + 3.0
    assert evaluation.loss == pytest.approx(wanted, rel=1e-6)


def test_smoothed_targets() -> None:
    targets = soft_targets(np.array([2, 0]), 4, 0.1).numpy()
    np.testing.assert_allclose(targets, [[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]], atol=1e-7)
    np.testing.assert_array_equal(soft_targets(np.array([1]), 2, 0.0).numpy(), [[0, 1]])


def test_the_optimizer_gets_the_recipes_settings(recipe, tmp_path, monkeypatch) -> None:
    seen: dict = {}
    make = supervised.adamw
    monkeypatch.setattr(supervised, "adamw", lambda model, **settings: seen.update(settings) or make(model, **settings))
    chosen = recipe("layer_decay=0.5", "weight_decay=0.2", "betas=[0.8,0.9]", "steps=1")
    finetune(chosen, Start(tmp_path / "run", quiet=True))
    assert seen == {"layer_decay": 0.5, "weight_decay": 0.2, "betas": (0.8, 0.9)}


def test_layer_decay_reaches_the_weights(recipe, tmp_path) -> None:
    """After one step the layers below have moved by `layer_decay` to the power of their distance."""

    def moved(layer_decay: float) -> dict[str, float]:
        chosen = recipe(f"layer_decay={layer_decay}", "steps=1", "warmup_epochs=0", "base_lr=0.1", "weight_decay=0")
        before = to_official(prepare(chosen).model)
        out = tmp_path / str(layer_decay)
        finetune(chosen, Start(out, quiet=True))
        after = read_tensors(find_checkpoint(out))
        names = ("head.bias", "blocks.0.mlp.fc2.bias", "patch_embed.proj.bias")
        return {name: float(np.abs(after[name] - before[name]).max()) for name in names}

    whole, scaled = moved(1.0), moved(0.5)
    for name, scale in zip(whole, (1, 0.5, 0.25)):
        assert scaled[name] == pytest.approx(scale * whole[name], rel=1e-3), name


def scripted(right: int) -> Evaluation:
    """An evaluation of 100 images, of which the first ones are right."""
    return Evaluation(Answers(3, np.zeros(100, np.int64), np.where(np.arange(100) < right, 0, 1)), 0.5)


def test_the_best_checkpoint_is_kept_and_tested(recipe, tmp_path, monkeypatch) -> None:
    """The standard error of 75 right ones of 100 is 4.3: so close, the third counts, and further off it does not."""
    monkeypatch.setattr(evaluating, "draw_confusion", lambda *arguments: None)
    chosen = recipe("steps=4", "evaluate_every=0.3", "keep_checkpoints=1", "epochs=4")
    for third, best in ((69, 2), (72, 3)):
        hits = iter(map(scripted, [25, 75, third, 50, 100]))
        monkeypatch.setattr(task, "evaluate_classifier", lambda *arguments, hits=hits, **settings: next(hits))
        run = tmp_path / f"best-{best}"
        result = finetune(chosen, Start(run, quiet=True))
        assert (result["best_top1"], result["best_step"]) == ({2: 0.75, 3: 0.72}[best], best) and result["top1"] == 1.0
        checkpoints = run / "checkpoints"
        names = {path.name for path in checkpoints.iterdir()}
        assert names == {"best", "latest", f"step_0000000{best}", "step_00000004"}
        assert (checkpoints / "best").read_text() == f"step_0000000{best}\n"
        assert find_checkpoint(run).name == f"step_0000000{best}", "which evaluate, load and export take"
        assert find_checkpoint(run, whole=True).name == "step_00000004", "from which it would be resumed"
        assert find_checkpoint(checkpoints / "latest").name == "step_00000004"


def test_splits_are_the_train_and_test_folders(recipe) -> None:
    splits = open_labelled_splits(recipe(), recipe().data)
    assert [len(part) for part in splits.parts] == [21, 3, 12]
    train, validation, test = ({part.describe(i) for i in range(len(part))} for part in splits.parts)
    assert all("/train/" in name for name in train | validation) and all("/test/" in name for name in test)
    assert len(train | validation) == 24


def test_a_part_of_the_training_images_can_be_held_out(recipe, colours) -> None:
    chosen = recipe(f"data={colours / 'train'}", "val_fraction=0.25", "validation=0")
    train, validation, held_out, _ = open_labelled_splits(chosen, chosen.data)
    assert validation is None
    assert np.bincount(train.labels).tolist() == [6, 6, 6] and np.bincount(held_out.labels).tolist() == [2, 2, 2]
    names = [{source.describe(i) for i in range(len(source))} for source in (train, held_out)]
    assert not names[0] & names[1]
    with pytest.raises(ValueError, match="val_fraction"):
        open_labelled_splits(recipe(f"data={colours / 'train'}"), str(colours / "train"))


def test_few_labels_are_balanced_and_the_held_out_images_stay(recipe) -> None:
    train, validation, held_out, _ = open_labelled_splits(recipe("labels=6"), recipe().data)
    assert np.bincount(train.labels).tolist() == [2, 2, 2] and len(held_out) == 12
    assert validation is None, "two of a class are too few"


def test_classes_that_no_training_image_has_are_refused(recipe, tmp_path) -> None:
    for part, names in (("train", "abc"), ("test", "abd")):
        for name in names:
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / part / name / "0.png")
    with pytest.raises(ValueError, match="labels that no training image has: 'd'"):
        prepare(recipe(f"data={tmp_path}"))


def test_the_encoder_is_the_pretrained_one_and_the_head_is_new(recipe, pretrained) -> None:
    chosen = recipe(f"init={pretrained}")
    saved = read_tensors(find_checkpoint(pretrained))
    model = to_official(prepare(chosen).model)
    taken = {name for name in model if name in saved and np.array_equal(model[name], saved[name])}
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= taken
    assert set(model) - taken == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    scratch = to_official(prepare(recipe()).model)
    assert not np.array_equal(scratch["blocks.0.attn.qkv.weight"], saved["blocks.0.attn.qkv.weight"])


def test_pixel_statistics_are_the_pretrained_ones_unless_named(recipe, pretrained, tmp_path, tiny, photos) -> None:
    from paddlemae.tasks.pretrain import pretrain

    other = load_recipe("pretrain", None, [*tiny, f"data={photos}", "mean=[0.1,0.2,0.3]", "std=[1,1,1]"])
    run = pretrain(other, Start(tmp_path / "run", quiet=True))
    assert prepare(recipe(f"init={run}")).description.mean == [0.1, 0.2, 0.3]
    with pytest.warns(UserWarning, match="normalises images differently from"):
        named = prepare(recipe(f"init={run}", "mean=[0,0,0]")).description
    assert named.mean == [0, 0, 0] and named.std == [1, 1, 1]  # what is not named stays the pretrained one
    with pytest.raises(ValueError, match=r"mean and std need one number per channel .3..* mean=null std=null takes"):
        prepare(recipe(f"init={run}", "mean=[0.5]", "std=[0.5]"))


@pytest.mark.parametrize("size", [16, (8, 12)])
def test_positions_are_resized_to_another_image_size(recipe, tmp_path, tiny, photos, size) -> None:
    """Learned ones, so that a new table can't pass for the pretrained one."""
    from paddlemae.tasks.pretrain import pretrain

    learned = load_recipe("pretrain", None, [*tiny, f"data={photos}", "positions=learned"])
    run = pretrain(learned, Start(tmp_path / "run", quiet=True))
    text = str(list(size) if isinstance(size, tuple) else size)
    parts = prepare(recipe(f"init={run}", f"image_size={text}"))
    saved = read_tensors(find_checkpoint(run))["pos_embed"]
    table = parts.model.encoder.pos_embed.numpy()
    grid = parts.model.grid
    assert grid == ((4, 4) if size == 16 else (2, 3)) and parts.view.image_size == (grid[0] * 4, grid[1] * 4)
    wanted = resize_positions(paddle.to_tensor(saved[0, 1:]), (2, 2), grid).numpy()
    np.testing.assert_allclose(table[0, 1:], wanted, atol=1e-6)
    np.testing.assert_array_equal(table[0, 0], saved[0, 0])
    result = finetune(recipe(f"init={run}", f"image_size={text}"), Start(tmp_path / "tuned", quiet=True))
    assert result["steps"] == 3


def test_a_classifier_can_be_tuned_again(recipe, tuned) -> None:
    """On other classes: its head and fc_norm are not taken."""
    run, _ = tuned
    shape = recipe().model
    checkpoint = read_checkpoint(run)
    model = build_classifier(arguments_with_head(shape, checkpoint, 5), checkpoint, seed=0)
    assert model.head.weight.shape == [16, 5]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=null"], "no images named; add --data FOLDER with one folder per class"),
        (["init=null"], "name what to start from: --init RUN .* or --init scratch"),
        (["init=nowhere"], "nowhere does not exist; expected a run folder"),
        (["size=null", "init=scratch"], "training from scratch needs a model; set model.size"),
        (["patch_size=3"], "image size 8 x 8 is not divisible by the patch size 3 x 3"),
        (["pool=cls", "cls_token=false"], "this model has no cls token"),
        (["labels=600"], "expected 1 to 24 images"),
        (["precision=float16"], "has no effect on CPU"),
    ],
)
def test_what_can_not_be_trained_writes_nothing(recipe, tmp_path, overrides: list[str], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as fault:
        finetune(recipe(*overrides), Start(tmp_path / "run", quiet=True))
    assert "\n" not in str(fault.value) and not (tmp_path / "run").exists()


def test_unlabelled_images_are_refused(recipe, photos) -> None:
    with pytest.raises(ValueError, match="labels need .*class|no subfolder|folder per class"):
        prepare(recipe(f"data={photos / 'day0' / 'late'}", "val_fraction=0.5"))


def test_another_architecture_is_refused_with_every_difference(recipe, pretrained) -> None:
    with pytest.raises(ValueError, match="has another architecture") as fault:
        prepare(recipe(f"init={pretrained}", "embed_dim=32", "depth=2", "positions=sincos1d"))
    text = str(fault.value)
    for difference in (
        "embed_dim is 16 in the checkpoint and 32 in the recipe",
        "depth is 1 in the checkpoint and 2 in the recipe",
        "positions is sincos2d in the checkpoint and sincos1d in the recipe",
    ):
        assert difference in text
    assert "num_heads" not in text and "\n" not in text


def test_a_dry_run_counts(recipe, untried) -> None:
    plan = task.dry_run(recipe("labels=6"))
    assert plan["training images"].startswith("6 ") and plan["held-out images"].startswith("12 ")
    assert task.dry_run(recipe())["validation images"].startswith("3 ")
    assert plan["steps"] == "3 of 8 images (4.0 epochs)"


def test_a_dry_run_measures_memory(recipe) -> None:
    memory = task.dry_run(recipe("labels=6"))["memory"]
    assert memory.startswith("0.") and "measured" in memory


def test_unreadable_held_out_images_are_left_out_and_named(recipe, tmp_path, colours: Path, capsys) -> None:
    import shutil

    shutil.copytree(colours, tmp_path / "colours")
    (tmp_path / "colours" / "test" / "red" / "1.png").write_bytes(b"no image")
    chosen = recipe(f"data={tmp_path / 'colours'}")
    assert finetune(chosen, Start(tmp_path / "run", quiet=True))["eval_images"] == 11
    assert "skipped: cannot read image" in capsys.readouterr().err


def test_overwriting_the_run_that_init_starts_from_is_refused(tmp_path, pretrained, encoder, colours) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(pretrained, run)
    recipe = load_recipe("finetune", None, [*encoder, f"data={colours}", f"init={run}", "steps=1"])
    with pytest.raises(ValueError, match="--overwrite would delete .*run, which --init starts from"):
        finetune(recipe, Start(run, overwrite=True, quiet=True))
    assert (run / "checkpoints" / "latest").exists()


@pytest.mark.parametrize("kind", ["finetune", "probe"])
def test_a_resumed_run_keeps_the_order_of_its_classes(recipe, colours, pretrained, tmp_path, kind: str) -> None:
    """Whatever order its images have their classes in by now; the labels are those of the same images."""
    from paddlemae.tasks import probe

    chosen, prepare_it = recipe("val_fraction=0.25"), prepare
    if kind == "probe":
        quick = [setting for setting in QUICK if not setting.startswith("epochs")]
        chosen = load_recipe("probe", None, [f"data={colours}", f"init={pretrained}", "val_fraction=0.25", *quick])
        prepare_it = probe.prepare
    saved = replace(prepare_it(chosen).description, classes=["red", "green", "blue"])
    write_model(tmp_path, {}, saved)
    (tmp_path / "model.safetensors").unlink()  # only the description is read
    after = prepare_it(chosen, tmp_path)
    assert {part.classes for part in after.splits.parts} == {("red", "green", "blue")} and len(after.splits.parts) == 3
    assert after.description.classes == saved.classes
    for source in after.splits.parts:
        names = [source.describe(i).split("/")[-2] for i in range(len(source))]
        assert names == [source.classes[label] for label in source.labels]
