"""A run that was stopped and resumed is the run that was not stopped, bit for bit."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from paddlemae.recipe import load_recipe
from paddlemae.report.runlog import read_metrics
from paddlemae.tasks import session
from paddlemae.tasks.finetune import finetune
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.start import Start
from paddlemae.train.checkpoint import find_checkpoint

REPEATABLE = ["threads=1", "log_every=1", "warmup_epochs=0.5", "epochs=4", "base_lr=0.05"]


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Ctrl-C in the middle of step `steps` of the next training, counted from where it starts."""

    class Interrupted:
        def __init__(self) -> None:
            self.asked = itertools.count()

        def is_set(self) -> bool:
            return next(self.asked) >= steps

    class Context:
        def __enter__(self) -> Interrupted:
            return Interrupted()

        def __exit__(self, *fault: object) -> None: ...

    monkeypatch.setattr(session, "stop_on_interrupt", Context)


def stopped_and_resumed(task: Callable, recipe, out: Path, steps: list[int], monkeypatch) -> None:
    for number, count in enumerate(steps):
        interrupt_after(monkeypatch, count)
        with pytest.raises(KeyboardInterrupt, match=f"stopped after step {sum(steps[: number + 1])} of .*--resume"):
            task(recipe, Start(out, resume=number > 0, quiet=True))
    monkeypatch.undo()
    task(recipe, Start(out, resume=True, quiet=True))


def assert_same_run(one: Path, other: Path) -> None:
    first, second = find_checkpoint(one), find_checkpoint(other)
    assert first.name == second.name
    for name in ("model.safetensors", "optimizer.safetensors"):
        tensors, others = load_file(first / name), load_file(second / name)
        assert set(tensors) == set(others) and len(tensors) > 15
        for key, tensor in tensors.items():
            np.testing.assert_array_equal(tensor, others[key], err_msg=f"{name}: {key}")
    clock = ("seconds", "images_per_second", "waiting")
    lines = [
        [{key: value for key, value in line.items() if key not in clock} for line in read_metrics(run)]
        for run in (one, other)
    ]
    assert lines[0] == lines[1] and len(lines[0]) >= 8


@pytest.fixture
def pretraining(tiny, photos):
    """8 steps of 3 x 2 images: epochs end within a step, masks, crops and order change from one to the next."""
    fitted = ["batch_size=3", "accumulation_steps=2", "steps=8", "drop_path=0.3", "depth=2", *REPEATABLE]
    return load_recipe("pretrain", None, [*tiny, *fitted, f"data={photos}"])


def test_pretraining_resumes_bitwise(tmp_path, monkeypatch, pretraining) -> None:
    pretrain(pretraining, Start(tmp_path / "whole", quiet=True))
    stopped_and_resumed(pretrain, pretraining, tmp_path / "parts", [3, 2], monkeypatch)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_finetuning_resumes_bitwise(tmp_path, monkeypatch, encoder, colours) -> None:
    """Two blocks, since the first one never drops: drop path draws from Paddle's own generator."""
    overrides = [*encoder, *REPEATABLE, f"data={colours}", "init=scratch", "depth=2", "drop_path=0.5", "batch_size=6"]
    recipe = load_recipe("finetune", None, [*overrides, "steps=8", "evaluate_every=0.5"])
    whole = finetune(recipe, Start(tmp_path / "whole", quiet=True))
    stopped_and_resumed(finetune, recipe, tmp_path / "parts", [3, 3], monkeypatch)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    best = [find_checkpoint(tmp_path / run / "checkpoints" / "best").name for run in ("whole", "parts")]
    assert best[0] == best[1] and whole["steps"] == 8


def test_a_run_repeats_bitwise_and_its_seed_matters(tmp_path, pretraining) -> None:
    for name in ("one", "same"):
        pretrain(pretraining, Start(tmp_path / name, quiet=True))
    assert_same_run(tmp_path / "one", tmp_path / "same")
    other = pretraining.model_copy(update={"training": pretraining.training.model_copy(update={"seed": 1})})
    pretrain(other, Start(tmp_path / "other", quiet=True))
    losses = [[line["loss"] for line in read_metrics(tmp_path / name)] for name in ("one", "other")]
    assert losses[0][0] != losses[1][0]


