"""The same scenes in every layout give the same images and masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.masks.palette import VOC_COLOURS
from paddlemae.data.masks.shapes import decode_runs, fill_polygon
from paddlemae.data.masks.survey import image_size
from paddlemae.data.sources import IGNORE, BadMask, MissingSplit, Source, SourceNote, open_source
from tests.support.mask_folders import save, scene, write_pairs
from tests.support.mask_layouts import (
    COUNTS,
    NAMES,
    SIZE,
    WRITERS,
    scenes,
    write_coco,
    write_colours,
    write_shards,
    write_voc,
)


@pytest.mark.parametrize("layout", WRITERS)
def test_layouts_hold_the_same(layout: str, tmp_path: Path) -> None:
    spec = WRITERS[layout](tmp_path)
    for split, name in (("train", "train"), ("test", "val")):
        source = open_source(spec, split, masks=True)
        assert len(source) == COUNTS[name]
        assert set(source.classes) == set(NAMES)
        numbers = np.array([NAMES.index(each) for each in source.classes])
        for i, (image, ids) in enumerate(scenes(name)):
            np.testing.assert_array_equal(source.read(i, 3), image)
            np.testing.assert_array_equal(numbers[source.masks.read(i, SIZE)], ids)


def test_shards_are_named_by_a_pattern(tmp_path: Path) -> None:
    write_shards(tmp_path)
    spec = f"{tmp_path}/shards/{{train,val}}-000.tar::classes={','.join(NAMES)}"
    assert len(open_source(spec, "test", masks=True)) == COUNTS["val"]


def test_cityscapes_counts_19_labels(tmp_path: Path) -> None:
    image, ids = scene(0)
    for split, city in (("train", "ulm"), ("val", "bonn")):
        stem = tmp_path / "leftImg8bit" / split / city / f"{city}_0"
        save(Path(f"{stem}_leftImg8bit.png"), image)
        stem = tmp_path / "gtFine" / split / city / f"{city}_0_gtFine"
        save(Path(f"{stem}_labelIds.png"), np.array([4, 7, 26], np.uint8)[ids])
        save(Path(f"{stem}_color.png"), image)
        save(Path(f"{stem}_instanceIds.png"), ids)
    val = open_source(str(tmp_path), "test", masks=True)
    assert (len(val), len(val.classes)) == (1, 19)
    assert val.masks.names(0) == ("road", "car")
    assert (val.masks.read(0) == IGNORE).any()


def test_geotiff_nodata_is_ignored(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    for number in range(2):
        image, ids = scene(number)
        (tmp_path / "masks").mkdir(exist_ok=True)
        save(tmp_path / "images" / f"{number}.tif", image)
        values = ids.astype(np.int16) if number else ids.astype(np.float32)  # as GIS programs write ids
        values[0, 0] = -9999
        tag = (42113, "s", 0, "-9999", True)
        tifffile.imwrite(tmp_path / "masks" / f"{number}.tif", values, extratags=[tag])
    source = open_source(str(tmp_path), masks=True)
    assert source.classes == ("0", "1", "2")
    for number in range(2):
        mask, ids = source.masks.read(number, SIZE), scene(number)[1]
        assert mask[0, 0] == IGNORE
        np.testing.assert_array_equal(mask.ravel()[1:], ids.ravel()[1:])


def test_pixels_without_data_in_the_image_are_ignored(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    image, ids = scene(0)
    bands = np.concatenate([image, image], axis=2).astype(np.uint16) + np.uint16(1)
    bands[2:4, 3] = 0
    bands[5, 5, 0] = 0  # one band alone
    (tmp_path / "images").mkdir()
    tag = (42113, "s", 0, "0", True)
    tifffile.imwrite(tmp_path / "images" / "0.tif", bands, extratags=[tag], photometric="minisblack", planarconfig=1)
    save(tmp_path / "masks" / "0.png", ids)
    source = open_source(str(tmp_path), masks=True)
    assert image_size(source, 0) == SIZE
    mask = source.masks.read(0, SIZE)
    expected = ids.astype(np.int16)
    expected[2:4, 3] = IGNORE
    np.testing.assert_array_equal(mask, expected)
    kept = open_source(f"{tmp_path}::ignore=none", masks=True).masks.read(0, SIZE)
    np.testing.assert_array_equal(kept, ids)


def test_polygons_hold_the_pixels_whose_centres_are_inside() -> None:
    triangle = np.array([[1.0, 1.0], [9.0, 1.0], [1.0, 9.0]])
    y, x = np.mgrid[:12, :16] + 0.5
    np.testing.assert_array_equal(fill_polygon(triangle, SIZE), (x > 1) & (y > 1) & (x + y < 10))
    outside = np.array([[-5.0, -5.0], [40.0, -5.0], [40.0, 40.0], [-5.0, 40.0]])
    assert fill_polygon(outside, SIZE).all()


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ([[0, 0, 1, 1]], "three corners"),
        ([[0, 0, 1, 1, 1e300, 5]], "corner at"),
        ({"size": [12, 16], "counts": [5]}, "pixels in all"),
        ({"size": [16, 12], "counts": [192]}, "size"),
        ({"size": [12, 16], "counts": "a\x7f"}, "character"),
        (None, "no polygon"),
    ],
)
def test_damaged_shapes_name_their_image(shape: object, match: str, tmp_path: Path) -> None:
    spec = write_coco(tmp_path)
    path = tmp_path / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = shape
    path.write_text(json.dumps(content))
    train = open_source(spec, "train", masks=True)
    with pytest.raises(BadMask, match=match) as caught:
        train.masks.read(0)
    assert "image 0" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("masks", "match"),
    [
        (np.zeros((2, 12, 16, 4), np.uint8), "argmax"),
        (np.full((2, 12, 16), 0.5), "whole numbers"),
        (np.zeros(2, np.int64), r"shape \(\)"),
        (np.full((2, 12, 16), -1), "-1"),
        (np.zeros((3, 12, 16), np.uint8), "2 images.*3 masks"),
    ],
)
def test_arrays_that_are_no_masks_are_refused(masks: np.ndarray, match: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 12, 16, 3), np.uint8), masks=masks)
    with pytest.raises(ValueError, match=match) as caught:
        open_source(f"{tmp_path}/a.npz::classes=a,b,c", masks=True).masks.read(0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"shapes": [3]}', "no label"),
        ('{"shapes": [{"label": "a", "points": [[0, 0], [1, 1], [2, 0]]}]}', "imageHeight"),
        ('{"shapes": [{"label": "a", "points": "x"}], "imageHeight": 12, "imageWidth": 16}', "correct"),
        ('{"shapes"', "cannot read"),
    ],
)
def test_damaged_labelme_files_are_named(content: str, match: str, tmp_path: Path) -> None:
    save(tmp_path / "0.png", scene(0)[0])
    (tmp_path / "0.json").write_text(content)
    with pytest.raises(BadMask, match=match) as caught:
        open_source(str(tmp_path), masks=True).masks.read(0)
    assert "0.json" in str(caught.value) and "\n" not in str(caught.value)


def test_images_of_absurd_sizes_take_no_memory(tmp_path: Path) -> None:
    spec = write_coco(tmp_path)
    path = tmp_path / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["images"][0]["height"] = 10**12
    path.write_text(json.dumps(content))
    with pytest.raises(BadMask, match="tiles"):
        open_source(spec, "train", masks=True).masks.read(0)


def test_compressed_runs_are_decoded() -> None:
    """Of lengths [6, 1, 40, 4, 5, 4, 5, 4, 21] that pycocotools compresses to this text."""
    mask = decode_runs({"size": [9, 10], "counts": "61X13mN000`0"}, (9, 10))
    lengths = np.array([6, 1, 40, 4, 5, 4, 5, 4, 21])
    expected = np.repeat(np.arange(9) % 2, lengths).reshape(10, 9).T
    np.testing.assert_array_equal(mask, expected)
    with pytest.raises(ValueError, match="pixels in all"):
        decode_runs({"size": [9, 10], "counts": [80]}, (9, 10))


def test_a_missing_split_is_said(tmp_path: Path) -> None:
    spec = write_voc(tmp_path)
    (tmp_path / "ImageSets/Segmentation/val.txt").unlink()
    (tmp_path / "ImageSets/Segmentation/trainval.txt").unlink()
    with pytest.raises(MissingSplit):
        open_source(spec, "test", masks=True)


def test_colours_of_no_class_are_counted_and_named(tmp_path: Path) -> None:
    spec = write_colours(tmp_path)
    save(tmp_path / "train_labels" / "0_L.png", np.full((*SIZE, 3), (7, 8, 9), np.uint8))
    with pytest.raises(BadMask, match=r"192 of 192.*7 8 9"):
        open_source(spec, "train", masks=True).masks.read(0)
    ignored = open_source(f"{spec}::ignore=7 8 9", "train", masks=True)
    assert (ignored.masks.read(0) == IGNORE).all()


def test_a_palette_mask_saved_as_rgb_is_recognised(tmp_path: Path) -> None:
    spec = write_voc(tmp_path)
    for path in (tmp_path / "SegmentationClass").iterdir():
        save(path, VOC_COLOURS[np.asarray(Image.open(path))])
    with pytest.raises(BadMask, match="palette.*rgb=voc"):
        open_source(spec, "train", masks=True).masks.read(0)
    np.testing.assert_array_equal(open_source(f"{spec}::rgb=voc", "train", masks=True).masks.read(0), scene(0)[1])


def test_gray_saved_as_rgb_is_recognised(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    for path in (tmp_path / "masks").rglob("*.png"):
        save(path, np.repeat(np.asarray(Image.open(path))[..., None], 3, axis=2))
    with pytest.raises(BadMask, match="gray saved as RGB"):
        open_source(str(tmp_path), "train", masks=True)
    np.testing.assert_array_equal(open_source(f"{tmp_path}::rgb=gray", masks=True).masks.read(0), scene(100)[1])


def test_jpeg_masks_are_refused(tmp_path: Path) -> None:
    image, ids = scene(0)
    save(tmp_path / "images" / "0.png", image)
    save(tmp_path / "masks" / "0.jpg", ids)
    with pytest.raises(BadMask, match=r"0\.jpg.*JPEG.*PNG"):
        open_source(f"{tmp_path}::classes=a,b,c", masks=True).masks.read(0)


def test_classes_from_options_and_files(tmp_path: Path) -> None:
    write_pairs(tmp_path)

    def opened(options: str) -> Source:
        return open_source(f"{tmp_path}{options}", "train", masks=True)

    ids = scene(0)[1]
    with pytest.warns(SourceNote, match="void"):
        void = opened("::classes=void,road,car")
    assert void.classes == ("road", "car")
    np.testing.assert_array_equal(void.masks.read(0), ids.astype(int) - 1)
    assert opened("::classes=void,road,car::ignore=none").classes == ("void", "road", "car")
    assert opened("::classes=a,b::zero_is_background=true").classes == ("background", "a", "b")
    assert opened("::classes=a,b::zero_is_background=false").classes == ("a", "b")
    with pytest.raises(BadMask, match="zero_is_background"):
        opened("::classes=a,b").masks.read(0)
    merged = opened("::classes=a,b,c::select=rest=*,c")
    assert merged.classes == ("rest", "c")
    np.testing.assert_array_equal(merged.masks.read(0), np.array([0, 0, 1])[ids])
    dropped = opened("::classes=a,b,c::select=c,a")
    np.testing.assert_array_equal(dropped.masks.read(0), np.array([1, IGNORE, 0])[ids])
    (tmp_path / "classes.txt").write_text("# of a survey\n2 car 255 0 0\n0 sky 0 0 255\n1 road\n")
    listed = open_source(str(tmp_path), "train", masks=True)
    assert listed.classes == ("car", "sky", "road")
    assert listed.masks.palette[:2].tolist() == [[255, 0, 0], [0, 0, 255]]
    np.testing.assert_array_equal(listed.masks.read(0), np.array([1, 2, 0])[ids])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ("::classes=a,b,b", "name 'b' twice"),
        ("::classes=a 1 1 1,b 1 1 1", "colour '1 1 1' twice"),
        ("::select=z", "no class 'z'"),
        ("::select=0,x=0+1", "'0' is taken twice"),
        ("::ignore=z", "no class 'z'"),
        ("::ignore=0,1", "only class"),
        ("::zero_is_background=maybe", "true"),
        ("::colour=red", "no option 'colour'"),
    ],
)
def test_bad_options_are_one_line(options: str, match: str, tmp_path: Path) -> None:
    write_pairs(tmp_path)
    with pytest.raises(ValueError, match=match) as caught:
        open_source(f"{tmp_path}{options}", "train", masks=True)
    assert "\n" not in str(caught.value)


def test_masks_of_one_class_are_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path, classes=1)
    with pytest.raises(BadMask, match="only class"):
        open_source(str(tmp_path), "train", masks=True)
