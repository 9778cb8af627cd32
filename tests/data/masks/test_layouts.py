"""The same scenes in every layout give the same images and masks."""

import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.masks.palette import VOC_COLOURS
from paddlemae.data.masks.shapes import decode_runs, fill_polygon
from paddlemae.data.sources import IGNORE, BadMask, MissingSplit, Source, SourceNote, open_source
from tests.support.mask_folders import save, scene, write_pairs

SIZE = (12, 16)
COUNTS = {"train": 3, "val": 2}
NAMES = ("background", "road", "car")


def scenes(split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    return [scene(100 * (split == "val") + number) for number in range(COUNTS[split])]


def write_voc(root: Path) -> str:
    for split in COUNTS:
        for number, (image, ids) in enumerate(scenes(split)):
            save(root / "JPEGImages" / f"{split}{number}.png", image)
            picture = Image.fromarray(ids, "P")
            picture.putpalette(VOC_COLOURS.tobytes())
            (root / "SegmentationClass").mkdir(exist_ok=True)
            picture.save(root / "SegmentationClass" / f"{split}{number}.png")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    ids_of = {split: [f"{split}{number}\n" for number in range(count)] for split, count in COUNTS.items()}
    for name, lines in {**ids_of, "trainval": ids_of["train"] + ids_of["val"]}.items():
        (lists / f"{name}.txt").write_text("".join(lines))
    return f"{root}::classes={','.join(NAMES)}"


def write_cvat(root: Path) -> str:
    spec = write_voc(root)
    colours = {"background": (0, 0, 0), "road": (250, 50, 83), "car": (42, 125, 209)}
    text = "# label:color_rgb:parts:actions\n" + "".join(
        f"{name}:{r},{g},{b}::\n" for name, (r, g, b) in colours.items()
    )
    (root / "labelmap.txt").write_text(text)
    table = np.array(list(colours.values()), np.uint8)
    for path in (root / "SegmentationClass").iterdir():
        save(path, table[np.asarray(Image.open(path))])
    return spec.partition("::")[0]


def write_colours(root: Path) -> str:
    """The Kaggle form of CamVid."""
    table = np.array([(0, 0, 0), (128, 64, 128), (64, 0, 128)], np.uint8)
    for split in COUNTS:
        for number, (image, ids) in enumerate(scenes(split)):
            save(root / split / f"{number}.png", image)
            save(root / f"{split}_labels" / f"{number}_L.png", table[ids])
    rows = [f"{name},{','.join(map(str, colour))}\n" for name, colour in zip(NAMES, table.tolist())]
    (root / "class_dict.csv").write_text("name, r, g, b\n" + "".join(rows))
    return f"{root}::mask_suffix=_L"


def write_list(root: Path) -> str:
    for split in COUNTS:
        for number, (image, ids) in enumerate(scenes(split)):
            save(root / "a" / f"{split}{number}.png", image)
            save(root / "b" / f"{split}{number}.png", ids)
        lines = [f"a/{split}{number}.png b/{split}{number}.png\n" for number in range(COUNTS[split])]
        (root / f"{split}.txt").write_text("".join(lines))
    return f"{root}/train.txt::classes={','.join(NAMES)}"


def write_csv(root: Path) -> str:
    write_list(root)
    rows = [f"a/{split}{n}.png,b/{split}{n}.png,{split}\n" for split, count in COUNTS.items() for n in range(count)]
    (root / "all.csv").write_text("image,mask,split\n" + "".join(rows))
    (root / "classes.txt").write_text("\n".join(NAMES))
    return f"{root}/all.csv"


def write_npz(root: Path) -> str:
    arrays = {}
    for split in COUNTS:
        arrays[f"{split}_images"] = np.stack([image for image, _ in scenes(split)])
        arrays[f"{split}_masks"] = np.stack([ids for _, ids in scenes(split)])
    np.savez(root / "all.npz", **arrays)
    return f"{root}/all.npz::classes={','.join(NAMES)}"


def write_archive(root: Path, ending: str) -> str:
    for split in COUNTS:
        for number, (image, ids) in enumerate(scenes(split)):
            save(root / "set" / "images" / split / f"{number}.png", image)
            save(root / "set" / "masks" / split / f"{number}.png", ids)
    (root / "set" / "classes.txt").write_text("\n".join(NAMES))
    path = root / f"set.{ending}"
    if ending == "tar":
        with tarfile.open(path, "w") as tar:
            tar.add(root / "set", "set")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted((root / "set").rglob("*.*")):
                archive.write(file, file.relative_to(root))
    return str(path)


def write_shards(root: Path) -> str:
    (root / "shards").mkdir()
    for split in COUNTS:
        with tarfile.open(root / "shards" / f"{split}-000.tar", "w") as tar:
            for number, (image, ids) in enumerate(scenes(split)):
                for pixels, ending in ((image, "png"), (ids, "mask.png")):
                    tar.add(save(root / f"{split}{number}.{ending}", pixels), f"{number:04}.{ending}")
    return f"{root}/shards::classes={','.join(NAMES)}"


def boxes(ids: np.ndarray) -> list[tuple[int, list[list[float]]]]:
    """Return (id, polygon) of the blocks of columns in a mask of `scene`, without the background."""
    found = []
    for number in (1, 2):
        columns = np.flatnonzero(ids[0] == number)
        left, right = float(columns[0]), float(columns[-1] + 1)
        found.append((number, [[left, 0.0], [right, 0.0], [right, 12.0], [left, 12.0]]))
    return found


def write_coco(root: Path) -> str:
    for split in COUNTS:
        images, annotations = [], []
        for number, (image, ids) in enumerate(scenes(split)):
            save(root / f"{split}2017" / f"{number}.png", image)
            images.append({"id": number, "file_name": f"{number}.png", "height": 12, "width": 16})
            for value, corners in boxes(ids):
                shape: object = [[value for corner in corners for value in corner]]
                if value == 2:  # as lengths down the columns
                    inside = (ids == 2).T.ravel()
                    starts = np.flatnonzero(np.diff(inside, prepend=False)).tolist()
                    ends = [*starts, inside.size]
                    shape = {"size": [12, 16], "counts": np.diff([0, *ends]).tolist()}
                annotations.append({"id": len(annotations), "image_id": number, "category_id": 10 * value})
                annotations[-1]["segmentation"] = shape
        categories = [{"id": 20, "name": "car"}, {"id": 10, "name": "road"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        path = root / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return str(root)


def write_labelme(root: Path) -> str:
    for split in COUNTS:
        for number, (image, ids) in enumerate(scenes(split)):
            path = save(root / split / f"{number}.png", image)
            shapes = [{"label": NAMES[value], "points": corners} for value, corners in boxes(ids)]
            content = {"imagePath": path.name, "imageHeight": 12, "imageWidth": 16, "shapes": shapes}
            path.with_suffix(".json").write_text(json.dumps(content))
    return str(root)


WRITERS: dict[str, Callable[[Path], str]] = {
    "voc": write_voc,
    "cvat": write_cvat,
    "colours": write_colours,
    "list": write_list,
    "csv": write_csv,
    "npz": write_npz,
    "tar": lambda root: write_archive(root, "tar"),
    "zip": lambda root: write_archive(root, "zip"),
    "webdataset": write_shards,
    "coco": write_coco,
    "labelme": write_labelme,
}


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


def test_polygons_hold_the_pixels_whose_centres_are_inside() -> None:
    triangle = np.array([[1.0, 1.0], [9.0, 1.0], [1.0, 9.0]])
    y, x = np.mgrid[:12, :16] + 0.5
    np.testing.assert_array_equal(fill_polygon(triangle, SIZE), (x > 1) & (y > 1) & (x + y < 10))
    outside = np.array([[-5.0, -5.0], [40.0, -5.0], [40.0, 40.0], [-5.0, 40.0]])
    assert fill_polygon(outside, SIZE).all()


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
