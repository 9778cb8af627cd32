"""A run that was stopped and resumed is the run that was not stopped, bit for bit.

Equality to the last bit is claimed for one processor, one Paddle build, one number of threads and one code path of its
matrix library (MKL_DEBUG_CPU_TYPE). Both runs of a comparison are made on the same machine, so the tests pass on every
processor; across processors sums are made in another order, and results differ in their last bits.
"""

import itertools
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import paddle
import pytest

from paddlemae.recipe import load_recipe
from paddlemae.runs.runlog import read_metrics
from paddlemae.tasks import pretrain as task
from paddlemae.tasks.finetune import finetune
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.probe import probe
from paddlemae.tasks.training import finish_run, run_training, step_log
from paddlemae.tasks.training.run_start import Start, stored_recipe
from paddlemae.train import loss_spikes
from paddlemae.train.checkpoint_folders import check_intact, find_checkpoint
from paddlemae.train.loop import NonFiniteLoss
from paddlemae.train.stopping import Stop
from tests.support.resumed_runs import REPEATABLE, assert_same_run, interrupt_after, stopped_and_resumed

AUGMENTED = ["randaugment=2", "erasing=0.5", "mixup=0.8", "cutmix=1", "ema_decay=0.8", "drop_path=0.5", "depth=2"]


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
    """With all that fine-tuning draws. Two blocks, since the first one never drops."""
    overrides = [*encoder, *REPEATABLE, f"data={colours}", "init=scratch", "batch_size=6", *AUGMENTED]
    recipe = load_recipe("finetune", None, [*overrides, "steps=8", "evaluate_every=0.5"])
    whole = finetune(recipe, Start(tmp_path / "whole", quiet=True))
    stopped_and_resumed(finetune, recipe, tmp_path / "parts", [3, 3], monkeypatch)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    best = [find_checkpoint(tmp_path / run / "checkpoints" / "best").name for run in ("whole", "parts")]
    assert best[0] == best[1] and whole["steps"] == 8


@pytest.mark.parametrize("cached", ["true", "false"])
def test_probing_resumes_bitwise(tmp_path, monkeypatch, colours, pretrained, cached: str) -> None:
    shutil.copytree(pretrained, tmp_path / "start")  # results are added to it
    start = f"init={tmp_path / 'start'}"
    overrides = [*REPEATABLE, f"data={colours}", start, f"cached={cached}", "batch_size=6", "steps=8"]
    recipe = load_recipe("probe", None, [*overrides, "evaluate_every=0.5"])
    probe(recipe, Start(tmp_path / "whole", quiet=True))
    stopped_and_resumed(probe, recipe, tmp_path / "parts", [3, 2], monkeypatch)
    assert_same_run(tmp_path / "whole", tmp_path / "parts", least=2)


def test_a_stop_between_two_lines_of_metrics_changes_neither(tmp_path, monkeypatch, pretraining) -> None:
    """Lines are means over 3 steps here, and stops come within; so does a spike's running mean."""
    rare = with_training(pretraining, log_every=3)
    monkeypatch.setattr(loss_spikes, "SPIKE", 1.0)
    pretrain(rare, Start(tmp_path / "whole", quiet=True))
    lines = list(read_metrics(tmp_path / "whole"))
    assert [line["step"] for line in lines if "loss" in line] == [3, 6, 8] and any("spike" in line for line in lines)
    for number, count in enumerate([1, 1, 3]):
        interrupt_after(monkeypatch, count)
        monkeypatch.setattr(loss_spikes, "SPIKE", 1.0)
        with pytest.raises(KeyboardInterrupt):
            pretrain(rare, Start(tmp_path / "parts", resume=number > 0, quiet=True))
    monkeypatch.setattr(run_training, "stop_on_signals", lambda seconds: nullcontext(Stop()))
    pretrain(rare, Start(tmp_path / "parts", resume=True, quiet=True))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def with_training(recipe, **changes):
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=changes)})


def breaking(monkeypatch: pytest.MonkeyPatch, step: int, factor: Callable) -> list[int]:
    """Multiply the loss of this step's second micro-batch; what is returned counts how often it came."""
    loss_function, count = task.loss_function, []
    recorded: list[list[int]] = []

    def function(*arguments):
        loss_fn = loss_function(*arguments)

        def loss(model, batch):
            views = [*batch.indices.tolist(), *batch.epochs.tolist()]
            if views not in recorded:
                recorded.append(views)
            broken = recorded.index(views) == 2 * step - 1
            count.extend([1] * broken)
            return loss_fn(model, batch) + (factor(model) if broken else 0.0)

        return loss

    monkeypatch.setattr(task, "loss_function", function)
    return count


def not_a_number(model):
    return paddle.to_tensor(float("nan"))


def without_a_gradient(model):
    """Nothing, whose gradient is infinite: at a weight that is updated last."""
    return (model.encoder.cls_token * 0).sqrt().sum()


