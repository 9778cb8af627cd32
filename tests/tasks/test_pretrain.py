"""Pretraining: what a run leaves, that it learns, and where its randomness comes from."""

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from paddlemae.data.batches import Batch
from paddlemae.data.sources import SourceNote
from paddlemae.model.masking import MASKS
from paddlemae.recipe import load_recipe
from paddlemae.runs.runlog import is_finished, read_metrics
from paddlemae.tasks import pretrain as task
from paddlemae.tasks.models.build import parameter_count
from paddlemae.tasks.pretrain import dry_run, memory_estimate, pretrain
from paddlemae.tasks.training import pretraining_loss, run_training
from paddlemae.tasks.training.pretraining_loss import batch_mask
from paddlemae.tasks.training.pretraining_setup import prepare
from paddlemae.tasks.training.run_start import Start
from paddlemae.train.checkpoint_folders import find_checkpoint
from paddlemae.weights.model_folder import read_description, read_tensors
from tests.support.mask_folders import write_pairs


def batch(indices: list[int], epochs: list[int]) -> Batch:
    images = np.zeros((len(indices), 3, 8, 8), np.uint8)
    return Batch(images, None, np.array(indices, np.int64), np.array(epochs, np.int64))


def test_a_run_folder_is_complete(pretrained: Path, photos: Path) -> None:
    # other tests start from this run, and what they find is kept with it
    assert {path.name for path in pretrained.iterdir()} - {"results.jsonl"} == {
        "recipe.yaml",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "figures",
        "exhibits",
    }
    for name in ("loss.png", "reconstruction.png"):
        with Image.open(pretrained / "figures" / name) as figure:
            assert figure.format == "PNG" and min(figure.size) > 200
    lines = list(read_metrics(pretrained))
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert {"epoch", "seconds", "loss", "lr", "images_per_second", "skipped"} <= set(lines[0])
    assert load_recipe("pretrain", str(pretrained / "recipe.yaml")).data == str(photos)


def test_the_model_says_what_it_is(pretrained: Path) -> None:
    description = read_description(pretrained / "checkpoints" / "step_00000003")
    assert description.kind == "mae" and description.target == "normalised"
    assert description.architecture["image_size"] == [8, 8] and description.architecture["embed_dim"] == 16
    assert description.mean == [0.485, 0.456, 0.406] and description.std == [0.229, 0.224, 0.225]
    assert description.provenance["images"] == 12 and description.provenance["mask_ratio"] == 0.75


@pytest.mark.parametrize("mask", ["random", "block", "grid"])
def test_the_loss_falls_on_an_easy_problem(tmp_path, tiny, photos, mask: str) -> None:
    """Pictures of one colour each: any visible patch tells the others."""
    easy = ["norm_pix_loss=false", "steps=60", "base_lr=0.15", "warmup_epochs=5", f"mask={mask}", f"data={photos}"]
    out = pretrain(load_recipe("pretrain", None, [*tiny, *easy]), Start(tmp_path / "run", quiet=True))
    losses = [line["loss"] for line in read_metrics(out)]
    assert len(losses) == 60 and np.mean(losses[-5:]) < 0.4 * np.mean(losses[:5])


def test_learning_rates_are_the_schedules(tmp_path, tiny, photos) -> None:
    """`base_lr x effective_batch_size / 256`, linear warmup, half-cosine (MAE, appendix A.1)."""
    chosen = ["steps=8", "epochs=4", "warmup_epochs=1", "base_lr=0.032", "accumulation_steps=2", f"data={photos}"]
    out = pretrain(load_recipe("pretrain", None, [*tiny, *chosen]), Start(tmp_path / "run", quiet=True))
    peak = 0.032 * 16 / 256
    cosine = [peak * (1 + np.cos(np.pi * step / 6)) / 2 for step in range(6)]
    np.testing.assert_allclose([line["lr"] for line in read_metrics(out)], [0, peak / 2, *cosine], rtol=1e-12)


@pytest.mark.parametrize("mask", ["random", "block"])
def test_an_images_mask_follows_seed_epoch_and_index_alone(mask: str) -> None:
    recipe, grid = load_recipe("pretrain", None, [f"mask={mask}", "mask_ratio=0.5"]), (6, 6)

    def maps(indices: list[int], epochs: list[int], seed: int = 0) -> list[list[bool]]:
        return batch_mask(recipe.mask, recipe.mask_ratio, grid, seed, batch(indices, epochs)).as_map().tolist()

    three = maps([7, 8, 9], [2, 2, 2])
    assert maps([9, 7], [2, 2]) == [three[2], three[0]] and maps([8], [2]) == [three[1]]
    others = [*three, *maps([7], [3]), *maps([7], [2], seed=1)]
    assert len({tuple(one) for one in others}) == 5
    assert {sum(one) for one in others} == {18}


