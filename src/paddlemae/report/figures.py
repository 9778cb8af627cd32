"""Pictures of a run: reconstructions, curves and confusion matrices. Draws arrays, knows no model."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

INK, FAINT, ACCENT = "#1d2733", "#8a94a0", "#c2410c"


def _figure(width: float, height: float):
    # Paddle's logging setup lets matplotlib's notes about its font cache through
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    # the object interface: pyplot would keep every figure, and pick a window system
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def draw_reconstructions(
    path: Path,
    columns: Sequence[str],
    pictures: Sequence[np.ndarray],
    caption: str,
    names: Sequence[str] = (),
) -> None:
    """Draw one row an image and one column a stage.

    Args:
        columns: a title for each stage.
        pictures: for each stage uint8 [B, H, W, C]; C is 1 or 3, of other numbers the first channel is drawn.
        caption: below the pictures.
        names: one an image, to its left.
    """
    rows, height, width = pictures[0].shape[:3]
    cell = 1.6
    cell_height = cell * height / width
    caption = "\n".join(textwrap.wrap(caption, 30 + 20 * len(columns)))
    top, bottom = 0.35, 0.25 + 0.16 * (caption.count("\n") + 1)
    total = rows * cell_height + top + bottom
    figure = _figure(cell * len(columns), total)
    for column, (title, stage) in enumerate(zip(columns, pictures)):
        for row, picture in enumerate(stage):
            place = [column / len(columns), 1 - (top + (row + 1) * cell_height) / total, 0.985 / len(columns)]
            axes = figure.add_axes((*place, 0.985 * cell_height / total))
            colour = picture.shape[-1] == 3
            axes.imshow(
                picture if colour else picture[..., 0],
                cmap=None if colour else "gray",
                vmin=0,
                vmax=255,
                interpolation="nearest",
            )
            axes.set_axis_off()
            if row == 0:
                axes.set_title(title, fontsize=7, color=INK, pad=4)
            if column == 0 and names:
                axes.text(
                    0.02,
                    0.02,
                    names[row],
                    fontsize=4,
                    color="white",
                    transform=axes.transAxes,
                    bbox=dict(facecolor="black", alpha=0.5, linewidth=0, pad=1),
                )
    figure.text(0.01, 0.08 / total, caption, fontsize=6, color=INK, va="bottom")
    figure.savefig(path)


def draw_confusion(path: Path, matrix: np.ndarray, classes: Sequence[str], title: str) -> None:
    """Draw how often each true class (row) was predicted as each class (column).

    Args:
        matrix: int [classes, classes].
    """
    size = len(classes)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(14.0, max(4.5, 0.42 * size + 2))
    figure = _figure(side, side)
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if size <= 40:
        axes.set_xticks(range(size), classes, rotation=60, ha="right", fontsize=7)
        axes.set_yticks(range(size), classes, fontsize=7)
    if size <= 20:
        for row, column in zip(*np.nonzero(matrix)):
            tone = "white" if share[row, column] > 0.5 else INK
            axes.text(column, row, matrix[row, column], ha="center", va="center", fontsize=7, color=tone)
    axes.set_xlabel("predicted", color=INK)
    axes.set_ylabel("true", color=INK)
    axes.set_title(title, fontsize=9, color=INK)
    figure.tight_layout()
    figure.savefig(path)


def draw_curves(path: Path, lines: Sequence[dict], names: Sequence[str], title: str) -> None:
    """Draw metrics against steps, one panel a name.

    Args:
        lines: as `runlog.read_metrics` gives them.
        names: metrics to draw; those that no line has are left out.
    """
    present = [name for name in names if any(name in line for line in lines)]
    if not present:
        return
    figure = _figure(6, 2.2 * len(present))
    for panel, name in enumerate(present):
        axes = figure.add_subplot(len(present), 1, panel + 1)
        points = [(line["step"], line[name]) for line in lines if name in line]
        axes.plot(*zip(*points), color=ACCENT, linewidth=1.2, marker="." if len(points) < 3 else None)
        axes.set_ylabel(name, fontsize=8, color=INK)
        axes.grid(color="#e5e7eb", linewidth=0.6)
        axes.tick_params(labelsize=7, colors=FAINT)
        if panel == 0:
            axes.set_title(title, fontsize=9, color=INK)
    axes.set_xlabel("step", fontsize=8, color=INK)
    figure.tight_layout()
    figure.savefig(path)
