"""`paddlemae data ...`: parse, import lazily, dispatch."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from paddlemae.cli.options import MaxBadImages, Quiet

app = typer.Typer(
    no_args_is_help=True,
    help="""Your images before any training: what their channels hold, what is wrong with them; packs that read fast.

PATH is whatever `--data` takes: a folder, list, archive, shards, table, arrays, or 'digits'.
""",
)

Source = Annotated[str, typer.Argument(metavar="PATH", help="Images: a folder, list, archive, table ... or 'digits'.")]
Channels = Annotated[int, typer.Option("--channels", min=1, help="1 gray, 3 RGB, 4 RGBA, or the images' own number.")]
Parts = Annotated[str, typer.Option("--split", help="train, test, or all: both, where there are both.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=0, help="Processes that decode; as many as cores unless given.")
]


@app.command()
def stats(
    path: Source,
    split: Annotated[str, typer.Option("--split", help="train, test, or all that PATH holds.")] = "train",
    channels: Annotated[
        int | None, typer.Option("--channels", min=1, help="As in a recipe; --recipe's, or 3, unless given.")
    ] = None,
    bits: Annotated[
        int | None, typer.Option("--bits", help="8 or 16 of a value; as training takes them unless given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every digit.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="A recipe to write, with PATH and what was found.")] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="The pretraining recipe that --out adds it to, by name or as a file.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the recipe that is there.")] = False,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Compute the mean and standard deviation of each channel, in one pass: settings to paste, or a recipe.

    Examples:

    `paddlemae data stats photos/`

    `paddlemae data stats scenes/ --channels 13 --json`

    `paddlemae data stats scenes/ --channels 13 --recipe cifar10 --out scenes.yaml`
    """
    from paddlemae.tasks.data import statistics as task

    base = task.load_base(recipe, out, overwrite)
    channels, bits = task.choose_channels(base, channels, bits)
    found = task.measure_source(path, split=split, channels=channels, bits=bits, workers=workers, quiet=quiet)
    print(json.dumps(task.as_json(found), indent=2) if as_json else task.as_text(found))
    if out:
        task.write_recipe(found, path, split, base, out)
        print(f"wrote {out}", file=sys.stderr if as_json else sys.stdout)


@app.command()
def check(
    path: Source,
    split: Parts = "all",
    test: Annotated[
        str | None,
        typer.Option("--test", metavar="PATH", help="Held-out images elsewhere, to compare PATH's training part with."),
    ] = None,
    channels: Channels = 3,
    out: Annotated[
        Path | None, typer.Option("--out", help="A folder for check.json and the picture check.png.")
    ] = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Look for what is wrong with images: exit status 0 if nothing was found, 1 if something was.

    Unreadable ones, exact and near duplicates, images or groups that are in both splits, 16 bits of which 8 would lose
    most.

    Examples:

    `paddlemae data check photos/`

    `paddlemae data check labelled/ --out labelled-check`

    `paddlemae data check train/ --test other/`
    """
    from paddlemae.tasks.data import check as task

    with task.lock_output(out, path, test) if out else nullcontext():
        found = task.check(path, split=split, test=test, channels=channels, workers=workers, quiet=quiet)
        print(task.summarize(found), flush=True)
        if out:
            task.write_check(found, out)
            print(f"wrote {out / task.JSON_FILE} and {task.PICTURE_FILE}")
    if found.findings:
        raise typer.Exit(1)


@app.command()
def pack(
    path: Source,
    out: Annotated[Path, typer.Option("--out", help="The folder of shards to write.")],
    size: Annotated[
        int, typer.Option("--size", min=1, help="Largest short side, pixels; larger ones are resized.")
    ] = 256,
    channels: Channels = 3,
    bits: Annotated[int | None, typer.Option("--bits", help="8 or 16 of a value; each image's unless given.")] = None,
    quality: Annotated[int, typer.Option("--quality", min=1, max=100, help="Of JPEGs, which resized ones are.")] = 95,
    lossless: Annotated[bool, typer.Option("--lossless", help="Write resized images as PNG.")] = False,
    shard_size: Annotated[str, typer.Option("--shard-size", help="Images in a shard, or bytes as in 500MB.")] = "1000",
    split: Parts = "all",
    max_bad_images: MaxBadImages = 0.01,
    workers: Workers = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the pack in --out.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write images into WebDataset shards, those that are large made smaller: `--data FOLDER` reads them fast.

    Labels, class names, groups, order and splits are kept. After a stop, rerun the same command to resume.

    Examples:

    `paddlemae data pack photos/ --out photos-256`

    `paddlemae data pack scenes/ --channels 13 --size 120 --shard-size 1GB --out scenes-120`
    """
    from paddlemae.tasks.data import pack as task

    packed = task.pack(
        path,
        out,
        size=size,
        channels=channels,
        bits=bits,
        quality=quality,
        lossless=lossless,
        shard_size=shard_size,
        split=split,
        max_bad_images=max_bad_images,
        workers=workers,
        overwrite=overwrite,
        quiet=quiet,
    )
    print(task.summarize_pack(packed))


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `data pack` wrote.")],
    quiet: Quiet = False,
) -> None:
    """Read every shard of a pack and compare checksums: exit status 0 if all are whole, 1 if one is damaged.

    Example: `paddlemae data verify photos-256`
    """
    from paddlemae.tasks.data import pack as task

    found = task.verify(folder, quiet=quiet)
    print(task.describe_verification(found))
    if found.faults:
        raise typer.Exit(1)
