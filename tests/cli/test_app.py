"""The commands as a user types them: what they do, and one line when they can't."""

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from safetensors.numpy import load_file

from paddlemae.recipe import load_recipe
from paddlemae.runs.runlog import read_metrics
from paddlemae.tasks.training import run_start, step_log
from paddlemae.train import checkpoint
from paddlemae.train.checkpoint_folders import find_checkpoint
from tests.support.command_line import commands


@pytest.fixture
def pretrain(paddlemae, tiny, photos, tmp_path):
    """Run `paddlemae pretrain` of the tiny model; `out` is where it writes."""

    def run(*arguments: object, data: object = photos):
        return paddlemae("pretrain", *tiny, "--data", data, "--out", tmp_path / "run", "--quiet", *arguments)

    return run


@pytest.fixture
def run_copy(tmp_path, pretrained) -> Path:
    """A run folder that a test may damage."""
    return Path(shutil.copytree(pretrained, tmp_path / "copy"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_refused(done, message: str) -> None:
    """One line on stderr, exit status 2, no traceback, nothing on stdout."""
    assert done.status == 2, done
    assert done.err.count("\n") == 1 and done.err.startswith("paddlemae: error: "), done.err
    assert re.search(message, done.err), done.err
    assert done.out == "" and "Traceback" not in done.err


# ---------------------------------------------------------------- the way it goes well


def test_the_whole_way_from_photos_to_a_classifier(paddlemae, tiny, encoder, photos, colours, tmp_path) -> None:
    run, picture, tuned = tmp_path / "run", tmp_path / "picture.png", tmp_path / "tuned"
    done = paddlemae("pretrain", *tiny, "--data", photos, "--out", run)
    assert done.status == 0 and "pretraining 0.01 million parameters" in done.out and "12 images" in done.out
    assert "pretrain run 3/3  loss" in done.err
    done = paddlemae("reconstruct", run, photos / "day0", "--out", picture, "--mask", "block", "--mask-ratio", "0.5")
    assert done == (0, f"wrote {picture}\n", "")
    with Image.open(picture) as figure:
        assert figure.format == "PNG"
    quick = ["steps=2", "batch_size=8", "threads=1"]
    done = paddlemae("finetune", *encoder, *quick, "--init", run, "--data", colours, "--out", tuned)
    assert done.status == 0 and re.search(r"accuracy \(primary\) +\d+\.\d+%", done.out)
    assert json.loads((tuned / "environment.json").read_text())["command"][:2] == ["paddlemae", "finetune"]


def test_quiet_is_quiet(pretrain) -> None:
    assert pretrain() == (0, "", "")


@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_a_dry_run_prints_the_plan_and_writes_nothing(
    paddlemae, tiny, photos, colours, tmp_path, monkeypatch, untried, task
):
    monkeypatch.chdir(tmp_path)
    given = tiny if task == "pretrain" else [one for one in tiny if "decoder" not in one]
    sources = {"pretrain": ["--data", photos], "finetune": ["--data", colours, "--init", "scratch"]}
    done = paddlemae(task, *given, *sources[task], "--out", "run", "--dry-run")
    assert done.status == 0 and done.err == ""
    assert "embed_dim: 16" in done.out and "parameters:" in done.out and re.search(r"steps: +3 of 8 images", done.out)
    if task == "pretrain":
        assert "memory:" in done.out and re.search(r"images: +12 from", done.out)
    assert list(tmp_path.iterdir()) == []


def test_a_printed_plan_starts_with_a_recipe_that_loads(paddlemae, tiny, photos, tmp_path, untried) -> None:
    done = paddlemae("pretrain", *tiny, "--data", photos, "--dry-run")
    (tmp_path / "printed.yaml").write_text(done.out.split("\n\n")[0])
    asked = load_recipe("pretrain", None, [*tiny, f"data={photos}"])
    assert load_recipe("pretrain", str(tmp_path / "printed.yaml")) == asked


@pytest.mark.filterwarnings("ignore:.*smaller than a patch:UserWarning")  # images of the tests in models of real size
def test_recipes_are_named_by_name_file_or_not_at_all(paddlemae, photos, tmp_path, untried) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("mask_ratio: 0.6\nmodel: {size: mini, image_size: 8, depth: 1}\n")
    shown = {
        name: paddlemae("pretrain", *name, "mask=block", "--data", photos, "--dry-run").out
        for name in (("cifar10",), (str(mine),), ())
    }
    assert "mask_ratio: 0.6" in shown[str(mine),] and "embed_dim: null" in shown[()]
    assert all("mask: block" in text for text in shown.values())


def test_overwrite_replaces_a_run(pretrain, tmp_path) -> None:
    pretrain()
    (tmp_path / "run" / "figures" / "old.png").write_text("")
    assert pretrain("--overwrite", "steps=2").status == 0
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2]
    assert not (tmp_path / "run" / "figures" / "old.png").exists()


def test_a_bare_resume_takes_the_runs_own_recipe(pretrain, paddlemae, tmp_path, monkeypatch) -> None:
    stop_in_step(monkeypatch, 2)
    assert pretrain().status == 130
    monkeypatch.undo()
    assert paddlemae("pretrain", "--resume", "--out", tmp_path / "run", "--quiet") == (0, "", "")
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2, 3]


