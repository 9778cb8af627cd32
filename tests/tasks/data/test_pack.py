"""`paddlemae data pack`: a pack gives what its source gives, and other programs can read it."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from paddlemae.data.batches import train_batches
from paddlemae.data.cache import cache_images
from paddlemae.data.decode.pixel_format import convert_depth
from paddlemae.data.sources import Source, SourceNote, open_source, split_off
from paddlemae.data.views.augment import View
from paddlemae.runs.runlog import read_metrics
from paddlemae.tasks.data.pack import PackResult, pack
from tests.support import source_writers as kinds
from tests.support.pictures import photo
from tests.support.source_writers import MAKERS, params

with_tifffile = pytest.mark.skipif(not find_spec("tifffile"), reason="needs tifffile, of the extra 'tiff'")


def packed(spec: object, out: Path, **settings: Any) -> PackResult:
    return pack(str(spec), out, **{"workers": 0, "quiet": True, **settings})


def entries(tar: Path) -> dict[str, bytes]:
    """As Python's own tarfile reads them."""
    with tarfile.open(tar) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive}  # type: ignore[union-attr]


def endings(pack: Path) -> list[str]:
    names = [name for tar in sorted(pack.glob("*.tar")) for name in entries(tar)]
    return [name.partition(".")[2] for name in names if not name.endswith((".json", ".cls"))]


def batches(source: Source, view: View) -> list[tuple[bytes, bytes]]:
    stream = train_batches(source, view, batch_size=8, seed=3, num_steps=3)
    return [(batch.images.tobytes(), b"" if batch.targets is None else batch.targets.tobytes()) for batch in stream]


@pytest.mark.parametrize("name", params())
def test_a_pack_gives_what_its_source_gives(tmp_path: Path, name: str) -> None:
    (tmp_path / "of").mkdir()
    spec = str(MAKERS[name](tmp_path / "of"))
    done = packed(spec, tmp_path / "pack", shard_size="7")
    assert (done.images, done.skipped, done.shards) == (36, 0, 6)
    for split in ("train", "test"):
        source, copy = (open_source(each, split, labelled=True) for each in (spec, str(tmp_path / "pack")))
        assert copy.classes == source.classes and copy.labels.tolist() == source.labels.tolist()
        assert copy.labels.dtype == np.int64 and copy.groups is None
        for i in range(len(source)):
            for channels in (3, 1, 4):
                one, other = source.read(i, channels), copy.read(i, channels)
                assert one.dtype == other.dtype and (one == other).all()
        assert batches(source, View((16, 24), 3)) == batches(copy, View((16, 24), 3))
    assert len(open_source(str(tmp_path / "pack"))) == 36


def test_other_programs_find_an_image_a_label_and_what_is_known(tmp_path: Path) -> None:
    kinds.write_folder(tmp_path / "photos")
    packed(tmp_path / "photos", tmp_path / "pack", shard_size="16")
    assert sorted(os.listdir(tmp_path / "pack")) == [
        "images.npy",
        "pack.json",
        "test-00000.tar",
        "train-00000.tar",
        "train-00001.tar",
    ]
    found = entries(tmp_path / "pack" / "train-00001.tar")
    assert list(found)[:3] == ["000000016.png", "000000016.cls", "000000016.json"] and len(found) == 3 * 14
    image = kinds.PARTS["train"][16]
    assert found["000000016.png"] == (tmp_path / "photos" / "train" / image.name).read_bytes()
    assert found["000000016.cls"] == b"1"
    assert json.loads(found["000000016.json"]) == {"source": f"train/{image.name}", "class": "cat"}
    with tarfile.open(tmp_path / "pack" / "train-00001.tar") as archive:
        assert {(one.mtime, one.uid, one.uname, one.mode) for one in archive} == {(0, 0, "", 0o644)}
    for file in ("pack.json", "images.npy", "train-00000.tar"):
        (tmp_path / "pack" / file).unlink()
    alone = open_source(str(tmp_path / "pack"), "train", labelled=True)  # as anyone's shards
    assert (alone.read(0, 3) == image.pixels_HW3).all() and alone.classes == ("1", "2")


