"""Checkpoint folders of a run: their names, the pointers to them, and whether their files are as they were written.

A run keeps `checkpoints/step_XXXXXXXX/` folders and next to them two pointers, small text files that hold a folder's
name: `latest` and, where a task has a best metric, `best`. Whatever is being written or removed has another name,
`.NAME.partial`, so that a kill leaves no folder that looks whole and isn't.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, RootModel

from paddlemae.system.atomic import remove, set_aside
from paddlemae.system.documents import read_name, read_record
from paddlemae.weights.model_folder import DESCRIPTION_FILE, WEIGHTS_FILE, read_description

OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
CHECKSUMS_FILE = "checksums.json"  # of every other file, BLAKE2b in hexadecimal
FOLDER = "checkpoints"
STEPS = "step_" + 8 * "[0-9]"
LATEST = "latest"
BEST = "best"
STEP_NAME = r"step_[0-9]{8}"  # what a pointer holds
USE_ANOTHER = "use another checkpoint"

Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[\w-][\w.-]{0,80}$")]


class ChecksumsType(RootModel[dict[FileName, Checksum]]):
    """Content of `checksums.json`: a checkpoint's file -> its checksum."""

    model_config = ConfigDict(strict=True)


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


def drop_old(run: Path, step: int, keep: int, lasting: Callable[[int], bool]) -> None:
    """Keep the newest up to `step`, lasting and pointed-to checkpoints; drop others, those of later steps included."""
    folder = run / FOLDER
    held = {_pointed(folder / pointer) for pointer in (LATEST, BEST)}
    steps = {step_of(path): path for path in folder.glob(STEPS)}
    newest = sorted(number for number in steps if number <= step)[-keep:]
    for number, path in steps.items():
        if number not in newest and path.name not in held and not (lasting(number) and number <= step):
            shutil.rmtree(set_aside(path))


def find_checkpoint(path: str | Path, *, whole: bool = False, trust: bool = False) -> Path:
    """Return the checkpoint folder for a run folder, a pointer or a checkpoint folder.

    Of a run it is the best where a validation part chose that, else the latest. Its files are held against their
    checksums. Where that one is damaged, the newest up to `latest` that is not is taken, with a warning.

    Args:
        whole: whether optimizer and state are needed too, for a resume, which takes the latest; else only the model is
            looked at.
        trust: take a checkpoint without checksums, too, with a warning; one whose checksums differ never is.
    Raises:
        FileNotFoundError: nothing there, or no checkpoint in it, or files that are missing.
        ValueError: damaged files, or no checksums.
    """
    path = Path(path)
    is_latest = path.name == LATEST and path.parent.name == FOLDER
    path = path.parent.parent if is_latest else path
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a run folder or one of its checkpoints")
    if (path / FOLDER).is_dir() and (candidates := list(_newest_first(path / FOLDER))):
        best = None if whole or is_latest else validated_best(path)
        return _first_intact([best, *candidates] if best else candidates, whole, trust)
    if path.is_file():
        path = path.parent / _named_by(path) if path.name == BEST else path.parent
    if not ((path / STATE_FILE).exists() or (path / DESCRIPTION_FILE).exists()):
        raise FileNotFoundError(
            f"{path} holds no checkpoint; expected a run folder of PaddleMAE or one of its checkpoints"
        )
    return _first_intact([path], whole, trust)


def validated_best(run: Path) -> Path | None:
    """Return the best checkpoint of a run, if images that it was not tested on chose it; None otherwise."""
    name = _pointed(run / FOLDER / BEST)
    folder = run / FOLDER / name if name else None
    try:
        is_validated = folder is not None and bool(read_description(folder).provenance.get("validation_images"))
    except (OSError, ValueError):  # damaged: the caller says so of whatever it takes
        return None
    return folder if is_validated else None


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
            warnings.warn(f"{fault}; it is ignored", stacklevel=2)
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
    path = checkpoint / CHECKSUMS_FILE
    sums = read_record(path, ChecksumsType, USE_ANOTHER).root if path.exists() else {}
    is_of_a_run = (checkpoint / STATE_FILE).exists() or re.fullmatch(STEP_NAME, checkpoint.absolute().name)
    if not (sums or whole or is_of_a_run):
        return
    for name in sorted(needed | (set(sums) if whole else set())):
        path = checkpoint / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; the checkpoint is incomplete, use another one")
        if name in sums and sums[name] != checksum(path):
            raise ValueError(f"{path} is damaged (its checksum is not that of {CHECKSUMS_FILE}); {USE_ANOTHER}")
    unproven = sorted(needed - set(sums))
    if not unproven:
        return
    lack = f"no checksum of {unproven[0]}" if sums else "no checksums"
    text = f"{checkpoint} has {lack} (in {CHECKSUMS_FILE}), so it cannot be compared with what was written"
    if not trust:
        raise ValueError(f"{text}; {USE_ANOTHER}, or add --trust to take it as it is")
    warnings.warn(f"{text}; it is trusted", stacklevel=4)


def checksum(path: Path) -> str:
    """Return the checksum of a file, BLAKE2b in hexadecimal."""
    digest = hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()
