"""Draw the pictures of a run: reconstructions, curves and confusion matrices. Knows no model."""

from __future__ import annotations

import functools
import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ParamSpec

import numpy as np

from paddlemae.runs.confusion import Confusion
from paddlemae.runs.fonts import Lettering, choose_fonts, fonts
from paddlemae.system.atomic import replace_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED_CLASSES = 40  # of a confusion matrix; above it names would overlap
MOST_CELLS = 1000  # of a confusion matrix's side: half of its pixels
LONGEST_NAME, LONGEST_TITLE, LONGEST_CAPTION = 32, 100, 500  # columns in a picture
POINT = 1 / 72  # inches
PIXELS_PER_INCH = 160
INK, FAINT, ACCENT = "#1d2733", "#8a94a0", "#c2410c"


Given = ParamSpec("Given")


def _use_own_style(draw: Callable[Given, None]) -> Callable[Given, None]:
    """Draw in the style of the user's matplotlibrc, not in that of the program around, and leave that one as it is."""

    @functools.wraps(draw)
    def drawn(*given: Given.args, **named: Given.kwargs) -> None:
        fonts()  # imports matplotlib without its warnings
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rc_file_defaults()
            draw(*given, **named)

    return drawn


def _figure(width: float, height: float, names: Lettering) -> Figure:
    """Return an empty figure, of inches, whose texts are drawn as they are, a `$` too, in the fonts of some names."""
    import matplotlib

    # the object interface: pyplot would keep every figure, and pick a window system
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"text.parse_math": False, "font.family": names.families})
    figure = Figure(figsize=(width, height), dpi=PIXELS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path | BinaryIO, *, tight: bool = False) -> None:
    """Write a figure; `tight` moves the axes so that their labels fit."""
    if tight:
        figure.tight_layout()
    if not isinstance(path, Path):
        figure.savefig(path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:].lower())
    replace_bytes(path, content.getbuffer())  # Pillow itself does not see that a full disk took a part only


