"""Training state on disk: written whole or not at all, and found again.

A run keeps `checkpoints/step_XXXXXXXX/` folders and next to them two pointers, small text files that hold a folder's
name: `latest` and, where a task has a best metric, `best`. Whatever is being written or removed has another name,
`.NAME.partial_path`, so that a kill leaves no folder that looks whole and isn't.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, RootModel

from paddlemae.engine.safe_import import nn, paddle
from paddlemae.system.atomic import flush_path, move_into_place, partial_path, remove, replace_text, set_aside
from paddlemae.system.display_names import display_name
from paddlemae.system.documents import read_name, read_record
from paddlemae.train.adamw import SLOTS as ADAMW_SLOTS
from paddlemae.train.ema import Ema
from paddlemae.train.lars import SLOT as LARS_SLOT
from paddlemae.train.lars import Lars
from paddlemae.train.parallel.ranks import ALONE, Ranks
from paddlemae.train.parallel.zero2 import ShardedAdamW
from paddlemae.weights.model_folder import (
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    Description,
    read_tensor_file,
    read_tensors,
    write_model,
    write_tensor_file,
)
from paddlemae.weights.transfer import load_official, official_parameters, to_official

OPTIMIZER_FILE = "optimizer.safetensors"
OWN_WEIGHTS_FILE = "own.safetensors"  # the weights in training, where the model's file holds the average
STATE_FILE = "state.json"
CHECKSUMS_FILE = "checksums.json"  # of every other file, BLAKE2b in hexadecimal
FOLDER = "checkpoints"
STEPS = "step_" + 8 * "[0-9]"
LATEST = "latest"
BEST = "best"
STEP_NAME = r"step_[0-9]{8}"  # what a pointer holds
COUNTED = ("dropped", "dropped_in_a_row", "usual_loss", "since_log")  # since format 1's first runs, which lack them
USE_ANOTHER = "use another checkpoint"
MAX_STATE_BYTES = 2**24  # of the random states of some accelerators

Number = int | float | bool  # as it was written
Counted = Annotated[int, Field(ge=0, lt=2**63)]
Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class StateType(BaseModel):
    """What `state.json` holds."""

    model_config = ConfigDict(strict=True, extra="ignore")
    step: Counted
    best: dict[str, Number]
    skipped: Counted
    seconds: Annotated[int | float, Field(ge=0)]
    scaler: dict[str, Any]
    device: str
    random: list[list[Any]]
    dropped: Counted = 0
    dropped_in_a_row: Counted = 0
    usual_loss: int | float | None = None
    since_log: list[dict[str, Number]] = []


FileName = Annotated[str, Field(pattern=r"^[\w-][\w.-]{0,80}$")]


class ChecksumsType(RootModel[dict[FileName, Checksum]]):
    """What `checksums.json` holds: a checkpoint's file -> its checksum."""

    model_config = ConfigDict(strict=True)


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
        usual_loss: the running mean that spikes are compared with, see `loss_spikes`.
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
    """Return whether each rank has a part of the optimizer's state only."""
    return isinstance(state.optimizer, ShardedAdamW)


def take_snapshot(state: TrainState, description: Description, ranks: Ranks = ALONE) -> Snapshot | None:
    """Copy all that a checkpoint holds; None on ranks but the first, which give it their part of the state."""
    slots = _optimizer_slots(state)
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
    """Write a checkpoint next to the old ones, then move the pointers to it, then drop the oldest.

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
    unfinished = partial_path(final)
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _write_files(unfinished, snapshot)
        move_into_place(unfinished, final)
        flush_path(folder)
        for pointer in [*([BEST] if best else []), LATEST]:  # a resume from the one before makes this best one again
            replace_text(folder / pointer, final.name + "\n", flush=True)
        for path in (folder, run):
            flush_path(path)
        drop_old(run, snapshot.step, keep, lasting)
    except OSError as fault:
        shutil.rmtree(unfinished, ignore_errors=True)
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
    """Return the name of a step's checkpoint folder."""
    return f"step_{step:08d}"


def step_of(folder: Path) -> int:
    """Return the step of a checkpoint folder's name."""
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
        for name, parameter in official_parameters(state.model)
        for slot in _slot_names(state)
        if f"{parameter.name}_{slot}_0" in slots
    }


def _slot_names(state: TrainState) -> tuple[str, ...]:
    return (LARS_SLOT,) if isinstance(state.optimizer, Lars) else ADAMW_SLOTS


