"""The README's commands and code, run as they stand there on pictures made for it."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

README = (Path(__file__).parent.parent / "README.md").read_text()
SHORT = {
    "pretrain": ["steps=2", "batch_size=4", "embed_dim=16", "depth=1", "num_heads=2", "threads=1"],
    "finetune": ["steps=2", "batch_size=4", "embed_dim=16", "depth=1", "num_heads=2", "threads=1"],
    "probe": ["steps=2", "batch_size=4", "threads=1"],
}
SHORT["study"] = SHORT["finetune"]


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.split("#")[0] for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("paddlemae ")]


def write_picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def folders_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(8):
        write_picture(Path("imagenet1000") / f"{number}.png", number)
        for part in ("train", "test"):
            for place, name in enumerate(("cat", "dog")):
                write_picture(Path("cifar10") / part / name / f"{number}.png", 10 * number + place)


def test_every_command_of_the_readme_runs_in_the_order_given(folders_of_the_readme, paddlemae):
    typed = [["10" if word == "5000" else word for word in command] for command in commands()]  # of fewer images
    wanted = {"pretrain", "reconstruct", "finetune", "knn", "probe", "study", "evaluate", "report", "weights", "export"}
    wanted |= {"embed", "search"}
    assert {command[1] for command in typed} >= wanted
    for command in typed:
        # a later setting wins: the commands stay as typed, only their trainings are cut short
        done = paddlemae(*command[1:], *([] if "--dry-run" in command else SHORT.get(command[1], [])))
        assert done.status == 0, (command, done.err)
    assert Path("photos.png").read_bytes().startswith(b"\x89PNG")
    assert Path("runs/cifar10-tuned/checkpoints/best").exists()


def test_every_recipe_that_the_readme_names_exists():
    from paddlemae.recipe import recipe_names

    for task in ("pretrain", "finetune", "probe"):
        assert all(f"`{name}`" in README or f"`{task} {name}`" in README for name in recipe_names(task))


def test_the_python_of_the_readme_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["pictures"].completed.shape == [2, 3, 96, 160]
    assert float(names["loss"].numpy()) > 0
