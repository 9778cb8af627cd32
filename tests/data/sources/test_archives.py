"""Archives give what unpacking gives, shards their samples; what is not read is counted and said."""

import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.sources import Source, SourceNote, open_source
from tests.fuzz import archives as archives_property
from tests.support import source_writers as kinds
from tests.support.source_writers import with_tables

SEEDS, GROUPS = 240, 12


@pytest.mark.parametrize("group", range(GROUPS))
def test_an_archive_of_any_tree_gives_what_its_unpacked_folder_gives(tmp_path: Path, group: int) -> None:
    for seed in range(group, SEEDS, GROUPS):
        folder = tmp_path / str(seed)
        folder.mkdir()
        archives_property.check(seed, folder)


def write_tar(path: Path, *names: str, style: int = tarfile.PAX_FORMAT) -> Path:
    """Each file holds its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=style) as archive:
        for name in names:
            kinds.add(archive, name, name.encode("utf-8", "surrogateescape"))
    return path


def write_zip(path: Path, *names: str, system: int = 3) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo("x")
            info.filename, info.create_system = name, system
            archive.writestr(info, name.encode())
    return path


def write_tree(path: Path, kind: str, names: list[str]) -> None:
    if kind != "folder":
        (write_tar if kind == "tar" else write_zip)(path, *names)
        return
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)


def read(source: Source) -> list[str]:
    return [source.stored(i).decode("utf-8", "surrogateescape") for i in range(len(source))]  # type: ignore[union-attr]


SCANS = [f"d/{name}/scan.{number}.png" for name in ("cat", "dog") for number in range(5)]


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_names_with_several_dots_are_images_of_their_own(tmp_path: Path, write) -> None:
    source = open_source(str(write(tmp_path / "a", *SCANS)), "train", labelled=True)
    assert read(source) == SCANS and source.classes == ("cat", "dog")


def test_one_stem_with_several_endings_is_several_images(tmp_path: Path) -> None:
    source = open_source(str(write_tar(tmp_path / "a.tar", "e/cat/1.jpg", "e/cat/1.png", "e/cat/2.png", "e/dog/1.png")))
    assert len(source) == 4


def test_tars_that_were_joined_are_read_to_their_end(tmp_path: Path) -> None:
    parts = [write_tar(tmp_path / f"{name}.tar", f"{name}/0.png", f"{name}/1.png") for name in ("a", "b")]
    both = tmp_path / "ab.tar"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert read(open_source(str(both))) == ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]
    both.write_bytes(both.read_bytes() + bytes(3 << 20))
    assert len(open_source(str(both))) == 4
    both.write_bytes(both.read_bytes() + b"tail")
    with pytest.raises(ValueError, match="bytes behind its end mark that are no entries of a tar; .* truncate -s"):
        open_source(str(both))


def test_the_last_of_doubled_entries_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in (("./cat/1.png", b"old"), ("cat/2.png", b"two"), ("cat//1.png", b"new")):
            kinds.add(archive, name, content)
    with pytest.warns(SourceNote, match=r"1 images come again under the same name.*first: 'cat/1\.png'"):
        assert read(open_source(str(path))) == ["new", "two"]


def test_a_hard_link_is_the_file_that_it_repeats(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        kinds.add(archive, "a/" + "x" * 120 + ".png", b"pixels")
        kinds.add(archive, "b/1.png", b"", type=tarfile.LNKTYPE, linkname="./a/" + "x" * 120 + ".png")
        kinds.add(archive, "b/2.png", b"", type=tarfile.LNKTYPE, linkname="a/gone.png")
        kinds.add(archive, ".cache/3", b"hidden")
        kinds.add(archive, "b/3.png", b"", type=tarfile.LNKTYPE, linkname=".cache/3")
    with pytest.warns(SourceNote, match=r"1 entries are links.*first: 'b/2\.png'"):
        source = open_source(str(path), labelled=True)
    assert read(source) == ["pixels", "pixels", "hidden"] and source.classes == ("a", "b")


def test_tars_of_before_posix_are_read(tmp_path: Path) -> None:
    """No magic, a folder by the slash behind its name, and sums of signed bytes."""
    blocks = b""
    for name, content in ((b"caf\xe9.png/", b""), (b"caf\xe9.png/1.png", b"pixels")):
        header = bytearray(512)
        header[: len(name)], header[124:136] = name, b"%011o\0" % len(content)
        header[148:156] = b" " * 8
        signed = sum(byte - 256 * (byte > 127) for byte in header)
        header[148:156] = b"%06o\0 " % signed
        blocks += bytes(header) + content.ljust(512 * bool(content), b"\0")
    path = tmp_path / "a.tar"
    path.write_bytes(blocks + bytes(1024))
    assert read(open_source(str(path))) == ["pixels"]


def test_a_sparse_file_is_left_out_and_the_next_entry_found(tmp_path: Path) -> None:
    """GNU's, with two more blocks of its map."""
    entry = tarfile.TarInfo("a/holes.png")
    entry.type, entry.size = b"S", 512
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    more = b"1" * 504 + b"\1" + bytes(7) + b"1" * 504 + bytes(8)
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(header) + more + bytes(512) + write_tar(tmp_path / "b.tar", "a/1.png").read_bytes())
    with pytest.warns(SourceNote, match=r"1 entries are .*first: 'a/holes\.png'"):
        assert read(open_source(str(path))) == ["a/1.png"]


