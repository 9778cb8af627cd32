"""Sources: what is listed, in which order, under which labels, and which mistakes are explained."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.sources import Source, balanced_subset, labelled_count, open_source, split_off, subset
from paddlemae.data.sources.splits import SourceNote
from paddlemae.data.sources.string_table import StringTable


def make_images(root: Path, *names: str) -> str:
    """Tiny images at these paths below `root`; each is filled with its number in `names`."""
    for value, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), value).save(root / name, "png")
    return str(root)


def listed(source: Source, root: Path) -> list[str]:
    return [Path(source.describe(i)).relative_to(root).as_posix() for i in range(len(source))]


def identities(source: Source) -> list[str]:
    return [source.describe(i) for i in range(len(source))]


@pytest.mark.parametrize(("split", "size"), [("train", 4000), ("test", 1000), ("fit", 3500), ("val", 500)])
def test_digits_splits_have_equal_classes(split: str, size: int) -> None:
    source = open_source("digits", split)
    assert len(source) == size == len(source.labels)
    assert np.bincount(source.labels).tolist() == [size // 10] * 10
    assert source.classes == tuple("0123456789")


def test_digits_splits_are_disjoint_and_complete() -> None:
    train, test, fit, val = (set(identities(open_source("digits", s))) for s in ("train", "test", "fit", "val"))
    assert not train & test and len(train | test) == 5000
    assert not fit & val and fit | val == train
    assert identities(open_source("digits")) == identities(open_source("digits", "train"))


def test_digits_follow_the_file() -> None:
    """Class d is images 500 d onwards: training takes its first 400, test its last 100."""
    assert open_source("digits", "val").describe(0) == "digits image 350"
    assert open_source("digits", "test").describe(100) == "digits image 900"
    image = open_source("digits").read(0, 1)
    assert image.shape == (28, 28, 1) and image.dtype == np.uint8 and image.max() > 200
    rgb = open_source("digits").read(0, 3)
    assert rgb.shape == (28, 28, 3) and (rgb == image).all()


def test_digits_refuse_unknown_splits_and_channels() -> None:
    with pytest.raises(ValueError, match="train, test, fit, val, got 'dev'"):
        open_source("digits", "dev")
    with pytest.raises(UnreadableImage, match="1 channel, expected 5"):
        open_source("digits").read(0, 5)


def test_folder_lists_every_image_below_it_in_a_stable_order(tmp_path: Path) -> None:
    names = ["Z.PNG", "a b.jpg", "a/c.TIFF", "a/deep/er/d.webp", "b.Jpeg", "ä.gif"]
    root = make_images(tmp_path, *reversed(names))
    for other in (".hidden.png", ".cache/x.png", "notes.txt", "a/list.csv", "png"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_bytes(b"")
    source = open_source(root)
    assert listed(source, tmp_path) == names
    assert source.labels is None and source.classes == () and source.name == root
    assert source.read(0, 1).tolist() == [[[5], [5]], [[5], [5]]]


def test_linked_folders_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    make_images(root, "real/1.png")
    make_images(outside, "2.png")
    (root / "aaa").symlink_to(root / "real")
    (root / "linked").symlink_to(outside)
    (root / "linked again").symlink_to(outside)
    (outside / "up").symlink_to(root)
    (root / "itself").symlink_to(root / "itself")
    assert listed(open_source(str(root)), root) == ["linked/2.png", "real/1.png"]


def test_a_dangling_link_is_listed_and_reported_when_read(tmp_path: Path) -> None:
    make_images(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.png")
    source = open_source(str(tmp_path))
    assert listed(source, tmp_path) == ["a.png", "b.png"]
    with pytest.raises(UnreadableImage, match="No such file"):
        source.read(1, 3)


@pytest.mark.parametrize("folder", ["val", "valid", "validation", "test"])
def test_a_folder_s_splits_are_its_subfolders(tmp_path: Path, folder: str) -> None:
    root = make_images(tmp_path, "train/1.png", f"{folder}/2.png")
    assert listed(open_source(root, "train"), tmp_path) == ["train/1.png"]
    assert listed(open_source(root, "test"), tmp_path) == [f"{folder}/2.png"]
    assert len(open_source(root)) == 2


def test_validation_comes_before_test(tmp_path: Path) -> None:
    root = make_images(tmp_path, "train/1.png", "test/2.png", "val/3.png")
    with pytest.warns(SourceNote, match="of 'val' and 'test' the first is held out, and the second is not used"):
        assert listed(open_source(root, "test"), tmp_path) == ["val/3.png"]
    assert listed(open_source(root, "val"), tmp_path) == ["val/3.png"]


def test_train_is_the_folder_itself_only_when_it_has_no_splits(tmp_path: Path) -> None:
    plain = make_images(tmp_path / "plain", "1.png")
    assert len(open_source(plain, "train")) == 1
    with pytest.raises(ValueError, match=r"no subfolder val or test; .*there$"):
        open_source(plain, "test")
    with pytest.raises(ValueError, match="no subfolder train"):
        open_source(make_images(tmp_path / "half", "val/1.png"), "train")
    with pytest.raises(ValueError, match=r"'train', 'val' or 'test' .* got 'dev'"):
        open_source(plain, "dev")


def test_classes_are_the_sorted_first_level_folders(tmp_path: Path) -> None:
    root = make_images(tmp_path, "dog/1.png", "cat/deep/2.png", "cat/3.png")
    source = open_source(root, labelled=True)
    assert source.classes == ("cat", "dog")
    assert listed(source, tmp_path) == ["cat/3.png", "cat/deep/2.png", "dog/1.png"]
    assert source.labels.dtype == np.int64 and source.labels.tolist() == [0, 0, 1]


def test_a_linked_class_folder_is_a_class(tmp_path: Path) -> None:
    make_images(tmp_path / "elsewhere", "1.png")
    make_images(tmp_path / "root", "dog/1.png")
    (tmp_path / "root" / "cat").symlink_to(tmp_path / "elsewhere")
    assert open_source(str(tmp_path / "root"), labelled=True).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["1.png", "2.png"], "one folder per class.* 2 images are in no class folder; move '1.png'"),
        (["cat/1.png", "2.png"], "1 images are in no class folder; move '2.png'"),
        (["cat/1.png"], "at least two classes, .* only 'cat'"),
        (["train/cat/1.png", "val/cat/2.png"], "holds 'train', 'val'; ask for split"),
    ],
)
def test_wrong_layouts_of_labelled_folders_are_explained(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_source(make_images(tmp_path, *names), labelled=True)


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    root = make_images(tmp_path, "cat/1.png", "dog/2.png")
    (tmp_path / "bird").mkdir()
    with pytest.raises(ValueError, match="bird' has no images"):
        open_source(root, labelled=True)


def test_missing_paths_files_and_imageless_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="'nowhere' does not exist; expected a folder, .* or 'digits'"):
        open_source("nowhere")
    make_images(tmp_path, "1.png")
    with pytest.raises(ValueError, match="for a single image, name its folder"):
        open_source(str(tmp_path / "1.png"))
    for name in ("one.txt", "two.heic"):
        (tmp_path / "papers" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "papers" / name).write_text("")
    with pytest.raises(ValueError, match=r"no images in .*papers'.* 2 other files.*\.bmp .*\.webp"):
        open_source(str(tmp_path / "papers"))


def test_a_subset_is_a_view_that_keeps_labels() -> None:
    digits = open_source("digits", "val")
    part = subset(subset(digits, [499, 3, 260]), [2, 0])
    assert identities(part) == [digits.describe(260), digits.describe(499)]
    assert part.labels.tolist() == [5, 9] and part.classes == digits.classes
    assert (part.read(0, 1) == digits.read(260, 1)).all()
    with pytest.raises(ValueError, match=r"indices in 0\.\.499"):
        subset(digits, [500])
    with pytest.raises(ValueError, match=r"indices in 0\.\.499"):
        subset(digits, [-1])


def test_balanced_subset_is_balanced_seeded_and_nested() -> None:
    digits = open_source("digits")
    small, large = balanced_subset(digits, 20, seed=3), balanced_subset(digits, 100, seed=3)
    assert np.bincount(small.labels).tolist() == [2] * 10
    assert set(identities(small)) < set(identities(large))
    assert identities(small) == identities(balanced_subset(digits, 20, seed=3))
    assert identities(small) != identities(balanced_subset(digits, 20, seed=4))


def test_the_remainder_of_a_balanced_subset_goes_to_seeded_classes() -> None:
    digits = open_source("digits")
    counts = [np.bincount(balanced_subset(digits, 13, seed).labels, minlength=10) for seed in range(5)]
    assert all(sorted(count) == [1] * 7 + [2] * 3 for count in counts)
    assert len({tuple(count) for count in counts}) > 1


def test_few_labels_are_a_number_a_share_or_a_number_a_class() -> None:
    for labels, count in [(70, 70), ("10%", 400), ("0.5%", 20), ("2.49%", 100), ("100%", 4000), ("7/class", 70)]:
        digits = open_source("digits")
        assert labelled_count(labels, digits) == count
        drawn = balanced_subset(digits, labelled_count(labels, digits), 0)
        assert np.bincount(drawn.labels).tolist() == [count // 10] * 10


@pytest.mark.parametrize("labels", ["0%", "0/class", "101%", "401/class"])
def test_a_share_or_number_a_class_that_is_not_there_is_refused(labels: str) -> None:
    digits = open_source("digits")
    with pytest.raises(ValueError, match="expected 1 to 4000 images of digits"):
        balanced_subset(digits, labelled_count(labels, digits), 0)


def test_balanced_subset_explains_what_it_cannot_draw(tmp_path: Path) -> None:
    root = make_images(tmp_path, "cat/1.png", "dog/1.png", "dog/2.png", "dog/3.png")
    with pytest.raises(ValueError, match=r"class 'cat' .* has 1 images, but 4 balanced ones need 2"):
        balanced_subset(open_source(root, labelled=True), 4, seed=0)
    with pytest.raises(ValueError, match=r"1 to 4 images .* got 5"):
        balanced_subset(open_source(root, labelled=True), 5, seed=0)
    with pytest.raises(ValueError, match="needs labels"):
        balanced_subset(open_source(root), 4, seed=0)


def test_split_off_parts_the_source_class_by_class() -> None:
    digits = open_source("digits")
    rest, held_out = split_off(digits, 0.1, seed=1)
    assert np.bincount(held_out.labels).tolist() == [40] * 10
    assert sorted(identities(rest) + identities(held_out)) == sorted(identities(digits))
    assert identities(held_out) == identities(split_off(digits, 0.1, seed=1)[1])
    assert identities(held_out) != identities(split_off(digits, 0.1, seed=2)[1])


def test_split_off_without_labels(tmp_path: Path) -> None:
    source = open_source(make_images(tmp_path, *(f"{i}.png" for i in range(8))))
    rest, held_out = split_off(source, 0.25, seed=0)
    assert (len(rest), len(held_out), rest.labels) == (6, 2, None)
    for fraction in (0.0, 1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            split_off(source, fraction, seed=0)
    with pytest.raises(ValueError, match="takes 0 of its 8 images"):
        split_off(source, 0.01, seed=0)


def test_sources_survive_pickling(tmp_path: Path) -> None:
    folder = open_source(make_images(tmp_path, "a/1.png", "b/2.png"), labelled=True)
    for source in (folder, open_source("digits", "val"), subset(folder, [1])):
        copy = pickle.loads(pickle.dumps(source))
        assert identities(copy) == identities(source)
        assert copy.labels.tolist() == source.labels.tolist()
        assert (copy.read(0, 3) == source.read(0, 3)).all()


def test_names_come_back_and_take_little_memory() -> None:
    strings = [
        "a/b.png",
        "",
        "ä",
        os.fsdecode(b"raw\xff.png"),
        "two\nlines",
        *(f"class/{i:08}.png" for i in range(10_000)),
    ]
    names = StringTable.of(strings)
    assert list(names) == strings and len(names) == len(strings) and names[-1] == strings[-1] and names[3] == strings[3]
    assert len(pickle.dumps(names)) < 10_100 * (18 + 8) + 500
    for i in (len(strings), -len(strings) - 1):
        with pytest.raises(IndexError):
            names[i]
