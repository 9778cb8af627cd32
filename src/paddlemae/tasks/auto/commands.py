"""The commands that `auto` runs one after another; no command imports another, so the caller hands them over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddlemae.recipe import FinetuneRecipe, PretrainRecipe, SegmentRecipe
from paddlemae.tasks.plan.plan import Plan
from paddlemae.tasks.training.run_start import Start


@dataclass(frozen=True)
class Request:
    """The request of the user.

    Args:
        data: images, as `open_source` takes them.
        minutes: the time of everything except a comparison with training from scratch.
        out: the folder of the run.
        compare: also train from scratch, for the time that pretraining and fine-tuning took.
        dry_run: print the plan, and write nothing.
        overwrite: replace a run in `out`.
    """

    data: str
    minutes: float
    out: Path
    compare: bool = False
    seed: int = 0
    device: str = "auto"
    dry_run: bool = False
    overwrite: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Commands:
    """The functions of the commands.

    Attributes:
        check: `tasks.data.check.check`; summarize, write_check: what it prints and writes.
        split_images, write_list: of `tasks.data.split`.
        make_plan: of `tasks.plan`.
        pretrain, finetune, segment: of the tasks of these names.
        classify_by_neighbours: of `tasks.knn`.
    """

    check: Callable[..., Any]
    summarize: Callable[[Any], str]
    write_check: Callable[[Any, Path], None]
    split_images: Callable[..., Any]
    write_list: Callable[[Any, Path], Path]
    make_plan: Callable[..., Plan]
    pretrain: Callable[[PretrainRecipe, Start], Any]
    finetune: Callable[[FinetuneRecipe, Start], dict[str, Any]]
    segment: Callable[[SegmentRecipe, Start], dict[str, Any]]
    classify_by_neighbours: Callable[..., list[dict[str, Any]]]
