"""The command line: parse, import lazily, dispatch. No work of its own."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paddlemae.cli import data, features, recipe, weights
from paddlemae.cli.exit_status import as_one_of_the_ranks, ending
from paddlemae.cli.options import (
    Data,
    Layer,
    MaxBadImages,
    Norm,
    Out,
    Overrides,
    Overwrite,
    Quiet,
    RecipeName,
    Run,
    Token,
    TrainingOptions,
    Trust,
    takes_training_options,
)
from paddlemae.launch.launcher import is_rank
from paddlemae.runs.full_disk_output import survive_lost_output
from paddlemae.system.display_names import escape_output, say
from paddlemae.system.signals import REQUEUE_STATUS, ignore_schedulers
from paddlemae.train.stopping import ended_by_signals

if TYPE_CHECKING:  # needs Paddle
    from paddlemae.tasks.training.run_start import Start

app = typer.Typer(
    name="paddlemae",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Masked-autoencoder pretraining (MAE, arXiv 2111.06377) for PaddlePaddle.

Pretrain on your own images without labels, see what the model reconstructs, fine-tune on the few labels you have.

Try it: `paddlemae demo`

Your own images: `paddlemae pretrain cifar10 --data photos/ --out runs/mine`

Look at the result: `paddlemae reconstruct runs/mine photos/a.jpg --out a.png`

Fine-tune: `paddlemae finetune cifar10 --init runs/mine --data labelled/ --out runs/tuned`
""",
)

app.add_typer(weights.app, name="weights")
app.add_typer(data.app, name="data")


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
@takes_training_options()
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


@app.command()
@takes_training_options()
def finetune(options: TrainingOptions) -> None:
    """Fine-tune a classifier on labelled images, for example one folder per class.

    Examples:

    `paddlemae finetune digits --init runs/digits --out runs/digits-100 labels=100`

    `paddlemae finetune cifar10 --init runs/photos --data cifar10/ --out runs/tuned epochs=5`

    `paddlemae finetune cifar10 --init scratch --data labelled/ --out runs/scratch val_fraction=0.2`
    """
    if _launched("finetune", options):
        return
    recipe = _recipe("finetune", options)
    from paddlemae.tasks import finetune as task

    _plan_or_run(recipe, task.dry_run, task.finetune, options)


@app.command()
def reconstruct(
    run: Annotated[str, typer.Argument(help="A pretraining run or a file of MAE weights.")],
    images: Annotated[list[str], typer.Argument(help="Image files, folders of images, or 'digits'.")],
    out: Annotated[Path, typer.Option("--out", help="The picture to write.")] = Path("reconstruction.png"),
    mask: Annotated[
        str,
        typer.Option(
            "--mask",
            help="random, block, grid ... as in recipes; none; boxes:LEFT,TOP,RIGHT,BOTTOM;... in pixels of the "
            "resized image; or a file: a picture (white = removed) or a .npy/.txt map of the patches (1 = removed).",
        ),
    ] = "random",
    mask_ratio: Annotated[
        float | None, typer.Option("--mask-ratio", help="Share of the patches to remove, 0 to 1; default 0.75.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Random seed of the mask.")] = 0,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Maximum number of images to draw.")] = 8,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain", help="Draw the decoder's normalised output, without the original mean and scale of each patch."
        ),
    ] = False,
    trust: Trust = False,
) -> None:
    """Mask images, let a pretrained model reconstruct them, and draw the result.

    Examples:

    `paddlemae reconstruct runs/photos photos/ --out photos.png`

    `paddlemae reconstruct runs/digits digits --mask block --mask-ratio 0.5`

    `paddlemae reconstruct runs/photos a.jpg --mask 'boxes:32,32,96,96;160,0,224,64'`
    """
    import paddlemae.engine.safe_import  # noqa: F401
    from paddlemae.tasks.models.mask_choice import parse_mask
    from paddlemae.tasks.reconstruct import reconstruct_images

    choice = parse_mask(mask, mask_ratio, seed)
    print(f"wrote {reconstruct_images(run, images, out, choice=choice, limit=limit, plain=plain, trust=trust)}")


@app.command()
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
    quiet: Quiet = False,
    trust: Trust = False,
) -> None:
    """Fine-tune with several values of one setting and several seeds; write a table, a curve and every run.

    Examples:

    `paddlemae study digits --init runs/digits --out runs/blocks --vary trainable_blocks --value 0 --value 0.5`

    `paddlemae study digits --init runs/digits --out runs/labels --vary labels --value 50 --value 100 --scratch`
    """
    import paddlemae.engine.safe_import  # noqa: F401
    from paddlemae.recipe import parse_overrides
    from paddlemae.tasks import study as task
    from paddlemae.tasks.finetune import finetune as run_finetune

    if out is None or init is None or not value:
        raise ValueError("a study needs --init RUN, --out FOLDER and at least one --value")
    recipe, settings = _name_and_overrides(recipe, overrides, data)
    values = {text: parse_overrides([f"{vary}={text}"])[vary] for text in value}
    plan = task.Study(recipe, settings, vary, values, tuple(range(seeds)), init, scratch)
    print(task.table(task.study(plan, out, run_finetune, quiet=quiet, trust=trust)))
    print(f"see {out / task.CURVE_FILE}")