def test_a_grid_mask_is_always_the_same() -> None:
    recipe = load_recipe("pretrain", None, ["mask=grid"])
    one, other = batch_mask(recipe.mask, recipe.mask_ratio, (4, 4), 0, batch([1, 2], [0, 5])).as_map()
    assert one.tolist() == other.tolist() and one.sum() == 12


def test_unreadable_images_are_skipped_named_once_and_counted(tmp_path, tiny, photos, capsys) -> None:
    folder = tmp_path / "photos"
    for path in photos.rglob("*.png"):
        (folder / path.name).parent.mkdir(exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "0.png").write_bytes(b"no image")
    recipe = load_recipe("pretrain", None, [*tiny, "steps=6", f"data={folder}"])  # 48 images of 12: 4 epochs
    out = pretrain(recipe, Start(tmp_path / "run", quiet=True))
    assert [line["skipped"] for line in read_metrics(out)][-1] == 4
    state = json.loads((out / "checkpoints" / "step_00000006" / "state.json").read_text())
    assert state["skipped"] == 4
    error = capsys.readouterr().err
    assert error.count("skipped: cannot read image") == 1 and "0.png" in error


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data=null", "no images named; add --data FOLDER"),
        ("data=nowhere", "nowhere.*does not exist"),
        ("patch_size=3", "image size 8 x 8 is not divisible by the patch size 3 x 3"),
        ("mask_ratio=0", "removes none of 4 patches"),
        ("mask_ratio=0.9", "keeps none of 4 patches; use at most 0.75"),
        ("mean=[0.5]", "mean and std need one number per channel .3."),
        ("num_heads=3", "width of 16 is not divisible by 3 heads"),
        ("precision=float16", "has no effect on CPU"),
        ("device=tpu", "device 'tpu' is not available"),
        ("split=dev", "expected split 'train'"),
    ],
)
def test_what_can_not_be_trained_writes_nothing(tmp_path, tiny, photos, override: str, message: str) -> None:
    recipe = load_recipe("pretrain", None, [*tiny, f"data={photos}", override])
    with pytest.raises((ValueError, FileNotFoundError), match=message) as fault:
        pretrain(recipe, Start(tmp_path / "run", quiet=True))
    assert "\n" not in str(fault.value) and not (tmp_path / "run").exists()


def test_a_taken_folder_is_refused_before_any_work(tiny, pretrained) -> None:
    with pytest.raises(ValueError, match="already holds a run"):
        pretrain(load_recipe("pretrain", None, [*tiny, "data=nowhere"]), Start(pretrained, quiet=True))


def test_overwriting_is_decided_after_everything_else(tmp_path, tiny, photos) -> None:
    """A recipe that can't run must not cost the run that is there."""
    out = pretrain(load_recipe("pretrain", None, [*tiny, f"data={photos}"]), Start(tmp_path / "run", quiet=True))
    with pytest.raises(ValueError, match="not divisible"):
        bad = load_recipe("pretrain", None, [*tiny, f"data={photos}", "patch_size=3"])
        pretrain(bad, Start(out, overwrite=True, quiet=True))
    assert len(list(read_metrics(out))) == 3


def poisoned(monkeypatch, *batches: int) -> None:
    """Batches, counted from 1, whose pixels are not numbers."""
    normalise, calls = pretraining_loss.to_input, []

    def to_input(*arguments):
        calls.append(arguments)
        return normalise(*arguments) * (float("nan") if len(calls) in batches else 1.0)

    monkeypatch.setattr(pretraining_loss, "to_input", to_input)


def test_infinite_losses_end_on_the_last_good_checkpoint(tmp_path, tiny, photos, monkeypatch):
    poisoned(monkeypatch, 3, 4, 5)
    recipe = load_recipe("pretrain", None, [*tiny, f"data={photos}", "checkpoint_every=0.5", "steps=9"])
    with pytest.raises(FloatingPointError, match="in 3 steps in a row.*checkpoint: .*step_00000004; start a new run"):
        pretrain(recipe, Start(tmp_path / "run", quiet=True))
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == "step_00000004\n"
    saved = read_tensors(find_checkpoint(tmp_path / "run", whole=True))
    assert all(np.isfinite(tensor).all() for tensor in saved.values())


def test_a_dropped_step_is_counted_and_left_out_of_the_means(tmp_path, tiny, photos, monkeypatch) -> None:
    poisoned(monkeypatch, 2)
    recipe = load_recipe("pretrain", None, [*tiny, f"data={photos}", "steps=4"])
    lines = list(read_metrics(pretrain(recipe, Start(tmp_path / "run", quiet=True))))
    assert [line["dropped"] for line in lines] == [0, 1, 1, 1]
    assert ["loss" in line and line["grad_norm"] > 0 for line in lines if line["step"] != 2] == [True] * 3
    assert "loss" not in lines[1] and "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_spike_is_logged_and_reported(tmp_path, tiny, photos, monkeypatch, capsys) -> None:
    loss_function, calls = task.loss_function, []

    def spiking(*arguments):
        loss_fn = loss_function(*arguments)
        return lambda *parts: calls.append(1) or loss_fn(*parts) * (9.0 if len(calls) == 3 else 1.0)

    monkeypatch.setattr(task, "loss_function", spiking)
    recipe = load_recipe("pretrain", None, [*tiny, f"data={photos}", "steps=4"])
    lines = list(read_metrics(pretrain(recipe, Start(tmp_path / "run", quiet=True))))
    spikes = [line for line in lines if "spike" in line]
    assert [line["step"] for line in spikes] == [3] and spikes[0]["spike"] > 3 * spikes[0]["usual_loss"]
    assert "at step 3, where" in capsys.readouterr().err