@pytest.mark.usefixtures("rendered_figures")
def test_masks_and_plain_pictures_are_options(paddlemae, pretrained, photos, tmp_path) -> None:
    (tmp_path / "mask.txt").write_text("1 0\n0 1\n")
    pictures = []
    for number, options in enumerate((["--mask", tmp_path / "mask.txt"], ["--mask", "grid"], ["--plain"])):
        out = tmp_path / f"{number}.png"
        assert paddlemae("reconstruct", pretrained, photos, "--out", out, "--limit", 2, *options).status == 0
        pictures.append(out.read_bytes())
    assert len(set(pictures)) == 3


@pytest.mark.parametrize("command", ["demo", "pretrain", "reconstruct", "finetune"])
def test_help_teaches_with_examples_that_work(paddlemae, command: str) -> None:
    done = paddlemae(command, "--help")
    assert done.status == 0 and f"paddlemae {command}" in done.out
    text = " ".join(commands()[command].help.split())
    examples = re.findall(rf"`paddlemae {command}([^`]*)`", text)
    assert examples
    for example in examples:
        words = example.split()
        settings = [word for word in words if "=" in word]
        if command in ("pretrain", "finetune") and words[0] != "--resume":
            name = None if words[0].startswith("--") else words[0]
            load_recipe(command, name, settings)
        for option in [word for word in words if word.startswith("--")]:
            assert option in done.out


def test_recipes_are_listed_and_explained(paddlemae, tmp_path) -> None:
    assert "probe    imagenet" in paddlemae("recipe", "--list").out
    mine = tmp_path / "mine.yaml"
    mine.write_text(paddlemae("recipe", "pretrain", "digits", "epochs=3").out)
    assert load_recipe("pretrain", str(mine)) == load_recipe("pretrain", "digits", ["epochs=3"])
    for words, message in (
        (["digits"], "name the task"),
        (["bas"], "did you mean 'base'"),
        (["pretrain", "bas"], "base"),
    ):
        done = paddlemae("recipe", *words)
        assert done.status == 2 and message in done.err and done.err.count("\n") == 1


def test_no_arguments_show_the_help(paddlemae) -> None:
    done = paddlemae()
    assert "pretrain" in done.out + done.err and "finetune" in done.out + done.err


# ---------------------------------------------------------------- recipes that are wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mask_ration=0.6"], "unknown recipe key 'mask_ration'; did you mean 'mask_ratio'?"),
        (["model.dept=2"], "did you mean 'model.depth'"),
        (["depth=many"], "model.depth: .*integer.*got 'many'"),
        (["flip=perhaps"], "augment.flip: .*got 'perhaps'"),
        (["patch_size=3"], "image size 8 x 8 is not divisible by the patch size 3 x 3; 9 x 9 would be"),
        (["image_size=[8,10]"], "image size 8 x 10 is not divisible by the patch size 4 x 4; 8 x 8 would be"),
        (["mask_ratio=1"], "mask_ratio: .*less than 1.*got 1"),
        (["mask_ratio=-0.1"], "mask_ratio: .*greater than or equal to 0.*got -0.1"),
        (["mask_ratio=0"], "removes none of 4 patches"),
        (["precision=float16"], "precision float16 has no effect on CPU"),
        (["device=tpu"], "device 'tpu' is not available in this Paddle build; it has: cpu"),
        (["nonsense"], "expected key=value, got 'nonsense'"),
    ],
)
def test_a_wrong_recipe_is_one_line(pretrain, tmp_path, arguments: list[str], message: str) -> None:
    assert_refused(pretrain(*arguments), message)
    assert not (tmp_path / "run").exists()


