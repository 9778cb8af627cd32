"""What a command writes costs no result: folders in use, folders of others, links, and pictures that fail."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from paddlemae.data.sources import open_source
from paddlemae.recipe import load_recipe
from paddlemae.runs import runlog
from paddlemae.runs.runlog import is_finished, open_run, read_results
from paddlemae.system.locks import LOCK_FILE, lock_file, lock_folder
from paddlemae.system.signals import Preempted
from paddlemae.tasks import finetune, knn, pretrain, search
from paddlemae.tasks.training import classification, finish_run
from paddlemae.tasks.training.optional_output import optional
from paddlemae.tasks.training.run_start import Start

FINETUNE = ["batch_size=8", "steps=2", "log_every=1", "threads=1", "evaluate_every=1000"]


@pytest.fixture
def origin(tmp_path: Path, pretrained: Path) -> Path:
    shutil.copytree(pretrained, tmp_path / "origin")
    (tmp_path / "origin" / "results.jsonl").unlink(missing_ok=True)
    return tmp_path / "origin"


@pytest.fixture
def read_only(origin: Path, monkeypatch) -> Path:
    """The run of a colleague; permissions would not stop root."""
    real = runlog.append_text

    def append(path: Path, text: str) -> None:
        if path.is_relative_to(origin):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        real(path, text)

    monkeypatch.setattr(runlog, "append_text", append)
    return origin


def broken(*_: object, **__: object) -> None:
    raise TypeError("a picture\nthat can't be drawn")


# other runs' folders, and pictures


@pytest.mark.filterwarnings("default")  # which the command prints
def test_a_read_only_origin_costs_a_warning(tmp_path: Path, read_only: Path, colours: Path, paddlemae) -> None:
    out = tmp_path / "tuned"
    done = paddlemae("finetune", *FINETUNE, "--init", read_only, "--data", colours, "--out", out)
    assert done.status == 0 and is_finished(out) and "accuracy" in done.out
    (line,) = [line for line in done.err.splitlines() if "warning" in line]
    assert f"Permission denied: {read_only / 'results.jsonl'}" in line
    assert len(read_results(out)[0]) == 1


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("command", ["knn", "evaluate"])
def test_a_read_only_run_is_measured(command: str, tmp_path: Path, read_only: Path, colours, paddlemae) -> None:
    if command == "evaluate":
        out = tmp_path / "tuned"
        with pytest.warns(UserWarning, match="Permission denied"):
            recipe = load_recipe("finetune", None, [*FINETUNE, f"init={read_only}", f"data={colours}"])
            finetune.finetune(recipe, Start(out, quiet=True))
        read_only.rename(tmp_path / "aside")
        out.rename(read_only)
    done = paddlemae(command, read_only, "--data", colours, *(["--k", 1] if command == "knn" else []))
    assert done.status == 0 and "accuracy" in done.out
    assert (
        f"warning: the line{'s' * (command == 'knn')} in the run's results could not be written: Permission" in done.err
    )


def test_pictures_that_fail_cost_no_training(tmp_path: Path, origin: Path, colours, monkeypatch) -> None:
    for module, name in (
        (classification, "draw_confusion"),
        (classification, "show_mistakes"),
        (finish_run, "draw_curves"),
    ):
        monkeypatch.setattr(module, name, broken)
    monkeypatch.setattr(finetune, "show_attention", broken)
    recipe = load_recipe("finetune", None, [*FINETUNE, f"init={origin}", f"data={colours}"])
    with pytest.warns(UserWarning, match="could not be written: TypeError, a picture that can't be drawn$") as caught:
        result = finetune.finetune(recipe, Start(tmp_path / "tuned", quiet=True))
    assert len(caught) == 4 and is_finished(tmp_path / "tuned")
    assert json.loads((tmp_path / "tuned" / "result.json").read_text()) == result
    assert len(read_results(origin)[0]) == 1


def test_pictures_that_fail_cost_no_pretraining(tmp_path: Path, tiny, photos, monkeypatch) -> None:
    for name in ("draw", "draw_curves", "show_attention"):
        monkeypatch.setattr(pretrain, name, broken)
    monkeypatch.setattr(pretrain.Snapshots, "take", broken)
    recipe = load_recipe("pretrain", None, [*tiny, f"data={photos}"])
    with pytest.warns(UserWarning, match="could not be written: TypeError"):
        pretrain.pretrain(recipe, Start(tmp_path / "run", quiet=True))
    assert is_finished(tmp_path / "run")


def test_a_result_is_printed_before_its_pictures_are_drawn(origin: Path, colours, monkeypatch, paddlemae) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("show_mistakes", "show_neighbours", "show_map"):
        monkeypatch.setattr(knn, name, stop)
    done = paddlemae("knn", origin, "--data", colours, "--k", 1)
    assert done.status == 130 and done.out.count("accuracy ") >= 2
    assert len(read_results(origin)[0]) == 2


def test_optional_output_hides_no_end_and_no_bug(monkeypatch) -> None:
    with pytest.raises(Preempted), optional("it"):
        raise Preempted("SIGTERM")
    monkeypatch.setenv("PADDLEMAE_DEBUG", "1")
    with pytest.raises(TypeError), optional("it"):
        broken()


def test_search_says_what_it_found_before_it_draws(
    tmp_path: Path, origin: Path, photos, monkeypatch, paddlemae
) -> None:
    features = tmp_path / "f.npz"
    assert paddlemae("embed", origin, "--data", photos, "--out", features, "--quiet").status == 0
    monkeypatch.setattr(search, "draw_neighbours", lambda *_: (_ for _ in ()).throw(OSError(28, "full", "a.png")))
    query = sorted(photos.rglob("*.png"))[0]
    done = paddlemae("search", features, query, "--run", origin, "--out", tmp_path / "a.png")
    assert done.status == 2 and query.name in done.out and done.err.splitlines()[-1].endswith("full: a.png")


# folders in use


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "--data", "{photos}"],
        ["pretrain", "--overwrite", "--data", "{photos}"],
        ["finetune", "--init", "scratch", "--data", "{photos}"],
        ["probe", "--init", "{origin}", "--data", "{photos}"],
        ["study", "--init", "{origin}", "--data", "{photos}", "--vary", "labels", "--value", "4"],
        ["demo"],
        ["data", "pack", "{photos}"],
        ["data", "check", "{photos}"],
        ["embed", "{origin}", "--data", "{photos}"],
        ["predict", "{origin}", "{photos}"],
    ],
    ids=" ".join,
)
def test_a_folder_in_use_is_refused_before_any_work(words: list[str], tmp_path, origin, photos, paddlemae) -> None:
    file = {"embed": "f.npz", "predict": "p.csv"}.get(words[0])
    out = tmp_path / (file or "out")
    named = [word.format(photos=photos, origin=origin) for word in words]
    lock = lock_file if file else lock_folder
    with lock(out):
        before = sorted(tmp_path.rglob("*"))
        done = paddlemae(*named, "--out", out)
        assert done.status == 2 and f"(process {os.getpid()} on " in done.err and done.err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before


def test_a_training_says_that_it_is_alive_to_a_launcher(tmp_path: Path, photos, tiny, paddlemae) -> None:
    with lock_folder(tmp_path / "run"):
        done = paddlemae("pretrain", *tiny, "--data", photos, "--out", tmp_path / "run", "--procs", "2")
    assert done.status == 2 and "another command is writing there" in done.err


def test_a_new_run_in_the_images_is_refused_and_an_old_one_resumes(tmp_path: Path, photos, tiny, paddlemae) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    count, data = len(open_source(str(photos))), tmp_path / "photos"
    for place in (data / "run", data):
        done = paddlemae("pretrain", *tiny, "--data", data, "--out", place)
        assert done.status == 2 and done.err.count("\n") == 1 and not (data / "run").exists()
        assert place == data or "is in the folder of the images" in done.err
    done = paddlemae("pretrain", *tiny, "--data", data, "--out", tmp_path / "run", f"cache={data / 'cache'}")
    assert done.status == 2 and "cache" in done.err and not (tmp_path / "run").exists()
    assert paddlemae("pretrain", *tiny, "--data", data, "--out", tmp_path / "run", "--quiet").status == 0
    (tmp_path / "run").rename(data / "run")  # as it was before such places were refused
    assert len(open_source(str(data))) == count
    assert paddlemae("pretrain", "--resume", "--out", data / "run", "--quiet").status == 0
    assert len(open_source(str(data))) == count


# links


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A run whose checkpoints are on a larger disk, and whose figures are a link too."""
    run = tmp_path / "run"
    open_run(run)
    for name in ("recipe.yaml", "metrics.jsonl"):
        (run / name).touch()
    for name, content in (("checkpoints", "step_00000004/model.json"), ("figures", "loss.png")):
        path = tmp_path / f"large-{name}" / content
        path.parent.mkdir(parents=True)
        path.touch()
        (run / name).symlink_to(f"../large-{name}")
    return run


