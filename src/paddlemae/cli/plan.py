"""`paddlemae plan`: parse, import lazily, dispatch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paddlemae.cli.load_paddle import load_paddle
from paddlemae.cli.options import Quiet


def plan(
    data: Annotated[str, typer.Option("--data", help="Images: a folder, list, archive, table ... or 'digits'.")],
    minutes: Annotated[float, typer.Option("--minutes", help="Time for everything, from planning to the end.")] = 30,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE.yaml|FOLDER",
            help="The recipes to write: FILE.yaml and FILE-TASK.yaml, or two files in FOLDER; default: print them.",
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, gpu, ...; auto: an accelerator if there is one.")] = (
        "auto"
    ),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed of the trainings.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Plan trainings for your images and your time: recipes with a reason for each value.

    Looks at the images, tries a few steps on this machine, and chooses; takes less than a minute. `paddlemae pretrain`
    and `finetune`, or `segment` of images with masks, run the recipes as they are, or as you edit them.

    Examples:

    `paddlemae plan --data photos/ --minutes 30 --out photos.yaml`

    `paddlemae plan --data labelled/ --minutes 240 --out plans/labelled`
    """
    load_paddle()
    from paddlemae.tasks.plan import write_plan as writing
    from paddlemae.tasks.plan.make_plan import make_plan

    if out:
        writing.output_paths(out)  # refuses what is there before anything is measured
    cache = writing.cache_path(out) if out else None
    made = make_plan(data, minutes, device=device, seed=seed, cache=cache, quiet=quiet)
    print(writing.summarize(made), flush=True)
    if out:
        paths = writing.write_plan(made, out)
        print(f"wrote {' and '.join(map(str, paths.values()))}; to train:")
        print(*(f"  {command}" for command in writing.commands(made, paths)), sep="\n")
    else:
        print(*(f"\n{writing.recipe_text(made, task)}" for task in made.settings), end="", sep="")
