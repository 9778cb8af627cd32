"""Images of any number of channels and 16 bits: TIFFs, arrays, and a training of them from end to end."""

import json
import re
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.decode import tiff
from paddlemae.data.decode.images import UnreadableImage, read_image
from paddlemae.data.inspect.statistics import channel_statistics
from paddlemae.data.sources import open_source
from paddlemae.data.views.augment import View, eval_view
from tests.support.paths import ROOT
from tests.support.views import train_view

with_tifffile = pytest.mark.skipif(not find_spec("tifffile"), reason="needs tifffile, of the extra 'tiff'")


def reflectances(seed: int, height: int = 20, width: int = 30, channels: int = 13) -> np.ndarray:
    """As a satellite's bands: 0 to 10,000 of 65,535."""
    return np.random.default_rng(seed).integers(0, 10001, (height, width, channels), dtype=np.uint16)


def write_tiff(path: Path, values: np.ndarray, **settings: object) -> Path:
    import tifffile

    tifffile.imwrite(path, values, **settings)
    return path


@with_tifffile
@pytest.mark.parametrize("layout", ["pixels", "planes", "tiles", "deflate", "lzw", "big-endian", "bigtiff", "pages"])
def test_a_tiff_of_13_bands_is_read_as_it_is(tmp_path: Path, layout: str) -> None:
    values = reflectances(0, 40, 48)
    plain: dict = {"photometric": "minisblack", "planarconfig": "contig"}
    planes = values.transpose(2, 0, 1)
    path = tmp_path / "a.tif"
    match layout:
        case "planes":
            write_tiff(path, planes, photometric="minisblack", planarconfig="separate")
        case "pages":
            write_tiff(path, planes, photometric="minisblack")
        case "tiles":
            write_tiff(path, values, **plain, tile=(16, 16))
        case "deflate" | "lzw":
            write_tiff(path, values, **plain, compression=layout, predictor=True)
        case "big-endian":
            write_tiff(path, values, **plain, byteorder=">")
        case "bigtiff":
            write_tiff(path, values, **plain, bigtiff=True)
        case _:
            write_tiff(path, values, **plain)
    found = read_image(path, 13)
    assert found.dtype == np.uint16 and (found == values).all()
    with pytest.raises(UnreadableImage, match="expected 12"):
        read_image(path, 12)


@with_tifffile
def test_sixteen_bit_colour_of_a_tiff_keeps_its_bits(tmp_path: Path) -> None:
    values = reflectances(0, channels=3)
    assert (read_image(write_tiff(tmp_path / "rgb.tif", values, photometric="rgb"), 3) == values).all()
    four = reflectances(0, channels=4)
    path = write_tiff(tmp_path / "four.tif", four, photometric="minisblack", planarconfig="contig")
    assert (read_image(path, 4) == four).all()
    eight = (four >> 6).astype(np.uint8)  # bands, not transparency
    path = write_tiff(tmp_path / "eight.tif", eight, photometric="rgb", extrasamples=["unspecified"])
    assert (read_image(path, 4) == eight).all()


def test_bands_without_tifffile_say_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(rgb).save(tmp_path / "rgb.tif")
    monkeypatch.setattr(tiff, "_HAS_TIFFFILE", False)
    assert (read_image(tmp_path / "rgb.tif", 3) == rgb).all()
    with pytest.raises(UnreadableImage, match="3 channels, expected 13"):
        read_image(tmp_path / "rgb.tif", 13)
    (tmp_path / "bands.tif").write_bytes(TWO_PIXELS_OF_FIVE_BANDS)
    with pytest.raises(UnreadableImage, match=r"pip install 'paddlemae\[tiff\]'"):
        read_image(tmp_path / "bands.tif", 5)


def _field(tag: int, kind: int, count: int, value: int) -> bytes:
    return (
        tag.to_bytes(2, "little")
        + kind.to_bytes(2, "little")
        + count.to_bytes(4, "little")
        + value.to_bytes(4, "little")
    )


_FIELDS = [
    _field(256, 3, 1, 2),
    _field(257, 3, 1, 1),
    _field(258, 3, 5, 0x80),
    _field(259, 3, 1, 1),
    _field(262, 3, 1, 1),
    _field(273, 4, 1, 0xA0),
    _field(277, 3, 1, 5),
    _field(278, 3, 1, 1),
    _field(279, 4, 1, 10),
]
TWO_PIXELS_OF_FIVE_BANDS = (
    (b"II*\0\x08\0\0\0" + len(_FIELDS).to_bytes(2, "little") + b"".join(_FIELDS) + bytes(4)).ljust(0x80, b"\0")
    + (b"\x08\0" * 5).ljust(0x20, b"\0")
    + bytes(range(10))
)