def drop_old(run: Path, step: int, keep: int, lasting: Callable[[int], bool]) -> None:
    """Keep the newest up to `step`, lasting and pointed-to ones; those of later steps are of a course that was left."""
    folder = run / FOLDER
    held = {_pointed(folder / pointer) for pointer in (LATEST, BEST)}
    steps = {step_of(path): path for path in folder.glob(STEPS)}
    newest = sorted(one for one in steps if one <= step)[-keep:]
    for one, path in steps.items():
        if one not in newest and path.name not in held and not (lasting(one) and one <= step):
            shutil.rmtree(set_aside(path))


def find_checkpoint(path: str | Path, *, whole: bool = False, trust: bool = False) -> Path:
    """Return the checkpoint folder for a run folder (its latest), a pointer or a checkpoint folder.

    Its files are held against their checksums. Where a run's latest is damaged, the newest before it that is not is
    taken, with a warning.

    Args:
        whole: whether optimizer and state are needed too, for a resume; else only the model is looked at.
        trust: take a checkpoint without checksums, too, with a warning; one whose checksums differ never is.
    Raises:
        FileNotFoundError: nothing there, or no checkpoint in it, or files that are missing.
        ValueError: damaged files, or no checksums.
    """
    path = Path(path)
    if path.name == LATEST and path.parent.name == FOLDER:
        path = path.parent.parent
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a run folder or one of its checkpoints")
    if (path / FOLDER).is_dir() and (candidates := list(_newest_first(path / FOLDER))):
        return _first_intact(candidates, whole, trust)
    if path.is_file():
        path = path.parent / _named_by(path) if path.name == BEST else path.parent
    if not ((path / STATE_FILE).exists() or (path / DESCRIPTION_FILE).exists()):
        raise FileNotFoundError(
            f"{path} holds no checkpoint; expected a run folder of PaddleMAE or one of its checkpoints"
        )
    return _first_intact([path], whole, trust)


def _named_by(pointer: Path) -> str:
    try:
        return read_name(pointer, STEP_NAME)
    except ValueError as fault:
        raise ValueError(f"{fault}; name one of the folders next to it") from fault


def _pointed(pointer: Path) -> str | None:
    """Return the name that a pointer holds; None without a pointer, or with a warning for a damaged one."""
    try:
        return read_name(pointer, STEP_NAME)
    except (OSError, ValueError) as fault:
        if pointer.exists():
            warnings.warn(f"{fault}; it is left out of account", stacklevel=2)
        return None


def _newest_first(folder: Path) -> Iterator[Path]:
    """Yield the checkpoint that `latest` names, then those of earlier steps; without a pointer all of them."""
    named = _pointed(folder / LATEST)
    if named and not (folder / named).exists():
        yield folder / named  # reported as missing by the caller
    for path in sorted(folder.glob(STEPS), reverse=True):
        if not named or path.name <= named:
            yield path


def _first_intact(candidates: list[Path], whole: bool, trust: bool) -> Path:
    faults: list[OSError | ValueError] = []
    for candidate in candidates:
        try:
            check_intact(candidate, whole=whole, trust=trust)
        except (OSError, ValueError) as fault:
            faults.append(fault)
            continue
        for each in faults:
            warnings.warn(f"{each}; {candidate.name} is used instead", stacklevel=3)
        return candidate
    raise faults[0]


def check_intact(checkpoint: Path, *, whole: bool, trust: bool = False) -> None:
    """Hold a checkpoint's files against their checksums; a model's folder that is no checkpoint needs none.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file differs from what was written, or has no checksum and `trust` is not set.
    """
    needed = {DESCRIPTION_FILE, WEIGHTS_FILE} | ({OPTIMIZER_FILE, STATE_FILE} if whole else set())
    sums = _read_checksums(checkpoint)
    if not (sums or whole or _is_of_a_run(checkpoint)):
        return
    for name in sorted(needed | (set(sums) if whole else set())):
        path = checkpoint / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; the checkpoint is incomplete, use another one")
        if name in sums and sums[name] != _checksum(path):
            raise ValueError(f"{path} is damaged (its checksum is not that of {CHECKSUMS_FILE}); {USE_ANOTHER}")
    unproven = sorted(needed - set(sums))
    if not unproven:
        return
    lack = f"no checksum of {unproven[0]}" if sums else "no checksums"
    text = f"{checkpoint} has {lack} (in {CHECKSUMS_FILE}), so it cannot be compared with what was written"
    if not trust:
        raise ValueError(f"{text}; {USE_ANOTHER}, or add --trust to take it as it is")
    warnings.warn(f"{text}; it is trusted", stacklevel=4)


