"""Write and read the exhibits of a run: small pictures joined in one file, and what belongs to each.

Shapes: N pictures of H x W pixels and C channels.
"""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from paddlemae.runs.runlog import EXHIBITS
from paddlemae.system.atomic import replace_bytes, replace_text
from paddlemae.system.display_names import display_name
from paddlemae.system.documents import parse_lenient, read_bytes

EXHIBIT_TITLES = {  # name of its file -> what it is, in the page's order
    "reconstructions": "reconstructions across training",
    "confusion": "confusion matrix",
    "mistakes": "most confident mistakes",
    "classes": "metrics of each class",
    "scenes": "predicted masks",
    "worst_scenes": "predicted masks of the lowest mean IoU",
    "neighbours": "nearest neighbours",
    "map": "2-D map of the features",
    "attention": "attention maps of the last block",
}
LARGEST_SIDE = 112  # pixels of a picture; a page holds hundreds of them
MAX_EXHIBIT_BYTES = 2**26  # parsed, a file can take 20 times its size
JPEG_QUALITY = 88  # of JPEG, at full colour resolution: a neighbour's colour must not bleed in


def write_exhibit(run: Path, part: str, content: dict[str, Any]) -> None:
    """Write `exhibits/PART.json`; the pictures that it names are there already."""
    replace_text(_path(run, f"{part}.json"), json.dumps(content) + "\n")


def read_exhibit(run: Path, part: str) -> dict[str, Any] | None:
    """Return what `write_exhibit` wrote; None if it is missing. A damaged file is a ValueError."""
    path = run / EXHIBITS / f"{part}.json"
    if not path.is_file():
        return None
    try:
        content = parse_lenient(read_bytes(path, MAX_EXHIBIT_BYTES))
    except ValueError as fault:
        raise ValueError(f"{path} is damaged ({display_name(fault, 200)})") from fault
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (no JSON object)")
    return content


def write_sprite(
    run: Path, name: str, pictures: np.ndarray, columns: int, largest_side: int = LARGEST_SIDE
) -> dict[str, Any]:
    """Join pictures, row by row, into `exhibits/NAME.jpg`.

    Args:
        pictures: uint8 [N, H, W, C]; of other than three channels the first is shown.
        columns: pictures in a row.
        largest_side: pictures are made smaller than this, in pixels.
    Returns:
        what an exhibit says of it: file, tile [height, width], columns, count.
    """
    height, width = _tile(pictures.shape[1:3], largest_side)
    sheet = Image.new("RGB", (columns * width, math.ceil(len(pictures) / columns) * height))
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        image = Image.fromarray(picture if picture.shape[-1] == 3 else picture[..., 0])
        sheet.paste(image.resize((width, height), Image.Resampling.BOX), (column * width, row * height))
    path, content = _path(run, f"{name}.jpg"), io.BytesIO()
    sheet.save(content, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    replace_bytes(path, content.getbuffer())  # Pillow itself does not see that a full disk took a part only
    return {"file": f"{EXHIBITS}/{path.name}", "tile": [height, width], "columns": columns, "count": len(pictures)}


def _tile(size: tuple[int, ...], largest_side: int) -> tuple[int, int]:
    scale = min(1.0, largest_side / max(size))
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def _path(run: Path, name: str) -> Path:
    folder = run / EXHIBITS
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name
