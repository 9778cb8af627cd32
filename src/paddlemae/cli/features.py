"""`paddlemae embed` and `paddlemae search`: parse, import lazily, dispatch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from paddlemae.cli.exit_status import as_one_of_the_ranks
from paddlemae.cli.load_paddle import load_paddle
from paddlemae.cli.options import Layer, MaxBadImages, Norm, Precision, Quiet, Run, Token, Trust
from paddlemae.launch.launcher import Launch


def embed(
    run: Run,
    data: Annotated[str, typer.Option("--data", help="Images: a folder, list, archive, table ... or 'digits'.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write, ending in .parquet or .npz.")],
    split: Annotated[str | None, typer.Option("--split", help="train or test; default: all images.")] = None,
    token: Token = "mean",
    layer: Layer = None,
    norm: Norm = "layer",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images per batch.")] = 64,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, help="Processes that decode images; default: chosen by their number."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads; default: all cores, divided among --procs.")
    ] = None,
    precision: Precision = "float32",
    procs: Annotated[int, typer.Option("--procs", min=1, help="Processes on this host that share the images.")] = 1,
    max_bad_images: MaxBadImages = 0.01,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    quiet: Quiet = False,
    trust: Trust = False,
) -> None:
    """Write the features of all images to a file. After a stop, rerun the same command to resume.

    Examples:

    `paddlemae embed runs/photos --data photos/ --out photos.parquet`

    `paddlemae embed runs/digits --data digits --split test --token cls --out digits.npz`

    `paddlemae embed runs/photos --data photos/ --out photos.parquet --procs 4`
    """
    launch = Launch(str(procs), restarts=0)
    if launch.is_needed:
        from paddlemae.launch.commands import option_words, run_together

        options = {"data": data, "out": out, "split": split, "token": token, "layer": layer, "norm": norm}
        options |= {"batch_size": batch_size, "workers": workers, "threads": threads, "max_bad_images": max_bad_images}
        options |= {"precision": precision, "overwrite": overwrite, "quiet": quiet, "trust": trust}
        if status := run_together(["embed", run, *option_words(options)], procs, launch):
            sys.exit(status)
        return
    load_paddle()
    from paddlemae.tasks.embed import embed_source
    from paddlemae.tasks.models.inference import FeatureKind

    with as_one_of_the_ranks() as ranks:
        written = embed_source(
            run,
            data,
            out,
            split=split,
            kind=FeatureKind(token, layer, norm, precision),
            batch_size=batch_size,
            workers="auto" if workers is None else workers,
            threads="auto" if threads is None else threads,
            max_bad_images=max_bad_images,
            overwrite=overwrite,
            quiet=quiet or not ranks.is_first,
            ranks=ranks,
            trust=trust,
        )
    lacking = f", without {written.skipped} that can't be read" if written.skipped else ""
    if ranks.is_first:
        print(f"wrote {written.path}: {written.images} images x {written.width} features{lacking}")


def search(
    features: Annotated[Path, typer.Argument(help="A file that 'paddlemae embed' wrote.")],
    images: Annotated[list[str], typer.Argument(help="The queries: image files, folders of images, or 'digits'.")],
    run: Annotated[str, typer.Option("--run", help="The run or weights that the features were computed with.")],
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbours per query.")] = 5,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Maximum number of queries.")] = 8,
    out: Annotated[Path | None, typer.Option("--out", help="Also draw queries and neighbours to this picture.")] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="The images' new location, if they were moved; used for the picture.")
    ] = None,
    trust: Trust = False,
) -> None:
    """Find the images most similar to a query, in a file of features.

    Examples:

    `paddlemae search photos.parquet a.jpg --run runs/photos`

    `paddlemae search photos.parquet a.jpg b.jpg --run runs/photos --k 10 --out nearest.png`
    """
    load_paddle()
    from paddlemae.tasks import search as task

    def say(results: list[task.QueryResult]) -> None:
        print(*map(task.table, results), sep="\n", flush=True)

    task.search(features, images, run=run, k=k, limit=limit, out=out, data=data, say=say, trust=trust)
    if out:
        print(f"wrote {out}")
