"""The stages of an `auto` run; each returns what `auto.json` keeps of it."""

from __future__ import annotations

import math
import shlex
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from paddlemae.data.masks.holds_masks import holds_masks
from paddlemae.data.sources import SourceNote, match_classes, open_source, subset
from paddlemae.data.sources.subsets import draw_share, spread_over
from paddlemae.data.views.augment import View
from paddlemae.engine.cpus import usable_cpus
from paddlemae.model.shape import pair
from paddlemae.recipe import MAX_BAD_IMAGES, SCRATCH, FinetuneRecipe, PretrainRecipe, SegmentRecipe, load_recipe
from paddlemae.runs.runlog import RESULT_FILE, read_metrics
from paddlemae.system.display_names import say
from paddlemae.system.documents import read_object
from paddlemae.tasks.auto import auto_state as folders
from paddlemae.tasks.auto.budget import CHECK_SHARE, Budget, most_images
from paddlemae.tasks.auto.commands import Commands, Request
from paddlemae.tasks.auto.outcome import FINETUNED, KNN, KNN_UNTRAINED, method_row
from paddlemae.tasks.auto.within_time import AROUND_SECONDS, train_within, with_training
from paddlemae.tasks.baselines.compare import drawn_text, measure_baselines
from paddlemae.tasks.models.build import load_encoder
from paddlemae.tasks.models.features import embed
from paddlemae.tasks.models.inference import FeatureKind
from paddlemae.tasks.models.preprocess import evaluation_view
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.plan.data_survey import survey_data
from paddlemae.tasks.plan.finetuning_settings import TEST_SHARE
from paddlemae.tasks.plan.plan import Plan
from paddlemae.tasks.plan.time_split import FINETUNE_SHARE, TimeTooShort
from paddlemae.tasks.plan.write_plan import summarize, write_plan
from paddlemae.tasks.training.exhibits import MAPPED, show_map
from paddlemae.tasks.training.labelled_splits import open_labelled_splits, open_test_part
from paddlemae.tasks.training.optional_output import optional
from paddlemae.tasks.training.run_start import stored_recipe

Json = dict[str, Any]

MOST_TEST = 5_000  # images of a test part that is drawn, whose accuracy is then known to 1.4%
FEATURE_SECONDS = 0.004  # of the classical features of an image, besides reading it
NEIGHBOURS = 20
NEARLY = 0.8  # of the time for fine-tuning, above which it is as long as the time allows
TUNED_FOLDERS = {"finetune": folders.FINETUNE, "segment": folders.SEGMENT}
FEATURES = FeatureKind("mean")  # of the map
COMPARED = FeatureKind("mean+std", norm="whiten")  # by nearest neighbours, trained and untrained
BANK_SHARE = 0.7  # of the images whose features are compared
FORWARD_SPEED = 1.2  # images a second through the whole encoder, by those of pretraining


def survey(request: Request) -> Json:
    """Look at some of the images: their number, labels and channels, and how long reading one takes."""
    found, *_ = survey_data(request.data)
    return {
        "images": found.images,
        "test_images": found.test_images,
        "classes": dict(found.classes),
        "is_multi_label": found.is_multi_label,
        "unlabelled": found.unlabelled,
        "has_masks": found.masked is not None or holds_masks(request.data),
        "masked": None if found.masked is None else asdict(found.masked),
        "channels": found.channels,
        "unreadable": found.unreadable / (found.read + found.unreadable),
        "read_seconds": found.read_seconds,
    }


def say_lines(request: Request, lines: Iterable[str]) -> None:
    """Print lines one by one, unless the user wants none."""
    for line in () if request.quiet else lines:
        say(line)


def next_task(found: Json) -> str | None:
    """Return what follows the pretraining of a survey's images: "finetune", "segment" or nothing."""
    if found.get("masked"):
        return "segment"
    return None if unusable_labels(found) else "finetune"


def unusable_labels(found: Json) -> str | None:
    """Return why a survey's labels can't be used for fine-tuning; None if they can."""
    if not found["classes"]:
        return f"no labels ({found['unlabelled']})"
    if sum(count > 0 for count in found["classes"].values()) < 2:
        return f"all labels are of one class, {next(iter(found['classes']))!r}"
    return None