@app.command()
@takes_training_options(launches=False)
def probe(options: TrainingOptions) -> None:
    """Train a linear classifier on a pretrained encoder's frozen features.

    Examples:

    `paddlemae probe digits --init runs/digits --out runs/digits-probe`

    `paddlemae probe --init runs/photos --data labelled/ --out runs/probe cached=true epochs=30`
    """
    recipe = _recipe("probe", options)
    from paddlemae.tasks import probe as task

    _plan_or_run(recipe, task.dry_run, task.probe, options)


@app.command()
def knn(
    run: Run,
    data: Annotated[
        str, typer.Option("--data", help="Labelled images: one folder per class, a list, shards ... or 'digits'.")
    ],
    token: Token = "mean",
    layer: Layer = None,
    norm: Norm = "layer",
    k: Annotated[
        list[int] | None, typer.Option("--k", help="Number of neighbours; repeatable; default 10, 20, 100 and 200.")
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", help="Temperature of the weighted vote.")] = 0.07,
    bank: Annotated[str, typer.Option("--bank", help="The split whose labels are known: train or test.")] = "train",
    queries: Annotated[str, typer.Option("--queries", help="The split to classify: train or test.")] = "test",
    labels: Annotated[
        int | None, typer.Option("--labels", min=1, help="Use only this many labelled images, equally many per class.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed of --labels.")] = 0,
    random: Annotated[
        bool, typer.Option("--random", help="Use the same encoder with random weights, for comparison.")
    ] = False,
    max_bad_images: MaxBadImages = 0.01,
    trust: Trust = False,
) -> None:
    """Classify images by their nearest labelled neighbours in a model's feature space (kNN).

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
        say=lambda results: print(task.results_text(results), flush=True),
        trust=trust,
    )


app.command()(recipe.recipe)
app.command()(features.embed)
app.command()(features.search)


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="A fine-tuning run or a file of classifier weights.")],
    data: Annotated[
        str, typer.Option("--data", help="Labelled images: one folder per class, a list, shards ... or 'digits'.")
    ],
    split: Annotated[str, typer.Option("--split", help="The split to evaluate: train or test.")] = "test",
    image_size: Annotated[
        int | None, typer.Option("--image-size", min=1, help="Height and width in pixels; default: the model's own.")
    ] = None,
    trust: Trust = False,
) -> None:
    """Evaluate a fine-tuned classifier on labelled images: metrics with intervals, each class, confusion matrix.

    Examples:

    `paddlemae evaluate runs/tuned --data labelled/`

    `paddlemae evaluate runs/tuned --data labelled/ --image-size 288`
    """
    import paddlemae.engine.safe_import  # noqa: F401
    from paddlemae.tasks import evaluate as task

    def say(result: dict[str, Any]) -> None:
        print(task.result_text(result), flush=True)

    task.evaluate(run, data, split=split, image_size=image_size, say=say, trust=trust)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="One run folder, or several to compare.")],
    out: Annotated[Path | None, typer.Option("--out", help="Output folder; default: the first run's folder.")] = None,
) -> None:
    """Write an HTML page of a run's curves, results and pictures, or a comparison of several runs.

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
    to: Annotated[str, typer.Option("--to", help="Format: onnx or paddle.")],
    out: Annotated[Path, typer.Option("--out", help="A file that ends in .onnx, or a folder for Paddle's files.")],
    what: Annotated[
        str | None,
        typer.Option("--what", help="encoder, classifier or reconstructor; default: chosen by the kind of run."),
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", help="Features of an encoder: cls, or mean of the patch tokens (default).")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    trust: Trust = False,
) -> None:
    """Export a model to ONNX or to Paddle Inference, and check that the export gives the same outputs.

    Examples:

    `paddlemae export runs/tuned --to onnx --out tuned.onnx`

    `paddlemae export runs/photos --to paddle --out exported/ --what reconstructor`
    """
    import paddlemae.engine.safe_import  # noqa: F401
    from paddlemae.export.write import export as export_model

    done = export_model(run, to, out, what=what, token=token, overwrite=overwrite, trust=trust)
    print(f"{done.what}: differs from the model by {done.difference:.1e} at most, on {done.images}")
    print(f"wrote {', '.join(map(str, done.files))}")


def _recipe(task: str, options: TrainingOptions) -> Any:
    """Return the recipe that a command line means; a bare --resume means the one in the run folder."""
    from paddlemae.recipe import load_recipe

    name, overrides = _name_and_overrides(options.recipe, options.overrides, options.data, options.init)
    recipe = None if options.resume and not name else load_recipe(task, name, overrides)
    import paddlemae.engine.safe_import  # noqa: F401

    if recipe is None:
        from paddlemae.tasks.training.run_start import stored_recipe

        if options.out is None:
            raise ValueError("--resume needs the run folder: --out FOLDER")
        stored = stored_recipe(options.out, task)
        recipe = load_recipe(task, str(options.out / "recipe.yaml"), overrides) if overrides else stored
    return recipe


def _name_and_overrides(
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

    name, overrides = _name_and_overrides(options.recipe, options.overrides, options.data, options.init)
    flags = (options.resume, options.overwrite, options.quiet, options.trust)
    if status := train_in_processes(TrainingCommand(task, name, overrides, _out_of(options), *flags), launch):
        sys.exit(status)
    return True


def _print_plan(recipe: Any, plan: dict[str, str]) -> None:
    from paddlemae.recipe import dump_recipe

    print(dump_recipe(recipe))
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


def _one_line(message: Warning | str, *place: Any, **output: Any) -> None:
    say(f"paddlemae: warning: {' '.join(str(message).split())}", error=True)
