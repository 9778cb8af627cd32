"""The command line: its commands in the order of `--help`, and how it starts and ends."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Annotated, Any

import typer

from paddlemae.cli import auto, data, evaluation, features, outputs, plan, predict, recipe, serve, training, weights
from paddlemae.cli.exit_status import ending
from paddlemae.launch.launcher import is_rank
from paddlemae.runs.full_disk_output import survive_lost_output
from paddlemae.system.display_names import escape_output, say
from paddlemae.system.signals import REQUEUE_STATUS, ignore_schedulers
from paddlemae.train.stopping import ended_by_signals

app = typer.Typer(
    name="paddlemae",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Masked-autoencoder pretraining (MAE, arXiv 2111.06377) for PaddlePaddle.

Pretrain on your own images without labels, see what the model reconstructs, fine-tune on the few labels you have.

Try it: `paddlemae demo`

Your own images, everything in half an hour: `paddlemae auto --data photos/ --out runs/mine`

Or step by step: `paddlemae pretrain cifar10 --data photos/ --out runs/mine`

Look at the result: `paddlemae reconstruct runs/mine photos/a.jpg --out a.png`

Fine-tune: `paddlemae finetune cifar10 --init runs/mine --data labelled/ --out runs/tuned`

Apply it: `paddlemae predict runs/tuned new/ --out predictions.csv`
""",
)

for command in (
    training.demo,
    auto.auto,
    plan.plan,
    training.pretrain,
    training.finetune,
    training.segment,
    outputs.reconstruct,
    outputs.page,
    serve.serve,
    training.study,
    training.probe,
    evaluation.knn,
    recipe.recipe,
    features.embed,
    features.search,
    evaluation.evaluate,
    predict.predict,
    outputs.report,
    outputs.export,
):
    app.command()(command)
app.add_typer(weights.app, name="weights")
app.add_typer(data.app, name="data")


@app.callback(invoke_without_command=True)
def version_option(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        import paddlemae

        print(paddlemae.__version__)
        raise typer.Exit


@functools.cache
def command_line() -> Callable[..., Any]:
    """Return all commands with their options; reading these from type hints takes 0.1 s."""
    return typer.main.get_command(app)


def main() -> None:
    """Run the command line; a user's mistake is one line and exit status 2, Ctrl-C 130, a run that was preempted 75."""
    warnings.showwarning = _one_line
    with survive_lost_output(), escape_output():
        try:
            with nullcontext() if is_rank() else ended_by_signals():
                command_line()(standalone_mode=True)
        except BaseException as end:
            if (known := ending(end)) is None:
                raise
            status, text = known
            if status == REQUEUE_STATUS:
                ignore_schedulers()
            say(f"paddlemae: {'error: ' if status < REQUEUE_STATUS else ''}{text}", error=True)
            sys.exit(status)


def _one_line(message: Warning | str, *place: Any, **output: Any) -> None:
    say(f"paddlemae: warning: {' '.join(str(message).split())}", error=True)