def test_a_wrong_recipe_name_gets_the_nearest(paddlemae, tmp_path) -> None:
    assert_refused(paddlemae("pretrain", "cifar", "--out", tmp_path / "run"), "did you mean 'cifar10'")
    assert_refused(paddlemae("finetune", "base.yaml"), "recipe file base.yaml does not exist")


def test_what_was_left_out_is_asked_for(paddlemae, tiny, photos, tmp_path) -> None:
    assert_refused(paddlemae("pretrain", *tiny, "--data", photos), "name the run folder to write: --out runs/NAME")
    assert_refused(paddlemae("pretrain", *tiny, "--out", tmp_path / "run"), "no images named; add --data FOLDER")
    assert_refused(paddlemae("pretrain", "--resume"), "--resume needs the run folder: --out FOLDER")
    assert_refused(paddlemae("finetune", "digits", "--out", tmp_path / "run"), "name what to start from: --init RUN")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- images that are wrong


def test_a_folder_without_images_is_named(pretrain, tmp_path) -> None:
    empty = tmp_path / "empty"
    (empty / "notes").mkdir(parents=True)
    (empty / "notes" / "a.txt").write_text("no image")
    assert_refused(pretrain(data=empty), f"no images in '{empty}': 1 other files seen; expected names ending in .bmp")
    assert_refused(pretrain(data=tmp_path / "gone"), "gone' does not exist")
    assert_refused(pretrain(data=empty / "notes" / "a.txt"), "a.txt', such as 'no image', do not exist below ")
    assert not (tmp_path / "run").exists()


def test_an_unreadable_image_is_skipped_and_counted_in_pretraining(pretrain, photos, tmp_path) -> None:
    mixed = Path(shutil.copytree(photos, tmp_path / "mixed"))
    (mixed / "damaged.jpg").write_bytes(b"\xff\xd8\xff half a picture")
    done = pretrain("steps=4", data=mixed)  # 32 images of 13
    assert done.status == 0
    assert done.err.count("\n") == 1 and re.match(r"skipped: cannot read image .*damaged.jpg': ", done.err)
    assert list(read_metrics(tmp_path / "run"))[-1]["skipped"] in (2, 3)


def test_images_that_are_all_unreadable_are_an_error(pretrain, tmp_path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"")
    done = pretrain(data=tmp_path / "bad")
    named, error = done.err.splitlines()
    assert done.status == 2 and re.match("skipped: cannot read image .*the file is empty", named)
    assert re.match("paddlemae: error: .* unreadable, fix them; first: cannot read .*the file is empty; kept ", error)


def test_an_unreadable_image_is_an_error_when_asked_for(paddlemae, pretrained, tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    done = paddlemae("reconstruct", pretrained, tmp_path / "a.png", "--out", tmp_path / "out.png")
    assert_refused(done, "cannot read image '.*a.png': not an image")
    assert not (tmp_path / "out.png").exists()


def test_unlabelled_folders_can_not_be_fine_tuned_on(paddlemae, encoder, photos, tmp_path) -> None:
    done = paddlemae(
        "finetune", *encoder, "--init", "scratch", "--data", photos / "day0" / "late", "--out", tmp_path / "run"
    )
    assert_refused(done, "labels need one folder per class")


# ---------------------------------------------------------------- masks that are wrong


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mask", "holes"], "mask must be random, block, grid, none, .*; got 'holes'"),
        (["--mask-ratio", "1.0"], r"mask_ratio must be in \[0, 1\), got 1.0"),
        (["--mask-ratio", "-0.5"], r"mask_ratio must be in \[0, 1\), got -0.5"),
        (["--mask", "gone.npy"], "mask file gone.npy does not exist"),
        (["--mask", "wrong.txt"], r"a mask must be \[B, 4\] or \[B, 2, 2\] .*rows x columns.*, got \[1, 1, 3\]"),
    ],
)
def test_a_wrong_mask_is_one_line(paddlemae, pretrained, photos, tmp_path, monkeypatch, options, message) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wrong.txt").write_text("1 0 1\n")
    image = sorted(photos.rglob("*.png"))[0]
    assert_refused(paddlemae("reconstruct", pretrained, image, "--out", "out.png", *options), message)
    assert not Path("out.png").exists()


