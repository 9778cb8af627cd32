"""Checkpoints: whole or not at all, found again, and exactly what was saved."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddlemae.model.vit import VisionTransformer
from paddlemae.train import checkpoint
from paddlemae.train.checkpoint import TrainState, find_checkpoint, load_checkpoint, save_checkpoint
from paddlemae.train.optim import adamw
from paddlemae.weights.store import Description

SHAPE = dict(image_size=8, patch_size=4, channels=1, embed_dim=8, depth=2, num_heads=2, num_classes=3)
DESCRIPTION = Description("classifier", SHAPE, [0.5], [0.5], 1.0, ["a", "b", "c"])
FILES = {"model.safetensors", "model.json", "optimizer.safetensors", "state.json"}


def new_state(seed: int = 0, steps: int = 0, **shape) -> TrainState:
    """A model `steps` optimizer steps old."""
    paddle.seed(seed)
    model = VisionTransformer(**{**SHAPE, **shape})
    state = TrainState(model, adamw(model, layer_decay=0.5))
    for _ in range(steps):
        take_step(state)
    return state


def take_step(state: TrainState) -> None:
    model = state.model
    images = paddle.rand([4, 1, 8, 8])  # from Paddle's own generator, so its state shows
    model(images).square().mean().backward()
    state.optimizer.set_lr(0.01)
    state.optimizer.step()
    state.optimizer.clear_grad()
    state.step += 1


def everything(state: TrainState) -> dict[str, np.ndarray]:
    """Weights and optimizer slots under names that don't change."""
    weights = {name: tensor.numpy().copy() for name, tensor in state.model.state_dict().items()}
    return {**weights, **{name: slot.copy() for name, slot in checkpoint._optimizer_slots(state).items()}}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert set(one) == set(other)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def content(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_checkpoint_is_four_files_and_a_pointer(tmp_path) -> None:
    state = new_state(steps=2)
    folder = save_checkpoint(tmp_path, state, DESCRIPTION)
    assert folder == tmp_path / "checkpoints" / "step_00000002" == state.last_checkpoint
    assert {path.name for path in folder.iterdir()} == FILES
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step_00000002\n"
    assert {path.name for path in folder.parent.iterdir()} == {"step_00000002", "latest"}


def test_loading_restores_every_bit_under_fresh_parameter_names(tmp_path) -> None:
    saved = new_state(seed=1, steps=3)
    saved.best, saved.skipped, saved.seconds = {"top1": 0.5, "step": 2}, 7, 12.5
    folder = save_checkpoint(tmp_path, saved, DESCRIPTION)
    loaded = new_state(seed=2, steps=1)
    names = [[parameter.name for parameter in state.model.parameters()] for state in (saved, loaded)]
    assert set(names[0]).isdisjoint(names[1])
    load_checkpoint(folder, loaded)
    assert_same(everything(saved), everything(loaded))
    assert any("moment2" in name for name in everything(loaded))
    for field in ("step", "best", "skipped", "seconds", "last_checkpoint"):
        assert getattr(loaded, field) == getattr(saved, field), field


def test_training_goes_on_as_if_it_had_not_stopped(tmp_path) -> None:
    going_on = new_state(seed=1, steps=3)
    folder = save_checkpoint(tmp_path, going_on, DESCRIPTION)
    for _ in range(2):
        take_step(going_on)
    resumed = new_state(seed=2)
    load_checkpoint(folder, resumed)
    for _ in range(2):
        take_step(resumed)  # draws its images: the random state must have come back too
    assert_same(everything(going_on), everything(resumed))


def test_nothing_saved_is_a_pickle(tmp_path) -> None:
    folder = save_checkpoint(tmp_path, new_state(steps=1), DESCRIPTION)
    for name in ("model.json", "state.json"):
        json.loads((folder / name).read_text())
    assert json.loads((folder / "state.json").read_text())["step"] == 1


@pytest.mark.parametrize("broken", ["model.json", "optimizer.safetensors", "state.json", "fsync", "rename"])
def test_a_save_that_fails_leaves_the_old_one_untouched(tmp_path, monkeypatch, broken: str) -> None:
    state = new_state(steps=1)
    old = save_checkpoint(tmp_path, state, DESCRIPTION)
    before = content(tmp_path)
    take_step(state)

    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if broken == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif broken == "rename":
        monkeypatch.setattr(os, "replace", full)
    elif broken == "optimizer.safetensors":
        monkeypatch.setattr(checkpoint, "write_tensor_file", full)
    else:
        write_text = Path.write_text
        monkeypatch.setattr(
            Path, "write_text", lambda path, text: full() if path.name == broken else write_text(path, text)
        )
    with pytest.raises(OSError, match="could not save step 2") as fault:
        save_checkpoint(tmp_path, state, DESCRIPTION)
    assert fault.value.errno == errno.ENOSPC and f"last good checkpoint: {old}" in str(fault.value)
    monkeypatch.undo()
    assert content(tmp_path) == before and state.last_checkpoint == old
    assert [path.name for path in (tmp_path / "checkpoints").glob(".*")] == []
    load_checkpoint(find_checkpoint(tmp_path), new_state())
    assert find_checkpoint(save_checkpoint(tmp_path, state, DESCRIPTION)).name == "step_00000002"


def test_what_a_killed_save_left_is_replaced(tmp_path) -> None:
    partial = tmp_path / "checkpoints" / ".step_00000001.partial"
    partial.mkdir(parents=True)
    (partial / "rubbish").write_text("half")
    folder = save_checkpoint(tmp_path, new_state(steps=1), DESCRIPTION)
    assert not partial.exists() and {path.name for path in folder.iterdir()} == FILES


def test_the_newest_are_kept_and_the_best_besides(tmp_path) -> None:
    state = new_state()
    for step in range(1, 7):
        state.step = step
        save_checkpoint(tmp_path, state, DESCRIPTION, best=step == 2, keep=2)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best", "latest", "step_00000002", "step_00000005", "step_00000006"]
    assert find_checkpoint(tmp_path).name == "step_00000006"
    assert find_checkpoint(tmp_path / "checkpoints" / "best").name == "step_00000002"


def test_a_checkpoint_is_found_by_run_folder_or_file(tmp_path) -> None:
    state = new_state()
    first = save_checkpoint(tmp_path, state, DESCRIPTION)
    state.step = 1
    second = save_checkpoint(tmp_path, state, DESCRIPTION)
    assert find_checkpoint(str(tmp_path)) == find_checkpoint(tmp_path / "checkpoints" / "latest") == second
    assert find_checkpoint(first) == find_checkpoint(first / "model.safetensors") == first


def test_what_holds_no_checkpoint_says_so(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; expected a run folder"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)
    (tmp_path / "weights.pth").write_bytes(b"PK")
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        find_checkpoint(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("model.safetensors", b"\x00" * 50, "model.safetensors is damaged"),
        ("optimizer.safetensors", b"{}", "optimizer.safetensors is damaged"),
        ("state.json", b"{", "state.json is damaged"),
        ("state.json", b"[]", "state.json is damaged"),
        ("state.json", b'{"step": 3}', "state.json is damaged"),
        ("state.json", b"\xff\xfe", "state.json is damaged"),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_loaded(tmp_path, name: str, text: bytes, message: str) -> None:
    folder = save_checkpoint(tmp_path, new_state(seed=1, steps=2), DESCRIPTION)
    (folder / name).write_bytes(text)
    state = new_state(seed=2, steps=1)
    before = everything(state)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(folder, state)
    assert_same(everything(state), before)
    assert state.step == 1


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_missing_file_is_named(tmp_path, name: str) -> None:
    folder = save_checkpoint(tmp_path, new_state(steps=1), DESCRIPTION)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_checkpoint(folder, new_state())


def test_another_models_checkpoint_is_refused(tmp_path) -> None:
    folder = save_checkpoint(tmp_path, new_state(steps=1), DESCRIPTION)
    state = new_state(depth=1)
    before = everything(state)
    with pytest.raises(ValueError, match="do not fit the model; left over: blocks.1|holds blocks.1"):
        load_checkpoint(folder, state)
    assert_same(everything(state), before)
    with pytest.raises(ValueError, match="of another shape: head.weight"):
        load_checkpoint(folder, new_state(num_classes=4))