def test_a_crash_between_checkpoints_leaves_no_second_lines(tmp_path, monkeypatch, pretraining) -> None:
    """Steps after the last checkpoint are taken again, and logged once."""
    out = tmp_path / "run"
    stopped = pretraining.model_copy(
        update={"training": pretraining.training.model_copy(update={"checkpoint_every": 2.0})}  # 4 steps
    )
    log_metrics, calls = session.log_metrics, itertools.count(1)

    def crash(*arguments, **values) -> None:
        log_metrics(*arguments, **values)
        if next(calls) == 6:
            raise MemoryError

    monkeypatch.setattr(session, "log_metrics", crash)
    with pytest.raises(MemoryError):
        pretrain(stopped, Start(out, quiet=True))
    assert [line["step"] for line in read_metrics(out)] == [1, 2, 3, 4, 5, 6]
    assert find_checkpoint(out).name == "step_00000004"
    monkeypatch.undo()
    pretrain(stopped, Start(out, resume=True, quiet=True))
    assert [line["step"] for line in read_metrics(out)] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_finished_run_resumes_to_itself(tmp_path, pretraining) -> None:
    out = pretrain(pretraining, Start(tmp_path / "run", quiet=True))
    weights = (find_checkpoint(out) / "model.safetensors").read_bytes()
    lines = (out / "metrics.jsonl").read_text()
    pretrain(pretraining, Start(out, resume=True, quiet=True))
    assert (find_checkpoint(out) / "model.safetensors").read_bytes() == weights
    assert (out / "metrics.jsonl").read_text() == lines


def test_a_stop_right_after_a_save_does_not_save_again(tmp_path, monkeypatch, pretraining) -> None:
    """Replacing the only good checkpoint with itself would leave a moment without one."""
    out = tmp_path / "run"
    interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        pretrain(pretraining, Start(out, quiet=True))
    written = find_checkpoint(out).stat().st_ino
    interrupt_after(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 2 of 8"):
        pretrain(pretraining, Start(out, resume=True, quiet=True))
    assert find_checkpoint(out).stat().st_ino == written


def test_a_resume_may_change_what_does_not_touch_the_result(tmp_path, monkeypatch, pretraining) -> None:
    out = tmp_path / "run"
    interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        pretrain(pretraining, Start(out, quiet=True))
    monkeypatch.undo()
    other = pretraining.model_copy(update={"mask_ratio": 0.5})
    with pytest.raises(ValueError, match=r"a resume can't change mask_ratio 0.75 -> 0.5; leave these out"):
        pretrain(other, Start(out, resume=True, quiet=True))
    changed = {"log_every": 4, "keep_checkpoints": 1, "checkpoint_every": 1.0}
    free = pretraining.model_copy(update={"training": pretraining.training.model_copy(update=changed)})
    pretrain(free, Start(out, resume=True, quiet=True))
    assert [line["step"] for line in read_metrics(out)] == [1, 2, 4, 8]
    assert [path.name for path in (out / "checkpoints").glob("step_*")] == ["step_00000008"]


def test_a_fine_tuning_resumes_without_what_it_started_from(tmp_path, monkeypatch, encoder, colours, pretrained):
    shutil.copytree(pretrained, tmp_path / "start")
    chosen = [*encoder, *REPEATABLE, f"data={colours}", f"init={tmp_path / 'start'}", "batch_size=6", "steps=8"]
    recipe = load_recipe("finetune", None, chosen)
    whole = finetune(recipe, Start(tmp_path / "whole", quiet=True))

    def losing_start(recipe, start):
        try:
            return finetune(recipe, start)
        finally:
            shutil.rmtree(tmp_path / "start", ignore_errors=True)

    stopped_and_resumed(losing_start, recipe, tmp_path / "parts", [3], monkeypatch)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert whole["steps"] == 8


def test_a_resume_on_other_images_is_refused(tmp_path, monkeypatch, tiny, photos) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    recipe = load_recipe("pretrain", None, [*tiny, f"data={tmp_path / 'photos'}"])
    pretrain(recipe, Start(tmp_path / "run", quiet=True))
    next((tmp_path / "photos").rglob("*.png")).unlink()
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match="began with 12 images .*, now there are 11"):
        pretrain(recipe, Start(tmp_path / "run", resume=True, quiet=True))
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