def remark_on_masks(request: Request, found: Json) -> list[str]:
    """Return a sentence on what to do with the masks of a survey's images, if they have any."""
    if not found.get("has_masks") or next_task(found) == "segment":
        return []
    data, init = shlex.quote(request.data), shlex.quote(str(request.out / folders.PRETRAIN))
    return [f"The images have masks: paddlemae segment --init {init} --data {data} trains on them."]


def check(request: Request, commands: Commands, found: Json) -> Json:
    """Compare all images, unless that takes too large a share of the time; say what was found, and go on."""
    images = found["images"] + (found["test_images"] or 0)
    seconds = images * found["read_seconds"] / usable_cpus()
    if seconds > CHECK_SHARE * 60 * request.minutes:
        return {
            "note": f"the images are not checked, which would take {seconds / 60:.0f} minutes: paddlemae data check"
        }
    result = commands.check(request.data, channels=found["channels"], quiet=True)
    folder = request.out / folders.CHECK
    folder.mkdir(exist_ok=True)
    commands.write_check(result, folder)
    lines = _found_lines(commands.summarize(result).splitlines())
    say_lines(request, lines)
    return {"findings": dict(result.findings), "text": lines}


def _found_lines(lines: Sequence[str]) -> list[str]:
    """Return the findings among the lines of a summary, each with the indented lines below it."""
    kept, is_finding = [], False
    for line in lines:
        is_finding = line.startswith("found") or (is_finding and line.startswith(" "))
        if is_finding:
            kept.append(line)
    return kept


def split(request: Request, commands: Commands, found: Json, checked: Json) -> Json:
    """Carve a test part out of images with labels or masks that have none: a list; duplicates stay together."""
    has_test = (found.get("masked") or found)["test_images"]
    if next_task(found) is None or has_test:
        return {"data": request.data}
    if "findings" not in checked:
        return {"data": request.data, "note": "the test part is drawn without a look at duplicates"}
    folder = request.out / folders.DATA
    folder.mkdir(exist_ok=True)
    share = min(TEST_SHARE, MOST_TEST / max(1, found["images"]))
    try:
        parts = commands.split_images(
            request.data, test=share, seed=request.seed, channels=found["channels"], quiet=True
        )
    except ValueError as fault:
        return {"data": request.data, "note": f"the test part is drawn without a look at duplicates: {fault}"}
    return {"data": str(commands.write_list(parts, folder)), "note": f"{100 * share:.2g}% of the images are held out"}


def plan(request: Request, commands: Commands, data: str, seconds: float) -> Json:
    """Plan the trainings for `seconds`, and write their recipes."""
    made = make_plan(request, commands, data, seconds)
    folder = request.out / folders.PLAN
    for path in folder.glob("*.yaml"):  # of a session that was killed here
        path.unlink()
    write_plan(made, folder)
    return planned(made)


def make_plan(request: Request, commands: Commands, data: str, seconds: float) -> Plan:
    """Plan the trainings for `seconds`.

    Raises:
        TimeTooShort: with the minutes that `auto` needs.
    """
    try:
        return commands.make_plan(
            data,
            seconds / 60,
            device=request.device,
            seed=request.seed,
            cache=str(request.out / folders.CACHE),
            quiet=request.quiet,
        )
    except TimeTooShort as fault:
        least = math.ceil(2 * (fault.minutes * request.minutes * 60 / max(1.0, seconds))) / 2
        raise TimeTooShort(
            f"{request.minutes:g} minutes are too short for any training on these images and this machine: give "
            f"--minutes {least:g} at least, and better 30",
            least,
        ) from fault


def planned(made: Plan) -> Json:
    """Return what `auto.json` keeps of a plan; `is_short`: what follows pretraining takes all its share of the time."""
    after = sum(seconds for task, seconds in made.times.items() if task in TUNED_FOLDERS)
    return {
        "times": dict(made.times),
        "has_spare_time": made.has_spare_time,
        "evaluating": made.evaluating,
        "is_short": after > NEARLY * FINETUNE_SHARE * (60 * made.minutes - made.times["plan"]),
        "text": summarize(made).splitlines(),
    }