@with_tifffile
def test_a_tiff_made_by_hand_has_its_five_bands(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(TWO_PIXELS_OF_FIVE_BANDS)
    assert read_image(tmp_path / "a.tif", 5).tolist() == [[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]]


@with_tifffile
@pytest.mark.parametrize("cut", [100, 1000, 20_000])
def test_a_tiff_that_is_cut_short_is_a_bad_image(tmp_path: Path, cut: int) -> None:
    path = write_tiff(tmp_path / "a.tif", reflectances(0, 40, 48), photometric="minisblack", planarconfig="contig")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UnreadableImage):
        read_image(path, 13)


def test_arrays_are_images(tmp_path: Path) -> None:
    values = reflectances(0)
    np.save(tmp_path / "a.npy", values)
    assert (read_image(tmp_path / "a.npy", 13) == values).all()
    np.save(tmp_path / "first.npy", values.transpose(2, 0, 1))
    assert (read_image(tmp_path / "first.npy", 13) == values).all()
    np.save(tmp_path / "turned.npy", np.asfortranarray(values.astype(">i4")))
    found = read_image(tmp_path / "turned.npy", 13)
    assert found.dtype == np.uint16 and (found == values).all()
    np.save(tmp_path / "gray.npy", values[..., 0])
    assert (read_image(tmp_path / "gray.npy", 3) == values[..., :1]).all()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros((4, 5, 13), np.float32), "floating-point"),
        (np.full((4, 5, 13), -1), r"outside 0\.\.65535"),
        (np.zeros((4, 5, 3), np.uint8), "3 channels, expected 13"),
        (np.zeros(7, np.uint8), r"shape \(7,\)"),
        (np.zeros((0, 5, 13), np.uint8), "shape"),
        (np.zeros((4, 5, 13), "M8[s]"), "not pixel values"),
    ],
)
def test_arrays_that_are_no_images_are_bad_ones(tmp_path: Path, values: np.ndarray, reason: str) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(UnreadableImage, match=reason):
        read_image(tmp_path / "a.npy", 13)


def test_an_array_that_lies_or_holds_objects_is_a_bad_image(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([print, None], object), allow_pickle=True)
    with pytest.raises(UnreadableImage, match="array of Python objects"):
        read_image(tmp_path / "objects.npy", 3)
    np.save(tmp_path / "a.npy", np.zeros((10, 10, 3), np.uint8))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "short.npy").write_bytes(content[:-7])
    with pytest.raises(UnreadableImage, match="cut short: 293 of 300"):
        read_image(tmp_path / "short.npy", 3)
    (tmp_path / "huge.npy").write_bytes(content.replace(b"(10, 10, 3), }", b"(50000, 50000, 3)}"[:14].ljust(14)))
    with pytest.raises(UnreadableImage):
        read_image(tmp_path / "huge.npy", 3)


def test_arrays_are_listed_where_no_pictures_are(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "1.npy", reflectances(1))
    source = open_source(str(tmp_path), labelled=True)
    assert source.classes == ("a", "b") and source.read(0, 13).shape == (20, 30, 13)
    Image.new("L", (2, 2)).save(tmp_path / "a" / "1.png")
    assert len(open_source(str(tmp_path))) == 1


@pytest.mark.parametrize("decode", ["fast", "exact"])
def test_views_of_deep_images_keep_their_small_values(decode) -> None:
    values = reflectances(2, 60, 90)
    view = View((16, 24), 13, decode=decode)
    for made in (train_view(values, view, np.random.default_rng(0)), eval_view(values, view)):
        assert made.dtype == np.uint16 and made.shape == (13, 16, 24)
        assert 3000 < made.mean() < 7000 and len(np.unique(made)) > 2000
    assert eval_view(values, View((16, 24), 13, bits=8)).max() <= 10_000 >> 8


def test_both_resizers_agree_on_deep_images() -> None:
    values = reflectances(2, 60, 90)
    made = [
        train_view(values, View((16, 24), 13, decode=decode), np.random.default_rng(0)).astype(int)
        for decode in ("fast", "exact")
    ]
    apart = np.abs(made[0] - made[1])  # the fast one rounds, and cuts off below zero, between rows and columns
    assert np.percentile(apart, 99) < 10 and apart.mean() < 1


def test_eight_and_sixteen_bits_mean_the_same_brightness() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    deep = eval_view(image, View((16, 16), 3, bits=16, eval_crop_ratio=1.0))
    assert (deep == image.transpose(2, 0, 1).astype(np.uint16) * 257).all()
    assert (eval_view(np.moveaxis(deep, 0, 2), View((16, 16), 3, eval_crop_ratio=1.0)) == deep >> 8).all()


def test_randaugment_is_refused_before_anything_is_read() -> None:
    from paddlemae.data.views.randaugment import RandAugment

    with pytest.raises(ValueError, match="1 or 3 channels and 8 bits, not 13 and 16"):
        View((16, 16), 13, randaugment=RandAugment())