def _is_of_a_run(checkpoint: Path) -> bool:
    """Check that a folder is a checkpoint, which has checksums, not a model alone."""
    return (checkpoint / STATE_FILE).exists() or re.fullmatch(STEP_NAME, checkpoint.absolute().name) is not None


def _read_checksums(checkpoint: Path) -> dict[str, str]:
    path = checkpoint / CHECKSUMS_FILE
    return read_record(path, ChecksumsType, USE_ANOTHER).root if path.exists() else {}


def load_checkpoint(checkpoint: Path, state: TrainState) -> None:
    """Bring `state` to where it was saved: weights, optimizer slots, step, random states.

    Args:
        checkpoint: a folder that `find_checkpoint` gave, which has held it against its checksums.

    Raises:
        FileNotFoundError: an incomplete checkpoint.
        ValueError: damaged files, or those of another model.
    """
    tensors, slots = read_tensors(checkpoint), read_tensor_file(checkpoint / OPTIMIZER_FILE)
    plain = read_record(checkpoint / STATE_FILE, StateType, USE_ANOTHER, MAX_STATE_BYTES)
    paddle_slots = _paddle_slots(checkpoint / OPTIMIZER_FILE, slots, tensors, state)
    own = read_tensor_file(checkpoint / OWN_WEIGHTS_FILE) if state.ema else None
    load_official(state.model, tensors, source=str(checkpoint))
    if state.ema and own:
        state.ema = Ema(state.model, state.ema.decay)
        load_official(state.model, own, source=str(checkpoint / OWN_WEIGHTS_FILE))
    state.optimizer.set_state_dict(paddle_slots)
    for name in ("step", "best", "skipped", "seconds", "scaler", *COUNTED):
        if name in plain.model_fields_set:
            setattr(state, name, getattr(plain, name))
    state.last_checkpoint = checkpoint
    _restore_random(plain, checkpoint / STATE_FILE)


def _paddle_slots(
    path: Path, slots: dict[str, np.ndarray], tensors: dict[str, np.ndarray], state: TrainState
) -> dict[str, paddle.Tensor]:
    """Return the optimizer's slots under Paddle's names, each of its weight's size (a rank may hold a part of that)."""
    known = {name: parameter for name, parameter in official_parameters(state.model)}
    found = {}
    for key, array in slots.items():
        name, _, slot = key.rpartition(".")
        if name not in known or name not in tensors or slot not in _slot_names(state):
            raise ValueError(f"{path} holds {display_name(key)}, which this model's optimizer does not have")
        wanted = 1 if slot.endswith("_pow_acc") else tensors[name].size
        if array.size != wanted or array.dtype.kind != "f":
            raise ValueError(f"{path} is of another shape: {display_name(key)} is {array.dtype} {list(array.shape)}")
        found[f"{known[name].name}_{slot}_0"] = paddle.to_tensor(array)
    expected = {f"{name}.{slot}" for name, one in known.items() if not one.stop_gradient for slot in _slot_names(state)}
    if lacking := sorted(expected - set(slots)):
        raise ValueError(f"{path} lacks {len(lacking)} entries, {lacking[0]} first")
    return found


def _restore_random(plain: StateType, path: Path) -> None:
    now = paddle.get_rng_state()
    if plain.device.split(":")[0] != paddle.get_device().split(":")[0] or len(now) != len(plain.random):
        warnings.warn(
            f"saved on {display_name(plain.device)}, resumed on {paddle.get_device()}: drop path draws new numbers "
            "from here",
            stacklevel=3,
        )
        paddle.seed(plain.step)
        return
    try:
        paddle.set_rng_state([_random_state(type(one), saved) for one, saved in zip(now, plain.random)])
    except (TypeError, RuntimeError) as fault:
        raise ValueError(f"{path} is damaged (its random state is none); {USE_ANOTHER}") from fault


def _random_state(kind: Any, saved: list[Any]) -> Any:
    """Return a generator's state as a new object, since an object that has a state silently keeps it."""
    state = kind.__new__(kind)
    state.__setstate__(tuple(saved))
    return state
