"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Run = Annotated[str, typer.Argument(help="A run, or anyone's MAE or ViT weights.")]
Token = Annotated[str, typer.Option("--token", help="cls, or mean of the patch tokens.")]
Layer = Annotated[
    int | None, typer.Option("--layer", help="The block that features are taken after; the last unless given.")
]
Norm = Annotated[
    str, typer.Option("--norm", help="layer (the encoder's last norm), batch (each feature's own), or none.")
]
MaxBadImages = Annotated[
    float, typer.Option("--max-bad-images", min=0, max=1, help="Share of images that may be unreadable.")
]
Trust = Annotated[bool, typer.Option("--trust", help="Take a checkpoint that has no checksums, too.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
