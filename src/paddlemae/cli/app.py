"""The command line: parse, import lazily, dispatch. No work of its own."""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from paddlemae.cli import data, features, recipe, weights
from paddlemae.cli.exit_status import as_one_of_the_ranks, ending
from paddlemae.cli.options import Layer, MaxBadImages, Norm, Quiet, Run, Token, Trust
from paddlemae.launch.launcher import MOST_RESTARTS, Launch, is_rank
from paddlemae.runs.full_disk_output import survive_lost_output
from paddlemae.system.display_names import escape_output, say
from paddlemae.system.signals import REQUEUE_STATUS, ignore_schedulers
from paddlemae.train.stopping import ended_by_signals

app = typer.Typer(
    name="paddlemae",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Masked-autoencoder pretraining (MAE, arXiv 2111.06377) for PaddlePaddle.

Pretrain on your own images without labels, see what the model reconstructs, fine-tune on the few labels you have.

    paddlemae demo                                                     the whole journey, in minutes

    paddlemae pretrain cifar10 --data photos/ --out runs/mine          your own images

    paddlemae reconstruct runs/mine photos/a.jpg --out a.png           what it sees

    paddlemae finetune cifar10 --init runs/mine --data labelled/ --out runs/tuned
""",
)

app.add_typer(weights.app, name="weights")
app.add_typer(data.app, name="data")

RECIPE_HELP = "A recipe of `paddlemae recipe --list`, or a .yaml file."
SETTINGS_HELP = "Settings of the recipe; `paddlemae recipe TASK NAME` explains them."
RecipeName = Annotated[
    str | None, typer.Argument(metavar="[RECIPE]", help="A recipe of `paddlemae recipe --list` or a .yaml file.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings; `paddlemae recipe NAME` explains them.")
]
Data = Annotated[str | None, typer.Option("--data", help="Images: a folder, list, archive, table ... or 'digits'.")]
Out = Annotated[Path | None, typer.Option("--out", help="The run folder to write.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")]
Procs = Annotated[
    str | None,
    typer.Option("--procs", metavar="N|auto", help="Processes of this host that share each batch; auto tries some."),
]
Nodes = Annotated[int, typer.Option("--nodes", min=1, help="Hosts that run this same command together.")]
Master = Annotated[
    str | None, typer.Option("--master", metavar="HOST:PORT", help="Where they meet: the first of them.")
]
NodeRank = Annotated[
    int | None, typer.Option("--node-rank", help="This host among them, from 0; by arrival unless given.")
]
Restarts = Annotated[
    int, typer.Option("--restarts", min=0, help="After crashes, in a row without a new checkpoint; needs --procs.")
]


@app.callback(invoke_without_command=True)
def version_option(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        import paddlemae

        print(paddlemae.__version__)
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the runs and pictures.")] = Path("runs/demo"),
    overwrite: Overwrite = False,
) -> None:
    """Pretrain, reconstruct, compare and fine-tune on 5,000 embedded digits, in minutes.

    Example: `paddlemae demo`
    """
    import paddlemae.engine.safe_import  # noqa: F401
    from paddlemae.cli.demo import demo as run_demo

    run_demo(out, overwrite=overwrite)


@app.command()
def pretrain(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    init: Annotated[str | None, typer.Option("--init", help="Weights to start from: a run, or anyone's.")] = None,
    data: Data = None,
    out: Out = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    procs: Procs = None,
    nodes: Nodes = 1,
    master: Master = None,
    node_rank: NodeRank = None,
    restarts: Restarts = MOST_RESTARTS,
    quiet: Quiet = False,
    trust: Trust = False,
) -> None:
    """Pretrain a masked autoencoder on images without labels.

    Examples:

    `paddlemae pretrain digits --out runs/digits`

    `paddlemae pretrain cifar10 --data photos/ --out runs/photos epochs=20 mask_ratio=0.6 workers=2`

    `paddlemae pretrain base --data imagenet/ --dry-run`

    `paddlemae pretrain base --init mae_pretrain_vit_base.pth --data photos/ --out runs/photos`

    `paddlemae pretrain --resume --out runs/photos`

    `paddlemae pretrain base --data imagenet/ --out runs/base --procs 8`
    """
    launch = Launch(procs, nodes, master, node_rank, restarts)
    if not dry_run and _launched("pretrain", recipe, overrides, data, out, resume, launch):
        return
    built = _recipe("pretrain", recipe, overrides, out, resume, data=data, init=init)
    from paddlemae.tasks import pretrain as task

    _plan_or_run(built, task.dry_run, task.pretrain, dry_run, out, resume, overwrite, quiet, trust)


@app.command()
def finetune(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    init: Annotated[
        str | None, typer.Option("--init", help="A pretraining run, anyone's weights, or 'scratch'.")
    ] = None,
    data: Data = None,
    out: Out = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    procs: Procs = None,
    nodes: Nodes = 1,
    master: Master = None,
    node_rank: NodeRank = None,
    restarts: Restarts = MOST_RESTARTS,
    quiet: Quiet = False,
    trust: Trust = False,
) -> None:
    """Fine-tune a classifier on labelled images: one folder a class.

    Examples:

    `paddlemae finetune digits --init runs/digits --out runs/digits-100 labels=100`

    `paddlemae finetune cifar10 --init runs/photos --data cifar10/ --out runs/tuned epochs=5`

    `paddlemae finetune cifar10 --init scratch --data labelled/ --out runs/scratch val_fraction=0.2`
    """
    launch = Launch(procs, nodes, master, node_rank, restarts)
    if not dry_run and _launched("finetune", recipe, overrides, data, out, resume, launch):
        return
    built = _recipe("finetune", recipe, overrides, out, resume, data=data, init=init)
    from paddlemae.tasks import finetune as task

    _plan_or_run(built, task.dry_run, task.finetune, dry_run, out, resume, overwrite, quiet, trust)


@app.command()
def reconstruct(
    run: Annotated[str, typer.Argument(help="A pretraining run, or anyone's MAE weights.")],
    images: Annotated[list[str], typer.Argument(help="Image files, folders of images, or 'digits'.")],
    out: Annotated[Path, typer.Option("--out", help="The picture to write.")] = Path("reconstruction.png"),
    mask: Annotated[
        str,
        typer.Option(
            "--mask",
            help="random, block, grid, none; boxes:LEFT,TOP,RIGHT,BOTTOM;... in the view's pixels; or a file: a "
            "picture (white = removed) or a .npy/.txt map of the patches (1 = removed).",
        ),
    ] = "random",
    mask_ratio: Annotated[
        float | None, typer.Option("--mask-ratio", help="Share of the patches to remove; 0.75 unless given.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Draws the mask.")] = 0,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Images to draw at most.")] = 8,
    plain: Annotated[bool, typer.Option("--plain", help="Show the decoder's output as it is.")] = False,
    trust: Trust = False,
) -> None:
    """Draw what a pretrained model makes of images that it sees only in part.

    Examples:

    `paddlemae reconstruct runs/photos photos/ --out photos.png`

    `paddlemae reconstruct runs/digits digits --mask block --mask-ratio 0.5`

    `paddlemae reconstruct runs/photos a.jpg --mask 'boxes:32,32,96,96;160,0,224,64'`
    """
    import paddlemae.engine.safe_import  # noqa: F401
    from paddlemae.tasks.models.mask_choice import parsed_mask
    from paddlemae.tasks.reconstruct import reconstruct_images

    choice = parsed_mask(mask, mask_ratio, seed)
    print(f"wrote {reconstruct_images(run, images, out, choice=choice, limit=limit, plain=plain, trust=trust)}")


@app.command()
def study(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    vary: Annotated[str, typer.Option("--vary", help="The setting to vary: trainable_blocks, labels ...")] = "labels",
    value: Annotated[list[str] | None, typer.Option("--value", help="One of its values; give several.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each value, with seeds 0, 1, 2 ...")] = 3,
    init: Annotated[str | None, typer.Option("--init", help="The pretraining run, or anyone's weights.")] = None,
    scratch: Annotated[bool, typer.Option("--scratch", help="The same from scratch, for comparison.")] = False,
    data: Data = None,
    out: Out = None,
    quiet: Quiet = False,
    trust: Trust = False,
) -> None:
    """Fine-tune with one setting varied, over several seeds: a table, a curve, and every run.

    Examples:

    `paddlemae study digits --init runs/digits --out runs/blocks --vary trainable_blocks --value 0 --value 0.5`

    `paddlemae study digits --init runs/digits --out runs/labels --vary labels --value 50 --value 100 --scratch`
    """
    import paddlemae.engine.safe_import  # noqa: F401
    from paddlemae.tasks import study as task
    from paddlemae.tasks.finetune import finetune as run_finetune

    if out is None or init is None or not value:
        raise ValueError("a study needs --init RUN, --out FOLDER and one --value or more")
    recipe, overrides = _recipe_and_overrides(recipe, overrides, data=data)
    plan = task.Study(recipe, tuple(overrides), vary, tuple(value), tuple(range(seeds)), init, scratch)
    print(task.table(task.study(plan, out, run_finetune, quiet=quiet, trust=trust)))
    print(f"see {out / task.CURVE_FILE}")


@app.command()
def probe(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    init: Annotated[
        str | None, typer.Option("--init", help="The pretraining run to probe, or anyone's weights.")
    ] = None,
    data: Data = None,
    out: Out = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    trust: Trust = False,
) -> None:
    """Train a linear classifier on a pretrained encoder's frozen features.

    Examples:

    `paddlemae probe digits --init runs/digits --out runs/digits-probe`

    `paddlemae probe --init runs/photos --data labelled/ --out runs/probe cached=true epochs=30`
    """
    built = _recipe("probe", recipe, overrides, out, resume, data=data, init=init)
    from paddlemae.tasks import probe as task

    _plan_or_run(built, task.dry_run, task.probe, dry_run, out, resume, overwrite, quiet, trust)


@app.command()
def knn(
    run: Run,
    data: Annotated[
        str, typer.Option("--data", help="Labelled images: a folder a class, list, shards ... or 'digits'.")
    ],
    token: Token = "mean",
    layer: Layer = None,
    norm: Norm = "layer",
    k: Annotated[
        list[int] | None, typer.Option("--k", help="Neighbours that vote; 10, 20, 100 and 200 unless given.")
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", help="Of the weighted votes.")] = 0.07,
    bank: Annotated[str, typer.Option("--bank", help="The part of the data that is searched.")] = "train",
    queries: Annotated[str, typer.Option("--queries", help="The part that is classified.")] = "test",
    labels: Annotated[
        int | None, typer.Option("--labels", min=1, help="Search so many images only, the same number a class.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws them.")] = 0,
    random: Annotated[bool, typer.Option("--random", help="Take the same encoder untrained, for comparison.")] = False,
    max_bad_images: MaxBadImages = 0.01,
    trust: Trust = False,
) -> None:
    """Classify images by their nearest neighbours among labelled ones, by a model's features.

    Examples:

    `paddlemae knn runs/photos --data labelled/`

    `paddlemae knn runs/digits --data digits --token cls --k 20 --k 50`
    """
    import paddlemae.engine.safe_import  # noqa: F401
    from paddlemae.tasks import knn as task
    from paddlemae.tasks.models.inference import FeatureKind

    task.knn(
        run,
        data,
        kind=FeatureKind(token, layer, norm),
        neighbours=k or (),
        temperature=temperature,
        bank_split=bank,
        query_split=queries,
        labels=labels,
        seed=seed,
        random=random,
        max_bad_images=max_bad_images,
        say=lambda results: print(*map(task.result_line, results), sep="\n", flush=True),
        trust=trust,
    )


app.command()(recipe.recipe)
app.command()(features.embed)
app.command()(features.search)


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="A fine-tuning run, or anyone's classifier.")],
    data: Annotated[
        str, typer.Option("--data", help="Labelled images: a folder a class, list, shards ... or 'digits'.")
    ],
    split: Annotated[str, typer.Option("--split", help="train or test.")] = "test",
    image_size: Annotated[
        int | None, typer.Option("--image-size", min=1, help="Pixels of a side; the model's own unless given.")
    ] = None,
    trust: Trust = False,
) -> None:
    """Evaluate a fine-tuned classifier on labelled images: top-1, top-5, and what it takes for what.

    Examples:

    `paddlemae evaluate runs/tuned --data labelled/`

    `paddlemae evaluate runs/tuned --data labelled/ --image-size 288`
    """
    import paddlemae.engine.safe_import  # noqa: F401
    from paddlemae.runs.metrics import CLASSIFICATION
    from paddlemae.tasks import evaluate as task

    def say(result: dict) -> None:
        height, width = result["protocol"]["image_size"]
        print(
            f"{CLASSIFICATION.text(result)}, loss {result['eval_loss']:.4f} on "
            f"{result['eval_images']} images of {height} x {width} pixels",
            flush=True,
        )

    task.evaluate(run, data, split=split, image_size=image_size, say=say, trust=trust)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; several are compared.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder to write to; the first run's unless given.")
    ] = None,
) -> None:
    """Write a page that shows what a run did and how good it is, or compares several; it opens from disk.

    Examples:

    `paddlemae report runs/photos`

    `paddlemae report runs/photos runs/photos-longer --out comparison`
    """
    from paddlemae.report.write_report import write_report

    written = write_report(runs, out)
    print(f"wrote {written.page}, {written.figures.name} and {written.table.name}")


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A run folder or one of its checkpoints.")],
    to: Annotated[str, typer.Option("--to", help="onnx or paddle.")],
    out: Annotated[Path, typer.Option("--out", help="A file that ends in .onnx, or a folder for Paddle's files.")],
    what: Annotated[
        str | None,
        typer.Option("--what", help="encoder, classifier or reconstructor; by the run's kind unless given."),
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", help="Of an encoder: cls, or mean of the patch tokens (the default).")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files that are there.")] = False,
    trust: Trust = False,
) -> None:
    """Export a model to an ONNX file or a program of Paddle's inference engine, checked against the model.

    Examples:

    `paddlemae export runs/tuned --to onnx --out tuned.onnx`

    `paddlemae export runs/photos --to paddle --out exported/ --what reconstructor`
    """
    import paddlemae.engine.safe_import  # noqa: F401
    from paddlemae.export.write import export as export_model

    done = export_model(run, to, out, what=what, token=token, overwrite=overwrite, trust=trust)
    print(f"{done.what}: differs from the model by {done.difference:.1e} at most, on {done.images}")
    print(f"wrote {', '.join(map(str, done.files))}")


def _recipe(task: str, name, overrides, out, resume: bool, **named):
    """The recipe that a command line means; a bare --resume means the one in the run folder."""
    from paddlemae.recipe import load_recipe

    name, overrides = _recipe_and_overrides(name, overrides, **named)
    built = None if resume and not name else load_recipe(task, name, overrides)
    import paddlemae.engine.safe_import  # noqa: F401

    if built is None:
        from paddlemae.tasks.training.run_start import stored_recipe

        if out is None:
            raise ValueError("--resume needs the run folder: --out FOLDER")
        stored = stored_recipe(out, task)
        built = load_recipe(task, str(out / "recipe.yaml"), overrides) if overrides else stored
    return built


def _recipe_and_overrides(name: str | None, overrides: list[str] | None, **named) -> tuple[str | None, list[str]]:
    overrides = list(overrides or [])
    if name and "=" in name:  # a setting came first, so no recipe was named
        overrides.insert(0, name)
        name = None
    overrides += [f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None]  # a name, not YAML
    return name, overrides


def _plan_or_run(
    built, plan, run, dry_run: bool, out: Path | None, resume: bool, overwrite: bool, quiet: bool, trust: bool
) -> None:
    """Print what a training would do, or do it."""
    from paddlemae.tasks.training.run_start import Start

    if dry_run:
        _print_plan(built, plan(built, trust=trust))
        return
    if out is None:
        raise ValueError("name the run folder to write: --out runs/NAME")
    with as_one_of_the_ranks() as ranks:
        quiet = quiet or not ranks.is_first
        run(built, Start(out, resume=resume, overwrite=overwrite, quiet=quiet, ranks=ranks, trust=trust))


def _launched(task: str, name, overrides, data: str | None, out: Path | None, resume: bool, launch: Launch) -> bool:
    """Whether a training was to be one of several processes; then they were started here, and have ended well."""
    launch.check()
    if not launch.is_needed:
        return False
    if out is None:
        raise ValueError("name the run folder to write: --out runs/NAME")
    from paddlemae.launch.commands import train_in_processes

    name, overrides = _recipe_and_overrides(name, overrides, data=data)
    if resume and not name and (out / "recipe.yaml").exists():
        name = str(out / "recipe.yaml")
    if status := train_in_processes(task, name, overrides, out, launch, sys.argv[1:]):
        sys.exit(status)
    return True


def _print_plan(built, plan: dict[str, str]) -> None:
    from paddlemae.recipe import dump_recipe

    print(dump_recipe(built))
    for name, value in plan.items():
        print(f"{name + ':':18}{value}")


def main() -> None:
    """Run the command line; a user's mistake is one line and exit status 2, Ctrl-C 130, a run that was preempted 75."""
    warnings.showwarning = _one_line
    with survive_lost_output(), escape_output():
        try:
            with nullcontext() if is_rank() else ended_by_signals():
                app(standalone_mode=True)
        except BaseException as end:
            if (known := ending(end)) is None:
                raise
            status, text = known
            if status == REQUEUE_STATUS:
                ignore_schedulers()
            say(f"paddlemae: {'error: ' if status < REQUEUE_STATUS else ''}{text}", error=True)
            sys.exit(status)


def _one_line(message, category, filename, lineno, file=None, line=None) -> None:
    say(f"paddlemae: warning: {' '.join(str(message).split())}", error=True)