def test_a_step_that_broke_in_its_update_is_dropped(tmp_path, monkeypatch, pretraining, capsys) -> None:
    recipe = with_training(pretraining, checkpoint_every=1.0)  # 2 steps
    for name, factor, times in (("loss", not_a_number, 1), ("gradient", without_a_gradient, 1)):
        count = breaking(monkeypatch, 6, factor)
        pretrain(recipe, Start(tmp_path / name, quiet=True))
        monkeypatch.undo()
        assert len(count) == times
    assert "gradient of step 5 was not finite" in capsys.readouterr().err
    assert_same_run(tmp_path / "loss", tmp_path / "gradient")
    assert [line["dropped"] for line in read_metrics(tmp_path / "loss")] == [0, 0, 0, 0, 0, 1, 1, 1]


def test_a_step_that_breaks_before_the_first_checkpoint_ends_the_run(tmp_path, monkeypatch, pretraining) -> None:
    breaking(monkeypatch, 1, without_a_gradient)
    with pytest.raises(NonFiniteLoss, match="gradient of step 0 was not finite.*last good checkpoint: none yet; start"):
        pretrain(pretraining, Start(tmp_path / "run", quiet=True))
    assert not list(tmp_path.glob("run/checkpoints/step_*"))


def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one(tmp_path, capsys, pretraining) -> None:
    recipe = with_training(pretraining, checkpoint_every=1.0, keep_checkpoints=3)
    for name in ("whole", "parts"):
        pretrain(recipe, Start(tmp_path / name, quiet=True))
    (tmp_path / "parts" / "environment.json").unlink()  # unfinished
    with (find_checkpoint(tmp_path / "parts") / "optimizer.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.warns(UserWarning, match="step_00000008/optimizer.safetensors is damaged.*step_00000006 is used"):
        pretrain(recipe, Start(tmp_path / "parts"))
    said = capsys.readouterr().out
    assert "parts holds this run, unfinished: resuming it" in said and "resumed at step 6 from" in said
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    check_intact(find_checkpoint(tmp_path / "parts"), whole=True)


def test_what_is_done_is_done_once(tmp_path, monkeypatch, colours, pretrained) -> None:
    """Killed between the line in the pretraining's results and the end, the same command does not add another."""
    shutil.copytree(pretrained, tmp_path / "start")
    (tmp_path / "start" / "results.jsonl").unlink(missing_ok=True)  # of trainings that other tests started from it
    overrides = [*REPEATABLE, f"data={colours}", f"init={tmp_path / 'start'}", "cached=true", "steps=2"]
    recipe = load_recipe("probe", None, overrides)

    def killed(folder: Path) -> None:
        raise MemoryError

    monkeypatch.setattr(finish_run, "mark_finished", killed)
    with pytest.raises(MemoryError):
        probe(recipe, Start(tmp_path / "run", quiet=True))
    monkeypatch.undo()
    first = (tmp_path / "run" / "result.json").read_text()
    probe(recipe, Start(tmp_path / "run", quiet=True))
    assert len((tmp_path / "start" / "results.jsonl").read_text().splitlines()) == 1
    assert (tmp_path / "run" / "result.json").read_text() == first
    with pytest.raises(ValueError, match="already holds a run"):
        probe(recipe, Start(tmp_path / "run", quiet=True))


@pytest.mark.parametrize("written", [(), (".recipe.yaml.partial",), ("environment.json",)])
def test_a_run_that_was_killed_before_it_had_a_recipe_starts_over(tmp_path, pretraining, written) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in written:
        (out / name).write_text("{}")
    pretrain(with_training(pretraining, steps=2), Start(out, quiet=True))
    assert not list(out.glob(".*")) and "started" in (out / "environment.json").read_text()


def test_lasting_checkpoints_are_written_and_kept(tmp_path, pretraining) -> None:
    recipe = with_training(pretraining, keep_every=1.0, keep_checkpoints=1)  # 2 steps
    out = pretrain(recipe, Start(tmp_path / "run", quiet=True))
    assert sorted(int(path.name[-2:]) for path in out.glob("checkpoints/step_*")) == [2, 4, 6, 8]


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
    log_metrics, calls = step_log.log_metrics, itertools.count(1)

    def crash(*arguments, **values) -> None:
        log_metrics(*arguments, **values)
        if next(calls) == 6:
            raise MemoryError

    monkeypatch.setattr(step_log, "log_metrics", crash)
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


@pytest.mark.parametrize("task_line", ["task: [pretrain]", "task: detect", "seed: 0"])
def test_a_stored_recipe_without_a_known_task_is_damaged(tmp_path, task_line: str) -> None:
    (tmp_path / "recipe.yaml").write_text(task_line + "\n")
    with pytest.raises(ValueError, match=r"recipe.yaml is damaged \(its task is .*restore it"):
        stored_recipe(tmp_path, "pretrain")
