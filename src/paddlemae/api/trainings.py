"""Trainings from Python, each in one call."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paddlemae.engine.host import host_as_before
from paddlemae.launch.commands import TrainingCommand, train_in_processes
from paddlemae.launch.launcher import Launch
from paddlemae.recipe import load_recipe
from paddlemae.runs.runlog import RESULT_FILE
from paddlemae.system.documents import read_object
from paddlemae.system.signals import INTERRUPTED_STATUS, REQUEUE_STATUS, Preempted
from paddlemae.tasks import finetune as finetuning
from paddlemae.tasks import pretrain as pretraining
from paddlemae.tasks import segment as segmenting
from paddlemae.tasks.training.run_start import Start


def pretrain(
    recipe: str | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str],
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    procs: int | None = None,
    **settings: Any,
) -> Path:
    """Pretrain a masked autoencoder, as `paddlemae pretrain` does.

    Args:
        recipe: a recipe's name or a .yaml file; None for the defaults.
        data: images, see `open_source`; None is the recipe's.
        out: the run folder. An unfinished run of the same recipe there is continued.
        resume: continue the run in `out`; overwrite: replace it.
        procs: processes of this host that share each batch; None trains in this one.
        settings: of the recipe: `steps=100`, `init="mae.pth"`, or with its section `**{"model.depth": 4}`.
    Returns:
        the run folder, which `load` takes.
    Raises:
        ValueError, FileNotFoundError: a setting, images or a folder that can't be used; nothing is written.
        KeyboardInterrupt, NonFiniteLoss, OSError: training ended early; the text says what was kept.
        RuntimeError: one of several processes ended with an error, which is on stderr.
    """
    command = TrainingCommand("pretrain", recipe, _overrides(settings, data=data), Path(out), resume, overwrite, quiet)
    _run(command, procs, pretraining.pretrain)
    return command.out


def finetune(
    recipe: str | None = None,
    *,
    init: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str],
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    procs: int | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Fine-tune a classifier on labelled images, as `paddlemae finetune` does.

    Args:
        init: a pretraining run, anyone's weights, or "scratch".
        recipe, data, out, resume, overwrite, procs, settings: as for `pretrain`; the images are labelled.
    Returns:
        the result, as in `result.json`: `top1` (accuracy), `balanced_accuracy` ... of the test part in [0, 1] with the
        best weights, their `intervals`, `primary`, `majority` ...; `load` takes `out`.
    Raises:
        As `pretrain`.
    """
    overrides = _overrides(settings, data=data, init=init)
    command = TrainingCommand("finetune", recipe, overrides, Path(out), resume, overwrite, quiet)
    return _run(command, procs, finetuning.finetune) or read_object(command.out / RESULT_FILE)


def segment(
    recipe: str | None = None,
    *,
    init: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str],
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    procs: int | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train a segmenter on images with masks, as `paddlemae segment` does.

    Args:
        init: a pretraining run, anyone's weights, or "scratch".
        recipe, data, out, resume, overwrite, procs, settings: as for `pretrain`; the images have masks.
    Returns:
        the result, as in `result.json`: `miou`, `dice`, `boundary_f1`, `pixel_accuracy` ... of the test part in [0, 1]
        with the best weights, and those of each class; `load` takes `out`.
    Raises:
        As `pretrain`.
    """
    overrides = _overrides(settings, data=data, init=init)
    command = TrainingCommand("segment", recipe, overrides, Path(out), resume, overwrite, quiet)
    return _run(command, procs, segmenting.segment) or read_object(command.out / RESULT_FILE)


def _overrides(settings: dict[str, Any], **named: str | os.PathLike[str] | None) -> dict[str, Any]:
    given = {**settings, **{key: value for key, value in named.items() if value is not None}}
    return {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in given.items()}


def _run(command: TrainingCommand, procs: int | None, task: Callable[[Any, Start], Any]) -> Any:
    """Train in this process, and return what the task does; or in several, and return None."""
    if _launched(command, procs):
        return None
    with host_as_before():
        recipe = load_recipe(command.task, command.recipe, command.overrides)
        return task(recipe, Start(command.out, command.resume, command.overwrite, command.quiet))


def _launched(command: TrainingCommand, procs: int | None) -> bool:
    """Run a training in several processes, if there are to be several; return whether there were.

    Raises:
        RuntimeError, KeyboardInterrupt, Preempted: as the processes ended.
    """
    launch = Launch(procs if procs is None else str(procs))
    launch.check()
    if not launch.is_needed:
        return False
    status = train_in_processes(command, launch)
    text = f"the {procs} processes of this training ended with status {status}; their messages are above, on stderr"
    if status == INTERRUPTED_STATUS:
        raise KeyboardInterrupt(text)
    if status == REQUEUE_STATUS:
        raise Preempted(text)
    if status:
        raise RuntimeError(text)
    return True
