"""Write the pages that the site embeds, from the small models in docs/models, into a folder.

python scripts/site_pages.py FOLDER
python scripts/site_pages.py --store RUN NAME    # put a run's model into docs/models/NAME, in 16 bits

`digits` is the pretraining of `paddlemae demo`; `cifar10` was trained on CIFAR-10 as docs/page.md says, and is shown
with photographs that scikit-image ships (public domain or CC0), since CIFAR's images are not ours to publish.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import skimage

from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.page import write_page
from paddlemae.weights.model_folder import write_model

MODELS = Path(__file__).parent.parent / "docs" / "models"
PHOTOS = ["chelsea.png", "rocket.jpg", "coffee.png", "astronaut.png"]
PAGES = {
    "digits": ("Digits", ["digits"]),
    "cifar10": ("Small photos", [str(Path(skimage.data_dir) / name) for name in PHOTOS]),
}
KEPT = ("task", "images", "mask_ratio", "parameters")  # of a run's origin; the rest names places on a machine


def store(run: str, name: str) -> None:
    """Write a run's model into docs/models, with weights in float16."""
    checkpoint = read_checkpoint(run)
    origin = {key: value for key, value in checkpoint.description.provenance.items() if key in KEPT}
    tensors = {key: np.asarray(tensor, np.float16) for key, tensor in checkpoint.tensors.items()}
    folder = MODELS / name
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder, tensors, replace(checkpoint.description, provenance={**origin, "data": name}))
    print(f"wrote {folder}")


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--store"]:
        store(*arguments[1:])
        return
    (folder,) = map(Path, arguments)
    folder.mkdir(parents=True, exist_ok=True)
    for name, (title, images) in PAGES.items():
        page = folder / f"{name}-page.html"
        written = write_page(MODELS / name, images, page, title=title, overwrite=True)
        print(f"wrote {page}, {written.bytes / 1e6:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
