"""`paddlemae weights ...`: parse, import lazily, dispatch."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paddlemae.cli.load_paddle import load_paddle
from paddlemae.cli.options import Trust, takes_options

if TYPE_CHECKING:
    from paddlemae.tasks.models.read_model import Reading

app = typer.Typer(
    no_args_is_help=True,
    help="""Inspect, convert and verify MAE and ViT weights of other projects.

PyTorch, Paddle and safetensors files and Hugging Face folders are read without PyTorch, and nothing in them is
executed. Every command that takes a run also takes such a file or folder.
""",
)

Weights = Annotated[str, typer.Argument(metavar="WEIGHTS", help="A file or folder of weights, or a run.")]
Key = Annotated[str | None, typer.Option("--key", help="Key in the file that holds the weights, such as model_ema.")]
Layout = Annotated[str | None, typer.Option("--layout", help="Naming scheme of the tensors; default: detected.")]
ImageSize = Annotated[
    str | None,
    typer.Option(
        "--image-size", metavar="N|HxW", help="Image size in training, in pixels; needed if the file does not imply it."
    ),
]
Target = Annotated[str | None, typer.Option("--target", help="What the decoder predicts: normalised or raw pixels.")]
Heads = Annotated[int | None, typer.Option("--heads", min=1, help="Attention heads of the encoder.")]
DecoderHeads = Annotated[int | None, typer.Option("--decoder-heads", min=1, help="Attention heads of the decoder.")]


@dataclass(frozen=True)
class ReadingOptions:
    """Hold what a file of weights may not say; each field is an option of the command line."""

    key: Key = None
    layout: Layout = None
    image_size: ImageSize = None
    target: Target = None
    heads: Heads = None
    decoder_heads: DecoderHeads = None


@app.command()
@takes_options()
def inspect(
    weights: Weights,
    *,
    reading: ReadingOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with every tensor.")] = False,
    trust: Trust = False,
) -> None:
    """Report the naming scheme, the model's shape, and which tensors would be used. No model is built.

    Examples:

    `paddlemae weights inspect mae_pretrain_vit_base.pth`

    `paddlemae weights inspect vit-mae-large/ --json`
    """
    load_paddle()
    from paddlemae.tasks import weights_convert as task

    content = task.inspect(weights, _reading(reading), trust=trust)
    print(json.dumps(content, indent=2) if as_json else task.inspection(content))


@app.command()
@takes_options()
def convert(
    weights: Weights,
    out: Annotated[Path, typer.Option("--out", help="The file or folder to write.")],
    *,
    to: Annotated[
        str,
        typer.Option(
            "--to", help="Format: paddlemae, timm, transformers (folders); official, mae-pytorch (.pth); paddle ..."
        ),
    ] = "paddlemae",
    reading: ReadingOptions,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files at --out.")] = False,
    trust: Trust = False,
) -> None:
    """Write weights in the format of another project: PyTorch, transformers, timm, Paddle.

    Examples:

    `paddlemae weights convert runs/photos --to transformers --out photos-mae/`

    `paddlemae weights convert runs/photos --to official --out photos.pth`

    `paddlemae weights convert theirs.pdparams --out theirs/`
    """
    load_paddle()
    from paddlemae.tasks import weights_convert as task

    for note in task.convert(weights, out, to, _reading(reading), overwrite=overwrite, trust=trust):
        print(f"note: {note}")
    print(f"wrote {out}")


@app.command()
@takes_options()
def verify(
    weights: Weights,
    *,
    golden: Annotated[
        Path | None,
        typer.Option(
            "--golden", metavar="FILE.npz", help="Outputs to compare with; written if the file does not exist."
        ),
    ] = None,
    reading: ReadingOptions,
    trust: Trust = False,
) -> None:
    """Compare outputs with those of another implementation: exit status 0 if they agree within 1e-4, else 1.

    The other implementation is transformers on PyTorch if installed (`pip install "paddlemae[parity]"`) and if it has
    such a model; otherwise the papers' definition in NumPy.

    Examples:

    `paddlemae weights verify mae_pretrain_vit_base.pth`

    `paddlemae weights verify runs/photos --golden photos.npz`
    """
    load_paddle()
    from paddlemae.tasks import weights_verify as task

    found = task.verify(weights, _reading(reading), golden, trust=trust)
    for name, difference in found.differences.items():
        print(f"{name + ':':12}{difference:.1e} apart from {found.against}")
    if not found.holds:
        print(f"paddlemae: error: {weights} does not give the same outputs within {task.LARGEST:g}", file=sys.stderr)
        raise typer.Exit(1)


def _reading(options: ReadingOptions) -> Reading:
    from paddlemae.tasks.models.read_model import Reading

    return Reading(**(asdict(options) | {"image_size": _size(options.image_size)}))


def _size(text: str | None) -> int | tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"--image-size must be pixels, as in 224 or 224x160; got {text!r}")
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))