def test_parts_and_embedded_digits(tmp_path: Path) -> None:
    done = packed("digits", tmp_path / "pack", split="test", channels=1)
    assert (done.images, done.shards) == (1000, 1) and set(endings(tmp_path / "pack")) == {"png"}
    source, copy = open_source("digits", "test"), open_source(str(tmp_path / "pack"), "test", labelled=True)
    assert copy.labels.tolist() == source.labels.tolist() and copy.classes == source.classes
    assert all((source.read(i, 1) == copy.read(i, 1)).all() for i in range(0, 1000, 50))
    with pytest.raises(ValueError, match="has no split train"):
        open_source(str(tmp_path / "pack"), "train")
    with pytest.raises(ValueError, match="of this kind take no options"):
        open_source(f"{tmp_path / 'pack'}::label=x")


def test_groups_are_held_out_as_those_of_the_source(tmp_path: Path) -> None:
    kinds.write_folder(tmp_path)
    rows = [f"train/{one.name},{one.label},patient {n * 7 % 5}\n" for n, one in enumerate(kinds.PARTS["train"])]
    (tmp_path / "all.csv").write_text("image,label,patient\n" + "".join(rows))
    packed(tmp_path / "all.csv", tmp_path / "pack")
    for labelled in (True, False):
        sources = [open_source(str(tmp_path / name), "train", labelled) for name in ("all.csv", "pack")]
        assert sources[0].groups.tolist() == sources[1].groups.tolist()
        held = [[np.flatnonzero(part.groups >= 0).size for part in split_off(one, 0.3, 5)] for one in sources]
        assert held[0] == held[1]
    assert open_source(str(tmp_path / "pack")).groups is not None


def test_without_labels(tmp_path: Path, paddlemae: Callable) -> None:
    for number in range(3):
        kinds_path = tmp_path / "photos" / f"{number}.png"
        kinds_path.parent.mkdir(exist_ok=True)
        photo(20, 30, number).save(kinds_path)
    done = paddlemae("data", "pack", tmp_path / "photos", "--out", tmp_path / "pack", "--quiet")
    assert done.status == 0 and done.err == ""
    assert done.out.startswith("note: train is packed without labels: labels need one folder per class")
    assert "packed 3 images in 1 shard in " in done.out and "images/s" in done.out
    assert set(entries(tmp_path / "pack" / "train-00000.tar")) == {
        f"{n:09}.{e}" for n in range(3) for e in ("png", "json")
    }
    assert len(open_source(str(tmp_path / "pack"), "train")) == 3
    with pytest.raises(ValueError, match="was packed from images without labels"):
        open_source(str(tmp_path / "pack"), "train", labelled=True)


SIZES = [(60, 80), (96, 64), (37, 37), (20, 300), (30, 24), (128, 72), (256, 300), (40, 2)]


def write_photos(
    folder: Path, ending: str = "jpg", make: Callable[[Image.Image], Image.Image] = lambda one: one
) -> Path:
    folder.mkdir(parents=True)
    for number, (height, width) in enumerate(SIZES):
        make(photo(height, width, number)).save(
            folder / f"{number}.{ending}", **{"quality": 95} if ending == "jpg" else {}
        )
    return folder