@pytest.mark.parametrize("size", [b"-0000000777\0", b"nonsense...\0"])
def test_a_size_that_is_no_number_is_refused(tmp_path: Path, size: bytes) -> None:
    content = bytearray(write_tar(tmp_path / "a.tar", "a/1.png").read_bytes())
    content[124:136], content[148:156] = size, b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ValueError, match=r"the size of entry 'a/1\.png' is no number"):
        open_source(str(tmp_path / "a.tar"))


@pytest.mark.parametrize("system", [0, 3])
def test_backslashes_of_windows_zips_are_slashes(tmp_path: Path, system: int) -> None:
    names = [f"set\\{name}\\{number}.png" for name in ("cat", "dog") for number in (0, 1)]
    source = open_source(str(write_zip(tmp_path / "a.zip", "set\\", *names, system=system)), labelled=True)
    assert source.classes == ("cat", "dog") and read(source) == names
    path = write_zip(tmp_path / "b.zip", "..\\out.png", "C:\\abs.png", "cat\\1.png", system=system)
    with pytest.warns(SourceNote, match="2 entries .* lead out of it"):
        assert read(open_source(str(path))) == ["cat\\1.png"]


def test_a_backslash_in_a_unix_name_is_a_character(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", "cat/a\\1.png", "dog/2.png")
    assert open_source(str(path), labelled=True).classes == ("cat", "dog")
    assert open_source(str(path)).describe(0).endswith("cat/a\\1.png")
    path = write_tar(tmp_path / "a.tar", "cat\\1.png", "dog\\2.png")
    with pytest.raises(ValueError, match="2 images are in no class folder"):
        open_source(str(path), labelled=True)


def test_names_of_unix_zips_are_bytes_unless_they_say_otherwise(tmp_path: Path) -> None:
    """As `zip` stores Latin-1 names, macOS UTF-8 without a mark, and `zip` in another locale with a field beside."""
    entries = [
        (b"caf\xe9/1.png", 3, b""),
        ("thé/1.png".encode(), 3, b""),
        (b"dos\x82/1.png", 0, b""),
        (b"x\xff/1.png", 3, "xé/1.png".encode()),
    ]
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, (name, system, field) in enumerate(entries):
            info = zipfile.ZipInfo(str(number) * len(name))  # the module writes no other names
            info.create_system = system
            if field:
                info.extra = struct.pack("<HHBI", 0x7075, 5 + len(field), 1, zlib.crc32(name)) + field
            archive.writestr(info, b"pixels")
    content = path.read_bytes()
    for number, (name, _, _) in enumerate(entries):
        content = content.replace(str(number).encode() * len(name), name)
    path.write_bytes(content)
    assert open_source(str(path), labelled=True).classes == ("caf\udce9", "dosé", "thé", "xé")


def test_joined_zips_are_reported_as_read_in_part(tmp_path: Path) -> None:
    parts = [write_zip(tmp_path / f"{name}.zip", f"{name}/0.png").read_bytes() for name in ("a", "b")]
    (tmp_path / "ab.zip").write_bytes(b"".join(parts))
    with pytest.warns(SourceNote, match=f"lists no entry of its first {len(parts[0])} bytes"):
        assert read(open_source(str(tmp_path / "ab.zip"))) == ["b/0.png"]


def test_a_method_of_compression_that_is_none_is_an_unreadable_image(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", "a/1.png")
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\1\2")
    content[directory + 10 : directory + 12] = (24994).to_bytes(2, "little")
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match="compressed by method 24994"):
        open_source(str(path)).read(0, 3)


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_what_systems_put_next_to_images_is_passed_over(tmp_path: Path, kind: str) -> None:
    names = ["cat/1.png", "dog/1.png", "cat/@eaDir/1.png/SYNOFILE_THUMB_M.jpg", "@eaDir/x.png", "__MACOSX/cat/x.png"]
    names += ["lost+found/x.png", "#recycle/x.png", "$RECYCLE.BIN/$R1.png", "System Volume Information/x.txt"]
    write_tree(tmp_path / "a", kind, names)
    source = open_source(str(tmp_path / "a"), "train", labelled=True)
    assert read(source) == ["cat/1.png", "dog/1.png"] and source.classes == ("cat", "dog")


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_the_folder_of_a_training_is_passed_over(tmp_path: Path, kind: str) -> None:
    names = ["a/1.png", "a/runs/x/recipe.yaml", "a/runs/x/environment.json", "a/runs/x/figures/loss.png"]
    names += ["a/runs/y/recipe.yaml", "a/runs/y/2.png"]
    write_tree(tmp_path / "x", kind, names)
    assert read(open_source(str(tmp_path / "x"), "train")) == ["a/1.png", "a/runs/y/2.png"]


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_an_empty_class_folder_of_an_archive_is_named(tmp_path: Path, write) -> None:
    with pytest.raises(ValueError, match="docs' has no images"):
        open_source(str(write(tmp_path / "a", "set/cat/1.png", "set/dog/1.png", "set/docs/a.txt")), labelled=True)
    source = open_source(str(write(tmp_path / "b", "set/cat/1.png", "set/dog/1.png", "docs/a.txt")), labelled=True)
    assert source.classes == ("cat", "dog")


def test_arrays_next_to_pictures_are_no_images(tmp_path: Path) -> None:
    assert read(open_source(str(write_tar(tmp_path / "a.tar", "cat/1.npy", "cat/1.png")))) == ["cat/1.png"]
    assert read(open_source(str(write_tar(tmp_path / "b.tar", "cat/1.npy", "dog/1.npy")))) == ["cat/1.npy", "dog/1.npy"]


# --- when a tar is a shard


def test_a_caption_in_a_tar_of_folders_makes_no_shard(tmp_path: Path) -> None:
    source = open_source(str(write_tar(tmp_path / "a.tar", *SCANS, "d/cat/scan.txt", "d/cat/0.json")), labelled=True)
    assert read(source) == SCANS and source.classes == ("cat", "dog")


def test_captions_of_class_folders_make_no_shard(tmp_path: Path) -> None:
    names = ["dog/1.png", "dog/1.txt", "cat/1.png", "cat/1.txt"]
    assert open_source(str(write_tar(tmp_path / "a.tar", *names)), labelled=True).classes == ("cat", "dog")


def test_annotations_of_dotted_names_make_no_shard(tmp_path: Path) -> None:
    names = [f"scan.{number}.{ending}" for number in range(3) for ending in ("png", "json")]
    assert len(open_source(str(write_tar(tmp_path / "a.tar", *names)))) == 3


def test_a_class_file_makes_a_shard_and_further_pictures_are_counted(tmp_path: Path) -> None:
    names = ["b/2.left.png", "b/2.right.png", "b/2.cls", "a/1.emb.npy", "a/1.png", "a/1.cls"]
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for number, name in enumerate(names):
            kinds.add(archive, name, b"%d" % (number % 2) if name.endswith("cls") else name.encode())
    with pytest.warns(SourceNote, match=r"1 images are not the first of their sample .*first: 'b/2\.right\.png'"):
        source = open_source(str(path), labelled=True)
    assert read(source) == ["b/2.left.png", "a/1.png"] and source.classes == ("0", "1")
    assert source.labels is not None and source.labels.tolist() == [0, 1]


def test_a_sidecar_named_by_its_key_counts_first(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for number in (0, 1):
            kinds.add(archive, f"{number}.png", b"x")
            kinds.add(archive, f"{number}.json", b'{"label": %d}' % number)
            kinds.add(archive, f"{number}.meta.json", b'{"label": 9}')
    assert open_source(str(path), labelled=True).classes == ("0", "1")


# --- where shards are


def shards_in_folders(root: Path) -> Path:
    for folder in ("train", "val"):
        for number in (0, 1):
            write_tar(root / folder / f"a-{number}.tar", f"{folder}{number}.png")
    return root


def test_shards_in_folders_of_splits(tmp_path: Path) -> None:
    root = shards_in_folders(tmp_path / "w")
    for spec in (str(root), f"{root}/{{train,val}}/a-{{0..1}}.tar"):
        assert read(open_source(spec, "train")) == ["train0.png", "train1.png"]
        assert read(open_source(spec, "test")) == ["val0.png", "val1.png"]
        assert len(open_source(spec)) == 4
    assert open_source(str(root), "test").stamp(0).startswith("val/a-0.tar\0")


def test_shards_next_to_folders_without_images(tmp_path: Path) -> None:
    write_tar(tmp_path / "w" / "0.tar", "1.png")
    (tmp_path / "w" / "logs").mkdir()
    (tmp_path / "w" / "logs" / "a.txt").write_text("")
    assert read(open_source(str(tmp_path / "w"), "train")) == ["1.png"]


@with_tables
@pytest.mark.parametrize("folders", [("",), ("train", "val")])
def test_what_img2dataset_writes(tmp_path: Path, folders: tuple[str, ...]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for folder in folders:
        path = tmp_path / "i" / folder
        write_tar(path / "00000.tar", "000000000.jpg", "000000000.json", "000000000.txt", "000000001.jpg",
                  "000000001.json", "000000001.txt")  # fmt: skip
        pq.write_table(pa.table({"url": ["x", "y"]}), path / "00000.parquet")
        (path / "00000_stats.json").write_text("{}")
    assert read(open_source(str(tmp_path / "i"), "train")) == ["000000000.jpg", "000000001.jpg"]
    assert len(open_source(str(tmp_path / "i"))) == 2 * len(folders)


def test_tars_of_splits_with_the_split_s_folder_in_them(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_tar(tmp_path / "w" / f"{split}.tar", f"{split}/cat/1.jpg", f"{split}/dog/1.jpg", f"{split}/dog/2.jpg")
    for split, folder in (("train", "train"), ("test", "val")):
        source = open_source(str(tmp_path / "w"), split, labelled=True)
        assert read(source) == [f"{folder}/cat/1.jpg", f"{folder}/dog/1.jpg", f"{folder}/dog/2.jpg"]
        assert source.classes == ("cat", "dog")
