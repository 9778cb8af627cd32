"""`paddlemae demo`, `pretrain`, `finetune`, `segment`, `probe` and `study`: parse, import lazily, dispatch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paddlemae.cli.exit_status import as_one_of_the_ranks
from paddlemae.cli.load_paddle import load_paddle
from paddlemae.cli.options import (
    LAUNCH_OPTIONS,
    Data,
    Out,
    Overrides,
    Overwrite,
    Quiet,
    RecipeName,
    TrainingOptions,
    Trust,
    takes_options,
)

if TYPE_CHECKING:  # needs Paddle
    from paddlemae.tasks.training.run_start import Start


def demo(
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the runs and pictures.")] = None,
    task: Annotated[
        str, typer.Option("--task", help="finetune, on digits, or segment, on scenes of them.")
    ] = "finetune",
    overwrite: Overwrite = False,
) -> None:
    """Pretrain, look, compare and fine-tune on embedded images, in minutes.

    The folder is `runs/demo` unless it is named, and `runs/demo-segment` for scenes.

    Examples:

    `paddlemae demo`

    `paddlemae demo --task segment`
    """
    if task not in ("finetune", "segment"):
        raise ValueError(f"--task must be finetune or segment; got {task!r}")
    load_paddle()
    if task == "segment":
        from paddlemae.cli.demo_segment import demo_segment

        demo_segment(out or Path("runs/demo-segment"), overwrite=overwrite)
        return
    from paddlemae.cli.demo import demo as run_demo

    run_demo(out or Path("runs/demo"), overwrite=overwrite)


@takes_options()
def pretrain(options: TrainingOptions) -> None:
    """Pretrain a masked autoencoder on images without labels.

    Examples:

    `paddlemae pretrain digits --out runs/digits`

    `paddlemae pretrain cifar10 --data photos/ --out runs/photos epochs=20 mask_ratio=0.6 workers=2`

    `paddlemae pretrain base --data imagenet/ --dry-run`

    `paddlemae pretrain base --init mae_pretrain_vit_base.pth --data photos/ --out runs/photos`

    `paddlemae pretrain --resume --out runs/photos`

    `paddlemae pretrain base --data imagenet/ --out runs/base --procs 8`
    """
    if _launched("pretrain", options):
        return
    recipe = _recipe("pretrain", options)
    from paddlemae.tasks import pretrain as task

    _plan_or_run(recipe, task.dry_run, task.pretrain, options)


@takes_options()
def finetune(options: TrainingOptions) -> None:
    """Fine-tune a classifier on labelled images, for example one folder per class.

    Without a recipe, settings that are not named are chosen by the number of labelled images; `--dry-run` prints them.

    Examples:

    `paddlemae finetune --init runs/photos --data labelled/ --out runs/tuned sampling=balanced`

    `paddlemae finetune digits --init runs/digits --out runs/digits-100 labels=100`

    `paddlemae finetune cifar10 --init scratch --data labelled/ --out runs/scratch val_fraction=0.2`
    """
    if _launched("finetune", options):
        return
    recipe = _recipe("finetune", options)
    from paddlemae.tasks import finetune as task

    _plan_or_run(recipe, task.dry_run, task.finetune, options)


@takes_options(leave_out=LAUNCH_OPTIONS)
def probe(options: TrainingOptions) -> None:
    """Train a linear classifier on a pretrained encoder's frozen features.

    Examples:

    `paddlemae probe digits --init runs/digits --out runs/digits-probe`

    `paddlemae probe --init runs/photos --data labelled/ --out runs/probe cached=true epochs=30`
    """
    recipe = _recipe("probe", options)
    from paddlemae.tasks import probe as task

    _plan_or_run(recipe, task.dry_run, task.probe, options)


@takes_options()
def segment(options: TrainingOptions) -> None:
    """Train a segmenter, which gives every pixel a class, on images with masks.

    Without a recipe, settings that are not named are chosen by the number of images; `--dry-run` prints them.

    Examples:

    `paddlemae segment --init runs/tiles --data tiles/ --out runs/fields`

    `paddlemae segment --init runs/cells --data cells/ --out runs/nuclei labels=5% rotate=true flip_vertical=true`

    `paddlemae segment ade20k-base --init mae_pretrain_vit_base.pth --data ADEChallengeData2016 --out runs/ade20k`
    """
    if _launched("segment", options):
        return
    recipe = _recipe("segment", options)
    from paddlemae.tasks import segment as task

    _plan_or_run(recipe, task.dry_run, task.segment, options)


def study(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    vary: Annotated[
        str, typer.Option("--vary", help="The setting to vary, such as labels or trainable_blocks.")
    ] = "labels",
    value: Annotated[
        list[str] | None, typer.Option("--value", help="A value of that setting; repeat the option for several.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs per value, with seeds 0, 1, 2 ...")] = 3,
    init: Annotated[
        str | None, typer.Option("--init", help="Initial weights: a pretraining run or a weight file.")
    ] = None,
    scratch: Annotated[
        bool, typer.Option("--scratch", help="Also train each run from scratch, for comparison.")
    ] = False,
    data: Data = None,
    out: Out = None,
    task: Annotated[str, typer.Option("--task", help="What is trained: finetune or segment.")] = "finetune",
    quiet: Quiet = False,
    trust: Trust = False,
) -> None:
    """Train with several values of one setting and several seeds; write a table, a curve and every run.

    Examples:

    `paddlemae study digits --init runs/digits --out runs/blocks --vary trainable_blocks --value 0 --value 0.5`

    `paddlemae study digits --init runs/digits --out runs/labels --vary labels --value 50 --value 100 --scratch`

    `paddlemae study --task segment --init runs/tiles --data tiles/ --out runs/few --vary labels --value 5%`
    """
    load_paddle()
    from paddlemae.recipe import parse_overrides
    from paddlemae.tasks import study as studies
    from paddlemae.tasks.finetune import finetune as run_finetune
    from paddlemae.tasks.segment import segment as run_segment

    trainings: dict[str, Callable[..., dict[str, Any]]] = {"finetune": run_finetune, "segment": run_segment}
    if task not in trainings:
        raise ValueError(f"--task must be one of {', '.join(trainings)}; got {task}")
    if out is None or init is None or not value:
        raise ValueError("a study needs --init RUN, --out FOLDER and at least one --value")
    recipe, settings = name_and_overrides(recipe, overrides, data)
    values = {text: parse_overrides([f"{vary}={text}"])[vary] for text in value}
    plan = studies.Study(recipe, settings, vary, values, tuple(range(seeds)), init, scratch, task)
    print(studies.table(studies.study(plan, out, trainings[task], quiet=quiet, trust=trust)))
    print(f"see {out / studies.CURVE_FILE}")


def _recipe(task: str, options: TrainingOptions) -> Any:
    """Return the recipe that a command line means; a bare --resume means the one in the run folder."""
    from paddlemae.recipe import load_recipe

    name, overrides = name_and_overrides(options.recipe, options.overrides, options.data, options.init)
    recipe = None if options.resume and not name else load_recipe(task, name, overrides)
    load_paddle()
    if recipe is None:
        from paddlemae.tasks.training.run_start import stored_recipe

        if options.out is None:
            raise ValueError("--resume needs the run folder: --out FOLDER")
        stored = stored_recipe(options.out, task)
        recipe = load_recipe(task, str(options.out / "recipe.yaml"), overrides) if overrides else stored
    return recipe


def name_and_overrides(
    name: str | None, texts: list[str] | None, data: str | None, init: str | None = None
) -> tuple[str | None, dict[str, Any]]:
    """Return (a recipe's name, its overrides): a setting that comes first is not a name."""
    from paddlemae.recipe import parse_overrides

    texts = list(texts or [])
    if name and "=" in name:
        texts.insert(0, name)
        name = None
    named = {key: value for key, value in (("data", data), ("init", init)) if value is not None}
    return name, {**parse_overrides(texts), **named}


def _plan_or_run(
    recipe: Any, plan: Callable[..., dict[str, str]], run: Callable[[Any, Start], Any], options: TrainingOptions
) -> None:
    """Print what a training would do, or do it."""
    from paddlemae.tasks.training.run_start import Start

    if options.dry_run:
        _print_plan(recipe, plan(recipe, trust=options.trust))
        return
    out = _out_of(options)
    with as_one_of_the_ranks() as ranks:
        quiet = options.quiet or not ranks.is_first
        run(recipe, Start(out, options.resume, options.overwrite, quiet, ranks, options.trust))


def _out_of(options: TrainingOptions) -> Path:
    if options.out is None:
        raise ValueError("name the run folder to write: --out runs/NAME")
    return options.out


def _launched(task: str, options: TrainingOptions) -> bool:
    """Return whether a training was to be one of several processes; they were started here then, and ended well."""
    launch = options.launch
    launch.check()
    if options.dry_run or not launch.is_needed:
        return False
    from paddlemae.launch.commands import TrainingCommand, train_in_processes

    name, overrides = name_and_overrides(options.recipe, options.overrides, options.data, options.init)
    flags = (options.resume, options.overwrite, options.quiet, options.trust)
    if status := train_in_processes(TrainingCommand(task, name, overrides, _out_of(options), *flags), launch):
        sys.exit(status)
    return True


def _print_plan(recipe: Any, plan: dict[str, str]) -> None:
    from paddlemae.recipe import dump_recipe, open_names

    print(dump_recipe(recipe, without=open_names(recipe)))
    width = max(17, *(len(name) + 1 for name in plan))
    for name, value in plan.items():
        print(f"{name + ':':{width}} {value}")
