"""Write the same scenes with masks in every layout that is read; each writer returns the name of its source."""

import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from paddlemae.data.masks.palette import VOC_COLOURS
from tests.support.mask_folders import save, scene

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
        path.with_name(f"captions_{split}2017.json").write_text(
            json.dumps(content | {"annotations": [{"caption": ""}]})
        )
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
