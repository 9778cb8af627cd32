"""`paddlemae data ...`: parse, import lazily, dispatch."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from paddlemae.cli.options import MaxBadImages, Quiet

app = typer.Typer(
    no_args_is_help=True,
    help="""Check your images before training, split them, compute their statistics, pack them for fast reading.

PATH is what `--data` accepts: a folder, list, archive, shards, table, arrays, or 'digits'.
""",
)

Source = Annotated[str, typer.Argument(metavar="PATH", help="Images: a folder, list, archive, table ... or 'digits'.")]
Channels = Annotated[int, typer.Option("--channels", min=1, help="1 gray, 3 RGB, 4 RGBA, or the number of bands.")]
Split = Annotated[str, typer.Option("--split", help="train, test or all.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=0, help="Processes that decode images; default: one per core.")
]


@app.command()
def stats(
    path: Source,
    split: Annotated[str, typer.Option("--split", help="train, test or all.")] = "train",
    channels: Annotated[
        int | None, typer.Option("--channels", min=1, help="Channels to read; default: those of --recipe, or 3.")
    ] = None,
    bits: Annotated[
        int | None, typer.Option("--bits", help="Bits per value, 8 or 16; default: as in training.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with all digits.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write a recipe with PATH and the statistics.")] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Pretraining recipe (name or file) that --out extends.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing recipe.")] = False,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Compute the mean and standard deviation of each channel; print them as settings or write a recipe.

    Of images with masks, the pixels of each class are counted too.

    Examples:

    `paddlemae data stats photos/`

    `paddlemae data stats scenes/ --channels 13 --json`

    `paddlemae data stats scenes/ --channels 13 --recipe cifar10 --out scenes.yaml`
    """
    from paddlemae.tasks.data import statistics as task

    base = task.load_base(recipe, out, overwrite)
    channels, bits = task.choose_channels(base, channels, bits)
    found = task.measure_source(path, split=split, channels=channels, bits=bits, workers=workers, quiet=quiet)
    masks = task.count_mask_pixels(path, split, workers, quiet)
    content = asdict(found) | ({"masks": masks} if masks else {})
    print(json.dumps(content, indent=2) if as_json else found.settings)
    if masks and not as_json:
        print(task.describe_mask_pixels(masks), file=sys.stderr)
    if out:
        task.write_recipe(found, path, split, base, out)
        print(f"wrote {out}", file=sys.stderr if as_json else sys.stdout)


@app.command()
def check(
    path: Source,
    split: Split = "all",
    test: Annotated[
        str | None,
        typer.Option("--test", metavar="PATH", help="Held-out images to compare the training split of PATH with."),
    ] = None,
    channels: Channels = 3,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for check.json and the picture check.png.")] = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Find problems in a set of images: exit status 0 if there are none, 1 otherwise.

    Problems: unreadable images, exact and near duplicates, images or groups in several splits, 16-bit images that
    would be almost black in 8 bits. Of images with masks: masks of another size or with unknown values, files without
    a partner, classes without a pixel.

    Examples:

    `paddlemae data check photos/`

    `paddlemae data check labelled/ --out labelled-check`

    `paddlemae data check train/ --test other/`

    `paddlemae data check tiles/::classes=background,defect --out tiles-check`
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
def split(
    path: Source,
    out: Annotated[Path, typer.Option("--out", help="Folder for the list split.csv.")],
    test: Annotated[float, typer.Option("--test", help="Share of the images for the test part.")] = 0.2,
    val: Annotated[float, typer.Option("--val", help="Share of the images for a validation part.")] = 0.0,
    split: Annotated[str, typer.Option("--split", help="Which images to split: train, test, or all, pooled.")] = "all",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed gives another split.")] = 0,
    exact_only: Annotated[
        bool, typer.Option("--exact-only", help="Keep exact duplicates and groups together, not near duplicates.")
    ] = False,
    series: Annotated[
        bool,
        typer.Option(
            "--series/--no-series",
            help="Keep series together: frames or exposures, whose names count and whose neighbours look alike.",
        ),
    ] = True,
    channels: Channels = 3,
    workers: Workers = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing list.")] = False,
    quiet: Quiet = False,
) -> None:
    """Split image files into train, test and val parts that share no duplicate, group or series; write them as a list.

    Each class has the requested shares in each part. Files stay where they are; `--data` reads the list.

    Examples:

    `paddlemae data split photos/ --out lists`

    `paddlemae data split labelled/ --out lists --test 0.2 --val 0.1`

    `paddlemae data split scans.csv::group=patient --out lists`
    """
    from paddlemae.tasks.data import split_lists as task

    with task.lock_output(out, path, overwrite):
        result = task.split_images(
            path,
            test=test,
            val=val,
            split=split,
            seed=seed,
            exact_only=exact_only,
            keep_series=series,
            channels=channels,
            workers=workers,
            quiet=quiet,
        )
        written = task.write_list(result, out)
    print(task.summarize(result, written))


@app.command()
def pack(
    path: Source,
    out: Annotated[Path, typer.Option("--out", help="The folder of shards to write.")],
    size: Annotated[
        int, typer.Option("--size", min=1, help="Largest short side in pixels; larger images are resized.")
    ] = 256,
    channels: Channels = 3,
    bits: Annotated[
        int | None, typer.Option("--bits", help="Bits per value, 8 or 16; default: each image's own.")
    ] = None,
    quality: Annotated[int, typer.Option("--quality", min=1, max=100, help="JPEG quality of resized images.")] = 95,
    lossless: Annotated[bool, typer.Option("--lossless", help="Write resized images as PNG.")] = False,
    shard_size: Annotated[str, typer.Option("--shard-size", help="Images per shard, or bytes as in 500MB.")] = "1000",
    split: Split = "all",
    max_bad_images: MaxBadImages = 0.01,
    workers: Workers = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the pack in --out.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write images into WebDataset shards and shrink large ones; `--data FOLDER` reads the pack fast.

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
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder written by `data pack`.")],
    quiet: Quiet = False,
) -> None:
    """Read every shard of a pack and compare checksums: exit status 0 if all are intact, 1 if any is damaged.

    Example: `paddlemae data verify photos-256`
    """
    from paddlemae.tasks.data import pack as task

    found = task.verify(folder, quiet=quiet)
    print(task.describe_verification(found))
    if found.faults:
        raise typer.Exit(1)