# ---------------------------------------------------------------- checkpoints that are wrong


@pytest.fixture(params=["reconstruct", "finetune"])
def use(request, paddlemae, encoder, photos, colours, tmp_path):
    """Run a command that reads a checkpoint."""

    def run(path: object, *overrides: str):
        image = sorted(photos.rglob("*.png"))[0]
        if request.param == "reconstruct":
            return paddlemae("reconstruct", path, image, "--out", tmp_path / "out.png")
        quick = ["steps=1", "batch_size=4", *overrides]
        return paddlemae("finetune", *quick, "--init", path, "--data", colours, "--out", tmp_path / "out", "--quiet")

    yield run
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.png").exists()


def test_a_missing_checkpoint_is_named(use, tmp_path, photos) -> None:
    assert_refused(use(tmp_path / "gone"), "gone does not exist; expected a run folder, a checkpoint, or MAE or ViT we")
    assert_refused(use(photos), "holds no weights; name the file itself; the folder holds ")


def test_a_foreign_file_is_refused(use, tmp_path) -> None:
    (tmp_path / "vit.pth").write_bytes(b"PK\x03\x04 a pickle in a zip")
    assert_refused(use(tmp_path / "vit.pth"), "vit.pth cannot be read: the archive is cut off or damaged")
    (tmp_path / "model.json").write_text('{"model_type": "vit_mae"}')
    assert_refused(use(tmp_path), "model.json is not a model description of PaddleMAE .it names no format")


def test_a_changed_bit_is_named(use, run_copy) -> None:
    path = find_checkpoint(run_copy) / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    assert_refused(use(run_copy), "model.safetensors is damaged .its checksum is not that of checksums.json.; use anot")


def model_alone(run: Path) -> Path:
    """The model of a run in a folder of its own, without checksums: its files must speak."""
    folder = run.parent / "alone"
    folder.mkdir()
    for name in ("model.json", "model.safetensors"):
        shutil.copy(find_checkpoint(run) / name, folder)
    return folder


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.json", lambda whole: b"\x00\x01", "model.json is not a model description"),
        ("model.json", lambda whole: whole.replace(b'"depth"', b'"levels"'), "architecture.depth: Field required"),
        (
            "model.json",
            lambda whole: whole.replace(b'"format": 1', b'"format": 9'),
            "is of format 9; this PaddleMAE reads",
        ),
        ("model.json", lambda whole: None, "tensors don't tell how many attention heads"),
        ("model.safetensors", lambda whole: b"garbage " * 99, "model.safetensors is a text file, not weights"),
        ("model.safetensors", lambda whole: whole[:-9], "model.safetensors is damaged or no safetensors file"),
        ("model.safetensors", lambda whole: b"", "model.safetensors is empty; download or copy it again"),
        ("model.safetensors", lambda whole: None, "model.safetensors does not exist; the checkpoint is incomplete"),
    ],
)
def test_a_damaged_checkpoint_is_named(use, run_copy, name: str, damage, message: str) -> None:
    path = model_alone(run_copy) / name
    changed = damage(path.read_bytes())
    path.unlink() if changed is None else path.write_bytes(changed)
    assert_refused(use(path.parent), message)


def test_mismatched_files_are_refused_with_the_differences(use, run_copy) -> None:
    path = model_alone(run_copy) / "model.json"
    path.write_text(path.read_text().replace('"depth": 1', '"depth": 2').replace('"channels": 3', '"channels": 1'))
    path.write_text(re.sub(r'"(mean|std)": \[[^]]*\]', r'"\1": [0.5]', path.read_text()))
    done = use(path.parent)
    assert_refused(
        done, r"does not fit the model that model.json describes .missing: blocks.1.norm1.weight, .*and 4 more"
    )
    assert "of another shape: patch_embed.proj.weight [16, 3, 4, 4] for [16, 1, 4, 4]" in done.err


def test_another_architecture_is_refused_with_its_differences(paddlemae, pretrained, colours, tmp_path) -> None:
    shape = ["size=mini", "image_size=8", "patch_size=2"]  # sizes of images and patches are brought about
    done = paddlemae("finetune", *shape, "--init", pretrained, "--data", colours, "--out", tmp_path / "run")
    assert_refused(done, "has another architecture: embed_dim is 16")
    assert "depth is 1 in the checkpoint and 4 in the recipe" in done.err and not (tmp_path / "run").exists()


