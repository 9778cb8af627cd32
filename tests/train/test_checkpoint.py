"""Checkpoints: whole or not at all, found again, and exactly what was saved."""

import errno
import json
import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from paddlemae.train import checkpoint
from paddlemae.train.checkpoint import load_checkpoint, take_snapshot, write_snapshot
from paddlemae.train.checkpoint_folders import find_checkpoint, remove_leftovers
from tests.support.train_states import DESCRIPTION, assert_same, everything, new_state, save_checkpoint, take_step

FILES = {"model.safetensors", "model.json", "optimizer.safetensors", "state.json", "checksums.json"}


def content(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_checkpoint_is_five_files_and_a_pointer(tmp_path) -> None:
    state = new_state(steps=2)
    folder = save_checkpoint(tmp_path, state, DESCRIPTION)
    assert folder == tmp_path / "checkpoints" / "step_00000002" == state.last_checkpoint
    assert {path.name for path in folder.iterdir()} == FILES
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step_00000002\n"
    assert {path.name for path in folder.parent.iterdir()} == {"step_00000002", "latest"}


def test_loading_restores_every_bit_under_fresh_parameter_names(tmp_path) -> None:
    saved = new_state(seed=1, steps=3)
    saved.best, saved.skipped, saved.seconds = {"top1": 0.5, "step": 2}, 7, 12.5
    saved.dropped, saved.dropped_in_a_row, saved.usual_loss, saved.since_log = 4, 1, 0.1, [{"loss": 1 / 3}]
    folder = save_checkpoint(tmp_path, saved, DESCRIPTION)
    loaded = new_state(seed=2, steps=1)
    names = [[parameter.name for parameter in state.model.parameters()] for state in (saved, loaded)]
    assert set(names[0]).isdisjoint(names[1])
    load_checkpoint(folder, loaded)
    assert_same(everything(saved), everything(loaded))
    assert any("moment2" in name for name in everything(loaded))
    for field in ("step", "best", "skipped", "seconds", "last_checkpoint", *checkpoint.COUNTED):
        assert getattr(loaded, field) == getattr(saved, field), field


def test_training_resumes_as_if_it_had_not_stopped(tmp_path) -> None:
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


BREAKABLE = ["model.json", "optimizer.safetensors", "state.json", "checksums.json", "fsync", "rename"]


@pytest.mark.parametrize("broken", BREAKABLE)
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
    assert fault.value.errno == errno.ENOSPC
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


def test_the_newest_and_the_best_are_kept(tmp_path) -> None:
    state = new_state()
    for step in range(1, 7):
        state.step = step
        save_checkpoint(tmp_path, state, DESCRIPTION, best=step == 2, keep=2)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best", "latest", "step_00000002", "step_00000005", "step_00000006"]
    assert find_checkpoint(tmp_path).name == "step_00000006"
    assert find_checkpoint(tmp_path / "checkpoints" / "best").name == "step_00000002"


def test_some_are_kept_for_good(tmp_path) -> None:
    state = new_state()
    for state.step in range(1, 8):
        save_checkpoint(tmp_path, state, DESCRIPTION, keep=1, lasting=lambda step: step % 3 == 0)
    assert steps_kept(tmp_path) == [3, 6, 7]


def test_later_steps_of_a_course_that_was_left_go(tmp_path) -> None:
    """A run that went back, since its newest checkpoints were damaged, must not keep those instead of good ones."""
    state = new_state()
    for state.step in (1, 7, 8, 9, 2):
        save_checkpoint(tmp_path, state, DESCRIPTION, keep=9, lasting=lambda step: step == 9)
    assert steps_kept(tmp_path) == [1, 2]


def steps_kept(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in (run / "checkpoints").glob("step_*"))


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("damage", ["a bit", "the end", "all"])
def test_the_one_before_a_damaged_one_is_used_and_that_is_reported(tmp_path, name: str, damage: str) -> None:
    state = new_state(steps=1)
    good = save_checkpoint(tmp_path, state, DESCRIPTION, best=True)
    take_step(state)
    path = save_checkpoint(tmp_path, state, DESCRIPTION) / name
    whole = path.read_bytes()
    middle = len(whole) // 2
    changed = {"a bit": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], "the end": whole[:-1]}
    path.unlink() if damage == "all" else path.write_bytes(changed[damage])
    for way in (tmp_path, tmp_path / "checkpoints" / "latest"):
        match = "step_00000002.*(damaged|incomplete|no checksums).*; step_00000001 is used"
        with pytest.warns(UserWarning, match=match) as said:
            assert find_checkpoint(way, whole=True) == good
        assert len(said) == 1 and "\n" not in str(said[0].message)
    with pytest.raises((ValueError, FileNotFoundError), match="damaged|incomplete|no checksums"):
        find_checkpoint(path.parent, whole=True)
    assert find_checkpoint(tmp_path / "checkpoints" / "best", whole=True) == good