def test_the_loop_gets_the_recipes_settings(tmp_path, tiny, photos, monkeypatch) -> None:
    seen: list = []
    fit = run_training.fit
    monkeypatch.setattr(run_training, "fit", lambda *arguments: seen.append(arguments[-1]) or fit(*arguments))
    recipe = load_recipe("pretrain", None, [*tiny, f"data={photos}", "clip_grad=0.5", "accumulation_steps=2"])
    pretrain(recipe, Start(tmp_path / "run", quiet=True))
    (settings,) = seen
    assert (settings.clip_grad, settings.accumulation_steps, settings.total_steps) == (0.5, 2, 3)
    assert settings.precision == "float32"


def test_grid_masks_warn_of_a_ratio_without_effect(tiny, photos) -> None:
    with pytest.warns(UserWarning, match="mask_ratio has no effect"):
        prepare(load_recipe("pretrain", None, [*tiny, f"data={photos}", "mask=grid", "mask_ratio=0.5"]))


def test_weights_follow_the_seed_alone(tiny, photos) -> None:
    def weights(seed: int) -> np.ndarray:
        paddle.rand([3])  # what was drawn before must not matter
        return prepare(
            load_recipe("pretrain", None, [*tiny, f"data={photos}", f"seed={seed}"])
        ).model.decoder.mask_token.numpy()

    assert (weights(5) == weights(5)).all() and (weights(5) != weights(6)).any()


@pytest.mark.filterwarnings("ignore:images of .* are smaller than a patch")  # the photos are
def test_a_dry_run_counts_the_papers_parameters(photos, untried) -> None:
    """ViT-B with the 8-block decoder: 111.66 million trained numbers, counted by hand from the paper's shapes."""
    plan = dry_run(load_recipe("pretrain", "base", [f"data={photos}", "image_size=224"]))
    encoder = (768 * 768 + 768) + 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768
    decoder = (768 * 512 + 512) + 512 + 8 * (12 * 512**2 + 13 * 512) + 2 * 512 + (512 * 768 + 768)
    assert plan["parameters"] == f"{encoder + decoder:,}" == "111,655,680"
    assert plan["patches"] == "14 x 14" and plan["images"] == f"12 from {photos}"
    assert plan["peak lr"] == f"{1.5e-4 * 4096 / 256:.3g}"
    assert plan["memory"] == "8.40 GiB: 2.00 and 102.4 MiB an image (measured with 4 and 12 images a step)"


def test_masks_next_to_images_are_not_trained_on(tiny, untried, tmp_path: Path) -> None:
    write_pairs(tmp_path)
    with pytest.warns(SourceNote, match="masks in 'masks' are left out"):
        plan = dry_run(load_recipe("pretrain", None, [*tiny, f"data={tmp_path}"]))
    assert plan["images"] == f"4 from {tmp_path / 'images' / 'train'}"


def test_the_memory_estimate_grows_with_what_it_counts(tiny, photos) -> None:
    def estimate(*overrides: str) -> int:
        recipe = load_recipe("pretrain", None, [*tiny, f"data={photos}", *overrides])
        return memory_estimate(prepare(recipe).model, recipe)

    plain = estimate()
    parts = prepare(load_recipe("pretrain", None, [*tiny, f"data={photos}"]))
    assert plain > 16 * parameter_count(parts.model)
    assert estimate("batch_size=16") > plain and estimate("depth=2") > plain and estimate("mask_ratio=0.5") > plain


def test_a_grid_mask_keeps_a_quarter_and_warns_of_the_ratio(tiny, photos, untried) -> None:
    recipe = load_recipe("pretrain", None, [*tiny, f"data={photos}", "mask=grid", "mask_ratio=0.5"])
    assert MASKS[recipe.mask].num_kept((4, 4), recipe.mask_ratio) == 4
    with pytest.warns(UserWarning, match="mask_ratio has no effect"):
        dry_run(recipe)


def test_a_training_whose_time_is_up_has_its_pictures(paddlemae, tiny, photos, tmp_path) -> None:
    out = tmp_path / "run"
    done = paddlemae("pretrain", *tiny, "--data", photos, "--out", out, "--quiet", "max_hours=1e-9")
    assert done.status == 75 and not is_finished(out)
    assert (out / "figures/reconstruction.png").is_file()