# ---------------------------------------------------------------- folders that are taken


def test_a_folder_that_holds_a_run_is_not_taken_unasked(pretrain, tmp_path) -> None:
    pretrain()
    before = content(tmp_path / "run")
    ways = "add --resume to continue it, --overwrite to replace it, or choose another --out"
    assert_refused(pretrain(), f"already holds a run; {ways}")
    assert_refused(pretrain("--resume", "--overwrite"), "--resume and --overwrite exclude each other")
    assert_refused(pretrain("--resume", "mask_ratio=0.5"), "a resume can't change mask_ratio 0.75 -> 0.5")
    assert content(tmp_path / "run") == before


@pytest.mark.parametrize("option", [[], ["--overwrite"], ["--resume"]])
def test_a_folder_that_holds_anything_else_is_never_overwritten(pretrain, tmp_path, option) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    assert_refused(pretrain(*option), "holds no run")
    assert content(tmp_path / "run") == {"thesis.txt": b"years of work"}


def test_a_run_folder_with_files_of_ones_own_is_not_overwritten(pretrain, tmp_path) -> None:
    pretrain()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    before = content(tmp_path / "run")
    assert_refused(pretrain("--overwrite"), r"holds more than a run \(thesis.txt\)")
    assert content(tmp_path / "run") == before


def test_a_run_of_another_task_is_not_resumed(paddlemae, run_copy) -> None:
    assert_refused(
        paddlemae("finetune", "--resume", "--out", run_copy), "is a pretrain run; resume it with 'paddlemae pretrain'"
    )


def test_a_resume_without_a_run_says_so(paddlemae, pretrain, tmp_path) -> None:
    assert_refused(paddlemae("pretrain", "--resume", "--out", tmp_path / "run"), "holds no run to resume")
    assert_refused(pretrain("--resume"), "holds no run to resume")
    assert not (tmp_path / "run").exists()


def test_a_file_as_out_is_refused(pretrain, tmp_path) -> None:
    (tmp_path / "run").write_text("a file")
    assert_refused(pretrain("--overwrite"), "is a file; --out needs a folder")


# ---------------------------------------------------------------- disks that are full


def full(*arguments, **named):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def filling(monkeypatch, *attempts: int) -> None:
    """A disk that has no room for a checkpoint at these attempts, counted from 1."""
    write, calls = checkpoint.write_model, []

    def write_or_not(*arguments):
        calls.append(arguments)
        return full() if len(calls) in attempts else write(*arguments)

    monkeypatch.setattr(checkpoint, "write_model", write_or_not)


@pytest.mark.filterwarnings("always")  # the command prints them
def test_a_disk_that_is_full_for_a_while_costs_a_checkpoint(pretrain, tmp_path, monkeypatch) -> None:
    filling(monkeypatch, 2)
    done = pretrain("checkpoint_every=0.5", "keep_checkpoints=9")
    assert done.status == 0 and done.err.count("\n") == 1, done.err
    assert re.match("paddlemae: warning: could not save step 2 .No space left.*; training continues", done.err)
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step_00000001", "step_00000003"]


def after_warnings(done, count: int):
    """The same without its warnings, of which there were so many."""
    lines = done.err.splitlines(keepends=True)
    warned = [line for line in lines if line.startswith("paddlemae: warning: ")]
    assert len(warned) == count, done.err
    return done._replace(err="".join(line for line in lines if line not in warned))


@pytest.mark.filterwarnings("always")  # the command prints them
def test_a_full_disk_keeps_the_last_checkpoint(pretrain, paddlemae, tmp_path, monkeypatch) -> None:
    """The second and third of three checkpoints don't fit any more; with room again the run goes on."""
    filling(monkeypatch, 2, 3)
    done = pretrain("checkpoint_every=0.5")
    message = "could not save step 3 .No space left on device.; last good checkpoint: .*step_00000001; make room"
    assert_refused(after_warnings(done, 1), message)
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step_00000001"]
    assert paddlemae("reconstruct", tmp_path / "run", "digits", "--out", tmp_path / "a.png").status == 0
    monkeypatch.undo()
    assert pretrain("checkpoint_every=0.5").status == 0
    assert find_checkpoint(tmp_path / "run").name == "step_00000003"
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2, 3]


