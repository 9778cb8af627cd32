"""Commands that write files from a run (reconstruct, page, report, export): parse, import lazily, dispatch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paddlemae.cli.load_paddle import load_paddle
from paddlemae.cli.options import Trust


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
    load_paddle()
    from paddlemae.tasks.models.mask_choice import parse_mask
    from paddlemae.tasks.reconstruct import reconstruct_images

    choice = parse_mask(mask, mask_ratio, seed)
    print(f"wrote {reconstruct_images(run, images, out, choice=choice, limit=limit, plain=plain, trust=trust)}")


def page(
    run: Annotated[str, typer.Argument(help="A run folder, or a file of weights.")],
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Sample images: files, folders ... or 'digits'; default: some of the run's data."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The file to write, ending in .html.")] = Path("page.html"),
    exact: Annotated[bool, typer.Option("--exact", help="Weights of 32 instead of 16 bits: twice as large.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Maximum number of sample images.")] = 12,
    title: Annotated[str | None, typer.Option("--title", help="Title of the page; default: the run's name.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    trust: Trust = False,
) -> None:
    """Write one HTML file on which anyone paints masks and watches the model reconstruct; it needs no network.

    The model and the sample images are inside the file, so send it only to those who may have them.

    Examples:

    `paddlemae page runs/digits --out digits.html`

    `paddlemae page runs/photos a.jpg b.jpg --out photos.html --title "Our photos"`
    """
    load_paddle()
    from paddlemae.tasks.page import write_page

    written = write_page(
        run, images or [], out, exact=exact, limit=limit, title=title, overwrite=overwrite, trust=trust
    )
    size = f"{written.bytes / 1e6:.1f} MB"
    print(f"wrote {out}, {size}, with {len(written.samples)} sample images; open it in a browser")


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


def export(
    run: Annotated[str, typer.Argument(help="A run folder or one of its checkpoints.")],
    to: Annotated[str, typer.Option("--to", help="Format: onnx or paddle.")],
    out: Annotated[Path, typer.Option("--out", help="A file that ends in .onnx, or a folder for Paddle's files.")],
    what: Annotated[
        str | None,
        typer.Option(
            "--what", help="encoder, classifier, segmenter or reconstructor; default: chosen by the kind of run."
        ),
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
    load_paddle()
    from paddlemae.export.write import export as export_model

    done = export_model(run, to, out, what=what, token=token, overwrite=overwrite, trust=trust)
    print(f"{done.what}: differs from the model by {done.difference:.1e} at most, on {done.images}")
    print(f"wrote {', '.join(map(str, done.files))}")