@pytest.fixture(scope="module")
def satellite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 13-channel arrays that one band tells apart: train/CLASS 8 each, test/CLASS 4 each."""
    root = tmp_path_factory.mktemp("satellite")
    for part, count in (("train", 8), ("test", 4)):
        for label, name in enumerate(("forest", "water")):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                values = reflectances(100 * label + number + 50 * (part == "test"), 20, 30)
                values[..., 7] = 1000 + 5000 * label
                np.save(root / part / name / f"{number}.npy", values)
    return root


OBLONG = "model.image_size=[8,16]"


def test_bands_train_from_end_to_end_on_oblong_views(
    paddlemae, satellite: Path, tiny: list[str], tmp_path: Path
) -> None:
    found = channel_statistics(open_source(str(satellite), "train"), 13)
    assert 0.07 < found.mean[0] < 0.08 and found.std[7] == pytest.approx(2500 / 65535)
    numbers = [f"{name}={json.dumps(getattr(found, name))}" for name in ("mean", "std")]
    plain = [each for each in tiny if not each.startswith(("image_size", "steps"))]
    settings = [*plain, "channels=13", OBLONG, *numbers]
    run, cache = tmp_path / "run", f"cache={tmp_path / 'cache'}"
    done = paddlemae("pretrain", "--data", satellite, "--out", run, *settings, "steps=3", cache)
    assert done.status == 0, done.err
    assert "normalised as if" not in done.err
    described = (
        json.loads((run / "checkpoints" / "latest" / "model.json").read_text())
        if (run / "checkpoints" / "latest").is_dir()
        else json.loads(next((run / "checkpoints").glob("step_*/model.json")).read_text())
    )
    assert described["bits"] == 16 and described["architecture"]["channels"] == 13
    done = paddlemae("reconstruct", run, satellite / "test", "--out", tmp_path / "a.png")
    assert done.status == 0, done.err
    done = paddlemae(
        "finetune",
        "--init",
        run,
        "--data",
        satellite,
        "--out",
        tmp_path / "tuned",
        "steps=12",
        "threads=1",
        "batch_size=8",
        "base_lr=0.02",
        "warmup_epochs=0",
        "label_smoothing=0",
        OBLONG,
    )
    assert done.status == 0, done.err
    assert json.loads((tmp_path / "tuned" / "result.json").read_text())["top1"] >= 0.75
    done = paddlemae("knn", run, "--data", satellite)
    assert done.status == 0, done.err


def test_deep_images_without_statistics_are_spoken_of(
    paddlemae, satellite: Path, tiny: list[str], tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        done = paddlemae("pretrain", "--data", satellite, "--out", tmp_path / "run", *tiny, "channels=13", "steps=1")
    assert done.status == 0 and "their own mean and std" in done.err


def test_deep_gray_images_train_from_end_to_end(paddlemae, tiny: list[str], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 3)):
        for label, name in enumerate(("dark", "light")):
            (tmp_path / "gray" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(30000 * label, 30000 * label + 9000, (40, 24), np.uint16)
                Image.fromarray(pixels).save(tmp_path / "gray" / part / name / f"{number}.png")
    data, run = tmp_path / "gray", tmp_path / "run"
    plain = [each for each in tiny if not each.startswith(("image_size", "patch_size"))]
    shape = ["channels=1", "model.image_size=[96,160]", "patch_size=16"]
    done = paddlemae("pretrain", "--data", data, "--out", run, *plain, *shape, "bits=16", "mean=[0.3]", "std=[0.2]")
    assert done.status == 0, done.err
    assert paddlemae("reconstruct", run, data / "test", "--out", tmp_path / "a.png").status == 0
    done = paddlemae(
        "finetune",
        "--init",
        run,
        "--data",
        data,
        "--out",
        tmp_path / "tuned",
        "steps=2",
        "threads=1",
        "batch_size=6",
        "epochs=1",
        "warmup_epochs=0",
    )
    assert done.status == 0, done.err


def test_mixed_channel_counts_are_left_out_and_named(
    paddlemae, satellite: Path, tiny: list[str], tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(satellite / "train", tmp_path / "mixed")
    np.save(tmp_path / "mixed" / "water" / "rgb.npy", np.zeros((20, 30, 3), np.uint8))
    done = paddlemae(
        "pretrain", "--data", tmp_path / "mixed", "--out", tmp_path / "run", *tiny, "channels=13", "bits=8", "steps=4"
    )
    assert done.status == 0, done.err
    (line,) = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "3 channels, expected 13"


def test_the_documented_way_to_statistics(satellite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paddlemae):
    """The command in docs/data.md."""
    page = (ROOT / "docs" / "data.md").read_text()
    (typed,) = re.findall(r"^paddlemae (data stats [^#\n]*)", page, flags=re.MULTILINE)
    (tmp_path / "scenes").symlink_to(satellite)
    monkeypatch.chdir(tmp_path)
    done = paddlemae(*typed.split())
    assert done.status == 0 and done.out.startswith("mean=[0.07"), done.err
