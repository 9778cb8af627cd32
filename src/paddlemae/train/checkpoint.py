"""Training state on disk: written whole or not at all, and found again.

A run keeps `checkpoints/step_XXXXXXXX/` folders and beside them two pointers, small text files that hold a folder's
name: `latest` and, where a task has a best metric, `best`. Whatever is being written or removed has another name,
`.NAME.partial`, so that a kill leaves no folder that looks whole and isn't.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from paddlemae.atomic import flush_path, partial, put, remove, replace_text, set_aside
from paddlemae.train.adamw import SLOTS as ADAMW_SLOTS
from paddlemae.train.distributed import ALONE, Ranks
from paddlemae.train.ema import Ema
from paddlemae.train.fully_sharded import FullyShardedAdamW
from paddlemae.train.lars import SLOT as LARS_SLOT
from paddlemae.train.lars import Lars
from paddlemae.train.sharding import ShardedAdamW
from paddlemae.weights.store import (
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    Description,
    read_tensor_file,
    read_tensors,
    write_model,
    write_tensor_file,
)
from paddlemae.weights.transfer import load_official, to_official

OPTIMIZER_FILE = "optimizer.safetensors"
OWN_WEIGHTS_FILE = "own.safetensors"  # what training goes on with, where the model's file holds the average
STATE_FILE = "state.json"
CHECKSUMS_FILE = "checksums.json"  # of every other file, BLAKE2b in hexadecimal
FOLDER = "checkpoints"
STEPS = "step_" + 8 * "[0-9]"
LATEST = "latest"
BEST = "best"
COUNTED = ("dropped", "dropped_in_a_row", "usual_loss", "since_log")  # since format 1's first runs, which lack them


@dataclass
class TrainState:
    """Everything that training changes; what is not here can't affect a resume.

    Attributes:
        model, optimizer: as they are after `step` optimizer steps.
        step: optimizer steps behind it, dropped ones included.
        best: best value so far of the task's metric, and its step.
        skipped: images left out so far because they could not be read.
        seconds: training time so far, earlier sessions included.
        scaler: float16's loss scaling, as `GradScaler.state_dict` gives it; empty in other precisions.
        last_checkpoint: the newest one written or resumed from.
        ema: the average of the model's weights; None keeps none.
        dropped, dropped_in_a_row: steps that changed nothing, as loss or gradient was not finite.
        passed_over: steps to drop that are still ahead; not saved, since a resumed run finds them again.
        usual_loss: the running mean that spikes are told by, see `guard`.
        since_log: the steps since metrics were last logged, so that the next line is the same after a resume.
    """

    model: nn.Layer
    optimizer: Any  # Paddle's, or one with its interface
    step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    skipped: int = 0
    seconds: float = 0.0
    last_checkpoint: Path | None = None
    scaler: Any = field(default_factory=dict)
    ema: Ema | None = None
    dropped: int = 0
    dropped_in_a_row: int = 0
    passed_over: set[int] = field(default_factory=set)
    usual_loss: float | None = None
    since_log: list[dict[str, Any]] = field(default_factory=list)

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the model has its averaged weights, if they are kept: those that are evaluated and given away."""
        return self.ema.applied(self.model) if self.ema else nullcontext()

    def whole(self) -> AbstractContextManager[None]:
        """Inside, the model has all of its weights where each rank has a part of them, and takes over what is set.

        All ranks must come here together.
        """
        return self.optimizer.whole() if is_shared_out(self) else nullcontext()


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint's content in memory of its own, which training may leave behind: 12 bytes a weight, with an average
    of the weights 16.

    Attributes:
        tensors: file -> name -> array.
        plain: what `state.json` holds.
    """

    description: Description
    tensors: dict[str, dict[str, np.ndarray]]
    plain: dict[str, Any]

    @property
    def step(self) -> int:
        return self.plain["step"]


def is_shared_out(state: TrainState) -> bool:
    """Whether each rank has a part of the state only."""
    return isinstance(state.optimizer, (ShardedAdamW, FullyShardedAdamW))


def take_snapshot(state: TrainState, description: Description, ranks: Ranks = ALONE) -> Snapshot | None:
    """Copy all that a checkpoint holds; None on ranks but the first, which give it their part of the state."""
    slots = _optimizer_slots(state)
    with state.whole():
        if not ranks.is_first:
            return None
        with state.averaged():
            tensors = {WEIGHTS_FILE: to_official(state.model)}
        if state.ema:
            tensors[OWN_WEIGHTS_FILE] = to_official(state.model)
    tensors[OPTIMIZER_FILE] = slots
    return Snapshot(description, tensors, _plain_state(state))


def write_snapshot(
    run: Path,
    snapshot: Snapshot,
    *,
    best: bool = False,
    keep: int = 2,
    lasting: Callable[[int], bool] = lambda _: False,
) -> Path:
    """Write a checkpoint beside the old ones, then move the pointers to it, then drop the oldest.

    Args:
        run: the run folder.
        best: whether the `best` pointer moves too.
        keep: newest checkpoints to keep; the best one is kept besides.
        lasting: whether that of a step is kept for good.
    Returns:
        its folder.
    Raises:
        OSError: no space or no permission; the old checkpoints are as they were.
    """
    folder = run / FOLDER
    final = folder / step_name(snapshot.step)
    beside = partial(final)
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        _write_files(beside, snapshot)
        put(beside, final)
        flush_path(folder)
        for pointer in [*([BEST] if best else []), LATEST]:  # a resume from the one before makes this best one again
            replace_text(folder / pointer, final.name + "\n", flush=True)
        for path in (folder, run):
            flush_path(path)
        drop_old(run, snapshot.step, keep, lasting)
    except OSError as fault:
        shutil.rmtree(beside, ignore_errors=True)
        text = f"could not save step {snapshot.step} ({fault.strerror})"
        raise OSError(fault.errno, text, str(final)) from fault
    return final


def save_checkpoint(run: Path, state: TrainState, description: Description, **settings: Any) -> Path:
    """Snapshot and write at once; settings and errors are those of `write_snapshot`."""
    snapshot = take_snapshot(state, description)
    assert snapshot is not None
    state.last_checkpoint = write_snapshot(run, snapshot, **settings)
    return state.last_checkpoint


def _write_files(folder: Path, snapshot: Snapshot) -> None:
    for name, tensors in snapshot.tensors.items():
        if name == WEIGHTS_FILE:
            write_model(folder, tensors, snapshot.description)
        else:
            write_tensor_file(folder / name, tensors)
    (folder / STATE_FILE).write_text(json.dumps(snapshot.plain))
    sums = {path.name: _checksum(path) for path in sorted(folder.iterdir())}
    (folder / CHECKSUMS_FILE).write_text(json.dumps(sums, indent=2))
    for path in [*folder.iterdir(), folder]:
        flush_path(path)


def _checksum(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def remove_leftovers(run: Path) -> None:
    """Remove what a killed process was writing or removing."""
    for path in [*run.glob(".*.partial"), *run.glob("*/.*.partial")]:
        remove(path)


def step_name(step: int) -> str:
    """The name of a step's checkpoint folder."""
    return f"step_{step:08d}"


