"""`paddlemae auto`: parse, import lazily, dispatch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paddlemae.cli.load_paddle import load_paddle
from paddlemae.cli.options import Overwrite, Quiet


def auto(
    data: Annotated[str, typer.Option("--data", help="Images: a folder, list, archive, table ... or 'digits'.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write; a run there that was stopped is resumed.")],
    minutes: Annotated[float, typer.Option("--minutes", help="Time for everything but --compare.")] = 30,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Also train from scratch, for as long as pretraining and fine-tuning took."),
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed of the trainings and of the test part.")] = 0,
    device: Annotated[str, typer.Option("--device", help="cpu, gpu, ...; auto: an accelerator if there is one.")] = (
        "auto"
    ),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan without training.")] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Do everything within a given time: check the images, plan, pretrain, train on labels or masks, write a report.

    Labelled images are also classified without a network, and the report begins with whether pretraining helped. Where
    they have no test part, a fifth of them is held out, duplicates together. Images with masks end in a segmenter.
    Without labels and masks the report shows reconstructions and a map of the features. The same command resumes a run
    that was stopped.

    Examples:

    `paddlemae auto --data labelled/ --out runs/labelled`

    `paddlemae auto --data photos/ --minutes 120 --out runs/photos`

    `paddlemae auto --data labelled/ --out runs/labelled --compare`

    `paddlemae auto --data photos/ --out runs/photos --dry-run`
    """
    load_paddle()
    from paddlemae.api import plans

    plans.auto(
        data,
        minutes,
        out=out,
        compare=compare,
        seed=seed,
        device=device,
        dry_run=dry_run,
        overwrite=overwrite,
        quiet=quiet,
    )