def recipe_of(request: Request, task: str, found: Json) -> Any:
    """Return a recipe of the plan; where many images can't be read, as many are allowed."""
    recipe = load_recipe(task, str(request.out / folders.PLAN / f"{task}.yaml"))
    bad = min(1.0, 2 * found["unreadable"])
    return with_training(recipe, max_bad_images=bad) if bad > MAX_BAD_IMAGES else recipe


class Labelled:
    """The labelled images of a run, of one class each.

    Attributes:
        train, test: with the same classes.
        primary: the key of the primary metric.
    """

    def __init__(self, recipe: FinetuneRecipe):
        assert recipe.data is not None
        with _without_notes():
            splits = open_labelled_splits(recipe.model_copy(update={"validation": 0.0}), recipe.data)
            test = splits.held_out
            if not recipe.val_fraction:  # of images with val and test it is test
                test = match_classes(splits.train, open_test_part(recipe.data, recipe.eval_split, multi_label=False))
        self.train, self.test = splits.train, test
        self.primary = splits.primary


@contextmanager
def _without_notes() -> Iterator[None]:
    """Leave out how a source is read; the plan says it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SourceNote)
        yield


def baselines(request: Request, labelled: Labelled, recipe: PretrainRecipe, found: Json, budget: Budget) -> Json:
    """Classify the test part without a network."""
    augment, channels = recipe.augment, recipe.model.channels
    view = View(
        pair(recipe.model.image_size),
        channels,
        fit=augment.fit,
        eval_crop_ratio=augment.eval_crop_ratio,
        bits=augment.bits,
    )
    an_image = found["read_seconds"] + FEATURE_SECONDS
    most = most_images(budget.baselines / 4, an_image, 200, 5_000)
    results = measure_baselines(
        labelled.train,
        labelled.test,
        view,
        primary=labelled.primary,
        seed=request.seed,
        most_trained=most,
        most_tested=2 * most,
        max_bad_images=recipe.training.max_bad_images,
        quiet=request.quiet,
    )
    return {"rows": [method_row(one["baseline"], one, title=one["title"]) for one in results]}


def pretrain(request: Request, commands: Commands, recipe: PretrainRecipe, seconds: float, times: Json) -> Json:
    """Pretrain for `seconds`; the planned epochs are scaled to them unless the plan had time to spare."""
    out = request.out / folders.PRETRAIN
    may_grow = not times["has_spare_time"]
    if may_grow:
        recipe = scaled(recipe, (seconds - AROUND_SECONDS) / max(1.0, times["times"]["pretrain"] - AROUND_SECONDS))
    with _without_notes():
        whole = train_within(
            commands.pretrain, recipe, out, seconds, quiet=request.quiet, may_stop=True, may_grow=may_grow
        )
    last = list(read_metrics(out))[-1:]
    return {"whole": whole, "steps": last[0]["step"] if last else 0, "loss": last[0].get("loss") if last else None}


def scaled(recipe: Any, factor: float) -> Any:
    """Return a recipe of which all that is counted in epochs is `factor` times as long."""
    training, factor = recipe.training, max(1e-3, factor)
    keys = ("epochs", "warmup_epochs", "checkpoint_every")
    recipe = with_training(recipe, **{key: factor * getattr(training, key) for key in keys})
    if isinstance(recipe, FinetuneRecipe | SegmentRecipe):
        recipe = recipe.model_copy(update={"evaluate_every": factor * recipe.evaluate_every})
    return recipe


def features(request: Request, commands: Commands, labelled: Labelled, seconds: float) -> Json:
    """Classify the test part by the neighbours of its features, pretrained and untrained."""
    run = request.out / folders.PRETRAIN
    most = most_images(seconds / 2, 1 / (FORWARD_SPEED * _images_per_second(run)), 500, 60_000)
    bank = draw_share(labelled.train, round(BANK_SHARE * most), request.seed)
    queries = draw_share(labelled.test, round((1 - BANK_SHARE) * most), request.seed)
    drawn = drawn_text("searched", labelled.train, bank), drawn_text("measured on", labelled.test, queries)
    rows = []
    for key, random in ((KNN_UNTRAINED, True), (KNN, False)):
        began = time.monotonic()
        results = commands.classify_by_neighbours(
            str(run),
            bank,
            queries,
            labelled.primary,
            kind=COMPARED,
            neighbours=[min(NEIGHBOURS, len(bank))],
            random=random,
            max_bad_images=1.0,  # the check and the training have said them
        )
        weighted = next(one for one in results if one["protocol"]["votes"] == "weighted")
        detail = f"k = {weighted['protocol']['k']}, {', '.join(drawn)}"
        rows.append(method_row(key, weighted, detail=detail, seconds=time.monotonic() - began))
    return {"rows": rows}


def _images_per_second(run: Path) -> float:
    speeds = [line["images_per_second"] for line in read_metrics(run) if line.get("images_per_second")]
    return float(sorted(speeds)[len(speeds) // 2]) if speeds else 100.0


class TuneTime(NamedTuple):
    """The time of a training on labels or masks: `seconds`, what was `planned`, and of either what evaluations take."""

    seconds: float
    planned: float
    evaluating: float


def tune(
    request: Request, commands: Commands, recipe: FinetuneRecipe | SegmentRecipe, given: TuneTime, may_grow: bool
) -> Json:
    """Train the pretrained model on labels or masks for a time, and return its result."""
    recipe = recipe.model_copy(update={"init": str(request.out / folders.PRETRAIN)})
    return _tune(request, commands, recipe, TUNED_FOLDERS[recipe.task], FINETUNED, given, may_grow)


def from_scratch(request: Request, commands: Commands, recipe: FinetuneRecipe | SegmentRecipe, given: TuneTime) -> Json:
    """Train the same encoder from scratch for a time, and return its result."""
    pretrained: Any = stored_recipe(request.out / folders.PRETRAIN, "pretrain")
    shape = pretrained.model.model_dump(exclude_none=True)
    shared = {key: value for key, value in shape.items() if key in type(recipe.model).model_fields}
    content = {**recipe.model_dump(exclude_unset=True), "init": SCRATCH, "mean": pretrained.mean, "std": pretrained.std}
    content["model"] = {**shared, **content.get("model", {})}
    content["layer_decay"] = 1.0
    if isinstance(recipe, SegmentRecipe):
        content["training"].pop("base_lr", None)  # random weights have one of their own
    elif recipe.fit_head:  # random features have nothing to fit, and other settings are best: the default ones
        content["fit_head"], content["model"]["pool"] = False, "mean"
        content["training"].pop("base_lr", None)
        for name in ("randaugment", "erasing", "crop_scale"):
            content.get("augment", {}).pop(name, None)
    recipe = type(recipe).model_validate(content)
    return _tune(request, commands, recipe, folders.SCRATCH, SCRATCH, given, may_grow=True)


def _tune(
    request: Request,
    commands: Commands,
    recipe: FinetuneRecipe | SegmentRecipe,
    folder: str,
    key: str,
    given: TuneTime,
    may_grow: bool,
) -> Json:
    around = AROUND_SECONDS + given.evaluating
    recipe = scaled(recipe, max(1.0, given.seconds - around) / max(1.0, given.planned - around))
    out, train = request.out / folder, getattr(commands, recipe.task)
    with _without_notes():
        train_within(
            train,
            recipe,
            out,
            given.seconds,
            quiet=request.quiet,
            may_stop=False,
            may_grow=may_grow,
            evaluating=given.evaluating,
        )
    return {"rows": [method_row(key, read_object(out / RESULT_FILE))]}


def draw_map(request: Request, recipe: PretrainRecipe) -> Json:
    """Draw the map of the pretrained model's features of images without labels."""
    run = request.out / folders.PRETRAIN
    checkpoint = read_checkpoint(str(run))
    assert recipe.data is not None
    with _without_notes():
        whole = open_source(recipe.data, recipe.split or "train")
    source = subset(whole, spread_over(len(whole), MAPPED))
    features_ND, indices = embed(load_encoder(checkpoint), checkpoint.description, source, kind=FEATURES)
    with optional("the map"):
        show_map(run, source, evaluation_view(checkpoint.description), features_ND, indices, str(FEATURES))
    return {"rows": []}