def step_of(folder: Path) -> int:
    """The step whose checkpoint has this name."""
    return int(folder.name.removeprefix("step_"))


def _plain_state(state: TrainState) -> dict[str, Any]:
    return {
        "step": state.step,
        "best": dict(state.best),
        "skipped": state.skipped,
        "seconds": state.seconds,
        "scaler": {name: np.asarray(value).tolist() for name, value in state.scaler.items()},
        "device": paddle.get_device(),
        "random": [list(generator.__getstate__()) for generator in paddle.get_rng_state()],
        **{name: copy.copy(getattr(state, name)) for name in COUNTED},
    }


def _optimizer_slots(state: TrainState) -> dict[str, np.ndarray]:
    """Slots under the model's parameter names, in Paddle's layout: Paddle's own names change from run to run."""
    slots = state.optimizer.state_dict()
    return {
        f"{name}.{slot}": np.array(slots[f"{parameter.name}_{slot}_0"])
        for name, parameter in state.model.named_parameters()
        for slot in _slot_names(state)
        if f"{parameter.name}_{slot}_0" in slots
    }


def _slot_names(state: TrainState) -> tuple[str, ...]:
    return (LARS_SLOT,) if isinstance(state.optimizer, Lars) else ADAMW_SLOTS


def drop_old(run: Path, step: int, keep: int, lasting: Callable[[int], bool]) -> None:
    """Keep the newest up to `step`, lasting and pointed-to ones; those of later steps are of a course that was left."""
    folder = run / FOLDER
    held = {(folder / pointer).read_text().strip() for pointer in (LATEST, BEST) if (folder / pointer).exists()}
    steps = {step_of(path): path for path in folder.glob(STEPS)}
    newest = sorted(one for one in steps if one <= step)[-keep:]
    for one, path in steps.items():
        if one not in newest and path.name not in held and not (lasting(one) and one <= step):
            shutil.rmtree(set_aside(path))


def find_checkpoint(path: str | Path, *, whole: bool = False) -> Path:
    """The checkpoint folder that a user means by a run folder (its latest), a pointer or a checkpoint folder.

    Its files are held against their checksums. Where a run's latest is damaged, the newest before it that is not is
    taken, with a warning.

    Args:
        whole: whether optimizer and state are needed too, for a resume; else only the model is looked at.
    Raises:
        FileNotFoundError: nothing there, or no checkpoint in it, or files that are missing.
        ValueError: damaged files.
    """
    path = Path(path)
    if path.name == LATEST and path.parent.name == FOLDER:
        path = path.parent.parent
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a run folder or one of its checkpoints")
    if (path / FOLDER).is_dir() and (candidates := list(_newest_first(path / FOLDER))):
        return _first_intact(candidates, whole)
    if path.is_file():
        path = path.parent / path.read_text().strip() if path.name == BEST else path.parent
    if not ((path / STATE_FILE).exists() or (path / DESCRIPTION_FILE).exists()):
        raise FileNotFoundError(
            f"{path} holds no checkpoint; expected a run folder of PaddleMAE or one of its checkpoints"
        )
    return _first_intact([path], whole)


