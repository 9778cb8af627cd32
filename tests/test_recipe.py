"""Recipes: defaults, then a file, then overrides; and what is said when one is wrong."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from paddlemae import recipe
from paddlemae.recipe import (
    RECIPES,
    FinetuneRecipe,
    PretrainRecipe,
    build_recipe,
    describe,
    dump_recipe,
    load,
    load_recipe,
    override_text,
    parse_overrides,
    recipe_about,
    recipe_content,
)
from paddlemae.recipe.about import take_about
from paddlemae.recipe.fields import settings_of
from paddlemae.recipe.load import OTHER_NAMES

SHIPPED = [(task, name) for task in RECIPES for name in recipe.recipe_names(task)]


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(("typed", "meant"), [("100", 100), ("10%", "10%"), ("0.5%", "0.5%"), ("5/class", "5/class")])
def test_labels_may_be_a_number_a_share_or_a_number_a_class(typed: str, meant) -> None:
    assert load_recipe("finetune", "digits", [f"labels={typed}"]).labels == meant


def test_labels_that_mean_nothing_are_refused() -> None:
    for typed in ["0", "-1", "ten", "10 %", "%", "5/image", "1.5", "true"]:
        with pytest.raises(ValueError, match="labels") as fault:
            load_recipe("finetune", "digits", [f"labels={typed}"])
        assert "\n" not in str(fault.value)


def test_defaults_are_the_papers() -> None:
    """MAE, appendix A.1, table 8, and A.2, table 9."""
    pretraining, tuning = load_recipe("pretrain"), load_recipe("finetune")
    assert pretraining == PretrainRecipe() and tuning == FinetuneRecipe()
    assert pretraining.mask_ratio == 0.75 and pretraining.betas == (0.9, 0.95)
    assert pretraining.training.base_lr == 1.5e-4 and pretraining.training.weight_decay == 0.05
    assert pretraining.augment.crop_scale == (0.2, 1.0) and pretraining.augment.flip
    shape = pretraining.model
    assert (shape.decoder_embed_dim, shape.decoder_depth, shape.decoder_num_heads) == (512, 8, 16)
    assert shape.norm_pix_loss and shape.cls_token and shape.positions == "sincos2d"
    assert tuning.betas == (0.9, 0.999) and tuning.label_smoothing == 0.1 and tuning.model.pool == "mean"


def test_a_floor_of_deviations_needs_normalised_pixels() -> None:
    assert load_recipe("pretrain", None, ["norm_pix_floor=0.1"]).model.norm_pix_floor == 0.1
    with pytest.raises(ValueError, match="norm_pix_floor has no effect without norm_pix_loss"):
        load_recipe("pretrain", None, ["norm_pix_floor=0.1", "norm_pix_loss=false"])


@pytest.mark.parametrize("value", [3, 0.5, None, True, "grid", "7", "none", "a: b", "1e-4", "", [0.5, 1], "true"])
def test_a_setting_is_the_same_as_a_value_and_as_text(value: object) -> None:
    assert parse_overrides([override_text("key", value)]) == {"key": value}


def test_overrides_are_a_mapping_or_texts() -> None:
    texts = ["depth=3", "mask=grid", "mean=[0.5]", "std=[0.5]", "channels=1"]
    assert load_recipe("pretrain", None, parse_overrides(texts)) == load_recipe("pretrain", None, texts)
    assert list(parse_overrides(["seed=1", "training.seed=2", "seed=3"])) == ["training.seed", "seed"]


def test_overrides_beat_the_file_which_beats_the_defaults(tmp_path) -> None:
    path = write(tmp_path / "mine.yaml", "mask_ratio: 0.6\nmodel: {size: tiny, patch_size: 8}\n")
    built = load_recipe("pretrain", path, ["model.patch_size=4", "seed=7"])
    assert (built.mask_ratio, built.model.size, built.model.patch_size, built.training.seed) == (0.6, "tiny", 4, 7)
    assert built.model.decoder_depth == 8


def test_a_key_may_leave_out_its_section() -> None:
    assert load_recipe("pretrain", None, ["depth=3"]) == load_recipe("pretrain", None, ["model.depth=3"])
    assert load_recipe("pretrain", None, ["depth=3"]).model.depth == 3


def test_values_are_read_as_their_type() -> None:
    for override, section, name, value in [
        ("base_lr=1e-4", "training", "base_lr", 1e-4),  # YAML reads 1e-4 as text
        ("image_size=[32,64]", "model", "image_size", (32, 64)),
        ("image_size=32", "model", "image_size", 32),
        ("crop_scale=null", "augment", "crop_scale", None),
        ("clip_grad=none", "training", "clip_grad", None),
        ("flip=false", "augment", "flip", False),
        ("threads=auto", "training", "threads", "auto"),
        ("threads=2", "training", "threads", 2),
    ]:
        got = getattr(getattr(load_recipe("pretrain", None, [override]), section), name)
        assert got == value and type(got) is type(value)


def test_a_file_may_write_1e_4(tmp_path) -> None:
    path = write(tmp_path / "mine.yaml", "training: {base_lr: 1e-4}\n")
    assert load_recipe("pretrain", path).training.base_lr == 1e-4


def test_an_unknown_key_gets_the_nearest() -> None:
    for override, nearest in [
        ("mask_ration=0.6", "'mask_ratio'"),
        ("model.dept=2", "'model.depth'"),
        ("batchsize=2", "'training.batch_size'"),
        ("training.lr_base=2", "'training.base_lr'"),
        ("augment.mask_ratio=0.5", "'mask_ratio'"),
        ("lr=0.1", "'training.base_lr'"),
        ("training.learning_rate=0.1", "'training.base_lr'"),
        ("width=64", "'model.embed_dim'"),
        ("batch=8", "'training.batch_size'"),
        ("num_epochs=3", "'training.epochs'"),
    ]:
        with pytest.raises(ValueError, match="unknown recipe key") as fault:
            load_recipe("pretrain", None, [override])
        assert f"did you mean {nearest}?" in str(fault.value)


def test_names_of_other_projects_are_no_keys_and_lead_to_some() -> None:
    known = {setting.name.split(".")[-1] for recipe in RECIPES.values() for setting in settings_of(recipe())}
    assert set(OTHER_NAMES.values()) <= known and not known & set(OTHER_NAMES)
    with pytest.raises(ValueError, match="unknown recipe key 'width'; (?!did you mean .*embed_dim)"):
        load_recipe("probe", None, ["width=64"])


def test_a_key_like_no_other_gets_the_command_that_lists_them() -> None:
    with pytest.raises(ValueError, match="'paddlemae recipe pretrain' lists all keys"):
        load_recipe("pretrain", None, ["zzz=1"])


@pytest.mark.parametrize("text", ["mask_ration: 0.6", "model: {dept: 2}", "training: {mask_ratio: 0.5}"])
def test_an_unknown_key_in_a_file_gets_the_nearest(tmp_path, text: str) -> None:
    with pytest.raises(ValueError, match="unknown recipe key .*did you mean '(mask_ratio|model.depth)'"):
        load_recipe("pretrain", write(tmp_path / "mine.yaml", text))


def test_an_ambiguous_key_is_refused_with_its_meanings() -> None:
    class One(BaseModel):
        size: int = 1

    class Both(BaseModel):
        left: One = One()
        right: One = One()

    with pytest.raises(ValueError, match="'size' is ambiguous: left.size or right.size"):
        load._full_key(Both, "size")
    assert load._full_key(Both, "right.size") == "right.size"


def test_a_wrong_value_is_one_line_with_key_and_value() -> None:
    for override, message in [
        ("depth=many", "model.depth: .*integer.*got 'many'"),
        ("depth=0", "model.depth: .*greater than or equal to 1.*got 0"),
        ("mask_ratio=1", "mask_ratio: .*less than 1.*got 1"),
        ("mask_ratio=-0.1", "mask_ratio: .*greater than or equal to 0.*got -0.1"),
        ("mask_ratio=.nan", "mask_ratio: "),
        ("mask_ratio=most", "mask_ratio: .*number.*got 'most'"),
        ("size=enormous", "model.size: .*'mini', 'tiny'.*got 'enormous'"),
        ("mask=holes", "mask: .*'random', 'block' or 'grid'.*got 'holes'"),
        ("flip=perhaps", "augment.flip: .*boolean.*got 'perhaps'"),
        ("image_size=[1,2,3]", "model.image_size: "),
        ("crop_scale=[1,0.2]", "crop_scale must be"),
        ("crop_scale=[0.2,2]", "at most 1"),
        ("shift=2", "crop_scale and shift exclude each other"),
        ("epochs=3", "warmup_epochs.*must be below epochs"),
        ("norm_pix_floor=-1", "model.norm_pix_floor: .*greater than or equal to 0"),
        ("model=tiny", "unknown recipe key 'model'|model: "),
        ("precision=float64", "training.precision: .*got 'float64'"),
    ]:
        with pytest.raises(ValueError, match=message) as fault:
            load_recipe("pretrain", None, [override])
        assert "\n" not in str(fault.value)


@pytest.mark.parametrize("text", ["depth", "=3", "mask_ratio=[0.5"])
def test_an_override_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected key=value|can't read the value"):
        load_recipe("pretrain", None, [text])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mask_ratio: [", "is not valid YAML"),
        ("- 1\n- 2\n", "must be a mapping of keys to values, got a list"),
        ("model: tiny\n", "model: .*got 'tiny'"),
        ("task: finetune\n", "is a recipe for 'paddlemae finetune', not for 'paddlemae pretrain'"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as fault:
        load_recipe("pretrain", write(tmp_path / "mine.yaml", text))
    assert "\n" not in str(fault.value)


def test_an_empty_file_means_the_defaults(tmp_path) -> None:
    assert load_recipe("pretrain", write(tmp_path / "mine.yaml", "")) == PretrainRecipe()


def test_an_unknown_recipe_gets_the_nearest_and_the_list() -> None:
    with pytest.raises(FileNotFoundError, match="did you mean 'cifar10'.*digits"):
        load_recipe("pretrain", "cifar-10")
    with pytest.raises(FileNotFoundError, match="recipe file nowhere.yaml does not exist"):
        load_recipe("pretrain", "nowhere.yaml")


@pytest.mark.parametrize(("task", "name"), SHIPPED, ids=["-".join(one) for one in SHIPPED])
def test_a_dumped_recipe_loads_as_the_same(tmp_path, task: str, name: str) -> None:
    of_models = [] if task == "probe" else ["image_size=[28,56]"]  # a probe's model is its checkpoint's
    built = load_recipe(task, name, ["base_lr=1e-4", *of_models, "clip_grad=1"])
    path = write(tmp_path / "recipe.yaml", dump_recipe(built))
    assert load_recipe(task, path) == built
    assert build_recipe(task, yaml.safe_load(dump_recipe(built))) == built
    assert built != load_recipe(task, name)


def test_every_recipe_is_there() -> None:
    assert {"base", "large", "huge", "digits", "cifar10"} <= set(recipe.recipe_names("pretrain"))
    assert {"digits", "cifar10"} <= set(recipe.recipe_names("finetune"))


@pytest.mark.parametrize("name", ["base", "large", "huge"])
def test_the_papers_pretraining_is_the_papers(name: str) -> None:
    """MAE, appendix A.1, table 8; image size 224, mask ratio and decoder: sec. 4 and table 1; 1600 epochs: table 3."""
    built = load_recipe("pretrain", name)
    training, shape = built.training, built.model
    assert training.effective_batch_size == 4096 and training.epochs == 1600 and training.warmup_epochs == 40
    assert training.base_lr == 1.5e-4 and training.weight_decay == 0.05 and built.betas == (0.9, 0.95)
    assert training.min_lr == 0 and training.clip_grad is None and training.steps is None
    assert built.mask == "random" and built.mask_ratio == 0.75
    assert built.augment.crop_scale == (0.2, 1.0) and built.augment.flip and built.augment.shift == 0
    assert shape.size == name and shape.image_size == 224 and shape.norm_pix_loss and shape.drop_path == 0
    assert (shape.decoder_embed_dim, shape.decoder_depth, shape.decoder_num_heads) == (512, 8, 16)
    assert shape.patch_size is shape.embed_dim is shape.depth is None  # the size's own
    assert training.total_steps(1_281_167) == round(1600 * 1_281_167 / 4096)


def test_steps_replace_epochs_and_the_warmup_keeps_its_share() -> None:
    training = load_recipe("pretrain", None, ["epochs=10", "warmup_epochs=1", "batch_size=10"]).training
    assert training.total_steps(1000) == 1000 and training.warmup_steps(1000) == 100
    shorter = load_recipe("pretrain", None, ["epochs=10", "warmup_epochs=1", "batch_size=10", "steps=50"]).training
    assert shorter.total_steps(1000) == 50 and shorter.warmup_steps(1000) == 5
    accumulated = load_recipe("pretrain", None, ["epochs=10", "batch_size=5", "accumulation_steps=4"]).training
    assert accumulated.effective_batch_size == 20 and accumulated.total_steps(1000) == 500


def test_statistics_default_to_imagenets_for_colour_only() -> None:
    assert recipe.default_statistics(3)[0] == (0.485, 0.456, 0.406)
    assert recipe.default_statistics(4) == ((0.5,) * 4, (0.5,) * 4)


def test_yes_is_no_number() -> None:
    with pytest.raises(ValueError, match="training.steps: must be a number"):
        load_recipe("pretrain", None, ["steps=yes"])


def test_shifted_views_need_whole_images_in_evaluation_too() -> None:
    with pytest.raises(ValueError, match="set eval_crop_ratio=1"):
        load_recipe("pretrain", None, ["crop_scale=null", "shift=2"])
    load_recipe("pretrain", None, ["crop_scale=null", "shift=2", "eval_crop_ratio=1"])


ABOUT = "about: {what: a, source: b, command: c, result: d, evidence: measured}\n"


def test_an_about_block_is_no_setting(tmp_path) -> None:
    path = write(tmp_path / "mine.yaml", ABOUT + "mask_ratio: 0.6\n")
    assert load_recipe("pretrain", path) == load_recipe("pretrain", None, ["mask_ratio=0.6"])
    about = recipe_about("pretrain", path)
    assert about is not None and (about.what, about.hardware, about.evidence) == ("a", None, "measured")
    assert "about" not in recipe_content("pretrain", path)
    assert recipe_about("pretrain", write(tmp_path / "mine.yaml", "mask_ratio: 0.6\n")) is None


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (ABOUT.replace("measured", "guessed"), "about: evidence: .*'measured' or 'cited', got 'guessed'"),
        (ABOUT.replace("source: b, ", ""), "about: source: Field required"),
        (ABOUT.replace("what: a", "what: a, why: e"), "about: why: Extra inputs"),
        ("about: ours\n", "about: .*got 'ours'"),
    ],
)
def test_a_damaged_about_block_is_refused(tmp_path, block: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe("pretrain", write(tmp_path / "mine.yaml", block))


def test_a_built_in_recipe_needs_an_about_block() -> None:
    assert take_about({}, "mine.yaml") is None
    with pytest.raises(ValueError, match="recipe base: about: what: Field required"):
        take_about({}, "base", required=True)


@pytest.mark.parametrize(("task", "name"), SHIPPED, ids=["-".join(one) for one in SHIPPED])
def test_a_described_recipe_is_a_file_of_the_same_recipe(tmp_path, task: str, name: str) -> None:
    overrides = {"base_lr": 1e-5, "device": "cpu"}
    path = write(tmp_path / "mine.yaml", describe.describe_recipe(task, name, overrides))
    assert load_recipe(task, path) == load_recipe(task, name, overrides)
    assert recipe_about(task, path) == recipe_about(task, name)


def test_a_described_recipe_marks_defaults_and_explains_settings() -> None:
    lines = describe.describe_recipe("pretrain", "digits").splitlines()
    (mask_ratio,) = (line for line in lines if line.startswith("mask_ratio:"))
    (workers,) = (line for line in lines if line.startswith("  workers:"))
    assert mask_ratio.split() == ["mask_ratio:", "0.62", "#", "share", "of", "the", "patches", "that", "is", "removed"]
    assert workers.split("# ")[1] == "(default) processes that prepare batches ahead; may change on resume"


def test_a_recipe_is_found_by_its_name() -> None:
    for words, found in [
        (["pretrain", "digits"], ("pretrain", "digits")),
        (["crossmae"], ("pretrain", "crossmae")),
        (["imagenet-large"], ("finetune", "imagenet-large")),
        (["probe"], ("probe", None)),
        (["probe", "mine.yaml"], ("probe", "mine.yaml")),
    ]:
        assert describe.find_recipe(words) == found


def test_a_recipe_file_is_found_by_its_task(tmp_path) -> None:
    path = write(tmp_path / "mine.yaml", "task: probe\n")
    assert describe.find_recipe([path]) == ("probe", path)
    with pytest.raises(ValueError, match="has no task; name it before the file: pretrain, finetune, probe"):
        describe.find_recipe([write(tmp_path / "mine.yaml", "task: [probe]\n")])


def test_an_unclear_recipe_name_is_one_line() -> None:
    for words, message in [
        (["digits"], "pretrain, finetune, probe each have a recipe 'digits'; .*paddlemae recipe pretrain digits"),
        (["imagenet_larg"], "no recipe 'imagenet_larg'; did you mean 'imagenet-large' or .*--list"),
        (["qqqq"], "no recipe 'qqqq'; see paddlemae recipe --list"),
        (
            ["pretrain", "base", "large"],
            "expected .TASK. NAME with a task of pretrain, .*segment, got pretrain",
        ),
        ([], "expected .TASK. NAME"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=message) as fault:
            describe.find_recipe(words)
        assert "\n" not in str(fault.value)


def test_the_recipes_are_listed() -> None:
    lines = list(describe.list_recipes())
    assert [tuple(line.split()[:2]) for line in lines[::2]] == SHIPPED
    assert "pretrain base            ViT-B/16 pretraining of MAE at 224 pixels" in lines
    assert all(re.match(r" +(cited|measured): .*%", line) for line in lines[1::2])


def test_fine_tuning_on_imagenet_is_as_published() -> None:
    """MAE, appendix A.2, table 9, and the authors' commands for weights pretrained on normalised pixels."""
    for name, epochs, base_lr, layer_decay, drop_path in [
        ("imagenet", 100, 5e-4, 0.65, 0.1),
        ("imagenet-large", 50, 1e-3, 0.75, 0.2),
        ("imagenet-huge", 50, 1e-3, 0.75, 0.3),
    ]:
        built = load_recipe("finetune", name)
        training, augment = built.training, built.augment
        assert (training.epochs, training.base_lr, built.layer_decay) == (epochs, base_lr, layer_decay)
        assert built.model.drop_path == drop_path and training.effective_batch_size == 1024
        assert training.warmup_epochs == 5 and training.weight_decay == 0.05 and built.betas == (0.9, 0.999)
        assert (built.mixup, built.cutmix, built.label_smoothing) == (0.8, 1.0, 0.1)
        assert (augment.randaugment, augment.magnitude, augment.magnitude_std, augment.erasing) == (2, 9, 0.5, 0.25)


def test_linear_probing_on_imagenet_is_the_papers() -> None:
    """MAE, appendix A.1, table 10."""
    built = load_recipe("probe", "imagenet")
    training = built.training
    assert training.effective_batch_size == 16384 and training.base_lr == 0.1 and training.weight_decay == 0
    assert (training.epochs, training.warmup_epochs, built.momentum) == (90, 10, 0.9)
    assert built.token == "cls" and built.crop_scale == (0.08, 1.0) and built.flip and not built.cached