def test_a_damaged_optimizer_does_not_hide_the_model(tmp_path) -> None:
    folder = save_checkpoint(tmp_path, new_state(steps=1), DESCRIPTION)
    (folder / "optimizer.safetensors").write_bytes(b"")
    assert find_checkpoint(tmp_path) == folder


def test_nothing_but_damaged_ones_is_an_error_that_names_the_newest(tmp_path) -> None:
    for step in (1, 2):
        folder = save_checkpoint(tmp_path, new_state(steps=step), DESCRIPTION)
        (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="step_00000002/model.safetensors is damaged"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize("pointer", [None, "", "step_00000009\n"])
def test_a_pointer_that_is_lost_or_leads_nowhere_costs_nothing(tmp_path, pointer: str | None) -> None:
    folder = save_checkpoint(tmp_path, new_state(steps=1), DESCRIPTION)
    latest = tmp_path / "checkpoints" / "latest"
    latest.unlink() if pointer is None else latest.write_text(pointer)
    said = {None: nullcontext(), "": pytest.warns(UserWarning, match="latest is damaged")}
    with said.get(pointer, pytest.warns(UserWarning, match="step_00000009.*incomplete")):
        assert find_checkpoint(tmp_path, whole=True) == folder


@pytest.mark.parametrize("content", [b"\xff\xfe", b"../../elsewhere", b"step_00000001" * 9999, b"\0", b"[1]"], ids=repr)
def test_a_damaged_pointer_is_reported_and_leads_nowhere_else(tmp_path, content: bytes) -> None:
    folder = save_checkpoint(tmp_path, new_state(steps=1), DESCRIPTION, best=True)
    for name in ("latest", "best"):
        (folder.parent / name).write_bytes(content)
    with pytest.warns(UserWarning, match="latest is damaged|latest is larger"):
        assert find_checkpoint(tmp_path, whole=True) == folder
    with pytest.raises(ValueError, match="best is (damaged|larger).*name one of the folders next to it"):
        find_checkpoint(folder.parent / "best")


@pytest.mark.parametrize("checksums", [None, {}, {"model.json": None, "model.safetensors": None}])
@pytest.mark.parametrize("whole", [True, False])
def test_a_checkpoint_without_checksums_is_not_trusted_unless_asked(tmp_path, checksums, whole: bool) -> None:
    older = save_checkpoint(tmp_path, new_state(steps=1), DESCRIPTION)
    folder = save_checkpoint(tmp_path, new_state(steps=2), DESCRIPTION)
    path = folder / "checksums.json"
    before = json.loads(path.read_text())
    path.unlink()
    if checksums is not None:
        path.write_text(
            json.dumps({name: sum for name, sum in before.items() if name not in checksums} if checksums else {})
        )
    with pytest.warns(UserWarning, match="step_00000002 has no checksum.*step_00000001 is used instead"):
        assert find_checkpoint(tmp_path, whole=whole) == older
    with pytest.raises(ValueError, match="has no checksum.*--trust"):
        find_checkpoint(folder, whole=whole)
    with pytest.warns(UserWarning, match="step_00000002 has no checksum.*it is trusted"):
        assert find_checkpoint(tmp_path, whole=whole, trust=True) == folder


def test_what_differs_from_its_checksum_is_never_trusted(tmp_path) -> None:
    folder = save_checkpoint(tmp_path, new_state(steps=1), DESCRIPTION)
    (folder / "state.json").write_text("{}")
    with pytest.raises(ValueError, match="state.json is damaged"):
        find_checkpoint(folder, whole=True, trust=True)


def test_a_model_alone_needs_no_checksums(tmp_path) -> None:
    folder = save_checkpoint(tmp_path / "run", new_state(steps=1), DESCRIPTION)
    (tmp_path / "model").mkdir()
    for name in ("model.json", "model.safetensors"):
        (folder / name).rename(tmp_path / "model" / name)
    assert find_checkpoint(tmp_path / "model") == tmp_path / "model"


@pytest.mark.parametrize(
    "change",
    [
        dict(step=-1),
        dict(step="1"),
        dict(step=True),
        dict(best=5),
        dict(seconds="x"),
        dict(random=5),
        dict(random=[[1]]),
        dict(random=[["x", None, {}]]),
        dict(since_log=[5]),
        dict(usual_loss="x"),
        dict(device=None),
    ],
    ids=str,
)
def test_a_state_of_no_sense_is_refused(tmp_path, change: dict) -> None:
    folder = save_checkpoint(tmp_path, new_state(steps=1), DESCRIPTION)
    path = folder / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match="state.json is damaged.*use another checkpoint"):
        load_checkpoint(folder, new_state())


