"""The state of an `auto` run on disk: the results of its finished stages and the time that was used, in `auto.json`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from paddlemae.runs.runlog import REPORT_FILES, open_run
from paddlemae.system.atomic import replace_text
from paddlemae.system.documents import read_record
from paddlemae.system.locks import LOCK_FILE

AUTO_FILE = "auto.json"
# folders
CHECK, DATA, PLAN, CACHE = "check", "data", "plan", "cache"
PRETRAIN, FINETUNE, SEGMENT, SCRATCH = "pretrain", "finetune", "segment", "scratch"
ENTRIES = (CHECK, DATA, PLAN, CACHE, PRETRAIN, FINETUNE, SEGMENT, SCRATCH, AUTO_FILE, *REPORT_FILES)
FORMAT = 1
MAX_BYTES = 2**24

Json = dict[str, Any]


class StateType(BaseModel):
    """Content of `auto.json`.

    Attributes:
        seconds: used in the sessions that have ended.
        began: of a session that has not ended, in seconds since 1970; None if there is none.
        stages: the results of the finished stages, each with its `seconds`.
        begun: seconds of stages that were stopped before their end.
    """

    model_config = ConfigDict(strict=True, extra="ignore")
    format: int = FORMAT
    data: str
    minutes: float
    seed: int
    seconds: float = 0.0
    began: float | None = None
    stages: dict[str, Json] = {}
    begun: dict[str, float] = {}


@dataclass
class AutoState:
    """The state of a run during a session.

    Args:
        clock: seconds, from any start.
    """

    out: Path
    record: StateType
    clock: Callable[[], float] = time.monotonic
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    @property
    def used(self) -> float:
        """Return the seconds that all sessions have used."""
        return self.record.seconds + self.clock() - self.started

    @property
    def left(self) -> float:
        """Return the seconds that are left; below 0 if more were used."""
        return 60 * self.record.minutes - self.used

    def once(self, stage: str, work: Callable[[], Json]) -> Json:
        """Return the result of a stage, which is done unless an earlier session has finished it."""
        record = self.record
        if stage not in record.stages:
            began = self.clock()
            try:
                result = work()
            finally:
                record.begun[stage] = record.begun.get(stage, 0.0) + self.clock() - began
            record.stages[stage] = {**result, "seconds": round(record.begun.pop(stage), 1)}
            self._write()
        return self.record.stages[stage]

    def end(self) -> None:
        """Store the time that this session used."""
        self.record.seconds, self.started, self.record.began = self.used, self.clock(), None
        self._write()

    def _write(self) -> None:
        replace_text(self.out / AUTO_FILE, json.dumps(self.record.model_dump(), indent=1) + "\n")


def open_state(out: Path, data: str, minutes: float, seed: int, *, overwrite: bool = False) -> AutoState:
    """Begin a session in a folder: of a new run, or of the one that is there if it is the same.

    Raises:
        ValueError: the folder holds something else, or a run with other settings.
    """
    resume = (out / AUTO_FILE).is_file() and not overwrite
    open_run(out, resume=resume, overwrite=overwrite, marker=AUTO_FILE, entries=ENTRIES)
    record = StateType(data=data, minutes=minutes, seed=seed)
    if resume:
        stored = _read(out)
        if PLAN in stored.stages:  # else nothing is lost by starting over with other settings
            _check_same(out, stored, record)
        if _settings(stored) == _settings(record):
            record = stored
        if record.began is not None:  # it was killed
            record.seconds += max(0.0, _last_change(out) - record.began)
    state = AutoState(out, record)
    record.began = time.time()
    state._write()
    return state


def _read(out: Path) -> StateType:
    stored = read_record(out / AUTO_FILE, StateType, "start over with --overwrite", MAX_BYTES)
    if stored.format != FORMAT:
        raise ValueError(
            f"{out / AUTO_FILE} has format {stored.format}, expected {FORMAT}; start over with --overwrite"
        )
    return stored


def _check_same(out: Path, stored: StateType, asked: StateType) -> None:
    before, now = _settings(stored), _settings(asked)
    if different := [f"{key} {before[key]!r} -> {now[key]!r}" for key in before if before[key] != now[key]]:
        raise ValueError(
            f"{out} holds a run with other settings ({', '.join(different)}); repeat its command to resume it, add "
            "--overwrite to replace it, or choose another --out"
        )


def _settings(record: StateType) -> Json:
    return record.model_dump(include={"data", "minutes", "seed"})


def _last_change(out: Path) -> float:
    """Return when the last file of a run was written, in seconds since 1970; locks are renewed by this session too."""
    written = (path for path in out.rglob("*") if path.is_file() and path.name != LOCK_FILE)
    return max((path.stat().st_mtime for path in written), default=0.0)
