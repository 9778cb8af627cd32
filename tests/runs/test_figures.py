"""Pictures: PNGs of a plausible size that show what they were given."""

from pathlib import Path

import matplotlib
import matplotlib.style
import numpy as np
import pytest
from PIL import Image

from paddlemae.runs.confusion import Confusion, read_confusion
from paddlemae.runs.figures import draw_confusion, draw_curves, draw_reconstructions

pytestmark = pytest.mark.usefixtures("rendered_figures")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def confusion(counts: list[list[int]]) -> Confusion:
    return read_confusion({"classes": [""] * len(counts), "counts": counts})


def near(picture: np.ndarray, colour: tuple[int, int, int]) -> float:
    """Share of a picture that is of about this colour."""
    return float((np.abs(picture - np.array(colour)).max(axis=-1) < 12).mean())


def test_reconstructions_are_rows_of_images_and_columns_of_stages(tmp_path) -> None:
    path = tmp_path / "a.png"
    red, blue = (np.zeros((2, 8, 8, 3), np.uint8) for _ in range(2))
    red[..., 0], blue[..., 2] = 200, 200
    draw_reconstructions(path, ["left", "right"], [red, blue], "a caption", ["x.png", "y.png"])
    drawn = pixels(path)
    height, width = drawn.shape[:2]
    assert 200 < width < height < width + 150  # 2 x 2 pictures, a title and a caption
    assert near(drawn[:, : width // 2], (200, 0, 0)) > 0.5 and near(drawn[:, width // 2 :], (0, 0, 200)) > 0.5
    assert near(drawn[:, : width // 2], (0, 0, 200)) == 0


def test_gray_pictures_keep_their_scale(tmp_path) -> None:
    """Without fixed limits a picture of one gray would be drawn black."""
    path = tmp_path / "a.png"
    draw_reconstructions(path, ["gray"], [np.full((1, 4, 4, 1), 128, np.uint8)], "")
    assert near(pixels(path), (128, 128, 128)) > 0.5


@pytest.mark.parametrize("channels", [2, 5])
def test_of_other_channels_the_first_is_drawn(tmp_path, channels: int) -> None:
    stage = np.zeros((1, 4, 4, channels), np.uint8)
    stage[..., 0] = 90
    draw_reconstructions(tmp_path / "a.png", ["one"], [stage], "")
    assert near(pixels(tmp_path / "a.png"), (90, 90, 90)) > 0.5


def test_oblong_pictures_keep_their_aspect(tmp_path) -> None:
    draw_reconstructions(tmp_path / "a.png", ["one"], [np.zeros((1, 4, 8, 3), np.uint8)], "")
    height, width = pixels(tmp_path / "a.png").shape[:2]
    square = tmp_path / "square.png"
    draw_reconstructions(square, ["one"], [np.zeros((1, 8, 8, 3), np.uint8)], "")
    tall, wide = pixels(square).shape[:2]
    assert width == wide and tall - height == pytest.approx(wide / 2, abs=2)


def test_many_images_stand_in_two_strips(tmp_path) -> None:
    sizes = {}
    for count in (4, 5, 10):
        draw_reconstructions(tmp_path / "a.png", ["x", "y"], [np.zeros((count, 4, 4, 3), np.uint8)] * 2, "")
        sizes[count] = pixels(tmp_path / "a.png").shape[:2]
    assert sizes[5][1] == sizes[10][1] > 2 * sizes[4][1] and sizes[5][0] < sizes[4][0] < sizes[10][0]


def test_a_confusion_matrix_is_dark_where_the_counts_are(tmp_path) -> None:
    path = tmp_path / "a.png"
    draw_confusion(path, confusion([[9, 0], [0, 5]]), ["cat", "dog"], "title")
    right = near(pixels(path), (8, 48, 107))  # the darkest of Blues
    draw_confusion(path, confusion([[0, 0], [0, 0]]), ["cat", "dog"], "title")
    assert right > 0.2 > 0.01 > near(pixels(path), (8, 48, 107))


def test_many_classes_fit(tmp_path) -> None:
    of_each = np.arange(60)
    draw_confusion(tmp_path / "a.png", Confusion.of(of_each, of_each, 60), [f"class {i}" for i in of_each], "title")
    assert max(pixels(tmp_path / "a.png").shape) <= 14 * 160


def test_curves_have_a_panel_for_each_metric_that_was_logged(tmp_path) -> None:
    lines = [{"step": step, "loss": 1 / step, "lr": 0.1} for step in range(1, 9)] + [{"step": 8, "top1": 0.5}]
    heights = []
    for number, names in enumerate([["loss"], ["loss", "lr"], ["loss", "lr", "top1", "missing"]]):
        draw_curves(tmp_path / f"{number}.png", lines, names, "title")
        heights.append(pixels(tmp_path / f"{number}.png").shape[0])
    assert heights == [heights[0] * panels for panels in (1, 2, 3)] and heights[0] > 200


def test_curves_of_nothing_are_not_drawn(tmp_path) -> None:
    draw_curves(tmp_path / "a.png", [{"step": 1, "loss": 1.0}], ["top1"], "title")
    assert not (tmp_path / "a.png").exists()


def test_a_style_of_the_program_around_changes_nothing_and_stays(tmp_path) -> None:
    """A dark style made captions white on white."""
    curve = [{"step": step, "loss": 1.0 / (step + 1)} for step in range(5)]
    picture = np.full((1, 8, 8, 3), 90, np.uint8)

    def drawn(name: str) -> list[np.ndarray]:
        draw_reconstructions(tmp_path / f"{name}.png", ["left"], [picture], "a caption")
        draw_curves(tmp_path / f"{name}-curve.png", curve, ["loss"], "a title")
        found = Confusion.of(np.arange(2), np.arange(2), 2)
        draw_confusion(tmp_path / f"{name}-confusion.png", found, ["a", "b"], "a title")
        return [pixels(path) for path in sorted(tmp_path.glob(f"{name}*.png"))]

    plain = drawn("plain")
    with matplotlib.rc_context():
        matplotlib.style.use("dark_background")
        matplotlib.rcParams.update({"font.size": 30, "savefig.dpi": 30})
        before = dict(matplotlib.rcParams)
        found = drawn("dark")
        assert dict(matplotlib.rcParams) == before
    for one, other in zip(plain, found, strict=True):
        assert np.array_equal(one, other)
