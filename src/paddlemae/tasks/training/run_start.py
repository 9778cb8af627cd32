"""Where a training run starts: its folder, taken anew or where it was left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from paddlemae.data.sources.output_folders import check_outside
from paddlemae.launch.launcher import note_entered
from paddlemae.recipe import RECIPES, Recipe, build_recipe, dump_recipe, read_recipe_file, settings_of
from paddlemae.runs.runlog import (
    ENVIRONMENT_FILE,
    METRICS_FILE,
    RECIPE_FILE,
    check_folder,
    flat,
    forget_metrics_after,
    is_finished,
    open_run,
    write_environment,
    write_recipe,
)
from paddlemae.system.display_names import say
from paddlemae.system.documents import brief
from paddlemae.system.locks import locked_folder
from paddlemae.train.checkpoint import (
    FOLDER,
    STEPS,
    TrainState,
    find_checkpoint,
    load_checkpoint,
    remove_leftovers,
)
from paddlemae.train.parallel.ranks import ALONE, Ranks, check_same
from paddlemae.weights.model_folder import Description, read_description


@dataclass(frozen=True)
class Start:
    """How a run takes its folder: anew (`overwrite` what is there) or where it was left (`resume`).

    `checkpoint` is the one that a resumed run goes on from; None for a new run, or one that was stopped before its
    first. `ranks` are the processes that train it; the first alone decides and writes, and all read. `trust` takes
    checkpoints without checksums too, see `find_checkpoint`.
    """

    out: Path
    resume: bool = False
    overwrite: bool = False
    quiet: bool = False
    checkpoint: Path | None = None
    ranks: Ranks = ALONE
    trust: bool = False

    def check(self) -> None:
        """Refuse a folder that can't be taken, before any work is done."""
        check_folder(self.out, resume=self.resume, overwrite=self.overwrite)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other commands out of the folder; the first of the ranks does it for all.

        Raises:
            BlockingIOError: another command is writing there.
        """
        if not self.ranks.is_first or (self.out.exists() and not self.out.is_dir()):  # `check` refuses a file
            yield
            return
        with locked_folder(self.out):
            yield

    def say(self, text: str) -> None:
        if not self.quiet:
            say(text)


def stored_recipe(run: Path, task: str) -> Recipe:
    """The resolved recipe of a run folder.

    Raises:
        FileNotFoundError, ValueError: no run there, or one of another task.
    """
    path = run / RECIPE_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{run} holds no run to resume (no {RECIPE_FILE}); leave --resume out to start one")
    content = read_recipe_file(path)
    named = content.get("task")
    if named not in RECIPES:
        raise ValueError(f"{path} is damaged (its task is {brief(named)}); restore it, or start over with --overwrite")
    if named != task:
        raise ValueError(f"{run} is a {named} run; resume it with 'paddlemae {named}'")
    return build_recipe(task, content)


def check_start(start: Start, recipe: Recipe, init: str | None = None) -> Start:
    """Refuse what a training must not do with its folder, before any work is done.

    Args:
        init: what it starts from, which it must not delete.
    Returns:
        the start as it is meant: a folder that holds an unfinished run of this very recipe is one to go on with, so
        that whoever runs the same command again, after a crash say, need not know how far it came.
    Raises:
        ValueError, FileNotFoundError: the folder can't be taken, holds `init`, or is of another recipe's run; or all
            checkpoints to go on from are damaged.
    """
    resume, checkpoint = start.ranks.from_first(lambda: _decided(start, recipe, init))
    return replace(start, resume=resume, checkpoint=Path(checkpoint) if checkpoint else None)


def _decided(start: Start, recipe: Recipe, init: str | None) -> tuple[bool, str | None]:
    """(whether the run is gone on with, the checkpoint to go on from)."""
    if not start.resume and not start.overwrite and _was_left(start.out, recipe):
        start = replace(start, resume=True)
        start.say(f"{start.out} holds this run, unfinished: going on with it")
    start.check()
    if not start.resume:
        check_outside(start.out, [recipe.data])
        if recipe.training.cache:
            check_outside(recipe.training.cache, [recipe.data], "cache")
    if start.overwrite and init and Path(init).resolve().is_relative_to(start.out.resolve()):
        raise ValueError(f"--overwrite would delete {init}, which --init starts from; choose another --out")
    if start.resume:
        check_same_recipe(stored_recipe(start.out, recipe.task), recipe)
        if any((start.out / FOLDER).glob(STEPS)):
            return True, str(find_checkpoint(start.out, whole=True, trust=start.trust))
    return start.resume, None


def _was_left(run: Path, recipe: Recipe) -> bool:
    """Whether a folder holds a run of this very recipe that has not come to its end."""
    try:
        return not is_finished(run) and stored_recipe(run, recipe.task) == recipe
    except (FileNotFoundError, ValueError):
        return False


def check_same_recipe(stored: Recipe, asked: Recipe) -> None:
    """Refuse to resume with settings that would change the run's result."""
    before, now = (dict(flat(recipe.model_dump(mode="json"))) for recipe in (stored, asked))
    fixed = [setting.name for setting in settings_of(stored) if not setting.is_free]
    different = [f"{name} {before[name]} -> {now[name]}" for name in fixed if before[name] != now[name]]
    if different:
        raise ValueError(f"a resume can't change {', '.join(different)}; leave these out, or start a new run")


