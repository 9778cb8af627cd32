"""Every kind of source gives the same pixels, labels and order for the same images."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from paddlemae.data.batches import train_batches
from paddlemae.data.sources import Source, open_source
from paddlemae.data.sources.archives import expand_braces
from paddlemae.data.views.augment import View
from tests.support import source_writers as kinds
from tests.support.source_writers import MAKERS, params, with_tables


def braces(root: Path) -> str:
    """Shards by a pattern, of which the training part is the same for either split."""
    kinds.write_shards(root)
    return f"{root}/{{train,test}}-{{000..000}}.tar"


NUMBERED = ("list", "list with tabs", "shards", "shards with json", "npz", "npz, channels first", "npz, compressed")


@pytest.mark.parametrize("name", params())
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_same_images_come_out(tmp_path: Path, name: str, split: str) -> None:
    spec = str(MAKERS[name](tmp_path))
    source, expected = open_source(spec, split, labelled=True), kinds.PARTS[split]
    assert len(source) == len(expected)
    assert source.classes == (tuple("012") if name in NUMBERED else kinds.CLASSES)
    assert source.labels is not None and source.labels.dtype == np.int64
    assert source.labels.tolist() == [image.label for image in expected]
    for i, image in enumerate(expected):
        for channels in (3, 1, 4):
            pixels = source.read(i, channels)
            assert pixels.dtype == np.uint8 and pixels.shape == (kinds.SIDE, kinds.SIDE, channels)
        assert (source.read(i, 3) == image.pixels_HW3).all()
        assert (source.read(i, 4)[..., :3] == image.pixels_HW3).all() and (source.read(i, 4)[..., 3] == 255).all()
    assert len({source.describe(i) for i in range(len(source))}) == len(source)
    assert len({source.stamp(i) for i in range(len(source))}) == len(source)


@pytest.fixture(scope="module")
def from_folder(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return open_source(str(kinds.write_folder(tmp_path_factory.mktemp("folder"))), "train", labelled=True)


def first_batches(source: Source, workers: int = 0, start_step: int = 0) -> list[tuple[bytes, bytes]]:
    view = View((16, 24), 3)
    stream = train_batches(source, view, batch_size=8, seed=3, num_steps=5, start_step=start_step, workers=workers)
    return [(batch.images.tobytes(), batch.targets.tobytes()) for batch in stream]


@pytest.mark.parametrize("name", params())
def test_training_views_are_the_same_bytes(tmp_path: Path, name: str, from_folder: Source) -> None:
    source = open_source(str(MAKERS[name](tmp_path)), "train", labelled=True)
    assert first_batches(source, start_step=2) == first_batches(from_folder, start_step=2)


@pytest.mark.parametrize(
    "name",
    [p for p in params() if p.values[0] in ("shards", "parquet", "arrow", "npz", "cifar-10, packed", "zip, stored")],
)
def test_a_source_travels_small_and_opens_its_files_where_it_arrives(
    tmp_path: Path, name: str, from_folder: Source
) -> None:
    """In worker processes that are spawned, which share nothing."""
    source = open_source(str(MAKERS[name](tmp_path)), "train", labelled=True)
    source.read(0, 3)
    assert len(pickle.dumps(source)) < 20_000  # the pixels alone are 92,160 bytes
    assert first_batches(source, workers=1) == first_batches(from_folder)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("split", ["train", "test"])
def test_mnist_is_read_as_published(tmp_path: Path, zipped: bool, split: str) -> None:
    root = kinds.write_mnist(tmp_path / "mnist", zipped)
    source = open_source(str(root), split, labelled=True)
    assert source.classes == tuple("012") and source.labels.tolist() == [one.label for one in kinds.PARTS[split]]
    for i, image in enumerate(kinds.PARTS[split]):
        assert (source.read(i, 1) == image.pixels_HW3[..., :1]).all()
        assert (source.read(i, 3) == image.pixels_HW3[..., :1]).all()
    name = f"{'train' if split == 'train' else 't10k'}-images-idx3-ubyte{'.gz' * zipped}"
    assert len(open_source(str(root / name))) == len(source)


def test_cifar_100_has_two_kinds_of_labels(tmp_path: Path) -> None:
    root = kinds.write_files(tmp_path / "cifar-100-python", kinds.cifar100_files())
    coarse = open_source(f"{root}::label=coarse", "test", labelled=True)
    assert coarse.classes == ("b or c", "d") and coarse.labels.tolist() == [0, 0, 0, 0, 1, 1]
    with pytest.raises(ValueError, match="takes label=fine or label=coarse only"):
        open_source(f"{root}::label=middle")


def test_shards_by_a_pattern(tmp_path: Path) -> None:
    root = kinds.write_shards(tmp_path / "shards")
    source = open_source(f"{root}/train-{{000..002}}.tar", "train", labelled=True)
    assert [(source.read(i, 3) == one.pixels_HW3).all() for i, one in enumerate(kinds.PARTS["train"])] == [True] * 30
    assert source.describe(11) == f"{root}/train-001.tar, entry 000012.png"
    with pytest.raises(FileNotFoundError, match=r"train-003.tar', which .* expands to, does not exist"):
        open_source(f"{root}/train-{{000..003}}.tar")


@with_tables
def test_tables_by_a_pattern(tmp_path: Path) -> None:
    root = kinds.write_parquet(tmp_path / "set")
    source = open_source(f"{root}/data/train-{{00000..00001}}-of-00002.parquet", "train", labelled=True)
    assert len(source) == 30 and (source.read(29, 3) == kinds.PARTS["train"][29].pixels_HW3).all()


def test_patterns_of_braces() -> None:
    assert expand_braces("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand_braces("{x,y}{0..1}") == ["x0", "x1", "y0", "y1"]
    with pytest.raises(ValueError, match="more than 1000000 files"):
        expand_braces("{0..99999999}")


def test_one_shard_alone_is_in_its_own_order(tmp_path: Path) -> None:
    root = kinds.write_shards(tmp_path / "shards")
    source = open_source(str(root / "train-002.tar"), "train", labelled=True)
    assert [source.classes[label] for label in source.labels] == [str(one.label) for one in kinds.PARTS["train"][12:]]


def test_without_labels_all_parts_are_one(tmp_path: Path) -> None:
    for name in ("folder", "csv", "tar", "zip, stored", "shards"):
        (tmp_path / name).mkdir()
        source = open_source(str(MAKERS[name](tmp_path / name)))
        assert len(source) == 36 and source.labels is None, name


@pytest.mark.parametrize("name", [p for p in params() if p.values[0] in ("parquet", "arrow", "npz", "cifar-10", "tar")])
def test_a_file_that_was_replaced_is_read_again(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same process, as in a notebook."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    spec = str(MAKERS[name](tmp_path / "a"))
    open_source(spec, "test", labelled=True).read(0, 3)
    parts = {"train": kinds.PARTS["train"], "test": kinds.pictures(2, 9)}
    monkeypatch.setattr(kinds, "PARTS", parts)
    other = MAKERS[name](tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    shutil.copytree(tmp_path / "b", tmp_path / "a")
    after = open_source(spec, "test", labelled=True)
    assert spec.replace("/a/", "/b/") == str(other)
    assert (after.read(0, 3) == parts["test"][0].pixels_HW3).all()