def test_leftovers_of_a_killed_process_are_removed(tmp_path) -> None:
    save_checkpoint(tmp_path, new_state(steps=1), DESCRIPTION)
    before = content(tmp_path)
    for name in (".step_00000002.partial/model.json", ".step_00000001.old.partial/model.json", ".latest.partial"):
        path = tmp_path / "checkpoints" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    (tmp_path / ".metrics.jsonl.partial").write_text("half")
    remove_leftovers(tmp_path)
    assert content(tmp_path) == before
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_step_that_can_not_be_saved_again_is_still_there(tmp_path, monkeypatch) -> None:
    state = new_state(steps=1)
    folder = save_checkpoint(tmp_path, state, DESCRIPTION)
    before, replace = content(tmp_path), os.replace

    def refused(source, target):
        if Path(source).name == ".step_00000001.partial":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(OSError, match="could not save step 1"):
        save_checkpoint(tmp_path, state, DESCRIPTION)
    assert content(tmp_path) == before and find_checkpoint(tmp_path, whole=True) == folder
    monkeypatch.undo()
    assert save_checkpoint(tmp_path, state, DESCRIPTION) == folder and not list(folder.parent.glob(".*"))


def test_a_snapshot_has_memory_of_its_own(tmp_path) -> None:
    state = new_state(steps=2)
    state.since_log, state.best = [{"loss": 1.0}], {"top1": 0.5}
    expected, snapshot = everything(state), take_snapshot(state, DESCRIPTION)
    state.since_log.append({"loss": 2.0})
    state.best["top1"] = 0.6
    take_step(state)
    loaded = new_state(seed=3)
    load_checkpoint(write_snapshot(tmp_path, snapshot), loaded)
    assert_same(everything(loaded), expected)
    assert (loaded.step, loaded.since_log, loaded.best) == (2, [{"loss": 1.0}], {"top1": 0.5})


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
        ("optimizer.safetensors", b"\xff{}", "optimizer.safetensors is damaged"),
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
    with pytest.raises(ValueError, match="of another shape: .*head.bias"):
        load_checkpoint(folder, new_state(num_classes=4))
