"""docs/python.md: its code, run block after block as a notebook would, and each block in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "python.md").read_text()


BLOCKS = [
    re.sub(r"steps=\d+", "steps=2, batch_size=16, embed_dim=32, num_heads=2, threads=1", block)
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
]
OF_LAYERS = [
    block for block in BLOCKS if "paddlemae.load" not in block and "init=" not in block and "out=" not in block
]


@pytest.mark.slow
@pytest.mark.usefixtures("rendered_figures")
def test_every_block_of_the_page_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(BLOCKS)
    assert code.count("steps=2") == 4
    names: dict = {}
    exec(compile(code, "docs/python.md", "exec"), names)
    np.testing.assert_allclose(names["same"], names["features"][:1], atol=1e-5)
    np.testing.assert_allclose(names["again"], names["same"], atol=1e-5)
    assert names["everything"].shape == (1000, 32) and names["nearest"][0] == 0
    assert len(OF_LAYERS) == 2 and len(names["found"].labels) == 2 and len(names["found"].top(3)[0]) == 3
    assert 0 < names["result"]["top1"] < 1
    assert names["shown"].completed.shape == [2, 3, 96, 160] and float(names["loss"].numpy()) > 0
    assert names["segmented"].overlay(0).shape == (64, 64, 3) and len(names["segmented"]) == 4
    with Image.open("corner.png") as figure:
        assert figure.size[0] > 300


def run_alone(block: str, folder: Path) -> None:
    """Run it in a new process, which has made no call of ours before."""
    done = subprocess.run([sys.executable, "-c", block], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{block}\n{done.stderr}"


@pytest.mark.parametrize("block", OF_LAYERS)
def test_the_blocks_of_layers_run_alone(block: str, tmp_path: Path) -> None:
    run_alone(block, tmp_path)


@pytest.mark.slow
def test_every_block_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    for block in BLOCKS:
        run_alone(block, tmp_path)


def test_the_page_shows_what_a_model_says_of_itself(pretrained) -> None:
    import paddlemae

    (shown,) = re.findall(r"`(<a masked autoencoder .*?>)`", PAGE)
    pattern = re.sub(r"\d+", r"\\d+", re.escape(shown)).replace(r"\.\.\.", ".*")
    assert re.fullmatch(pattern.replace("\\ ", " "), repr(paddlemae.load(pretrained, threads=1)))