@_use_own_style
def draw_reconstructions(
    path: Path | BinaryIO,
    columns: Sequence[str],
    pictures: Sequence[np.ndarray],
    caption: str,
    names: Sequence[str] = (),
) -> None:
    """Draw each image's stages side by side; more than four images stand in two columns of such strips.

    Args:
        columns: a title for each stage.
        pictures: for each stage uint8 [B, H, W, C]; C is 1 or 3, of other numbers the first channel is drawn.
        caption: below the pictures.
        names: one an image, in its corner.
    """
    images, height, width = pictures[0].shape[:3]
    strips = 2 if images > 4 else 1
    rows = -(-images // strips)
    cell, gap, top = 1.15, 0.15, 0.3  # inches
    cell_height = cell * height / width
    total_width = strips * len(columns) * cell + (strips - 1) * gap
    letters = choose_fonts([*columns, *names, caption])
    caption = "\n".join(textwrap.wrap(letters(caption, LONGEST_CAPTION), int(total_width * 23)))
    total_height = rows * cell_height + top + 0.25 + 0.13 * (caption.count("\n") + 1)
    figure = _figure(total_width, total_height, letters)
    sheet = _sheet(figure)
    for image in range(images):
        strip, row = divmod(image, rows)
        for column, stage in enumerate(pictures):
            left = (strip * len(columns) + column) * cell + strip * gap
            bottom = total_height - top - (row + 1) * cell_height
            _picture(sheet, stage[image], (left, bottom, 0.97 * cell, 0.97 * cell_height))
            if row == 0:
                title = letters(columns[column], LONGEST_NAME)
                place = (left + 0.97 * cell / 2, bottom + 0.97 * cell_height + 3 * POINT)
                sheet.text(*place, title, fontsize=6, color=INK, ha="center")
            if column == 0 and names:
                style = dict(facecolor="black", alpha=0.5, linewidth=0, pad=1)
                place = (left + 0.02 * cell, bottom + 0.03 * cell_height)
                sheet.text(*place, letters(names[image], LONGEST_NAME), fontsize=3.5, color="white", bbox=style)
    sheet.text(0.01 * total_width, 0.06, caption, fontsize=6, color=INK, va="bottom")
    _save(figure, path)


def _sheet(figure: Figure) -> Axes:
    """Return axes over a whole figure, in inches from its lower left; axes for each picture would take 20 ms each."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    return axes


def _picture(sheet: Axes, pixels_HWC: np.ndarray, box: tuple[float, float, float, float]) -> None:
    """Place a picture on a sheet; `box` is its left, bottom, width and height in inches."""
    left, bottom, width, height = box
    colour = pixels_HWC.shape[-1] == 3
    shown = pixels_HWC if colour else pixels_HWC[..., 0]
    extent = (left, left + width, bottom, bottom + height)
    style: dict[str, Any] = dict(cmap=None if colour else "gray", vmin=0, vmax=255, interpolation="nearest")
    sheet.imshow(shown, extent=extent, aspect="auto", origin="upper", **style)


@_use_own_style
def draw_neighbours(
    path: Path,
    rows: Sequence[Sequence[np.ndarray]],
    names: Sequence[str],
    titles: Sequence[Sequence[str]],
    caption: str,
) -> None:
    """Draw a contact sheet: a row for each query, which comes first and is followed by its neighbours.

    Args:
        rows: pictures uint8 [H, W, C] of one size, the same number a row; drawn as in `draw_reconstructions`.
        names: one a query, above it.
        titles: one a neighbour, above it.
        caption: below the pictures.
    """
    height, width = rows[0][0].shape[:2]
    cell, gap, title = 1.15, 0.12, 0.17  # inches; the gap sets the queries apart
    picture_height = cell * height / width
    cell_height = picture_height + title
    total_width = len(rows[0]) * cell + gap
    letters = choose_fonts([*names, *(title for row in titles for title in row), caption])
    caption = "\n".join(textwrap.wrap(letters(caption, LONGEST_CAPTION), int(total_width * 20)))
    total_height = len(rows) * cell_height + 0.2 + 0.13 * (caption.count("\n") + 1)
    figure = _figure(total_width, total_height, letters)
    sheet = _sheet(figure)
    for row, (pictures, name, above) in enumerate(zip(rows, names, titles)):
        for column, (pixels_HWC, text) in enumerate(zip(pictures, [name, *above])):
            left = column * cell + (gap if column else 0)
            bottom = total_height - (row + 1) * cell_height + 0.015 * picture_height
            _picture(sheet, pixels_HWC, (left, bottom, 0.97 * cell, 0.97 * picture_height))
            place = (left + 0.97 * cell / 2, bottom + 0.97 * picture_height + 2 * POINT)
            sheet.text(*place, letters(text, 24), fontsize=5, color=ACCENT if column == 0 else INK, ha="center")
    sheet.text(0.01 * total_width, 0.06, caption, fontsize=5, color=INK, va="bottom")
    _save(figure, path)


def overlay_heat(picture_HWC: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Overlay a picture in grey with the colours of a map. Returns uint8 [H, W, 3].

    Args:
        picture_HWC: uint8, any number of channels.
        heat: float [rows, columns], a coarser map of the same picture; its highest value is the brightest colour.
    """
    fonts()
    import matplotlib
    from PIL import Image

    height, width = picture_HWC.shape[:2]
    coarse = Image.fromarray((heat / max(float(heat.max()), 1e-12)).astype(np.float32))
    fine = np.clip(np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)), 0, 1)
    colours = matplotlib.colormaps["inferno"](fine)[..., :3]
    grey = picture_HWC.mean(axis=2, keepdims=True) / 255
    return (255 * (0.4 * grey + 0.6 * colours) + 0.5).astype(np.uint8)


@_use_own_style
def draw_confusion(path: Path, confusion: Confusion, classes: Sequence[str], title: str) -> None:
    """Draw how often each true class (row) was predicted as each class (column); of many, several classes share one."""
    matrix, size = confusion.matrix(MOST_CELLS), len(classes)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    letters = choose_fonts([*(classes if size <= NAMED_CLASSES else ()), title])
    side = min(14.0, max(4.5, 0.42 * size + 2))
    figure = _figure(side, side, letters)
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if size <= NAMED_CLASSES:
        names = [letters(name, LONGEST_NAME) for name in classes]
        axes.set_xticks(range(size), names, rotation=60, ha="right", fontsize=7)
        axes.set_yticks(range(size), names, fontsize=7)
    elif len(matrix) < size:
        axes.set_xticks([])  # numbers of cells would pass for numbers of classes
        axes.set_yticks([])
    if size <= 20:
        for row, column in zip(*np.nonzero(matrix)):
            tone = "white" if share[row, column] > 0.5 else INK
            axes.text(column, row, matrix[row, column], ha="center", va="center", fontsize=7, color=tone)
    together = f", about {round(size / len(matrix))} classes together" if len(matrix) < size else ""
    axes.set_xlabel(f"predicted{together}", color=INK)
    axes.set_ylabel(f"true{together}", color=INK)
    lines = textwrap.wrap(letters(title, LONGEST_TITLE), int(side * 12))  # over the whole figure, names included
    figure.suptitle("\n".join(lines), fontsize=9, color=INK)
    _save(figure, path, tight=True)