@pytest.mark.parametrize("channels", [1, 3])
def test_larger_images_become_what_a_cache_makes_of_them(tmp_path: Path, channels: int) -> None:
    folder, view = write_photos(tmp_path / "photos"), View((32, 32), channels)
    expected = cache_images(open_source(str(folder)), tmp_path / "cache", view, short_side=37)
    packed(folder, tmp_path / "exact", size=37, channels=channels, lossless=True)
    packed(folder, tmp_path / "jpeg", size=37, channels=channels)
    exact, jpeg = (open_source(str(tmp_path / name)) for name in ("exact", "jpeg"))
    for i, (height, width) in enumerate(SIZES):
        pixels = expected.read_picture(i, channels, lambda height, width: 1).pixels_hwC
        assert (exact.read(i, channels) == pixels).all()
        assert min(pixels.shape[:2]) == min(37, height, width)
        if min(height, width) > 37:
            colours = ("GRAY", "Gray") if channels == 1 else ("RGB", "420")
            content = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 95, *colours)
            pixels = simplejpeg.decode_jpeg(content, colours[0])
        assert (jpeg.read(i, channels) == pixels).all()
    assert endings(tmp_path / "exact") == ["png", "png", "jpg", "jpg", "jpg", "png", "png", "jpg"]
    assert set(endings(tmp_path / "jpeg")) == {"jpg"}
    sizes = [sum(map(len, entries(tmp_path / name / "train-00000.tar").values())) for name in ("jpeg", "exact")]
    assert sizes[0] < sizes[1]


