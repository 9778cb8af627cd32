"""Define the arguments and options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container
from dataclasses import dataclass, is_dataclass
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from paddlemae.launch.launcher import MOST_RESTARTS, Launch

Run = Annotated[str, typer.Argument(help="A run folder, or a file of MAE or ViT weights.")]
Token = Annotated[
    str,
    typer.Option(
        "--token", help="The feature vector: cls token, or mean or mean+std (and deviation) of the patch tokens."
    ),
]
Layer = Annotated[
    int | None, typer.Option("--layer", help="Take features after this block, counted from 1; default: the last.")
]
Norm = Annotated[
    str,
    typer.Option(
        "--norm",
        help="Normalisation: layer (the encoder's final norm), batch (per feature), whiten (batch, and uncorrelated; "
        "for knn), or none.",
    ),
]
Precision = Annotated[
    str,
    typer.Option("--precision", help="float32; or bfloat16, for accelerators and CPUs with AVX512_BF16 or AMX_BF16."),
]
MaxBadImages = Annotated[
    float, typer.Option("--max-bad-images", min=0, max=1, help="Largest share of unreadable images, 0 to 1.")
]
Trust = Annotated[bool, typer.Option("--trust", help="Also load checkpoints that have no checksums.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress.")]
RecipeName = Annotated[
    str | None, typer.Argument(metavar="[RECIPE]", help="A name from `paddlemae recipe --list`, or a .yaml file.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change; `paddlemae recipe NAME` explains them."),
]
Data = Annotated[str | None, typer.Option("--data", help="Images: a folder, list, archive, table ... or 'digits'.")]
Out = Annotated[Path | None, typer.Option("--out", help="The folder to write.")]
Resume = Annotated[bool, typer.Option("--resume", help="Resume the run in --out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the settings and the plan without training.")]
Procs = Annotated[
    str | None,
    typer.Option(
        "--procs", metavar="N|auto", help="Processes on this host that share each batch; auto tries several numbers."
    ),
]
Nodes = Annotated[int, typer.Option("--nodes", min=1, help="Number of hosts; run the same command on each.")]
Master = Annotated[
    str | None, typer.Option("--master", metavar="HOST:PORT", help="Address of the first host, the same on all hosts.")
]
NodeRank = Annotated[
    int | None, typer.Option("--node-rank", help="Number of this host, from 0; default: by order of arrival.")
]
Restarts = Annotated[
    int,
    typer.Option(
        "--restarts", min=0, help="Restarts after crashes without a new checkpoint in between; needs --procs."
    ),
]
LAUNCH_OPTIONS = ("procs", "nodes", "master", "node_rank", "restarts")


@dataclass(frozen=True)
class TrainingOptions:
    """Hold what a training command takes; each field is an argument or option of the command line."""

    recipe: RecipeName = None
    overrides: Overrides = None
    init: Annotated[
        str | None,
        typer.Option("--init", help="Initial weights: a run or a weight file; or 'scratch' (finetune, segment)."),
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


def takes_options(*, leave_out: Container[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take dataclasses of options: the fields of each are parameters in its place.

    Args:
        leave_out: names of fields that the command does not offer; they keep their defaults.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = _parameters(command)
        groups: dict[str, Any] = {one.name: one.annotation for one in own if is_dataclass(one.annotation)}
        fields = {
            name: [field for field in _parameters(group) if field.name not in leave_out]
            for name, group in groups.items()
        }
        parameters = [parameter for one in own for parameter in fields.get(one.name, [one])]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            for name, group in groups.items():
                values[name] = group(**{field.name: values.pop(field.name) for field in fields[name]})
            command(**values)

        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def _parameters(of: Callable[..., Any]) -> list[Parameter]:
    """Return the parameters of a command, or the fields of a dataclass, with their types."""
    hints = get_type_hints(of, include_extras=True)
    found = signature(of).parameters.values()
    return [one.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[one.name]) for one in found]