@_use_own_style
def draw_bars(path: Path, names: Sequence[str], values: Sequence[float], label: str, title: str) -> None:
    """Draw a share in 0..1 for each name as a horizontal bar; names are left out where they are too many."""
    size = len(names)
    letters = choose_fonts([*(names if size <= NAMED_CLASSES else ()), title])
    figure = _figure(7.0, min(14.0, max(2.5, 0.22 * size + 1.2)), letters)
    axes = figure.add_subplot()
    axes.barh(range(size), values, color=ACCENT)
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    if size <= NAMED_CLASSES:
        axes.set_yticks(range(size), [letters(name, LONGEST_NAME) for name in names], fontsize=7)
    else:
        axes.set_yticks([])
    axes.set_xlabel(label, color=INK)
    figure.suptitle("\n".join(textwrap.wrap(letters(title, LONGEST_TITLE), 84)), fontsize=9, color=INK)
    _save(figure, path, tight=True)


@_use_own_style
def draw_curves(path: Path, lines: Sequence[dict[str, Any]], names: Sequence[str], title: str) -> None:
    """Draw metrics of `runlog.read_metrics` against steps, one panel a name; names that no line has are left out."""
    present = [name for name in names if any(name in line for line in lines)]
    if not present:
        return
    width, height = 6.0, 2.2  # inches, of a panel; its margins hold eight digits and every label
    left, right, bottom, top = 0.8, 0.15, 0.42, 0.26
    letters = choose_fonts([*present, title])
    figure = _figure(width, height * len(present), letters)
    size = (1 - (left + right) / width, (1 - (bottom + top) / height) / len(present))
    for panel, name in enumerate(present):
        axes = figure.add_axes((left / width, 1 - (panel + 1 - bottom / height) / len(present), *size))
        points = [(line["step"], line[name]) for line in lines if name in line]
        axes.plot(*zip(*points), color=ACCENT, linewidth=1.2, marker="." if len(points) < 3 else None)
        axes.set_ylabel(letters(name, LONGEST_NAME), fontsize=8, color=INK)
        axes.yaxis.set_label_coords(-0.55 / (width * size[0]), 0.5)
        axes.grid(color="#e5e7eb", linewidth=0.6)
        axes.tick_params(labelsize=7, colors=FAINT)
        if panel == 0:
            axes.set_title(letters(title, LONGEST_TITLE), fontsize=9, color=INK)
    axes.set_xlabel("step", fontsize=8, color=INK)
    _save(figure, path)


@_use_own_style
def draw_study(path: Path, key: str, measures: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> None:
    """Draw a measure, in [0, 1], against the values of a setting, a line a start, bars of a standard deviation.

    `measures` maps start -> value of the setting -> the measure of each seed.
    """
    letters = choose_fonts([key, title, *measures, *(value for by_value in measures.values() for value in by_value)])
    figure = _figure(5, 3.2, letters)
    axes = figure.add_subplot()
    for (name, by_value), colour in zip(measures.items(), (ACCENT, FAINT)):
        means = [100 * float(np.mean(values)) for values in by_value.values()]
        deviations = [100 * float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for values in by_value.values()]
        label = letters(name, LONGEST_NAME)
        axes.errorbar(
            range(len(means)),
            means,
            deviations,
            color=colour,
            label=label,
            marker="o",
            markersize=3,
            linewidth=1.2,
            capsize=2,
        )
    axes.set_xticks(range(len(by_value)), [letters(value, LONGEST_NAME) for value in by_value], fontsize=7)
    axes.set_xlabel(letters(key, LONGEST_NAME), fontsize=8, color=INK)
    axes.set_ylabel("%", fontsize=8, color=INK)
    axes.set_title(letters(title, LONGEST_TITLE), fontsize=9, color=INK)
    axes.grid(color="#e5e7eb", linewidth=0.6)
    axes.tick_params(labelsize=7, colors=FAINT)
    axes.legend(fontsize=7, frameon=False)
    _save(figure, path, tight=True)


PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")


def check_picture(out: Path) -> None:
    """Raise a ValueError if no picture can be written to a file that is called so."""
    if out.suffix.lower() not in PICTURES:
        raise ValueError(f"--out must be a picture's name that ends in {', '.join(PICTURES)}; got {out}")
    if out.is_dir():
        raise ValueError(f"{out} is a folder; name a picture to write with --out")