def run_of(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint folder is in; None for one that stands alone."""
    run = checkpoint.parent.parent
    return run if checkpoint.parent.name == FOLDER and (run / RECIPE_FILE).is_file() else None


@dataclass(frozen=True)
class Origin:
    """A run folder, and the one of its checkpoints that is meant."""

    run: Path
    checkpoint: Path


def origin_of(init: str | None, *, trust: bool = False) -> Origin | None:
    """Where a training started from, if that is a run that is still there, and whole."""
    try:
        checkpoint = find_checkpoint(init, trust=trust) if init else None
    except (OSError, ValueError):  # it was read when the training began
        return None
    run = run_of(checkpoint) if checkpoint else None
    return Origin(run, checkpoint) if run and checkpoint else None


def enter_run(start: Start, recipe: Recipe, state: TrainState, description: Description) -> None:
    """Make the run folder and write what was asked for, or bring `state` to its latest checkpoint.

    Args:
        start: as `check_start` gave it.
    Raises:
        ValueError: the folder can't be taken, or its run saw other images, or the processes differ in what they do.
    """
    images = {"number of images": description.provenance.get("images"), "classes": description.classes}
    check_same(start.ranks, dict(flat(recipe.model_dump(mode="json"))) | images)
    if start.checkpoint:
        _check_same_images(read_description(start.checkpoint), description)
    start.ranks.from_first(lambda: _take_folder(start, recipe))
    if start.checkpoint:
        load_checkpoint(start.checkpoint, state)
        start.say(f"resumed at step {state.step} from {start.checkpoint}")
    start.ranks.from_first(lambda: _forget_what_comes(start, state))


def _take_folder(start: Start, recipe: Recipe) -> None:
    open_run(start.out, resume=start.resume, overwrite=start.overwrite)
    note_entered()
    remove_leftovers(start.out)
    if not start.resume or not (start.out / ENVIRONMENT_FILE).exists():
        write_environment(start.out)
    write_recipe(start.out, dump_recipe(recipe))


def _forget_what_comes(start: Start, state: TrainState) -> None:
    if start.resume and (start.out / METRICS_FILE).exists():
        forget_metrics_after(start.out, state.step)


def _check_same_images(saved: Description, now: Description) -> None:
    before, after = saved.provenance.get("images"), now.provenance.get("images")
    if before != after or saved.classes != now.classes:
        raise ValueError(
            f"this run began with {before} images of {len(saved.classes)} classes, now there are {after} of "
            f"{len(now.classes)}; a resume needs the same images, so restore them or start a new run"
        )