def test_quality_changes_jpegs_only(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos")
    for quality in (50, 95):
        packed(folder, tmp_path / f"{quality}", size=37, quality=quality)
    low, high = (entries(tmp_path / f"{quality}" / "train-00000.tar") for quality in (50, 95))
    assert [len(low[name]) < len(high[name]) for name in low if name.endswith("jpg")] == [
        min(size) > 37 for size in SIZES
    ]


def turned(folder: Path, orientation: int) -> None:
    folder.mkdir(exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo(20, 30, 1).save(folder / "a.jpg", exif=exif)


def pixels_of_pack(pack: Path) -> list[np.ndarray]:
    """As a program reads them that only decodes."""
    return [
        np.asarray(Image.open(io.BytesIO(content)))
        for tar in sorted(pack.glob("*.tar"))
        for name, content in entries(tar).items()
        if not name.endswith((".json", ".cls"))
    ]


@pytest.mark.parametrize("size", [64, 12])
def test_pictures_are_upright_for_those_who_do_not_turn_them(tmp_path: Path, size: int) -> None:
    turned(tmp_path / "photos", 6)
    packed(tmp_path / "photos", tmp_path / "pack", size=size)
    (found,) = pixels_of_pack(tmp_path / "pack")
    (own,) = (open_source(str(tmp_path / "pack")).read(0, 3),)
    assert (found == own).all() and own.shape[0] > own.shape[1]
    if size == 64:
        assert (own == open_source(str(tmp_path / "photos")).read(0, 3)).all()
        assert endings(tmp_path / "pack") == ["png"]


def in_mode(mode: str) -> Callable[[Image.Image], Image.Image]:
    def convert(image: Image.Image) -> Image.Image:
        image = image.convert("RGB") if mode != "P" else image.quantize(60)
        if mode == "RGBA":
            image.putalpha(photo(image.height, image.width, 99).convert("L"))
        return image if mode in ("P", "RGBA") else image.convert(mode)

    return convert


@pytest.mark.parametrize(
    ("mode", "ending", "channels", "expected"),
    [
        ("L", "jpg", 3, {"jpg"}),
        ("L", "png", 1, {"png", "jpg"}),
        ("CMYK", "jpg", 3, {"png", "jpg"}),
        ("P", "png", 3, {"png", "jpg"}),
        ("P", "gif", 3, {"png", "jpg"}),
        ("1", "png", 3, {"png", "jpg"}),
        ("RGBA", "png", 3, {"png", "jpg"}),
        ("RGBA", "png", 4, {"png"}),
        ("RGB", "bmp", 3, {"png", "jpg"}),
        ("RGB", "webp", 3, {"webp", "jpg"}),
    ],
)
def test_each_kind_of_picture(tmp_path: Path, mode: str, ending: str, channels: int, expected: set[str]) -> None:
    """Small ones stay the same bit for bit, for those too who only decode; large ones are near."""
    folder = write_photos(tmp_path / "photos", ending, in_mode(mode))
    packed(folder, tmp_path / "pack", size=50, channels=channels)
    source, copy, gray = open_source(str(folder)), open_source(str(tmp_path / "pack")), mode in ("L", "1")
    assert set(endings(tmp_path / "pack")) == expected
    for i, (size, plain) in enumerate(zip(SIZES, pixels_of_pack(tmp_path / "pack"), strict=True)):
        own = copy.read(i, channels)
        assert plain.shape[2:] == (() if gray else (4,) if channels == 4 else (3,))
        assert (np.atleast_3d(plain) == own).all()
        if min(size) <= 50:
            assert (own == source.read(i, channels)).all()
        else:
            assert min(own.shape[:2]) == 50


def deep(count: int, channels: int, seed: int) -> list[np.ndarray]:
    """Images of 16 bits, of two sizes."""
    rng = np.random.default_rng(seed)
    sizes = [(24, 20) if n % 2 else (60, 48) for n in range(count)]
    coarse = [rng.integers(0, 10_000, (h // 4, w // 4, channels)) for h, w in sizes]
    return [np.kron(each, np.ones((4, 4, 1), int)).astype(np.uint16) for each in coarse]


def check_deep(folder: Path, tmp_path: Path, channels: int, kinds_found: Sequence[str]) -> None:
    packed(folder, tmp_path / "pack", size=30, channels=channels)
    source, copy = open_source(str(folder)), open_source(str(tmp_path / "pack"))
    assert endings(tmp_path / "pack") == list(kinds_found)
    view = View((30, 30), channels, bits=16)
    expected = cache_images(source, tmp_path / "cache", view, short_side=30)
    for i in range(len(source)):
        pixels = copy.read(i, channels)
        assert pixels.dtype == np.uint16 and pixels.max() > 255
        assert (pixels == expected.read_picture(i, channels, lambda height, width: 1).pixels_hwC).all()


def test_16_bits_of_gray_stay(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number, pixels in enumerate(deep(4, 1, 0)):
        Image.fromarray(pixels[..., 0]).save(tmp_path / "images" / f"{number}.png")
    check_deep(tmp_path / "images", tmp_path, 1, ["png"] * 4)
    packed(tmp_path / "images", tmp_path / "shallow", size=30, channels=1, bits=8)
    shallow, source = (open_source(str(tmp_path / name)) for name in ("shallow", "images"))
    assert shallow.read(0, 1).dtype == np.uint8 and (shallow.read(1, 1) == source.read(1, 1) >> 8).all()
    assert endings(tmp_path / "shallow") == ["jpg", "png"] * 2


@with_tifffile
def test_13_channels_of_tiffs_stay(tmp_path: Path) -> None:
    import tifffile

    (tmp_path / "scenes").mkdir()
    for number, pixels in enumerate(deep(4, 13, 1)):
        tifffile.imwrite(tmp_path / "scenes" / f"{number}.tif", pixels, photometric="minisblack", planarconfig="contig")
    check_deep(tmp_path / "scenes", tmp_path, 13, ["npy"] * 4)
    source, copy = (open_source(str(tmp_path / name)) for name in ("scenes", "pack"))
    small = [batches(split_off(one, 0.5, 0)[0], View((8, 8), 13)) for one in (source, copy)]
    assert len(small[0]) == 3
    assert all((source.read(i, 13) == copy.read(i, 13)).all() for i in (1, 3))


def test_13_channels_of_arrays_stay(tmp_path: Path) -> None:
    (tmp_path / "scenes").mkdir()
    for number, pixels in enumerate(deep(4, 13, 2)):
        np.save(tmp_path / "scenes" / f"{number}.npy", pixels.transpose(2, 0, 1) if number < 2 else pixels)
    check_deep(tmp_path / "scenes", tmp_path, 13, ["npy"] * 4)


def test_16_bits_of_8_bit_photos_are_those_of_a_cache(tmp_path: Path) -> None:
    folder, view = write_photos(tmp_path / "photos"), View((32, 32), 3, bits=16)
    packed(folder, tmp_path / "pack", size=37, bits=16)
    expected = cache_images(open_source(str(folder)), tmp_path / "cache", view)
    copy = open_source(str(tmp_path / "pack"))
    assert endings(tmp_path / "pack") == ["npy", "npy", "jpg", "jpg", "jpg", "npy", "npy", "jpg"]
    for i in range(len(SIZES)):
        pixels = expected.read_picture(i, 3, lambda height, width: 1).pixels_hwC
        assert (convert_depth(copy.read(i, 3), 16) == pixels).all()


def test_what_others_would_read_otherwise_is_reencoded(tmp_path: Path) -> None:
    """One value that means transparent, and more pictures behind the first."""
    (tmp_path / "photos").mkdir()
    first, second = photo(16, 24, 1), photo(16, 24, 2)
    first.save(tmp_path / "photos" / "a.png", transparency=first.getpixel((3, 3)))
    first.save(tmp_path / "photos" / "b.webp", lossless=True, save_all=True, append_images=[second])
    first.save(tmp_path / "photos" / "c.png", save_all=True, append_images=[second])
    packed(tmp_path / "photos", tmp_path / "pack")
    assert endings(tmp_path / "pack") == ["png"] * 3
    source = open_source(str(tmp_path / "photos"))
    for i, plain in enumerate(pixels_of_pack(tmp_path / "pack")):
        assert (plain == source.read(i, 3)).all()
    assert (plain == np.asarray(first)).all()


def test_an_array_of_16_bit_colours_is_no_png(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=np.stack(deep(3, 3, 3)[1:2] * 2), labels=np.array([0, 1]))
    packed(tmp_path / "set.npz", tmp_path / "pack")
    source, copy = open_source(str(tmp_path / "set.npz")), open_source(str(tmp_path / "pack"))
    assert endings(tmp_path / "pack") == ["npy", "npy"]
    assert all((source.read(i, 3) == copy.read(i, 3)).all() for i in range(2))


def test_a_pretraining_from_a_pack(
    tmp_path: Path, paddlemae: Callable, photos: Path, tiny: list[str], pretrained: Path
) -> None:
    """By command; its losses are those of the images' own folder."""
    done = paddlemae("data", "pack", photos, "--out", tmp_path / "pack", "--workers", "1", "--shard-size", "20KB")
    assert done.status == 0 and "packing 12/12" in done.err and "packed 12 images in 2 shards" in done.out, done
    run = paddlemae("pretrain", *tiny, "--data", tmp_path / "pack", "--out", tmp_path / "run", "--quiet")
    assert run.status == 0, run
    losses = [
        [line["loss"] for line in read_metrics(folder) if "loss" in line] for folder in (tmp_path / "run", pretrained)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 3


def test_a_pack_may_move(tmp_path: Path) -> None:
    kinds.write_folder(tmp_path / "photos")
    packed(tmp_path / "photos", tmp_path / "pack")
    shutil.move(tmp_path / "pack", tmp_path / "moved")
    shutil.rmtree(tmp_path / "photos")
    assert open_source(str(tmp_path / "moved"), "test", labelled=True).classes == kinds.CLASSES


def test_a_pack_keeps_images_without_a_label(tmp_path: Path) -> None:
    root = kinds.write_folder(tmp_path / "set")
    (root / "train" / "dog").rename(root / "train" / "unlabelled")
    with pytest.warns(SourceNote, match="10 of 30 images have no label"):
        packed(root, tmp_path / "pack", split="train")
    with pytest.warns(SourceNote, match="10 of 30 images have no label"):
        source, copy = (open_source(str(each), "train", labelled=True) for each in (root, tmp_path / "pack"))
    assert copy.classes == source.classes == ("bird", "cat")
    assert copy.labels is not None and source.labels is not None and copy.labels.tolist() == source.labels.tolist()
    assert len(open_source(str(tmp_path / "pack"), "train")) == 30
    assert sum(name.endswith(".cls") for tar in (tmp_path / "pack").glob("*.tar") for name in entries(tar)) == 20