def test_overwriting_empties_linked_checkpoints_only(linked: Path) -> None:
    open_run(linked, overwrite=True)
    assert [path.name for path in linked.iterdir()] == ["checkpoints"] and (linked / "checkpoints").is_symlink()
    assert list((linked / "checkpoints").iterdir()) == []
    assert (linked.parent / "large-figures" / "loss.png").exists()


def test_linked_checkpoints_among_other_files_are_refused(linked: Path) -> None:
    (linked.parent / "large-checkpoints" / "thesis.txt").touch()
    before = sorted(linked.parent.rglob("*"))
    with pytest.raises(ValueError, match="is a link to .*, which holds more than checkpoints .thesis.txt."):
        open_run(linked, overwrite=True)
    assert sorted(linked.parent.rglob("*")) == before


def test_a_dangling_link_is_removed(linked: Path) -> None:
    shutil.rmtree(linked.parent / "large-checkpoints")
    open_run(linked, overwrite=True)
    assert list(linked.iterdir()) == []


def test_the_lock_is_no_part_of_a_run_and_stays(linked: Path) -> None:
    with lock_folder(linked):
        open_run(linked, overwrite=True)
        assert (linked / LOCK_FILE).exists()
    (linked / "checkpoints").unlink()
    (linked / LOCK_FILE).touch()
    runlog.check_folder(linked)  # a new one may begin there