@pytest.mark.filterwarnings("always")  # the command prints them
def test_a_disk_too_full_for_metrics_says_the_way_on(pretrain, tmp_path, monkeypatch) -> None:
    """Lines wait in memory as long as there is hope; the checkpoint that they belong to is not written without them."""
    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *mode, **more: full() if path.suffix == ".jsonl" else opened(path, *mode, **more)
    )
    done = pretrain()
    assert done.err.startswith("paddlemae: warning: could not log step 1 (No space left on device); kept in memory")
    done = after_warnings(done, 2)
    assert_refused(done, "could not log step 1 .No space left on device.; last good checkpoint: none yet; make room")
    monkeypatch.undo()
    assert pretrain().status == 0
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2, 3]


@pytest.mark.slow
def test_a_limit_that_the_system_sets_is_met_in_earnest(run_command, tiny, photos, tmp_path) -> None:
    """No function is replaced here: the kernel refuses to let the weights' file grow."""
    resource = pytest.importorskip("resource")

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    out = tmp_path / "run"
    done = run_command("pretrain", *tiny, "--data", photos, "--out", out, "--quiet", preexec_fn=small_files)
    assert_refused(done, "could not save step 3 .File too large.; last good checkpoint: none yet; make room")
    assert list((out / "checkpoints").iterdir()) == []
    assert run_command("pretrain", "--resume", "--out", out, "--quiet").status == 0


# ---------------------------------------------------------------- Ctrl-C


def stop_in_step(monkeypatch, step: int, number: int = signal.SIGINT) -> None:
    """Send this process a Ctrl-C, or another signal, while it logs `step`."""
    log_metrics = step_log.log_metrics

    def log(folder, at, *arguments, **values):
        log_metrics(folder, at, *arguments, **values)
        if at == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(step_log, "log_metrics", log)


def test_ctrl_c_keeps_the_step_and_says_how_to_go_on(pretrain, paddlemae, tmp_path, monkeypatch) -> None:
    stop_in_step(monkeypatch, 2)
    done = pretrain()
    kept = tmp_path / "run" / "checkpoints" / "step_00000002"
    said = f"paddlemae: stopped after step 2 of 3; kept {kept}; resume with: paddlemae pretrain --resume --out "
    assert done == (130, "", f"{said}{tmp_path / 'run'}\n")
    monkeypatch.undo()
    assert find_checkpoint(tmp_path / "run") == kept
    assert pretrain() == (0, "", ""), "rerun the same command to resume"
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2, 3]
    assert_refused(pretrain(), "already holds a run")


@pytest.mark.parametrize("asked", ["SIGTERM", "SIGUSR1", "max_hours"])
def test_a_scheduler_is_asked_to_requeue(pretrain, tmp_path, monkeypatch, asked: str) -> None:
    limit = []
    if asked == "max_hours":
        limit = ["max_hours=1e-9"]
    else:
        stop_in_step(monkeypatch, 1, getattr(signal, asked))
    done = pretrain(*limit)
    step = 0 if limit else 1
    kept = tmp_path / "run" / "checkpoints" / f"step_{step:08d}"
    ways = f"resume with: paddlemae pretrain --resume --out {tmp_path / 'run'}, or the same command again"
    assert done == (75, "", f"paddlemae: stopped after step {step} of 3 ({asked}); kept {kept}; {ways}\n")
    monkeypatch.undo()
    assert pretrain("--resume", "max_hours=1").status == 0
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2, 3]


def test_another_recipe_in_the_folder_is_not_gone_on_with(pretrain, monkeypatch) -> None:
    stop_in_step(monkeypatch, 2)
    assert pretrain().status == 130
    monkeypatch.undo()
    assert_refused(pretrain("mask_ratio=0.5"), "already holds a run")


