"""Write the training state to disk, whole or not at all, and load it again."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from paddlemae.engine.safe_import import nn, paddle
from paddlemae.system.atomic import flush_path, move_into_place, partial_path, replace_text
from paddlemae.system.display_names import display_name
from paddlemae.system.documents import read_record
from paddlemae.train.adamw import SLOTS as ADAMW_SLOTS
from paddlemae.train.checkpoint_folders import (
    BEST,
    CHECKSUMS_FILE,
    FOLDER,
    LATEST,
    OPTIMIZER_FILE,
    STATE_FILE,
    USE_ANOTHER,
    checksum,
    drop_old,
    step_name,
)
from paddlemae.train.ema import Ema
from paddlemae.train.lars import SLOT as LARS_SLOT
from paddlemae.train.lars import Lars
from paddlemae.train.parallel.ranks import ALONE, Ranks
from paddlemae.train.parallel.zero2 import ShardedAdamW
from paddlemae.weights.model_folder import (
    WEIGHTS_FILE,
    Description,
    read_tensor_file,
    read_tensors,
    write_model,
    write_tensor_file,
)
from paddlemae.weights.transfer import load_official, official_parameters, to_official

OWN_WEIGHTS_FILE = "own.safetensors"  # the weights in training, where the model's file holds the average
COUNTED = ("dropped", "dropped_in_a_row", "usual_loss", "since_log")  # since format 1's first runs, which lack them
MAX_STATE_BYTES = 2**24  # of the random states of some accelerators

Number = int | float | bool  # as it was written
Counted = Annotated[int, Field(ge=0, lt=2**63)]


class StateType(BaseModel):
    """Content of `state.json`."""

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


@dataclass
class TrainState:
    """Everything that training changes; what is not here can't affect a resume.

    Attributes:
        model, optimizer: as they are after `step` optimizer steps.
        step: optimizer steps behind it, dropped ones included.
        best: of the checkpoint that counts so far: the task's metric, its step, and how low a later one's may be.
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
        """Give the model its averaged weights inside the context, if they are kept, for evaluation and export."""
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


def _write_files(folder: Path, snapshot: Snapshot) -> None:
    for name, tensors in snapshot.tensors.items():
        if name == WEIGHTS_FILE:
            write_model(folder, tensors, snapshot.description)
        else:
            write_tensor_file(folder / name, tensors)
    (folder / STATE_FILE).write_text(json.dumps(snapshot.plain))
    sums = {path.name: checksum(path) for path in sorted(folder.iterdir())}
    (folder / CHECKSUMS_FILE).write_text(json.dumps(sums, indent=2))
    for path in [*folder.iterdir(), folder]:
        flush_path(path)


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
    """Return the slots under the model's parameter names, since Paddle's own names change from run to run."""
    slots = state.optimizer.state_dict()
    return {
        f"{name}.{slot}": np.array(slots[f"{parameter.name}_{slot}_0"])
        for name, parameter in official_parameters(state.model)
        for slot in _slot_names(state)
        if f"{parameter.name}_{slot}_0" in slots
    }


def _slot_names(state: TrainState) -> tuple[str, ...]:
    return (LARS_SLOT,) if isinstance(state.optimizer, Lars) else ADAMW_SLOTS


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
    trained = read_tensor_file(checkpoint / OWN_WEIGHTS_FILE) if state.ema else None
    load_official(state.model, tensors, source=str(checkpoint))
    if state.ema and trained:
        state.ema = Ema(state.model, state.ema.decay)
        load_official(state.model, trained, source=str(checkpoint / OWN_WEIGHTS_FILE))
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
    parameters = dict(official_parameters(state.model))
    paddle_slots = {}
    for key, array in slots.items():
        name, _, slot = key.rpartition(".")
        if name not in parameters or name not in tensors or slot not in _slot_names(state):
            raise ValueError(f"{path} holds {display_name(key)}, which this model's optimizer does not have")
        size = 1 if slot.endswith("_pow_acc") else tensors[name].size
        if array.size != size or array.dtype.kind != "f":
            raise ValueError(f"{path} is of another shape: {display_name(key)} is {array.dtype} {list(array.shape)}")
        paddle_slots[f"{parameters[name].name}_{slot}_0"] = paddle.to_tensor(array)
    trained = [name for name, parameter in parameters.items() if not parameter.stop_gradient]
    expected = {f"{name}.{slot}" for name in trained for slot in _slot_names(state)}
    if lacking := sorted(expected - set(slots)):
        raise ValueError(f"{path} lacks {len(lacking)} entries, such as {lacking[0]}")
    return paddle_slots


def _restore_random(plain: StateType, path: Path) -> None:
    now = paddle.get_rng_state()
    if plain.device.split(":")[0] != paddle.get_device().split(":")[0] or len(now) != len(plain.random):
        warnings.warn(
            f"saved on {display_name(plain.device)}, resumed on {paddle.get_device()}: drop path draws other "
            "random numbers from here on",
            stacklevel=3,
        )
        paddle.seed(plain.step)
        return
    try:
        paddle.set_rng_state([_random_state(type(state), saved) for state, saved in zip(now, plain.random)])
    except (TypeError, RuntimeError) as fault:
        raise ValueError(f"{path} is damaged (its random state is invalid); {USE_ANOTHER}") from fault


def _random_state(kind: Any, saved: list[Any]) -> Any:
    """Return a generator's state as a new object, since an object that has a state silently keeps it."""
    state = kind.__new__(kind)
    state.__setstate__(tuple(saved))
    return state
