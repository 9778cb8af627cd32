"""`paddlemae predict`: parse, import lazily, dispatch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paddlemae.cli.exit_status import as_one_of_the_ranks
from paddlemae.cli.load_paddle import load_paddle
from paddlemae.cli.options import Precision, Quiet, Trust
from paddlemae.launch.launcher import Launch
from paddlemae.system.display_names import display_name

if TYPE_CHECKING:  # needs Paddle
    from paddlemae.tasks.predictions.join_masks import Segmented
    from paddlemae.tasks.predictions.outputs import Outputs, Predicted
    from paddlemae.tasks.predictions.window_choice import WindowChoice

LISTED_CLASSES = 10
TABLES = (".csv", ".json", ".parquet")
MASKS = "Masks of a segmenter"
TABLE = "Table of a classifier"


def predict(
    run: Annotated[str, typer.Argument(help="A run of finetune or segment, or a file of such weights.")],
    images: Annotated[
        list[str],
        typer.Argument(help="Image files and folders of images; or one list, archive, table, array, or 'digits'."),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", help="A table to write, ending in .csv, .json or .parquet; of a segmenter a folder."),
    ],
    split: Annotated[str | None, typer.Option("--split", help="train or test; default: all images.")] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top", min=1, help="Number of classes to list for each image; default: 3.", rich_help_panel=TABLE
        ),
    ] = None,
    unsure: Annotated[
        float | None,
        typer.Option(
            "--unsure",
            min=0,
            max=1,
            help="Mark images whose class has a lower probability than this.",
            rich_help_panel=TABLE,
        ),
    ] = None,
    sort_into: Annotated[
        Path | None,
        typer.Option(
            "--sort-into",
            help="Also link the images into a folder per class; unsure ones into 'unsure'.",
            rich_help_panel=TABLE,
        ),
    ] = None,
    copy: Annotated[
        bool,
        typer.Option("--copy", help="Copy the images into these folders, instead of links.", rich_help_panel=TABLE),
    ] = False,
    sheet: Annotated[
        Path | None,
        typer.Option(
            "--sheet", help="Also draw the images that it is least sure of to this PNG.", rich_help_panel=TABLE
        ),
    ] = None,
    overlays: Annotated[
        bool,
        typer.Option("--overlays", help="Also draw the classes' colours over the images.", rich_help_panel=MASKS),
    ] = False,
    probabilities: Annotated[
        bool,
        typer.Option("--probabilities", help="Also write the probabilities as .npy.", rich_help_panel=MASKS),
    ] = False,
    polygons: Annotated[
        str | None,
        typer.Option("--polygons", help="Also write the regions as polygons: coco or geojson.", rich_help_panel=MASKS),
    ] = None,
    polygon_classes: Annotated[
        str | None,
        typer.Option("--polygon-classes", help="Classes with polygons, as a,b; default: all.", rich_help_panel=MASKS),
    ] = None,
    link_images: Annotated[
        bool,
        typer.Option(
            "--link-images",
            help="Also link the images next to the masks: the folder is data to train on.",
            rich_help_panel=MASKS,
        ),
    ] = False,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            "--min-confidence",
            min=0,
            max=1,
            help="Ignore pixels (255) whose class has a lower probability than this.",
            rich_help_panel=MASKS,
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            "--window",
            min=1,
            help="Height and width of the windows in pixels; default: of the training.",
            rich_help_panel=MASKS,
        ),
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option(
            "--overlap", min=0, max=0.99, help="Share of a window that the next one sees too.", rich_help_panel=MASKS
        ),
    ] = None,
    blend: Annotated[
        str | None,
        typer.Option("--blend", help="Of windows that overlap: smooth, mean or centre.", rich_help_panel=MASKS),
    ] = None,
    flips: Annotated[
        str | None,
        typer.Option("--flips", help="Average with mirrored windows: none, horizontal or both.", rich_help_panel=MASKS),
    ] = None,
    scale: Annotated[
        list[float] | None,
        typer.Option(
            "--scale", min=0, help="Average over sizes of the image; repeatable; default 1.", rich_help_panel=MASKS
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, help="Images (default: 64) or windows per batch."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, help="Processes that decode images; default: chosen by their number."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads; default: all cores, divided among --procs.")
    ] = None,
    precision: Precision = "float32",
    procs: Annotated[int, typer.Option("--procs", min=1, help="Processes on this host that share the images.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what --out has.")] = False,
    quiet: Quiet = False,
    trust: Trust = False,
) -> None:
    """Apply a fine-tuned classifier or a segmenter to images.

    A classifier's predictions are a table with the class and probability of each image, a segmenter's a folder with a
    mask for each. Unreadable images are listed with the reason. After a stop, rerun the same command to resume.

    Examples:

    `paddlemae predict runs/tuned photos/ --out predictions.csv`

    `paddlemae predict runs/tuned photos/ --out predictions.csv --unsure 0.6 --sort-into sorted --sheet unsure.png`

    `paddlemae predict runs/tuned labelled/ --split test --out test.parquet --top 1`

    `paddlemae predict runs/segmenter photos/ --out masks --overlays`

    `paddlemae predict runs/segmenter scenes/*.tif --out maps --polygons geojson --polygon-classes water`
    """
    of_table: dict[str, Any] = {"top": top, "unsure": unsure, "sort_into": sort_into, "copy": copy, "sheet": sheet}
    of_masks: dict[str, Any] = {"overlays": overlays, "probabilities": probabilities, "polygons": polygons}
    of_masks |= {"polygon_classes": polygon_classes, "link_images": link_images, "min_confidence": min_confidence}
    of_windows: dict[str, Any] = {"window": window, "overlap": overlap, "blend": blend, "flips": flips}
    of_windows |= {"scale": scale or None}
    is_table = out.suffix in TABLES
    _refuse_others(out, is_table, of_masks | of_windows if is_table else of_table | {"workers": workers})
    launch = Launch(str(procs), restarts=0)
    if launch.is_needed:
        from paddlemae.launch.commands import option_words, run_together

        scales = [word for factor in scale or () for word in ("--scale", str(factor))]
        options = {"out": out, "split": split, **of_table, **of_masks, **of_windows, "scale": None}
        options |= {"batch_size": batch_size, "precision": precision}
        options |= {"workers": workers, "threads": threads, "overwrite": overwrite, "quiet": quiet, "trust": trust}
        if status := run_together(["predict", *option_words(options), *scales, "--", run, *images], procs, launch):
            sys.exit(status)
        return
    load_paddle()
    shared: dict[str, Any] = {"split": split, "threads": "auto" if threads is None else threads}
    shared |= {"precision": precision, "overwrite": overwrite, "trust": trust}
    with as_one_of_the_ranks() as ranks:
        shared |= {"ranks": ranks, "quiet": quiet or not ranks.is_first}
        if not is_table:
            cut = _windows(of_windows, batch_size)
            _predict_masks(run, images, out, of_masks, cut, shared, is_first=ranks.is_first)
            return
        from paddlemae.tasks import predict as task
        from paddlemae.tasks.predictions.outputs import DEFAULT_TOP, Outputs

        outputs = Outputs(out, **{**of_table, "top": top or DEFAULT_TOP})
        predicted = task.predict(
            run, images, outputs, batch_size=batch_size or 64, workers="auto" if workers is None else workers, **shared
        )
    if ranks.is_first:
        _say(predicted, outputs)


def _refuse_others(out: Path, is_table: bool, others: dict[str, Any]) -> None:
    """Raise a ValueError for options of the other kind of predictions."""
    for name, value in others.items():
        if value is not None and value is not False:
            belongs = (
                f"masks of a segmenter, whose --out is a folder; got {out}"
                if is_table
                else f"a classifier, whose --out is a table that ends in {', '.join(TABLES)}; got {out}"
            )
            raise ValueError(f"--{name.replace('_', '-')} is for {belongs}")


def _windows(given: dict[str, Any], batch_size: int | None) -> WindowChoice:
    from paddlemae.tasks.predictions.window_choice import WindowChoice

    chosen = {name: value for name, value in given.items() if value is not None}
    if "window" in chosen:
        chosen["size"] = chosen.pop("window")
    if "scale" in chosen:
        chosen["scales"] = tuple(chosen.pop("scale"))
    if batch_size is not None:
        chosen["batch_size"] = batch_size
    return WindowChoice(**chosen)


def _predict_masks(
    run: str,
    images: list[str],
    out: Path,
    given: dict[str, Any],
    windows: WindowChoice,
    shared: dict[str, Any],
    *,
    is_first: bool,
) -> None:
    from paddlemae.tasks.predict_masks import predict_masks
    from paddlemae.tasks.predictions.mask_outputs import MaskOutputs

    classes = given["polygon_classes"]
    polygon_classes = None if classes is None else tuple(name.strip() for name in classes.split(","))
    chosen = {**given, "polygon_classes": polygon_classes, "min_confidence": given["min_confidence"] or 0.0}
    segmented = predict_masks(run, images, MaskOutputs(out, **chosen), windows=windows, **shared)
    if is_first:
        _say_segmented(segmented, out)


def _say_segmented(segmented: Segmented, out: Path) -> None:
    """Print what was found and written."""
    commonest = sorted(segmented.shares.items(), key=lambda item: -item[1])
    shares = [f"{display_name(name)} {share:.1%}" for name, share in commonest[:LISTED_CLASSES]]
    more = f", {len(commonest) - len(shares)} more classes" if len(commonest) > len(shares) else ""
    ignored = f"; {segmented.ignored:.1%} of all pixels without a class" if segmented.ignored else ""
    print(f"predicted, by pixels: {', '.join(shares)}{more}{ignored}")
    regions = "" if segmented.polygons is None else f", {segmented.polygons:,} regions as polygons"
    lacking = f", {segmented.unreadable} that can't be read" if segmented.unreadable else ""
    print(f"wrote {out}: masks of {segmented.images - segmented.unreadable} images{regions}{lacking}")


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
