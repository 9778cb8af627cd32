"""docs/python.md: its code, run block after block as a notebook would."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

PAGE = (Path(__file__).parent.parent / "docs" / "python.md").read_text()


def test_every_block_of_the_page_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
    shortened = re.sub(r"steps=\d+", "steps=2, batch_size=16, embed_dim=32, num_heads=2, threads=1", code)
    assert shortened.count("steps=2") == 2
    names: dict = {}
    exec(compile(shortened, "docs/python.md", "exec"), names)
    np.testing.assert_allclose(names["same"], names["features"][:1], atol=1e-5)
    np.testing.assert_allclose(names["again"], names["same"], atol=1e-5)
    assert names["everything"].shape == (1000, 32) and names["nearest"][0] == 0
    assert len(names["found"].labels) == 2 and len(names["found"].top(3)[0]) == 3
    assert 0 < names["result"]["top1"] < 1
    assert names["shown"].completed.shape == [2, 3, 96, 160] and float(names["loss"].numpy()) > 0
    with Image.open("corner.png") as figure:
        assert figure.size[0] > 300


def test_the_page_shows_what_a_model_says_of_itself(pretrained) -> None:
    import paddlemae

    (shown,) = re.findall(r"`(<a masked autoencoder .*?>)`", PAGE)
    pattern = re.sub(r"\d+", r"\\d+", re.escape(shown)).replace(r"\.\.\.", ".*")
    assert re.fullmatch(pattern.replace("\\ ", " "), repr(paddlemae.load(pretrained, threads=1)))
