"""Define the arguments and options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from paddlemae.launch.launcher import MOST_RESTARTS, Launch

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
RecipeName = Annotated[
    str | None, typer.Argument(metavar="[RECIPE]", help="A recipe of `paddlemae recipe --list` or a .yaml file.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings; `paddlemae recipe NAME` explains them.")
]
Data = Annotated[str | None, typer.Option("--data", help="Images: a folder, list, archive, table ... or 'digits'.")]
Out = Annotated[Path | None, typer.Option("--out", help="The run folder to write.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")]
Procs = Annotated[
    str | None,
    typer.Option("--procs", metavar="N|auto", help="Processes of this host that share each batch; auto tries some."),
]
Nodes = Annotated[int, typer.Option("--nodes", min=1, help="Hosts that run this same command together.")]
Master = Annotated[
    str | None, typer.Option("--master", metavar="HOST:PORT", help="Where they meet: the first of them.")
]
NodeRank = Annotated[
    int | None, typer.Option("--node-rank", help="This host among them, from 0; by arrival unless given.")
]
Restarts = Annotated[
    int, typer.Option("--restarts", min=0, help="After crashes, in a row without a new checkpoint; needs --procs.")
]
LAUNCH_OPTIONS = ("procs", "nodes", "master", "node_rank", "restarts")


@dataclass(frozen=True)
class TrainingOptions:
    """What a training command takes; each field is an argument or option of the command line."""

    recipe: RecipeName = None
    overrides: Overrides = None
    init: Annotated[
        str | None, typer.Option("--init", help="Initial weights: a run, or anyone's; to fine-tune also 'scratch'.")
    ] = None
    data: Data = None
    out: Out = None
    resume: Resume = False
    overwrite: Overwrite = False
    dry_run: DryRun = False
    procs: Procs = None
    nodes: Nodes = 1
    master: Master = None
    node_rank: NodeRank = None
    restarts: Restarts = MOST_RESTARTS
    quiet: Quiet = False
    trust: Trust = False

    @property
    def launch(self) -> Launch:
        return Launch(self.procs, self.nodes, self.master, self.node_rank, self.restarts)


def takes_training_options(launches: bool = True) -> Callable[[Callable[[TrainingOptions], None]], Callable[..., None]]:
    """Give a command the fields of `TrainingOptions` as its parameters, without `LAUNCH_OPTIONS` unless it launches."""
    hints = get_type_hints(TrainingOptions, include_extras=True)
    parameters = [
        Parameter(field.name, Parameter.POSITIONAL_OR_KEYWORD, default=field.default, annotation=hints[field.name])
        for field in fields(TrainingOptions)
        if launches or field.name not in LAUNCH_OPTIONS
    ]

    def decorate(command: Callable[[TrainingOptions], None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            command(TrainingOptions(**values))

        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate
