"""Each kind of source's own faults: one line that says what to mend, or an image left out; nothing is written."""

import importlib.util
import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.sources import open_source, split_off
from tests.support import source_writers as kinds
from tests.support.source_writers import with_tables

PNG = kinds.png(np.zeros((2, 3, 3), np.uint8))


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def huge_png() -> bytes:
    """A header that claims 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


# --- lists


def test_a_list_s_missing_image_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    source = open_source(write(tmp_path / "list.txt", "a.png 0\ngone.png 1\n\n# a comment\n"), labelled=True)
    assert len(source) == 2 and source.read(0, 3).shape == (2, 3, 3)
    with pytest.raises(UnreadableImage, match=r"gone\.png': No such file"):
        source.read(1, 3)


def test_a_list_of_nothing_that_is_there_asks_for_its_root(tmp_path: Path) -> None:
    path = write(tmp_path / "list.txt", "train/a.png 0\ntrain/b.png 1\n")
    with pytest.raises(FileNotFoundError, match=r"such as 'train/a\.png', do not exist below .*list\.txt::root=FOLDER"):
        open_source(path)
    (tmp_path / "else" / "train").mkdir(parents=True)
    (tmp_path / "else" / "train" / "a.png").write_bytes(PNG)
    assert open_source(f"{path}::root={tmp_path}/else").describe(0) == f"{tmp_path}/else/train/a.png"


@pytest.mark.parametrize("line", ["a.png cat", "a.png", "a.png 1.5", "a.png -1"])
def test_a_list_s_labels_are_whole_numbers(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    path = write(tmp_path / "list.txt", f"a.png 0\n{line}\n")
    with pytest.raises(ValueError, match=r"list\.txt', line 2: expected a path and a whole number"):
        open_source(path, labelled=True)


def test_words_as_labels_are_always_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    path = write(tmp_path / "list.txt", "a.png cat\na.png dog\n")
    with pytest.raises(ValueError, match=r"a whole number as its label in a line, got 'a\.png cat'; number"):
        open_source(path)


def test_paths_with_spaces_and_numbers_are_distinguished_from_labels(tmp_path: Path) -> None:
    (tmp_path / "my photo 7.png").write_bytes(PNG)
    path = write(tmp_path / "list.txt", "my photo 7.png\tt 3\nmy photo 7.png 12\n".replace("\tt", "\t"))
    source = open_source(path, labelled=True)
    assert [source.describe(i) for i in (0, 1)] == [str(tmp_path / "my photo 7.png")] * 2
    assert source.classes == ("3", "12") and source.labels.tolist() == [0, 1]


def test_labels_that_training_does_not_know_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    path = write(tmp_path / "train_list.txt", "a.png 0\na.png 2\n")
    with pytest.raises(ValueError, match=r"no held-out list for .*; put 'val_list\.txt' next to it"):
        open_source(path, "test")
    write(tmp_path / "val_list.txt", "a.png 1\na.png 2\n")
    with pytest.raises(ValueError, match=r"val_list\.txt' has labels that no training image has: '1'"):
        open_source(path, "test", labelled=True)
    write(tmp_path / "val_list.txt", "a.png 2\n")
    assert open_source(path, "test", labelled=True).labels.tolist() == [1]  # the number that training gives it
    write(tmp_path / "val_list.txt", "a.png 0\na.png 2\n")
    assert open_source(str(tmp_path / "val_list.txt"), "test", labelled=True).classes == ("0", "2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name,label\na.png,0\n",
            r"no column of images .*; its columns: 'name', 'label'; name it with .*::image=COLUMN",
        ),
        ("path,kind\na.png,0\n", r"no column of labels .*; its columns: 'path', 'kind'"),
        ("path,label\na.png\n", r"row 2: 1 values under 2 column names"),
        ("path,label\na.png,\na.png,\n", "row 2: no label"),
        ("path,label\na.png,0\na.png,\na.png,nan\n", "row 4: the label 'nan'"),
        ("path,label,split\na.png,0,A\na.png,1,B\n", r"column of splits has 'A', 'B'; expected train, training, val"),
        ("path,label\na.png,x\na.png,x\n", "at least two classes"),
        ("path,label\n", "names no images"),
        ("", "no column of images"),
    ],
)
def test_a_csv_s_faults(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    with pytest.raises(ValueError, match=message):
        open_source(write(tmp_path / "a.csv", text), labelled=True)


def test_columns_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    path = write(tmp_path / "a.csv", "scan;kind;owner\na.png;b;1\na.png;a;2\n")
    source = open_source(f"{path}::image=scan::label=kind::group=owner", labelled=True)
    assert source.classes == ("a", "b") and source.labels.tolist() == [1, 0] and source.groups.tolist() == [0, 1]
    with pytest.raises(ValueError, match="no column 'size'; its columns: 'scan', 'kind', 'owner'"):
        open_source(f"{path}::image=size")
    with pytest.raises(ValueError, match="takes no 'colour'; only root, image, label, labels, split, group"):
        open_source(f"{path}::colour=red")
    with pytest.raises(ValueError, match="expected PATH::option=value, got 'image'"):
        open_source(f"{path}::image")


def test_a_group_is_on_one_side_of_a_split(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    rng = np.random.default_rng(0)
    patients = np.sort(rng.integers(0, 40, 400))
    rows = "".join(f"a.png,{rng.integers(2)},P{patient}\n" for patient in patients)
    source = open_source(write(tmp_path / "a.csv", f"path,label,patient\n{rows}"), "train", labelled=True)
    rest, held_out = split_off(source, 0.25, seed=3)
    assert not set(rest.groups) & set(held_out.groups) and len(rest) + len(held_out) == 400
    assert abs(len(held_out) - 100) <= 12
    assert (split_off(source, 0.25, seed=3)[1].reader.indices == held_out.reader.indices).all()
    assert set(split_off(source, 0.25, seed=4)[1].groups) != set(held_out.groups)
    single = open_source(write(tmp_path / "b.csv", "path,label,group\na.png,0,x\na.png,1,x\n"), labelled=True)
    with pytest.raises(ValueError, match="of one group"):
        split_off(single, 0.5, seed=0)


# --- archives


def bad_tar(path: Path, write_entries: Callable[[tarfile.TarFile], None]) -> str:
    with tarfile.open(path, "w") as archive:
        write_entries(archive)
    return str(path)


def test_entries_that_lead_out_of_a_tar_are_left_out(tmp_path: Path) -> None:
    def entries(archive: tarfile.TarFile) -> None:
        kinds.add(archive, "a/1.png", PNG)
        for name in ("../out.png", "/abs.png", "a/../../out.png", "C:/x.png", "a\\..\\b.png"):
            kinds.add(archive, name, PNG)
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            kinds.add(archive, f"a/link{kind.decode()}.png", b"", type=kind, linkname="/etc/passwd")
        kinds.add(archive, "a/._1.png", PNG)  # macOS's, which is hidden
        kinds.add(archive, "__MACOSX/1.png", PNG)
        kinds.add(archive, "b/2.png", PNG)

    (tmp_path / "sub").mkdir()
    path = bad_tar(tmp_path / "sub" / "a.tar", entries)
    with pytest.warns(UserWarning, match=r"9 entries are links, devices, .* left out; first: '\.\./out\.png'"):
        source = open_source(path, labelled=True)
    assert [source.describe(i) for i in range(len(source))] == [f"{path}, entry a/1.png", f"{path}, entry b/2.png"]
    assert [p.name for p in tmp_path.rglob("*")] == ["sub", "a.tar"]


def test_a_tar_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    whole = kinds.write_tar(tmp_path / "a.tar").read_bytes()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[: 512 + 700])
    with pytest.raises(ValueError, match=r"cut\.tar' is cut short: entry 'train/dog/009\.png' needs \d+ bytes and 700"):
        open_source(str(cut))
    cut.write_bytes(whole[:512] + whole[512 : len(whole) - 10240 + 0][: 512 * ((len(whole) - 20480) // 512)])
    with pytest.raises(ValueError, match="is cut short"):
        open_source(str(cut))
    damaged = bytearray(whole)
    damaged[3] ^= 1
    cut.write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged at byte 0: a wrong checksum"):
        open_source(str(cut))


def test_a_shard_that_ends_between_entries_is_refused_too(tmp_path: Path) -> None:
    root = kinds.write_shards(tmp_path / "shards")
    path = root / "train-001.tar"
    content = path.read_bytes()
    end = len(content.rstrip(b"\0"))
    path.write_bytes(content[: -(-end // 512) * 512])
    with pytest.raises(ValueError, match=r"train-001\.tar' is cut short: .* without an end mark"):
        open_source(str(root), "train")


def test_a_shard_that_shrinks_later_is_a_bad_image(tmp_path: Path) -> None:
    root = kinds.write_shards(tmp_path / "shards")
    source = open_source(str(root), "train")
    (root / "train-002.tar").write_bytes(b"")
    with pytest.raises(UnreadableImage, match="train-002.tar, entry .*cut short since it was listed"):
        source.read(29, 3)
    os.remove(root / "train-002.tar")
    with pytest.raises(UnreadableImage, match="No such file"):
        source.read(29, 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("1.cls", b"cat", r"label of '1\.png' in its \.cls is no whole number: 'cat'"),
        ("1.cls", b"", "no whole number"),
        ("1.json", b"{'label': 1}", "no whole number"),
        ("1.json", b'{"caption": 1}', "no whole number"),
        ("2.cls", b"1", r"'1\.png' has none"),
    ],
)
def test_labels_of_shards_are_whole_numbers(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    def entries(archive: tarfile.TarFile) -> None:
        kinds.add(archive, "1.png", PNG)
        kinds.add(archive, name, content)
        kinds.add(archive, "2.png", PNG)
        kinds.add(archive, "2.cls", b"0")

    path = bad_tar(tmp_path / "a.tar", entries)
    assert len(open_source(path)) == 2
    with pytest.raises(ValueError, match=message):
        open_source(path, labelled=True)


def test_a_huge_image_in_a_shard_is_left_out(tmp_path: Path) -> None:
    path = bad_tar(tmp_path / "a.tar", lambda archive: kinds.add(archive, "1.png", huge_png()))
    with pytest.raises(UnreadableImage, match="more than 89478485 pixels"):
        open_source(path).read(0, 3)


def test_archives_that_cannot_be_read_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images in .*expected entries"):
        open_source(bad_tar(tmp_path / "a.tar", lambda archive: kinds.add(archive, "1.txt", b"")))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        kinds.add(archive, "a/1.png", PNG)
    with pytest.raises(ValueError, match="compressed as a whole"):
        open_source(str(tmp_path / "a.tar.gz"))


def test_a_zip_s_faults(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/1.png", PNG)
        archive.writestr("../b.png", PNG)
        link = zipfile.ZipInfo("a/link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("b/3.png", PNG, zipfile.ZIP_BZIP2)
    with pytest.warns(UserWarning, match="2 entries are links"):
        source = open_source(str(path), labelled=True)
    assert len(source) == 2 and source.read(0, 3).shape == (2, 3, 3)
    with pytest.raises(UnreadableImage, match="compressed by method 12; pack it again"):
        source.read(1, 3)
    content = path.read_bytes()
    path.write_bytes(content.replace(PNG, PNG[:-20] + b"?" + PNG[-19:]))
    with pytest.raises(UnreadableImage, match=r"a\.zip, entry a/1\.png': damaged in its archive"):
        source.read(0, 3)
    path.write_bytes(content[:-30])
    with pytest.raises(ValueError, match="is cut short or damaged"):
        open_source(str(path))


# --- tables


@with_tables
def test_a_table_s_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a"], "score": [0.5]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"no column of images .*; its columns: text \(string\), score \(double\)"):
        open_source(str(tmp_path / "a.parquet"))
    pq.write_table(pa.table({"image": [PNG, None], "kind": [0, 1]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"no column of labels .*; its columns: image \(binary\), kind \(int64\)"):
        open_source(str(tmp_path / "b.parquet"), labelled=True)
    source = open_source(f"{tmp_path}/b.parquet::label=kind", labelled=True)
    assert source.labels.tolist() == [0, 1] and source.read(0, 3).shape == (2, 3, 3)
    with pytest.raises(UnreadableImage, match=r"b\.parquet, row 1': the table holds no bytes"):
        source.read(1, 3)
    content = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"cut\.parquet' is cut short, damaged or of another kind"):
        open_source(str(tmp_path / "cut.parquet"))
    wrong = kinds.table(kinds.PARTS["test"]).set_column(1, "label", pa.array([0, 1, 2, 7, -1, None]))
    pq.write_table(wrong.replace_schema_metadata({b"huggingface": kinds.features()}), tmp_path / "c.parquet")
    with pytest.raises(ValueError, match=r"c\.parquet', row 3: label 7 is none of the table's 3 classes"):
        open_source(str(tmp_path / "c.parquet"), labelled=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'paddlemae\[tables\]'"):
        open_source(str(tmp_path / "a.parquet"))


@with_tables
def test_row_groups_are_kept_within_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from paddlemae.data.sources import table_files

    source = open_source(str(kinds.write_parquet(tmp_path / "set")), "train")
    monkeypatch.setattr(table_files, "CACHED_BYTES", 50_000)  # two groups of 7 images
    table_files._row_groups.clear()
    for i in np.random.default_rng(0).integers(0, 30, 60).tolist():
        assert (source.read(i, 3) == kinds.PARTS["train"][i].pixels_HW3).all()
        assert 1 <= len(table_files._row_groups) <= 2


# --- arrays and published sets


def test_an_array_file_s_faults(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=np.zeros((3, 4)), y=np.zeros(3, np.int64))
    with pytest.raises(ValueError, match=r"no array of images; its arrays: 'features', 'y'"):
        open_source(str(tmp_path / "a.npz"))
    np.savez(tmp_path / "b.npz", images=np.zeros((3, 4, 5), np.float32))
    with pytest.raises(ValueError, match=r"array images' holds .* type float32; expected \[N, H, W\]"):
        open_source(str(tmp_path / "b.npz"))
    np.savez(tmp_path / "c.npz", images=np.zeros((3, 4, 5), np.uint8), labels=np.array([0, 1]))
    with pytest.raises(ValueError, match="3 images and 2 labels"):
        open_source(str(tmp_path / "c.npz"), labelled=True)
    np.savez(tmp_path / "d.npz", images=np.array([print], object))
    with pytest.raises(ValueError, match="array of Python objects"):
        open_source(str(tmp_path / "d.npz"))
    np.save(tmp_path / "e.npy", np.zeros((3, 4, 5), np.uint8))
    (tmp_path / "e.npy").write_bytes((tmp_path / "e.npy").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"e\.npy': it is cut short"):
        open_source(str(tmp_path / "e.npy"))
    with pytest.raises(ValueError, match=r"has no labels; save images and labels in one file"):
        open_source(str(tmp_path / "e.npy"), labelled=True)


class Attack:
    """What unpickling would run."""

    def __reduce__(self):
        return os.system, ("touch /tmp/paddlemae-was-run",)


def test_a_published_pickle_runs_nothing(tmp_path: Path) -> None:
    files = kinds.cifar10_files(binary=False)
    files["data_batch_3"] = pickle.dumps({"data": Attack(), "labels": []}, 2)
    root = kinds.write_files(tmp_path / "cifar-10-batches-py", files)
    with pytest.raises(
        ValueError, match=r"data_batch_3 is damaged, or not as published \(it would call posix system\)"
    ):
        open_source(str(root))
    assert not os.path.exists("/tmp/paddlemae-was-run")


@pytest.mark.parametrize("length", [1000, 30_000, 60_000])
def test_a_published_archive_that_is_cut_short(tmp_path: Path, length: int) -> None:
    path = kinds.write_targz(tmp_path / "a.tar.gz", "cifar-10-batches-py", kinds.cifar10_files(binary=False))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"a\.tar\.gz' (is cut short|lacks).*download it again"):
        open_source(str(path))


def test_published_files_that_lack_bytes(tmp_path: Path) -> None:
    files = kinds.cifar10_files(binary=False)
    files["test_batch"] = files["test_batch"][:5000]
    root = kinds.write_files(tmp_path / "py", files)
    assert len(open_source(str(root), "train")) == 30
    with pytest.raises(ValueError, match="test_batch is damaged, or not as published"):
        open_source(str(root), "test")
    files = kinds.cifar10_files(binary=True)
    files["data_batch_2.bin"] = files["data_batch_2.bin"][:-1]
    with pytest.raises(ValueError, match=r"data_batch_2\.bin is cut short: 18437 bytes hold no whole images"):
        open_source(str(kinds.write_files(tmp_path / "bin", files)))
    root = kinds.write_mnist(tmp_path / "mnist", zipped=False)
    images = root / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"is cut short: 30715 bytes of images of shape \(30, 32, 32\)"):
        open_source(str(root))
    os.remove(root / "t10k-labels-idx1-ubyte")
    with pytest.raises(FileNotFoundError, match="has no labels; put 't10k-labels-idx1-ubyte' in its folder"):
        open_source(str(root), "test")


@pytest.mark.parametrize("name", ["a.txt", "a.png", "a.pdf", "a.bin"])
def test_files_of_no_kind_are_explained(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"%PDF-1.4 " + bytes(2000))
    with pytest.raises((ValueError, FileNotFoundError), match=r"for a single image, name its folder|not UTF-8"):
        open_source(str(tmp_path / name))


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(ValueError, match="is a pipe or a device"):
        open_source(str(tmp_path / "a.tar"))


def test_a_folder_is_not_taken_for_what_lies_next_to_its_images(tmp_path: Path) -> None:
    """The archive that its folders came in, a list, a pack of features."""
    kinds.write_folder(tmp_path)
    kinds.write_tar(tmp_path / "images.tar")
    write(tmp_path / "train_list.txt", "x 0\n")
    np.save(tmp_path / "train" / "cat" / "features.npy", np.zeros((3, 4)))
    assert len(open_source(str(tmp_path), "train", labelled=True)) == 30


def test_a_damaged_entry_is_skipped_as_a_damaged_file_is(tmp_path: Path, paddlemae, tiny: list[str]) -> None:
    """Training on shards goes on, says which entry, and takes it off the list once the shard is mended."""
    root = kinds.write_shards(tmp_path / "shards")
    shard = root / "train-000.tar"
    good = shard.read_bytes()
    bad = bytearray(good)
    bad[512 : 512 + 8] = bytes(8)  # the start of the first image
    shard.write_bytes(bad)
    command = ("pretrain", "--data", root, "--out", tmp_path / "run", *tiny, "steps=8")
    done = paddlemae(*command, "max_bad_images=0")
    assert done.status == 2 and "train-000.tar, entry 000001.png" in done.err, done.err
    shard.write_bytes(good)
    done = paddlemae("pretrain", "--resume", "--out", tmp_path / "run", "max_bad_images=0")
    assert done.status == 0 and "1 of 1 images that were left out can be read now" in done.out, done.err


def test_contents_can_be_large_or_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may give less than was asked for."""
    from paddlemae.data.sources import archive_entries

    class Slow(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            return super().read(min(size, 100))

    path = tmp_path / "a"
    path.write_bytes(bytes(range(256)) * 4)
    monkeypatch.setattr(archive_entries, "open", lambda name, mode, buffering: Slow(name), raising=False)
    assert archive_entries.read_range(str(path), 10, 900) == (bytes(range(256)) * 4)[10:910]
    with pytest.raises(ValueError, match="cut short"):
        archive_entries.read_range(str(path), 200, 900)
