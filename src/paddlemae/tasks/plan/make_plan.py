"""Plan for images and a time: survey the images, try some steps, and choose: `paddlemae plan`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from paddlemae.engine import device as devices
from paddlemae.runs.progress import progress
from paddlemae.tasks.plan.data_survey import MOST_READ, DataSurvey, survey_data
from paddlemae.tasks.plan.measured import (
    Wish,
    measure_finetuning,
    measure_pretraining,
    measure_segmentation,
    settings_of,
)
from paddlemae.tasks.plan.plan import Plan, Settings
from paddlemae.tasks.plan.time_split import split_time

MUCH_LEFT = 0.2  # share of the time
TRIALS_SECONDS = 15.0  # about what all trials take
SPARE_SHARE = 0.95  # of the time for pretraining, below which more of it is not wanted


def make_plan(
    data: str,
    minutes: float,
    *,
    device: str = "auto",
    seed: int = 0,
    cache: str | None = None,
    quiet: bool = False,
) -> Plan:
    """Plan trainings that take `minutes` together on this machine.

    They are a pretraining and, where there are labels, a fine-tuning, or where there are masks, a segmentation.

    Args:
        data: images, as `open_source` takes them.
        minutes: for everything: both trainings, their evaluations, and the planning itself.
        device, seed: as in recipes.
        cache: a folder that recipes may name for a packed copy of the images, where that saves time; None for none.
    Raises:
        ValueError: images or a time that no training can be planned for.
        FileNotFoundError: no such path.
        DataFault: no image can be read.
    """
    began = time.perf_counter()
    if not minutes > 0:
        raise ValueError(f"the time must be above 0 minutes; got {minutes:g}")
    name = devices.prepare(device)
    with progress("images", MOST_READ, show=not quiet) as show:
        survey, source = survey_data(data, on_images=lambda done, of: show(done))
    before = time.perf_counter() - began + TRIALS_SECONDS
    split = split_time(60 * minutes, has_labels=survey.trains_more, opening=survey.open_seconds, before=before)
    wish = Wish(data, device, seed, cache)
    measured = measure_pretraining(wish, survey, source, split)
    left = split.pretrain_steps
    tuned = None
    if survey.classes:
        tuned = measure_finetuning(wish, survey, source, split, measured.shape, measured.reading)
    elif survey.masked:
        tuned = measure_segmentation(wish, survey, split, measured.shape)
    if tuned:
        left += split.finetune_steps - tuned.seconds
    course = measured.course(survey, left)
    settings = {"pretrain": settings_of(wish, survey, measured, course)}
    times = {
        "plan": time.perf_counter() - began,
        "pretrain": measured.seconds_of(course) + split.around,
    }
    if tuned:
        settings[tuned.task] = tuned.settings
        times[tuned.task] = tuned.seconds + split.around
    times["reserve"] = 60 * minutes - sum(times.values())
    notes = (*_notes(survey, settings), *_size_notes(survey, measured.shape.patch_size), *_time_notes(survey, times))
    has_spare_time = measured.seconds_of(course) < SPARE_SHARE * left
    evaluating = tuned.evaluating if tuned else 0.0
    return Plan(data, minutes, name, survey, settings, times, notes, has_spare_time, evaluating)


def _notes(survey: DataSurvey, settings: Mapping[str, Settings]) -> Iterator[str]:
    """Yield what the user should know about images and labels."""
    yield from survey.notes
    if survey.classes and survey.labelled < survey.images:
        yield (
            f"labels for {survey.labelled:,} of {survey.images:,} images: pretraining uses all, fine-tuning the "
            "labelled ones"
        )
    if survey.masked and survey.masked.test_images is None:
        share = settings["segment"]["val_fraction"].value
        yield f"no split to evaluate on, so segmentation holds out {100 * share:.2g}% of the images"
    elif survey.unlabelled and not survey.masked:
        yield f"no labels, so no fine-tuning is planned: {survey.unlabelled}"
    elif survey.classes and survey.test_images is None:
        share = settings["finetune"]["val_fraction"].value
        yield (
            f"no split to evaluate on, so fine-tuning holds out {100 * share:.2g}% of each class; pretraining sees "
            "those images too, without their labels"
        )
    if survey.unreadable:
        yield f"{survey.unreadable} of {survey.unreadable + survey.read} images that were tried can't be read"


def _size_notes(survey: DataSurvey, patch_size: int) -> Iterator[str]:
    """Say if images are so small that one patch is more than all of them."""
    if min(survey.height.least, survey.width.least) < patch_size:
        yield (
            f"some images are smaller than a patch of {patch_size} pixels and are enlarged (the least height is "
            f"{survey.height.least:.0f}, the least width {survey.width.least:.0f}); leave them out if they show nothing"
        )


def _time_notes(survey: DataSurvey, times: Mapping[str, float]) -> Iterator[str]:
    """Say where time is left, as more of it would bring little."""
    if times["reserve"] > MUCH_LEFT * sum(times.values()):
        yield f"{survey.images:,} images need no more time: {times['reserve'] / 60:.0f} minutes are left over"
