"""`paddlemae data ...`: parse, import lazily, dispatch."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="""Your images, before any training: what their channels hold.

PATH is whatever `--data` takes: a folder, list, archive, shards, table, arrays, or 'digits' (docs/data.md).
""",
)

Source = Annotated[str, typer.Argument(metavar="PATH", help="Images: a folder, list, archive, table ... or 'digits'.")]
Channels = Annotated[int, typer.Option("--channels", min=1, help="1 gray, 3 RGB, 4 RGBA, or the images' own number.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=0, help="Processes that decode; as many as cores unless given.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]


@app.command()
def stats(
    path: Source,
    split: Annotated[str, typer.Option("--split", help="train, test, or all that PATH holds.")] = "train",
    channels: Channels = 3,
    bits: Annotated[
        int | None, typer.Option("--bits", help="8 or 16 of a value; as training takes them unless given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every digit.")] = False,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Compute the mean and standard deviation of each channel, in one pass: settings to paste behind a command.

    Examples:

    `paddlemae data stats photos/`

    `paddlemae data stats scenes/ --channels 13 --json`
    """
    from paddlemae.tasks import data_statistics as task

    found = task.statistics(path, split=split, channels=channels, bits=bits, workers=workers, quiet=quiet)
    print(json.dumps(task.as_json(found), indent=2) if as_json else task.settings(found))
