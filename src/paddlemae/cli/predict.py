"""`paddlemae predict`: parse, import lazily, dispatch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paddlemae.cli.exit_status import as_one_of_the_ranks
from paddlemae.cli.load_paddle import load_paddle
from paddlemae.cli.options import Quiet, Trust
from paddlemae.launch.launcher import Launch
from paddlemae.system.display_names import display_name

if TYPE_CHECKING:  # needs Paddle
    from paddlemae.tasks.predictions.outputs import Outputs, Predicted

LISTED_CLASSES = 10


def predict(
    run: Annotated[str, typer.Argument(help="A fine-tuning run or a file of classifier weights.")],
    images: Annotated[
        list[str],
        typer.Argument(help="Image files and folders of images; or one list, archive, table, array, or 'digits'."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The table to write, ending in .csv, .json or .parquet.")],
    split: Annotated[str | None, typer.Option("--split", help="train or test; default: all images.")] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Number of classes to list for each image.")] = 3,
    unsure: Annotated[
        float | None,
        typer.Option("--unsure", min=0, max=1, help="Mark images whose class has a lower probability than this."),
    ] = None,
    sort_into: Annotated[
        Path | None,
        typer.Option("--sort-into", help="Also link the images into a folder per class; unsure ones into 'unsure'."),
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the images into these folders, instead of links.")] = False,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Also draw the images that it is least sure of to this PNG.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images per batch.")] = 64,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, help="Processes that decode images; default: chosen by their number."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads; default: all cores, divided among --procs.")
    ] = None,
    procs: Annotated[int, typer.Option("--procs", min=1, help="Processes on this host that share the images.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing table.")] = False,
    quiet: Quiet = False,
    trust: Trust = False,
) -> None:
    """Apply a fine-tuned classifier to images: a table with the class and probability of each.

    Unreadable images are listed with the reason. After a stop, rerun the same command to resume.

    Examples:

    `paddlemae predict runs/tuned photos/ --out predictions.csv`

    `paddlemae predict runs/tuned photos/ --out predictions.csv --unsure 0.6 --sort-into sorted --sheet unsure.png`

    `paddlemae predict runs/tuned labelled/ --split test --out test.parquet --top 1`
    """
    launch = Launch(str(procs), restarts=0)
    if launch.is_needed:
        from paddlemae.launch.commands import option_words, run_together

        options = {"out": out, "split": split, "top": top, "unsure": unsure, "sort_into": sort_into, "copy": copy}
        options |= {"sheet": sheet, "batch_size": batch_size, "workers": workers, "threads": threads}
        options |= {"overwrite": overwrite, "quiet": quiet, "trust": trust}
        if status := run_together(["predict", *option_words(options), "--", run, *images], procs, launch):
            sys.exit(status)
        return
    load_paddle()
    from paddlemae.tasks import predict as task
    from paddlemae.tasks.predictions.outputs import Outputs

    outputs = Outputs(out, top, unsure, sort_into, copy, sheet)
    with as_one_of_the_ranks() as ranks:
        predicted = task.predict(
            run,
            images,
            outputs,
            split=split,
            batch_size=batch_size,
            workers="auto" if workers is None else workers,
            threads="auto" if threads is None else threads,
            overwrite=overwrite,
            quiet=quiet or not ranks.is_first,
            ranks=ranks,
            trust=trust,
        )
    if ranks.is_first:
        _say(predicted, outputs)


def _say(predicted: Predicted, outputs: Outputs) -> None:
    """Print what was found and written."""
    from paddlemae.runs.class_results import class_table, result_table

    readable = predicted.images - predicted.unreadable
    if predicted.metrics:
        print(f"{predicted.metrics['eval_images']} labelled images:")
        print(result_table(predicted.metrics), class_table(predicted.metrics), sep="\n")
    commonest = list(predicted.classes.items())
    counts = [f"{display_name(name)} {count:,}" for name, count in commonest[:LISTED_CLASSES]]
    more = f", {len(commonest) - len(counts)} more classes" if len(commonest) > len(counts) else ""
    print(f"predicted: {', '.join(counts)}{more}")
    if outputs.sort_into is not None:
        ways = ", ".join(f"{count:,} {way}" for way, count in predicted.sorted.items())
        print(f"sorted {readable} images into {outputs.sort_into}: {ways}")
    if outputs.sheet is not None:
        print(f"wrote {outputs.sheet}: the {predicted.drawn} least sure images")
    unsure = "" if outputs.unsure is None else f", {predicted.unsure} of them unsure (below {outputs.unsure:g})"
    lacking = f", {predicted.unreadable} that can't be read" if predicted.unreadable else ""
    print(f"wrote {outputs.table}: {predicted.images} images{unsure}{lacking}")
