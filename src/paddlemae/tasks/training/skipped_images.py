"""Images that could not be read: named, listed in the run folder, and no more of them than is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.disk.errors import allowed_unreadable, check_unreadable, report_unreadable
from paddlemae.data.sources import Source
from paddlemae.recipe import MAX_BAD_IMAGES
from paddlemae.runs.runlog import SKIPPED_FILE, log_skipped, read_skipped, write_skipped
from paddlemae.tasks.training.run_start import Start
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.parallel.ranks import ALONE, Ranks


@dataclass
class SkippedList:
    """A run's `skipped.jsonl`: each image that it left out once, with the reason and the steps taken by then."""

    run: Path
    state: TrainState
    reasons: dict[str, str] = field(default_factory=dict)  # path -> why
    ranks: Ranks = ALONE

    def met(self, image: UnreadableImage) -> None:
        self.state.skipped += 1
        if image.path not in self.reasons:
            self.reasons[image.path] = image.reason
            if self.ranks.is_first:
                log_skipped(self.run, self.state.step, image.path, image.reason)

    def of(self, source: Source, limit: float) -> SkippedImages:
        """Return a counter of one source's bad images, those that are listed already included."""
        skipped = SkippedImages(source, limit, self)
        if self.reasons:
            paths = (source.describe(i) for i in range(len(source)))
            skipped.reasons = {path: self.reasons[path] for path in paths if path in self.reasons}
        skipped.check()
        return skipped


@dataclass
class SkippedImages:
    """Called with an unreadable image of a source each time it is met; says so and counts it once.

    With several ranks, what one of them met counts once all `share` it, so that all count the same.

    Args:
        limit: share of the source's images, rounded up, that may be unreadable: one of a small folder is always
            allowed, unless the limit is 0.
        kept: the list of the run that reads them.
    Raises:
        DataFault: when called, with more unreadable images than that.
    """

    source: Source
    limit: float = MAX_BAD_IMAGES
    kept: SkippedList | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    unshared: list[UnreadableImage] = field(default_factory=list)

    def __call__(self, image: UnreadableImage) -> None:
        if self.kept and self.kept.ranks.world > 1:
            self.unshared.append(image)
        else:
            self._take(image)

    def share(self) -> None:
        """Count what every rank met since the last time; all ranks come here together. Errors as in a call."""
        if self.kept and self.kept.ranks.world > 1:
            unshared, self.unshared = self.unshared, []
            for images in self.kept.ranks.gather([(image.path, image.reason) for image in unshared]):
                for path, reason in images:
                    self._take(UnreadableImage(path, reason))

    def _take(self, image: UnreadableImage) -> None:
        if self.kept:
            self.kept.met(image)
        if image.path not in self.reasons:
            self.reasons[image.path] = image.reason
            report_unreadable(len(self.reasons), image)
            self.check()

    @property
    def allowed(self) -> int:
        return allowed_unreadable(self.limit, len(self.source))

    def check(self) -> None:
        listed = self.kept.run / SKIPPED_FILE if self.kept else None
        check_unreadable(self.reasons, self.limit, len(self.source), self.source.name, listed)


def open_skipped(start: Start, state: TrainState, sources: Sequence[Source], channels: int) -> SkippedList:
    """Open the list of a run that starts or resumes; images that can be read now are taken off it.

    Args:
        sources: the run's, where the listed images are looked for.
        channels: of their images, as the run reads them.
    """
    reasons = start.ranks.from_first(lambda: _still_bad(start, sources, channels))
    return SkippedList(start.out, state, reasons, start.ranks)


def _still_bad(start: Start, sources: Sequence[Source], channels: int) -> dict[str, str]:
    lines = list(read_skipped(start.out))
    listed = {line["path"] for line in lines}
    good: set[str] = set()
    for source in sources if lines else ():
        paths = ((source.describe(i), i) for i in range(len(source)))
        good |= {path for path, i in paths if path in listed and _readable(source, i, channels)}
    bad = [line for line in lines if line["path"] not in good]
    if (start.out / SKIPPED_FILE).exists():  # of a run that is resumed
        write_skipped(start.out, bad)  # also if none was repaired: the last line may be half of one
        start.say(f"{len(lines) - len(bad)} of {len(lines)} images that were left out can be read now")
    return {line["path"]: line["reason"] for line in bad}


def _readable(source: Source, i: int, channels: int) -> bool:
    try:
        source.read(i, channels)
    except UnreadableImage:
        return False
    return True
