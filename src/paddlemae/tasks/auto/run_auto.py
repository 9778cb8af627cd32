"""Run everything: check, plan, baselines, pretraining, evaluation, fine-tuning, report: `paddlemae auto`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paddlemae.data.sources.output_folders import check_outside
from paddlemae.engine import device as devices
from paddlemae.report.write_report import write_report
from paddlemae.system.atomic import remove
from paddlemae.system.display_names import say
from paddlemae.system.locks import lock_folder
from paddlemae.system.signals import Preempted
from paddlemae.tasks.auto import stages
from paddlemae.tasks.auto.auto_state import AUTO_FILE, FINETUNE, PRETRAIN, SCRATCH, SEGMENT, AutoState, open_state
from paddlemae.tasks.auto.budget import Budget
from paddlemae.tasks.auto.commands import Commands, Request
from paddlemae.tasks.auto.outcome import FINETUNED, KNN, outcome, table

Json = dict[str, Any]

NAMES = {
    "survey": "looking at the images",
    "check": "checking the images",
    "split": "choosing a test part",
    "plan": "planning",
    "baselines": "baselines without a network",
    "pretrain": "pretraining",
    "features": "evaluation of features",
    "finetune": "fine-tuning",
    "segment": "training on the masks",
    "scratch": "training from scratch",
    "report": "report",
}


def auto(request: Request, commands: Commands) -> Json:
    """Do everything that `paddlemae auto` does; a run that was stopped is resumed where it was.

    Returns:
        the outcome as `outcome.outcome` gives it, with `seconds`, all that was used, and `report`, the page's path;
        of a dry run nothing.
    Raises:
        ValueError, FileNotFoundError: images, a time or a folder that can't be used.
        KeyboardInterrupt, Preempted: it was stopped; the same command resumes.
    """
    if not request.minutes > 0:
        raise ValueError(f"the time must be above 0 minutes; got {request.minutes:g}")
    check_outside(request.out, [request.data])
    devices.prepare(request.device)
    if request.dry_run:
        _print_plan(request, commands)
        return {}
    with lock_folder(request.out):
        state = open_state(request.out, request.data, request.minutes, request.seed, overwrite=request.overwrite)
        session = _Session(request, commands, state)
        try:
            return session.run()
        except (KeyboardInterrupt, Preempted) as end:
            text = f"stopped during {NAMES[session.stage]}; the same command resumes there"
            raise type(end)(text) from end
        finally:
            state.end()
            if not state.record.stages:  # these images can't be used at all
                remove(request.out / AUTO_FILE)


def _print_plan(request: Request, commands: Commands) -> None:
    """Print what `auto` would do."""
    found = stages.survey(request)
    budget = Budget.of(60 * request.minutes, has_labels=stages.next_task(found) == "finetune")
    made = stages.make_plan(request, commands, request.data, 60 * request.minutes - budget.around)
    for line in stages.planned(made)["text"]:
        say(line)
    say(f"minutes for baselines, evaluation of features and report: {budget.around / 60:.1f}")


class _Session:
    """One session of a run: its stages in their order."""

    def __init__(self, request: Request, commands: Commands, state: AutoState):
        self.request, self.commands, self.state = request, commands, state
        self.stage = "survey"

    def run(self) -> Json:
        request, commands, state = self.request, self.commands, self.state
        total = 60 * request.minutes
        found = self._once("survey", lambda: stages.survey(request))
        task = stages.next_task(found)
        budget = Budget.of(total, has_labels=task == "finetune")
        self._announce(found)
        checked = self._once("check", lambda: stages.check(request, commands, found))
        data = self._once("split", lambda: stages.split(request, commands, found, checked))["data"]
        left = total - budget.around - state.used
        is_new = "plan" not in state.record.stages
        plan = self._once("plan", lambda: stages.plan(request, commands, data, left))
        times = plan["times"]
        tune_seconds = times[task] if task else 0.0
        if is_new:
            self._say_plan(plan, budget, task, tune_seconds)
        recipe = stages.recipe_of(request, "pretrain", found)
        labelled, rows = None, []
        tuning: Any = stages.recipe_of(request, task, found) if task else None
        if task == "finetune" and not found.get("is_multi_label"):  # baselines and neighbours need one class per image
            labelled = stages.Labelled(tuning)
            done = self._once("baselines", lambda: stages.baselines(request, labelled, recipe, found, budget))
            rows += done["rows"]
        seconds = budget.pretrain_seconds(state.left, tune_seconds)
        self._once("pretrain", lambda: stages.pretrain(request, commands, recipe, seconds, plan))
        if labelled is None:
            self._once("features", lambda: stages.draw_map(request, recipe))
        else:
            compared = self._once("features", lambda: stages.features(request, commands, labelled, budget.features))
            rows += map(self._with_pretraining, compared["rows"])
        if tuning:
            rows += self._tune(tuning, budget, tune_seconds)
        primary = labelled.primary if labelled else rows[-1]["primary"] if rows else "top1"
        return self._report(rows, primary, stages.remark_on_masks(request, found))

    def _tune(self, recipe: Any, budget: Budget, planned: float) -> list[Json]:
        request, commands, state = self.request, self.commands, self.state
        plan = state.record.stages["plan"]
        seconds = budget.finetune_seconds(state.left, planned, plan["is_short"])
        given = stages.TuneTime(seconds, planned, plan.get("evaluating", 0.0))
        done = self._once(recipe.task, lambda: stages.tune(request, commands, recipe, given, may_grow=plan["is_short"]))
        same = given._replace(seconds=done["seconds"] + state.record.stages["pretrain"]["seconds"])
        rows = [self._with_pretraining({**row, "seconds": done["seconds"]}) for row in done["rows"]]
        if request.compare:
            compared = self._once("scratch", lambda: stages.from_scratch(request, commands, recipe, same))
            rows += [{**row, "seconds": compared["seconds"]} for row in compared["rows"]]
        return rows

    def _with_pretraining(self, row: Json) -> Json:
        """Return a row whose seconds include the pretraining that the method needs."""
        needed = self.state.record.stages["pretrain"]["seconds"] if row["key"] in (KNN, FINETUNED) else 0.0
        return {**row, "seconds": row["seconds"] + needed}

    def _report(self, rows: list[Json], primary: str, remarks: list[str]) -> Json:
        self.stage = "report"
        found = outcome(rows, primary)
        out = self.request.out
        runs = [out / name for name in (PRETRAIN, FINETUNE, SEGMENT, SCRATCH) if (out / name).is_dir()]
        found = {**found, "remarks": [*found["remarks"], *remarks], "seconds": round(self.state.used, 1)}
        page = write_report(runs, out, summary=found).page
        lines = [found["verdict"], *found["remarks"], *(table(found).splitlines() if rows else [])]
        lines.append(f"{found['seconds'] / 60:.1f} minutes in all; the report, to open in a browser: {page.resolve()}")
        stages.say_lines(self.request, lines)
        return {**found, "report": str(page)}

    def _once(self, stage: str, work: Callable[[], Json]) -> Json:
        self.stage = stage
        is_new = stage not in self.state.record.stages
        if is_new and stage != "split" and not self.request.quiet:  # most images have a test part
            say(f"{NAMES[stage]} ({self.state.used / 60:.1f} of {self.request.minutes:g} minutes used)")
        result = self.state.once(stage, work)
        if (note := result.get("note")) and is_new and not self.request.quiet:
            say(f"note: {note}")
        return result

    def _announce(self, found: Json) -> None:
        if self.request.quiet:
            return
        say(f"{found['images']:,} images; {self.request.minutes:g} minutes in all, of which planning takes up to one")
        if stages.next_task(found) is None:
            why_not = stages.unusable_labels(found)
            say(f"note: {why_not}, so the images are pretrained on and nothing is fine-tuned")
        if self.request.compare:
            say("--compare then trains from scratch for as long as pretraining and fine-tuning took, on top of these")

    def _say_plan(self, plan: Json, budget: Budget, task: str | None, seconds: float) -> None:
        stages.say_lines(self.request, plan["text"])
        times = {
            "baselines": budget.baselines,
            "pretrain": budget.pretrain_seconds(self.state.left - budget.baselines, seconds),
            "features": budget.features,
            **({task: seconds} if task else {}),
            "report": budget.report,
        }
        words = ", ".join(f"{NAMES[name]} {spent / 60:.1f}" for name, spent in times.items() if spent)
        stages.say_lines(self.request, [f"minutes to come: {words}"])
