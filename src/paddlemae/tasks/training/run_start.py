"""Decide where a training run starts, a new folder or one to resume, and enter that folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from paddlemae.data.sources.output_folders import check_outside
from paddlemae.engine import products
from paddlemae.launch.launcher import report_entered
from paddlemae.recipe import (
    RECIPES,
    TEST_CHOOSES,
    PretrainRecipe,
    Recipe,
    build_recipe,
    dump_recipe,
    read_recipe_file,
    settings_of,
)
from paddlemae.runs.runlog import (
    ENVIRONMENT_FILE,
    METRICS_FILE,
    RECIPE_FILE,
    check_folder,
    flatten,
    forget_metrics_after,
    is_finished,
    open_run,
    write_environment,
    write_recipe,
)
from paddlemae.system.display_names import say
from paddlemae.system.documents import brief
from paddlemae.system.locks import lock_folder
from paddlemae.train.checkpoint import TrainState, load_checkpoint
from paddlemae.train.checkpoint_folders import FOLDER, STEPS, find_checkpoint, remove_leftovers
from paddlemae.train.parallel.ranks import ALONE, Ranks, check_same
from paddlemae.weights.model_folder import Description, read_description

AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


@dataclass(frozen=True)
class Start:
    """The user's request: a run folder, and whether the run in it is resumed or overwritten.

    `ranks` are the processes that train it; the first alone decides and writes, and all read. `trust` takes
    checkpoints without checksums too, see `find_checkpoint`.
    """

    out: Path
    resume: bool = False
    overwrite: bool = False
    quiet: bool = False
    ranks: Ranks = ALONE
    trust: bool = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other commands out of the folder; the first of the ranks does it for all.

        Raises:
            BlockingIOError: another command is writing there.
        """
        if not self.ranks.is_first or (self.out.exists() and not self.out.is_dir()):  # `decide` refuses a file
            yield
            return
        with lock_folder(self.out):
            yield

    def say(self, text: str) -> None:
        if not self.quiet:
            say(text)


@dataclass(frozen=True)
class Run(Generic[AnyRecipe]):
    """A training as decided before anything is built.

    Attributes:
        start: what the user asked for.
        recipe: complete: `resolve` puts the statistics of the images in the place of `auto`.
        resume: whether the run in the folder is continued.
        checkpoint: the one to continue from; None for a new run, or one that was stopped before its first.
    """

    start: Start
    recipe: AnyRecipe
    resume: bool
    checkpoint: Path | None


def stored_recipe(run: Path, task: str) -> Recipe:
    """Read the resolved recipe of a run folder.

    Raises:
        FileNotFoundError, ValueError: no run there, or one of another task.
    """
    path = run / RECIPE_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{run} holds no run to resume (no {RECIPE_FILE}); leave --resume out to start one")
    content = read_recipe_file(path)
    stored = content.get("task")
    if not isinstance(stored, str) or stored not in RECIPES:
        raise ValueError(f"{path} is damaged (its task is {brief(stored)}); restore it, or start over with --overwrite")
    if stored != task:
        raise ValueError(f"{run} is a {stored} run; resume it with 'paddlemae {stored}'")
    if task in ("finetune", "probe"):  # before there were validation parts
        content.setdefault("validation", TEST_CHOOSES)
    if task in ("finetune", "probe", "segment"):
        content.setdefault("keep_series", False)
    return build_recipe(task, content)


def decide(start: Start, recipe: AnyRecipe) -> Run[AnyRecipe]:
    """Decide whether a run is new or resumed, before any work is done.

    A folder that holds an unfinished run of this very recipe is resumed, so that running the same command again, after
    a crash say, continues it.

    Raises:
        ValueError, FileNotFoundError: the folder can't be taken, holds the initial weights, or is of another recipe's
            run; or all checkpoints to resume from are damaged.
    """
    if start.ranks.from_first(lambda: _is_of_earlier_version(start, recipe)):
        recipe = recipe.model_copy(update={"validation": TEST_CHOOSES})  # type: ignore[assignment]
    resume, checkpoint = start.ranks.from_first(lambda: _decision(start, recipe))
    return Run(start, recipe, resume, Path(checkpoint) if checkpoint else None)


def _is_of_earlier_version(start: Start, recipe: Recipe) -> bool:
    """Return whether the folder holds an unfinished run whose test part chooses, and the recipe leaves that open."""
    if isinstance(recipe, PretrainRecipe) or recipe.validation is not None or start.overwrite:
        return False
    try:
        stored = stored_recipe(start.out, recipe.task)
    except (FileNotFoundError, ValueError):  # `_decision` says so if it matters
        return False
    return not isinstance(stored, PretrainRecipe) and stored.validation == TEST_CHOOSES


