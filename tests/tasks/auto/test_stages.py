"""Which images and labels the stages of `auto` use."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.recipe import FinetuneRecipe
from paddlemae.tasks.auto import stages


def write(root: Path, name: str) -> str:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), len(list(root.rglob("*.png"))), np.uint8)).save(path)
    return name


def test_methods_are_compared_on_the_split_that_the_fine_tuning_is_tested_on(tmp_path: Path) -> None:
    for part, count in {"train": 10, "val": 2, "test": 3}.items():
        for label in "ab":
            for number in range(count):
                write(tmp_path, f"{part}/{label}/{number}.png")
    labelled = stages.Labelled(FinetuneRecipe.model_validate({"task": "finetune", "data": str(tmp_path)}))
    assert (len(labelled.train), len(labelled.test)) == (20, 6)
    assert labelled.test.name.endswith("test")


@pytest.mark.parametrize("several", [False, True])
def test_images_may_have_several_classes(tmp_path: Path, several: bool) -> None:
    labels = ["a|b" if several else "a", *"babab"]
    rows = [f"{write(tmp_path, f'{number}.png')},{label}" for number, label in enumerate(labels)]
    (tmp_path / "all.csv").write_text("\n".join(["image,labels", *rows]))
    found = stages.survey(stages.Request(str(tmp_path / "all.csv"), tmp_path / "out", 5))
    assert stages.next_task(found) == "finetune" and found["is_multi_label"] == several
