"""Training state on disk: written whole or not at all, and found again.

A run keeps `checkpoints/step_XXXXXXXX/` folders and beside them two pointers, small text files that hold a folder's
name: `latest` and, where a task has a best metric, `best`.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from paddlemae.train.ema import Ema
from paddlemae.train.lars import SLOT as LARS_SLOT
from paddlemae.train.lars import Lars
from paddlemae.weights.store import (
    DESCRIPTION_FILE,
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
FOLDER = "checkpoints"
LATEST = "latest"
BEST = "best"
ADAMW_SLOTS = ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc")  # what it keeps for a parameter


@dataclass
class TrainState:
    """Everything that training changes; what is not here can't affect a resume.

    Attributes:
        model, optimizer: as they are after `step` optimizer steps.
        step: optimizer steps taken.
        best: best value so far of the task's metric, and its step.
        skipped: images left out so far because they could not be read.
        seconds: training time so far, earlier sessions included.
        scaler: float16's loss scaling, as `GradScaler.state_dict` gives it; empty in other precisions.
        last_checkpoint: the newest one written or resumed from.
        ema: the average of the model's weights; None keeps none.
    """

    model: nn.Layer
    optimizer: paddle.optimizer.Optimizer
    step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    skipped: int = 0
    seconds: float = 0.0
    last_checkpoint: Path | None = None
    scaler: Any = field(default_factory=dict)
    ema: Ema | None = None

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the model has its averaged weights, if they are kept: those that are evaluated and given away."""
        return self.ema.applied(self.model) if self.ema else nullcontext()


def save_checkpoint(
    run: Path, state: TrainState, description: Description, *, best: bool = False, keep: int = 2
) -> Path:
    """Write a checkpoint beside the old ones, then move the pointers to it, then drop the oldest.

    Args:
        run: the run folder.
        state: what to save; its `last_checkpoint` is set.
        description: written as `model.json`.
        best: whether the `best` pointer moves too.
        keep: newest checkpoints to keep; the best one is kept besides.
    Raises:
        OSError: no space or no permission; the old checkpoints are as they were.
    """
    folder = run / FOLDER
    final = folder / step_name(state.step)
    beside = folder / f".{final.name}.partial"
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        with state.averaged():
            write_model(beside, to_official(state.model), description)
        if state.ema:
            write_tensor_file(beside / OWN_WEIGHTS_FILE, to_official(state.model))
        write_tensor_file(beside / OPTIMIZER_FILE, _optimizer_slots(state))
        (beside / STATE_FILE).write_text(json.dumps(_plain_state(state)))
        for path in beside.iterdir():
            _flush(path)
        if final.exists():  # the same step, saved again
            shutil.rmtree(final)
        os.replace(beside, final)
        _flush(folder)
        for pointer in [LATEST, *([BEST] if best else [])]:
            _point(folder / pointer, final.name)
    except OSError as fault:
        shutil.rmtree(beside, ignore_errors=True)
        kept = state.last_checkpoint or "none yet"
        raise OSError(
            fault.errno,
            f"could not save step {state.step} ({fault.strerror}); last good checkpoint: {kept}; "
            "make room and go on with --resume",
            str(final),
        ) from fault
    state.last_checkpoint = final
    _drop_old(folder, keep)
    return final


def step_name(step: int) -> str:
    """The name of a step's checkpoint folder."""
    return f"step_{step:08d}"


def _plain_state(state: TrainState) -> dict[str, Any]:
    return {
        "step": state.step,
        "best": state.best,
        "skipped": state.skipped,
        "seconds": state.seconds,
        "scaler": {name: np.asarray(value).tolist() for name, value in state.scaler.items()},
        "device": paddle.get_device(),
        "random": [list(generator.__getstate__()) for generator in paddle.get_rng_state()],
    }


def _optimizer_slots(state: TrainState) -> dict[str, np.ndarray]:
    """Slots under the model's parameter names, in Paddle's layout: Paddle's own names change from run to run."""
    slots = state.optimizer.state_dict()
    return {
        f"{name}.{slot}": np.asarray(slots[f"{parameter.name}_{slot}_0"])
        for name, parameter in state.model.named_parameters()
        for slot in _slot_names(state)
        if f"{parameter.name}_{slot}_0" in slots
    }


def _slot_names(state: TrainState) -> tuple[str, ...]:
    return (LARS_SLOT,) if isinstance(state.optimizer, Lars) else ADAMW_SLOTS


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _point(pointer: Path, name: str) -> None:
    beside = pointer.with_name(f".{pointer.name}.partial")
    beside.write_text(name + "\n")
    _flush(beside)
    os.replace(beside, pointer)


def _drop_old(folder: Path, keep: int) -> None:
    held = {(folder / pointer).read_text().strip() for pointer in (LATEST, BEST) if (folder / pointer).exists()}
    for old in sorted(folder.glob("step_*"))[: -keep or None]:
        if old.name not in held:
            shutil.rmtree(old)


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder that a user means by a run folder (its latest), a pointer or a checkpoint folder.

    Raises:
        FileNotFoundError: nothing there, or no checkpoint in it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a run folder or one of its checkpoints")
    if (path / FOLDER / LATEST).exists():
        path = path / FOLDER / LATEST
    if path.is_file():
        path = path.parent / path.read_text().strip() if path.name in (LATEST, BEST) else path.parent
    if (path / STATE_FILE).exists() or (path / DESCRIPTION_FILE).exists():
        return path
    raise FileNotFoundError(f"{path} holds no checkpoint; expected a run folder of PaddleMAE or one of its checkpoints")


def load_checkpoint(checkpoint: Path, state: TrainState) -> None:
    """Bring `state` to where it was saved: weights, optimizer slots, step, random states.

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
    load_official(state.model, tensors, source=str(checkpoint))
    if state.ema and own:
        state.ema = Ema(state.model, state.ema.decay)
        load_official(state.model, own, source=str(checkpoint / OWN_WEIGHTS_FILE))
    state.optimizer.set_state_dict(paddle_slots)
    state.step, state.best, state.skipped = plain["step"], plain["best"], plain["skipped"]
    state.seconds, state.last_checkpoint = plain["seconds"], checkpoint
    state.scaler = plain["scaler"]
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
        return {name: plain[name] for name in ("step", "best", "skipped", "seconds", "scaler", "device", "random")}
    except (ValueError, KeyError, TypeError) as fault:
        raise ValueError(f"{path} is damaged ({fault!r}); use another checkpoint") from fault
