"""Draw the two figures of docs/speed.md from numbers. Knows no framework and no file format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

INK, FAINT, GRID = "#1d2733", "#6b7680", "#e3e7ea"
# Okabe and Ito's colours, distinguishable with any colour vision, and a marker each
STYLES = {
    "ours": ("PaddleMAE", "#0072B2", "o"),
    "ours-cross": ("PaddleMAE, CrossMAE decoder", "#56B4E9", "D"),
    "plain": ("plain Paddle, as installed", "#D55E00", "s"),
    "plain-tuned": ("plain Paddle, environment set", "#E69F00", "^"),
}
RIVAL = "#000000"


@dataclass(frozen=True)
class Bar:
    """A row: the speed of each side relative to the fastest transformers, and the limit's."""

    section: str
    title: str
    sides: dict[str, float]
    limit: float | None
    label: str


@dataclass(frozen=True)
class Point:
    """Images/s at one value of a sweep."""

    value: float
    ours: float
    theirs: float
    limit: float | None


def draw_bars(path: Path, bars: Sequence[Bar]) -> None:
    """Draw speeds relative to the fastest transformers (the line at 1), one row per work."""
    sections = list(dict.fromkeys(bar.section for bar in bars))
    rows = len(bars) + len(sections)
    figure = _figure(9, 0.42 * rows + 1.3)
    axes = figure.add_axes((0.29, 0.75 / (0.42 * rows + 1.3), 0.48, 1 - 1.25 / (0.42 * rows + 1.3)))
    place, ticks, names = 0.0, [], []
    for section in sections:
        axes.text(-0.02, place, section, transform=axes.get_yaxis_transform(), ha="right", va="center", weight="bold")
        place += 1
        for bar in (bar for bar in bars if bar.section == section):
            _row(axes, place, bar)
            ticks.append(place)
            names.append(bar.title)
            place += 1
    axes.axvline(1, color=RIVAL, linewidth=1.2, zorder=1)
    axes.set_yticks(ticks, names)
    axes.set_ylim(place - 0.4, -0.6)
    highest = max([*(max(bar.sides.values()) for bar in bars), *(bar.limit or 0 for bar in bars), 1.5])
    axes.set_xlim(0, highest * 1.06)
    axes.set_xlabel("speed, in multiples of the fastest transformers (PyTorch) on the same machine")
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    _bare(axes)
    used = [side for side in STYLES if any(side in bar.sides for bar in bars)]
    handles = [_handle(STYLES[side][1], STYLES[side][2], STYLES[side][0]) for side in used]
    handles.append(_handle(RIVAL, "|", "transformers (1.0)"))
    if any(bar.limit for bar in bars):
        handles.append(_handle(FAINT, "4", "arithmetic limit"))
    figure.legend(handles=handles, loc="upper center", ncols=3, frameon=False, fontsize=8)
    _save(figure, path)


def _row(axes, place: float, bar: Bar) -> None:
    if bar.limit:
        axes.plot([0, bar.limit], [place, place], color=GRID, linewidth=6, solid_capstyle="butt", zorder=0)
        axes.plot([bar.limit], [place], marker="4", color=FAINT, markersize=9, zorder=2)
    for side, factor in bar.sides.items():
        axes.plot([factor], [place], marker=STYLES[side][2], color=STYLES[side][1], markersize=7, zorder=3)
    axes.text(1.02, place, bar.label, transform=axes.get_yaxis_transform(), va="center", fontsize=8, color=FAINT)


PANELS = {
    "batch": "batch size (images)",
    "image_size": "image size (pixels)",
    "mask_ratio": "mask ratio",
    "threads": "threads",
}


def draw_sweeps(path: Path, sweeps: Mapping[str, Sequence[Point]]) -> None:
    """Draw images/s against each setting: ours, transformers' faster attention, and the arithmetic limit."""
    figure = _figure(9, 6.2)
    panels = figure.subplots(2, 2).ravel()
    for axes, (setting, label) in zip(panels, PANELS.items()):
        _sweep(axes, setting, sweeps.get(setting, ()))
        axes.set_xlabel(label)
        axes.set_ylabel("images/s")
    handles, names = next((axes.get_legend_handles_labels() for axes in panels if axes.lines), ([], []))
    figure.legend(handles, names, loc="upper center", ncols=3, frameon=False)
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.08, top=0.92, hspace=0.3, wspace=0.2)
    _save(figure, path)


def _sweep(axes, setting: str, points: Sequence[Point]) -> None:
    from matplotlib.ticker import LogLocator

    values = [point.value for point in points]
    bounds = [point.limit or float("nan") for point in points]
    axes.plot(values, bounds, color=FAINT, linestyle="--", label="arithmetic limit")
    axes.plot(values, [point.ours for point in points], color=STYLES["ours"][1], marker="o", label="PaddleMAE")
    axes.plot(values, [point.theirs for point in points], color="#D55E00", marker="s", label="transformers, eager")
    if setting in ("batch", "threads"):
        axes.set_xscale("log", base=2)
    if setting == "image_size":  # the work grows with its fourth power, so a straight scale shows one point
        axes.set_xscale("log")
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()
    if setting == "image_size":
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    _bare(axes)


def _bare(axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(length=0, labelcolor=INK)


def _handle(colour: str, marker: str, label: str):
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, marker=marker, linestyle="none", label=label)


def _figure(width: float, height: float):
    # the object interface: pyplot would keep every figure, and pick a window system
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