def test_ctrl_c_before_training_is_one_line(pretrain, tmp_path, monkeypatch) -> None:
    def pressed(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_start, "open_run", pressed)
    assert pretrain() == (130, "", "paddlemae: stopped\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "workers", "status"), [(signal.SIGINT, 0, 130), (signal.SIGINT, 1, 130), (signal.SIGTERM, 1, 75)]
)
def test_signals_of_a_real_process(start_command, run_command, tiny, photos, tmp_path, number, workers, status) -> None:
    """As a terminal or a scheduler sends them: to the command and to whatever it started."""
    out = tmp_path / "run"
    arguments = ["pretrain", *tiny, "--data", photos, "--out", out, "--quiet", f"workers={workers}"]
    process = start_command(*arguments, "steps=100000")
    deadline = time.monotonic() + 60
    while sum(1 for _ in read_metrics(out)) < 3:
        assert time.monotonic() < deadline
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            pytest.fail(f"ended before it was asked to: {process.communicate()}")
    os.killpg(process.pid, number)
    output, error = process.communicate(timeout=60)
    assert process.returncode == status and output == ""
    said = re.fullmatch(
        r"paddlemae: stopped after step (\d+) of 100000.*; kept (.*); resume with: .* --resume --out .*\n", error
    )
    assert said, error
    assert find_checkpoint(out) == Path(said[2]) and Path(said[2]).name == f"step_{int(said[1]):08d}"
    assert load_file(Path(said[2]) / "model.safetensors")["cls_token"].shape == (1, 1, 16)
    done = run_command("reconstruct", out, sorted(photos.rglob("*.png"))[0], "--out", tmp_path / "a.png")
    assert done.status == 0, done.err


# ---------------------------------------------------------------- faults of ours


def test_a_fault_of_ours_keeps_its_traceback(pretrain, monkeypatch) -> None:
    """One line is for users' mistakes; a bug must not look like one."""
    from paddlemae.tasks.training import pretraining_setup as task

    monkeypatch.setattr(task, "patch_grid", lambda *arguments: json.loads("{"))
    with pytest.raises(json.JSONDecodeError):
        pretrain()


def test_debugging_shows_the_traceback_of_any_error(pretrain, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PADDLEMAE_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        pretrain(data=tmp_path / "gone")


def test_the_module_runs_as_the_command(run_command) -> None:
    import paddlemae

    done = run_command("--version")
    assert done == (0, f"{paddlemae.__version__}\n", "") and sys.version_info >= (3, 10)


def test_a_mistake_as_a_process(run_command, tmp_path) -> None:
    done = run_command("pretrain", "digits", "mask_ration=0.5", "--out", tmp_path / "run")
    assert_refused(done, "did you mean 'mask_ratio'?")


# ---------------------------------------------------------------- what a review found


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_unreadable_images_is_one_line_with_workers_too(paddlemae, tiny, tmp_path, workers: int) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    arguments = [*tiny, f"workers={workers}", "--data", tmp_path, "--out", tmp_path / "run", "--quiet"]
    done = paddlemae("pretrain", *arguments)
    assert done.status == 2 and done.err.splitlines()[-1].startswith("paddlemae: error: ")
    assert "Traceback" not in done.err


@pytest.mark.parametrize("name", ["photos #1", "null", "none", "2024", "on", "a: b", "@x", "'q", "[1]"])
def test_a_folder_may_have_any_name(paddlemae, tiny, photos, tmp_path, monkeypatch, name: str, untried) -> None:
    shutil.copytree(photos, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    done = paddlemae("pretrain", *tiny, "--data", name, "--dry-run")
    assert done.status == 0 and "12 from" in done.out, done.err


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_a_number_of_channels_that_images_do_not_have_is_named(
    paddlemae, tiny, encoder, colours, tmp_path, command: str
) -> None:
    extra = [*tiny] if command == "pretrain" else [*encoder, "--init", "scratch"]
    done = paddlemae(command, *extra, "channels=5", "bits=8", "--data", colours, "--out", tmp_path / "run")
    assert done.status == 2 and "have 3 channels" in done.err and "takes 5" in done.err


def test_a_picture_needs_a_picture_s_name(paddlemae, pretrained, photos, tmp_path) -> None:
    for name in ("photos", "photos.xyz"):
        done = paddlemae("reconstruct", pretrained, photos, "--out", tmp_path / name)
        assert done.status == 2 and "ends in .png" in done.err
    assert list(tmp_path.iterdir()) == []


def test_settings_without_effect_warn(run_command, tmp_path, pretrained, photos) -> None:
    out = tmp_path / "a.png"
    done = run_command("reconstruct", pretrained, photos, "--out", out, "--mask", "grid", "--mask-ratio", "0.5")
    assert (done.status, done.err) == (0, "paddlemae: warning: --mask-ratio has no effect with --mask grid\n")
