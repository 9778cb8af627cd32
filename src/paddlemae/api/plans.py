"""Plan trainings, or run everything within a time, from Python."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from paddlemae.engine.host import host_as_before
from paddlemae.tasks import finetune as finetuning
from paddlemae.tasks import pretrain as pretraining
from paddlemae.tasks import segment as segmenting
from paddlemae.tasks.plan.make_plan import make_plan
from paddlemae.tasks.plan.plan import Plan


def plan(
    data: str | os.PathLike[str], minutes: float = 30, *, device: str = "auto", seed: int = 0, quiet: bool = False
) -> Plan:
    """Plan a pretraining, and what follows it where there are labels or masks, as `paddlemae plan` does.

    Args:
        data: images, see `open_source`.
        minutes: for both trainings and their evaluations together, on this machine.
        device, seed: of the trainings.
    Returns:
        the plan: `plan.recipe("pretrain")` is a recipe, `plan.settings` has the reason for each of its values.
    Raises:
        ValueError, FileNotFoundError: images or a time that no training can be planned for.
        ModuleNotFoundError: no Paddle.
    """
    with host_as_before():
        return make_plan(os.fspath(data), minutes, device=device, seed=seed, quiet=quiet)


def auto(
    data: str | os.PathLike[str],
    minutes: float = 30,
    *,
    out: str | os.PathLike[str],
    compare: bool = False,
    seed: int = 0,
    device: str = "auto",
    dry_run: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Check images, plan, pretrain, evaluate, fine-tune and report within a time, as `paddlemae auto` does.

    Args:
        data: images, see `open_source`; on those with labels or masks a classifier or a segmenter is trained too.
        minutes: of everything except `compare`.
        out: the folder of the run. One of the same settings there that was stopped is resumed.
        compare: also train from scratch, for as long as pretraining and fine-tuning took.
        seed: of the trainings and the test part; device: as in recipes.
        dry_run: print the plan, and write nothing.
        overwrite: replace a run in `out`.
    Returns:
        the outcome: `verdict`, a sentence that says whether pretraining helped, `rows`, a result of each method on the
        test part (none without labels and masks), `report`, the path of the page ...; of a dry run nothing.
    Raises:
        ValueError, FileNotFoundError: images, a time or a folder that can't be used.
        KeyboardInterrupt, NonFiniteLoss, OSError: it ended early; the same call resumes.
    """
    from paddlemae.tasks.auto.commands import Commands, Request
    from paddlemae.tasks.auto.run_auto import auto as run_auto
    from paddlemae.tasks.data import check as checking
    from paddlemae.tasks.data import split_lists as splitting
    from paddlemae.tasks.knn import classify_by_neighbours

    commands = Commands(
        check=checking.check,
        summarize=checking.summarize,
        write_check=checking.write_check,
        split_images=splitting.split_images,
        write_list=splitting.write_list,
        make_plan=make_plan,
        pretrain=pretraining.pretrain,
        finetune=finetuning.finetune,
        segment=segmenting.segment,
        classify_by_neighbours=classify_by_neighbours,
    )
    request = Request(os.fspath(data), minutes, Path(out), compare, seed, device, dry_run, overwrite, quiet)
    with host_as_before():
        return run_auto(request, commands)
