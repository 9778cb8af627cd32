"""Draw docs/images/augmentations.png: RandAugment's operations, random erasing, mixup and CutMix on a drawn scene.

python scripts/augmentations.py [--out FILE] [PHOTO [PHOTO]]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from paddlemae.data.views.erasing import Erasing, draw_erasing
from paddlemae.data.views.mixup import Mixing, draw_mixture
from paddlemae.data.views.randaugment import OPERATION_NAMES, apply_operations

SIZE, MAGNITUDE, COLUMNS = 160, 9.0, 8
MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
OUT = Path(__file__).parent.parent / "docs" / "images" / "augmentations.png"
ONE_WAY = ("autocontrast", "equalize", "invert", "posterize", "solarize", "solarize_add")  # whatever the sign


def scene(sky: tuple, sun: tuple, wall: tuple) -> np.ndarray:
    """Draw a house on a meadow, uint8 [SIZE, SIZE, 3]; a drawing, so that no photo's licence applies."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    background = np.array(sky) * (1 - 0.5 * y[..., None]) + 30 * np.sin(9 * x + 3 * y)[..., None]
    image = Image.fromarray(background.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    pen.ellipse((108, 14, 146, 52), fill=sun)
    pen.polygon([(0, 110), (60, 92), (160, 116), (160, 160), (0, 160)], fill=(74, 124, 58))
    pen.rectangle((34, 74, 96, 130), fill=wall)
    pen.polygon([(26, 76), (65, 42), (104, 76)], fill=(120, 52, 40))
    pen.rectangle((56, 100, 74, 130), fill=(60, 42, 32))
    for left in (40, 78):
        pen.rectangle((left, 82, left + 13, 95), fill=(210, 228, 240), outline=(60, 42, 32))
    return np.asarray(image)


def opened(path: str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def pictures(one: np.ndarray, other: np.ndarray) -> list[tuple[str, np.ndarray]]:
    fill = tuple(round(255 * value) for value in MEAN)
    sheet = [("original", one), ("the other one", other)]
    for name in OPERATION_NAMES:
        signs = (1,) if name in ONE_WAY else (1, -1)
        for sign in signs:
            title = name if len(signs) == 1 else f"{name} {'+' if sign > 0 else '-'}"
            sheet.append((title, apply_operations(one, ((name, sign * MAGNITUDE),), fill)))
    region, noise = draw_erasing(Erasing(1.0), 3, SIZE, SIZE, np.random.default_rng(4))
    erased = one / 255
    top, bottom, left, right = region
    erased[top:bottom, left:right] = noise.transpose(1, 2, 0) * STD + MEAN
    sheet.append(("random erasing", (255 * erased.clip(0, 1)).astype(np.uint8)))
    kept, _ = draw_mixture(Mixing(0.8, 0.0), SIZE, SIZE, np.random.default_rng(4))
    sheet.append((f"mixup, {kept:.2f} kept", (kept * one + (1 - kept) * other).astype(np.uint8)))
    kept, (top, bottom, left, right) = draw_mixture(Mixing(0.0, 1.0), SIZE, SIZE, np.random.default_rng(3))
    cut = one.copy()
    cut[top:bottom, left:right] = other[top:bottom, left:right]
    sheet.append((f"CutMix, {kept:.2f} kept", cut))
    return sheet


def draw(sheet: list[tuple[str, np.ndarray]], out: Path) -> None:
    rows = -(-len(sheet) // COLUMNS)
    figure = Figure(figsize=(1.35 * COLUMNS, 1.55 * rows), dpi=110)
    FigureCanvasAgg(figure)
    for place, (title, image) in enumerate(sheet, 1):
        axes = figure.add_subplot(rows, COLUMNS, place)
        axes.imshow(image)
        axes.set_title(title, fontsize=7)
        axes.set_axis_off()
    figure.tight_layout(pad=0.4)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


def main() -> None:
    usage = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    usage.add_argument("photos", nargs="*", help="one or two photos instead of the drawn scenes")
    usage.add_argument("--out", type=Path, default=OUT)
    options = usage.parse_args()
    scenes = [
        scene((120, 170, 235), (250, 214, 90), (226, 202, 170)),
        scene((250, 150, 110), (255, 240, 220), (150, 160, 190)),
    ]
    chosen = [opened(path) for path in options.photos[:2]] + scenes
    draw(pictures(chosen[0], chosen[1]), options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