def _newest_first(folder: Path) -> Iterator[Path]:
    """The checkpoint that `latest` names, then those of earlier steps; without a pointer all of them."""
    pointer = folder / LATEST
    named = pointer.read_text().strip() if pointer.exists() else ""
    if named and not (folder / named).exists():
        yield folder / named  # whose lack is said
    for path in sorted(folder.glob(STEPS), reverse=True):
        if not named or path.name <= named:
            yield path


def _first_intact(candidates: list[Path], whole: bool) -> Path:
    faults: list[OSError | ValueError] = []
    for candidate in candidates:
        try:
            check_intact(candidate, whole=whole)
        except (OSError, ValueError) as fault:
            faults.append(fault)
            continue
        for each in faults:
            warnings.warn(f"{each}; {candidate.name} is used instead", stacklevel=3)
        return candidate
    raise faults[0]


def check_intact(checkpoint: Path, *, whole: bool) -> None:
    """Hold a checkpoint's files against their checksums; of one without, as older ones are, reading them must tell.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not what was written.
    """
    needed = {DESCRIPTION_FILE, WEIGHTS_FILE} | ({OPTIMIZER_FILE, STATE_FILE} if whole else set())
    sums = _read_checksums(checkpoint)
    if not sums and not whole:
        return
    for name in sorted(needed | (set(sums) if whole else set())):
        path = checkpoint / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; the checkpoint is incomplete, use another one")
        if sums and sums.get(name) != _checksum(path):
            raise ValueError(
                f"{path} is damaged (its checksum is not that of {CHECKSUMS_FILE}); use another checkpoint"
            )


def _read_checksums(checkpoint: Path) -> dict[str, str]:
    path = checkpoint / CHECKSUMS_FILE
    try:
        return dict(json.loads(path.read_text())) if path.exists() else {}
    except (ValueError, TypeError) as fault:
        raise ValueError(f"{path} is damaged ({fault!r}); use another checkpoint") from fault


def load_checkpoint(checkpoint: Path, state: TrainState) -> None:
    """Bring `state` to where it was saved: weights, optimizer slots, step, random states.

    Args:
        checkpoint: a folder that `find_checkpoint` gave, which has held it against its checksums.

    Raises:
        FileNotFoundError: an incomplete checkpoint.
        ValueError: damaged files, or those of another model.
    """
    tensors, slots = read_tensors(checkpoint), read_tensor_file(checkpoint / OPTIMIZER_FILE)
    plain = _read_state(checkpoint / STATE_FILE)
    known = {name: parameter for name, parameter in state.model.named_parameters()}
    paddle_slots = {}
    for key, array in slots.items():
        name, slot = key.rsplit(".", 1)
        if name not in known or slot not in _slot_names(state):
            raise ValueError(f"{checkpoint / OPTIMIZER_FILE} holds {key}, which this model's optimizer does not have")
        paddle_slots[f"{known[name].name}_{slot}_0"] = paddle.to_tensor(array)
    expected = {f"{name}.{slot}" for name, one in known.items() if not one.stop_gradient for slot in _slot_names(state)}
    if lacking := sorted(expected - set(slots)):
        raise ValueError(f"{checkpoint / OPTIMIZER_FILE} lacks {len(lacking)} entries, {lacking[0]} first")
    own = read_tensor_file(checkpoint / OWN_WEIGHTS_FILE) if state.ema else None
    with state.whole():
        load_official(state.model, tensors, source=str(checkpoint))
    if state.ema and own:
        state.ema = Ema(state.model, state.ema.decay)
        load_official(state.model, own, source=str(checkpoint / OWN_WEIGHTS_FILE))
    state.optimizer.set_state_dict(paddle_slots)
    state.step, state.best, state.skipped = plain["step"], plain["best"], plain["skipped"]
    state.seconds, state.last_checkpoint = plain["seconds"], checkpoint
    state.scaler = plain["scaler"]
    for name in COUNTED:
        if name in plain:
            setattr(state, name, plain[name])
    _restore_random(plain)


def _restore_random(plain: dict[str, Any]) -> None:
    now = paddle.get_rng_state()
    if plain["device"].split(":")[0] != paddle.get_device().split(":")[0] or len(now) != len(plain["random"]):
        warnings.warn(
            f"saved on {plain['device']}, resumed on {paddle.get_device()}: drop path draws anew from here",
            stacklevel=3,
        )
        paddle.seed(plain["step"])
        return
    paddle.set_rng_state([_random_state(type(one), saved) for one, saved in zip(now, plain["random"])])


def _random_state(kind: Any, saved: list) -> Any:
    """A generator's state; a new object, since one that has a state silently keeps it."""
    state = kind.__new__(kind)
    state.__setstate__(tuple(saved))
    return state


def _read_state(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_text())
        needed = ("step", "best", "skipped", "seconds", "scaler", "device", "random")
        return {name: plain[name] for name in needed} | {name: plain[name] for name in COUNTED if name in plain}
    except (ValueError, KeyError, TypeError) as fault:
        raise ValueError(f"{path} is damaged ({fault!r}); use another checkpoint") from fault