# whole processes


def wait_until(is_so: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("procs", [1, 2])
def test_of_two_trainings_one_trains(procs: int, tmp_path, tiny, photos, start_command, run_command) -> None:
    out = tmp_path / "run"
    words = ["pretrain", *tiny, "--data", photos, "--out", out, "--quiet", "steps=100000", "batch_size=2"]
    words += ["--procs", procs] if procs > 1 else []
    first = start_command(*words)
    wait_until(lambda: (out / "metrics.jsonl").exists())
    recipe = (out / "recipe.yaml").read_bytes()
    for more in ([], ["--overwrite"]):
        done = run_command(*words, *more)
        assert done.status == 2 and "another command is writing there (process " in done.err
    assert (out / "recipe.yaml").read_bytes() == recipe and first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.wait()
    wait_until(lambda: run_command("pretrain", "--resume", "--out", out, "--quiet", "max_hours=1e-9").status == 75)
    assert not (out / LOCK_FILE).exists()
    steps = [line["step"] for line in runlog.read_metrics(out)]
    assert steps == sorted(set(steps))


@pytest.mark.slow
def test_of_two_that_embed_one_does(tmp_path, origin, start_command, run_command) -> None:
    words = ["embed", origin, "--data", "digits", "--batch-size", 2, "--quiet", "--out", tmp_path / "f.npz"]
    first = start_command(*words)
    wait_until(lambda: (tmp_path / "f.npz.parts").exists())
    assert run_command(*words).status == 2
    assert first.wait(timeout=300) == 0
    with np.load(tmp_path / "f.npz") as found:
        assert len(found["ids"]) == len(np.unique(found["ids"])) == 4000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npz", "origin"]