def _decision(start: Start, recipe: Recipe) -> tuple[bool, str | None]:
    """Return (whether the run is resumed, the checkpoint to resume from)."""
    resume = start.resume
    if not resume and not start.overwrite and _is_unfinished(start.out, recipe):
        resume = True
        start.say(f"{start.out} holds this run, unfinished: resuming it")
    check_folder(start.out, resume=resume, overwrite=start.overwrite)
    if not resume:
        check_outside(start.out, [recipe.data])
        if recipe.training.cache:
            check_outside(recipe.training.cache, [recipe.data], "cache")
    if start.overwrite and recipe.init and Path(recipe.init).resolve().is_relative_to(start.out.resolve()):
        raise ValueError(f"--overwrite would delete {recipe.init}, which --init starts from; choose another --out")
    if resume:
        check_same_recipe(stored_recipe(start.out, recipe.task), recipe)
        if any((start.out / FOLDER).glob(STEPS)):
            return True, str(find_checkpoint(start.out, whole=True, trust=start.trust))
    return resume, None


def _is_unfinished(run: Path, recipe: Recipe) -> bool:
    """Return whether a folder holds an unfinished run of this very recipe."""
    try:
        return not is_finished(run) and stored_recipe(run, recipe.task) == recipe
    except (FileNotFoundError, ValueError):
        return False


def check_same_recipe(stored: Recipe, recipe: Recipe) -> None:
    """Refuse to resume with settings that would change the run's result."""
    before, now = (dict(flatten(recipe.model_dump(mode="json"))) for recipe in (stored, recipe))
    fixed = [setting.name for setting in settings_of(stored) if not setting.is_free]
    different = [f"{name} {before[name]} -> {now[name]}" for name in fixed if before[name] != now[name]]
    if different:
        raise ValueError(f"a resume can't change {', '.join(different)}; leave these out, or start a new run")


def run_of(checkpoint: Path) -> Path | None:
    """Return the run folder that a checkpoint folder is in; None for one that stands alone."""
    run = checkpoint.parent.parent
    return run if checkpoint.parent.name == FOLDER and (run / RECIPE_FILE).is_file() else None


@dataclass(frozen=True)
class Origin:
    """A run folder, and one of its checkpoints."""

    run: Path
    checkpoint: Path


def origin_of(init: str | None, *, trust: bool = False) -> Origin | None:
    """Return where a training started from, if that is a run that is still there, and whole."""
    try:
        checkpoint = find_checkpoint(init, trust=trust) if init else None
    except (OSError, ValueError):  # it was read when the training began
        return None
    run = run_of(checkpoint) if checkpoint else None
    return Origin(run, checkpoint) if run and checkpoint else None


def enter_run(run: Run[Any], state: TrainState, description: Description) -> None:
    """Make the run folder and write the recipe into it, or bring `state` to its latest checkpoint.

    Raises:
        ValueError: the folder can't be taken, or its run saw other images, or the processes differ in what they do.
    """
    ranks = run.start.ranks
    images = {"number of images": description.provenance.get("images"), "classes": description.classes}
    check_same(ranks, dict(flatten(run.recipe.model_dump(mode="json"))) | images)
    if run.checkpoint:
        _check_same_images(read_description(run.checkpoint), description)
    ranks.from_first(lambda: _take_folder(run))
    if run.checkpoint:
        load_checkpoint(run.checkpoint, state)
        run.start.say(f"resumed at step {state.step} from {run.checkpoint}")
    ranks.from_first(lambda: _forget_later_metrics(run, state))


def _take_folder(run: Run[Any]) -> None:
    out = run.start.out
    open_run(out, resume=run.resume, overwrite=run.start.overwrite)
    report_entered()
    remove_leftovers(out)
    if not run.resume or not (out / ENVIRONMENT_FILE).exists():
        write_environment(out, products.description())
    write_recipe(out, dump_recipe(run.recipe))


def _forget_later_metrics(run: Run[Any], state: TrainState) -> None:
    if run.resume and (run.start.out / METRICS_FILE).exists():
        forget_metrics_after(run.start.out, state.step)


def _check_same_images(saved: Description, now: Description) -> None:
    before, after = saved.provenance.get("images"), now.provenance.get("images")
    if before != after or saved.classes != now.classes:
        raise ValueError(
            f"this run began with {before} images of {len(saved.classes)} classes, now there are {after} of "
            f"{len(now.classes)}; a resume needs the same images, so restore them or start a new run"
        )
