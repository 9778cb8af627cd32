"""The examples that run exported models: what they show a model of a picture is what evaluation shows it."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.decode.images import read_image
from paddlemae.data.views.augment import View, eval_view
from tests.support.paths import EXAMPLES

# odd, near a border of rounding, and so thin that evaluation cuts them first
SIZES = [
    (37, 29),
    (29, 37),
    (8, 12),
    (10, 15),
    (10, 16),
    (9, 14),
    (301, 7),
    (7, 301),
    (1, 200),
    (64, 1),
    (33, 1),
    (97, 3),
]
MODES = {"L": 1, "RGB": 3, "RGBA": 3, "LA": 1, "P": 3, "CMYK": 3, "1": 1}


def pictures(folder: Path) -> list[tuple[str, int]]:
    """Write pictures of all sizes and forms; (name, channels of a model for it)."""
    rng, made = np.random.default_rng(0), []
    for height, width in SIZES:
        for mode, channels in MODES.items():
            bands = {"L": 1, "1": 1, "P": 1, "LA": 2, "RGB": 3}.get(mode, 4)
            pixels = rng.integers(0, 256, (height, width, bands), np.uint8)
            image = Image.fromarray(pixels.squeeze(2) if bands == 1 else pixels, None if mode in "1P" else mode)
            if mode == "P":
                image = image.convert("RGB").quantize(16)
                image.info["transparency"] = 3
            elif mode == "1":
                image = image.convert("1")
            exif = Image.Exif()
            exif[0x0112] = int(rng.integers(1, 9))
            ending = {"CMYK": "jpg"}.get(mode, "png") if height % 2 else "tif"
            name = str(folder / f"{mode}-{height}-{width}.{ending}")
            compressed = {"compression": "tiff_lzw"} if ending == "tif" else {}  # others Pillow 13 leaves unturned
            image.save(name, exif=exif, **compressed)
            made.append((name, channels))
    return made


@pytest.fixture(scope="module", params=["crop", "stretch"])
def fit(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def seen(fit: Any, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int, np.ndarray]]:
    """(name, channels, what evaluation shows a model of 8 x 12 pixels)."""
    return [
        (name, channels, eval_view(read_image(name, channels), View((8, 12), channels, fit=fit, eval_crop_ratio=0.8)))
        for name, channels in pictures(tmp_path_factory.mktemp("pictures"))
    ]


def facts_of(channels: int, fit: str) -> dict[str, Any]:
    shape = {"image_size": [8, 12], "channels": channels, "bits": 8, "labels": ["one", "two"]}
    return {**shape, "eval_crop_ratio": 0.8, "fit": fit}


def test_run_exported_shows_what_evaluation_shows(seen, fit: str) -> None:
    view = runpy.run_path(str(EXAMPLES / "run_exported.py"))["view"]
    for name, channels, expected in seen:
        assert np.array_equal(view(name, facts_of(channels, fit)), expected), name


@pytest.mark.parametrize("channels", [1, 3])
def test_classify_shows_what_evaluation_shows(channels: int, seen, fit: str, monkeypatch, capsys) -> None:
    shown: list[np.ndarray] = []

    class Session:
        """A model that keeps what it is shown."""

        def __init__(self, path: str, providers: list[str]):
            self.facts = {name: json.dumps(value) for name, value in facts_of(channels, fit).items()}

        def get_modelmeta(self) -> SimpleNamespace:
            return SimpleNamespace(custom_metadata_map=self.facts)

        def run(self, outputs: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            shown.append(inputs["images"])
            return [np.array([[0.0, np.log(3.0)]], np.float32)]

    names = [name for name, wanted, _ in seen if wanted == channels]
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))
    monkeypatch.setattr(sys, "argv", ["classify.py", "m.onnx", *names])
    runpy.run_path(str(EXAMPLES / "classify.py"), run_name="__main__")
    assert capsys.readouterr().out.splitlines() == [f"{name}: two (75.0%)" for name in names]
    for name, image, expected in zip(names, shown, [one for _, wanted, one in seen if wanted == channels], strict=True):
        assert np.array_equal(image, expected[None]), name


def test_classify_is_at_most_twenty_lines() -> None:
    lines = (EXAMPLES / "classify.py").read_text().rpartition('"""')[2].splitlines()
    assert sum(bool(line) for line in lines) <= 20
