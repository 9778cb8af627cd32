"""A tar or zip of a tree of nasty names gives the images, labels and order of the folder that it unpacks to.

`check` makes one case of a seed: a tree (or two of them, joined, appended or packed again over the first), packed by
Python or by the system's programs, unpacked by another reader. Shards, which are no folders, are made too: there each
sample's first picture and label are compared with what was written.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from paddlemae.data.sources import Source, open_source

PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
ENDINGS = (".png",) * 6 + (".PNG", ".jpg", ".JPEG", ".b.png", ".png.jpg", ".Webp", ".npy", ".txt", ".json", ".xml", "")
SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
FOLDERS = (
    *(
        b"cat",
        b"dog",
        b"bird",
        b"train",
        b"val",
        b"Test",
        b"training",
        b"0",
        b"2",
        b"10",
        b"a b",
        b"a.b",
        b"1.2.840",
        b"-lead",
    ),
    *("ä".encode(), "日本".encode(), b"caf\xe9", b"new\nline", b"qu'o\"te", b"st*r[1]", b"$x{y}", b"x" * 60, b"%41~#"),
    *(b".hidden", b"__MACOSX", b"@eaDir", b"back\\slash", "é".encode() * 55, b"x" * 130, b"ends.png"),
)
STEMS = (
    *(b"0", b"1", b"2", b"10", b"scan", b"scan.0", b"scan.1", b"1.2.840.1", b"1.2.840.2", b"A", b"a", b"-v", b"--help"),
    *("ä".encode(), b"caf\xe9", b"two words", b"new\nline", b"back\\slash", b"s" * 95, b"l" * 140, "é".encode() * 60),
    *(b".hidden", b"._0", b"x..y", b"trailing.", b"@eaDir", b"#1", b"$(ls)", b"t\tab"),
)
TAR_FORMATS = {"v7", "oldgnu", "gnu", "ustar", "posix"}
Tree = dict[bytes, bytes]  # content by path


def check(seed: int, folder: Path) -> None:
    """Build case `seed` in an empty folder; an AssertionError says what differs."""
    rng = random.Random(seed)
    if rng.random() < 0.15:
        _check_shard(rng, folder)
        return
    first = _tree(rng)
    trees = [first] if rng.random() < 0.5 else [first, _second_tree(rng, first)]
    packed = rng.choice(PACKERS)(rng, folder, trees)
    if packed is None:  # the program is missing
        return
    archive, unpack = packed
    if archive.suffix == ".zip" and _is_npz(archive):  # arrays, by the rule of that kind
        return
    unpacked = folder / "unpacked"
    unpacked.mkdir()
    unpack(archive, unpacked)
    _compare(archive, unpacked)


def _compare(archive: Path, unpacked: Path) -> None:
    whole = _opened(str(unpacked), None, False)
    around = _around(unpacked, whole) if whole else unpacked
    for split in (None, "train", "test"):
        for labelled in (False, True):
            expected = _opened(os.fsdecode(around), split, labelled)
            found = _opened(str(archive), split, labelled)
            what = f"{archive}, split {split}, labelled {labelled}"
            assert (found is None) == (expected is None), f"{what}: refused by the archive or by the folder only"
            if found is None or expected is None:
                continue
            assert found.classes == expected.classes, what
            assert [found.stored(i) for i in range(len(found))] == [expected.stored(i) for i in range(len(expected))], (
                what
            )
            if labelled:
                assert found.labels is not None and expected.labels is not None
                assert found.labels.tolist() == expected.labels.tolist(), what


def _opened(spec: str, split: str | None, labelled: bool) -> Source | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return open_source(spec, split, labelled)
        except ValueError:
            return None


def _around(unpacked: Path, whole: Source) -> Path:
    """Return the folder that all images are in, up to one that is a split."""
    folders = [os.path.dirname(whole.describe(i)) for i in range(len(whole))]
    shared = Path(os.path.commonpath(folders)).relative_to(unpacked).parts
    until = next((place for place, step in enumerate(shared) if step.lower() in SPLITS), len(shared))
    return unpacked.joinpath(*shared[:until])


# --- trees


def _tree(rng: random.Random) -> Tree:
    around = rng.choice([b"", b"", b"set/", b"my set/images/", b"./", b".hidden/"])
    folders = rng.sample(FOLDERS, rng.randint(1, 4))
    tree: Tree = {}
    for number in range(rng.randint(1, 14)):
        steps = [rng.choice(folders)] if rng.random() < 0.85 else []
        while rng.random() < 0.25:
            steps.append(rng.choice(FOLDERS))
        name = rng.choice(STEMS) + rng.choice(ENDINGS).encode()
        path = os.path.normpath(around + b"/".join([*steps, name]))
        if _fits(tree, path):
            tree[path] = b"%d %d" % (number, rng.getrandbits(40))
    if rng.random() < 0.1 and (parents := sorted({os.path.dirname(path) for path in tree if b"/" in path})):
        run = rng.choice(parents) + b"/run"  # of a training, which is passed over; a split's folder is none
        tree |= {run + b"/loss.png": b"figure", run + b"/recipe.yaml": b"", run + b"/environment.json": b""}
    return tree if _has_bare_image(tree) else {**tree, os.path.normpath(around + b"bare.png"): b"bare"}


def _fits(tree: Iterable[bytes], path: bytes) -> bool:
    """Return whether a path can be next to others: no file where a folder is."""
    above = {os.path.join(*path.split(b"/")[:count]) for count in range(1, path.count(b"/") + 1)}
    return not any(other in above or other.startswith(path + b"/") for other in tree)


def _has_bare_image(tree: Iterable[bytes]) -> bool:
    """Return whether an image that is not hidden has no sidecar, so that the tree is no shard."""
    sidecars = [path for path in tree if path.endswith((b".txt", b".json"))]
    return any(
        path.lower().endswith(tuple(ending.encode() for ending in PICTURES))
        and not any(step.startswith((b".", b"__", b"@", b"lost")) for step in path.split(b"/"))
        and not any(other.startswith(path.split(b".")[0]) for other in sidecars)
        for path in tree
    )


def _second_tree(rng: random.Random, first: Tree) -> Tree:
    """Return some of the first tree's paths with other contents, and some more."""
    second = {path: b"again " + content for path, content in first.items() if rng.random() < 0.4}
    second |= {path: b"new " + content for path, content in _tree(rng).items() if _fits(first, path)}
    return second


def _write(tree: Tree, root: Path, rng: random.Random) -> Path:
    os.makedirs(root, exist_ok=True)
    for path, content in tree.items():
        full = os.path.join(os.fsencode(root), path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "wb") as file:
            file.write(content)
    if rng.random() < 0.15:
        os.makedirs(root / "empty", exist_ok=True)
    return root


# --- packers: each gives an archive, and how another reader unpacks it

Unpack = Callable[[Path, Path], None]
Packed = tuple[Path, Unpack] | None


def _python_tar(rng: random.Random, folder: Path, trees: list[Tree]) -> Packed:
    style = rng.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    prefix = rng.choice(["", "", "./", ".//"])
    parts = []
    for tree in trees:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=style) as archive:
            if rng.random() < 0.3:
                for parent in sorted({os.path.dirname(path) for path in tree} - {b""}):
                    _add(archive, prefix + os.fsdecode(parent), None, rng)
            for path in rng.sample(sorted(tree), len(tree)):
                _add(archive, prefix + os.fsdecode(path), tree[path], rng)
            copies = [path for path in tree if rng.random() < 0.1 and not path.endswith((b".txt", b".json"))]
            for path in copies:
                entry = tarfile.TarInfo(prefix + os.fsdecode(path) + ".copy.png")
                entry.type, entry.linkname = tarfile.LNKTYPE, prefix + os.fsdecode(path)
                _add_entry(archive, entry, None)
        parts.append(file.getvalue())
    path = folder / "a.tar"
    path.write_bytes(b"".join(parts))
    return path, _tar_program if shutil.which("tar") else _tarfile


def _add(archive: tarfile.TarFile, name: str, content: bytes | None, rng: random.Random) -> None:
    entry = tarfile.TarInfo(name)
    if content is None:
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    else:
        entry.size = len(content)
        entry.type = rng.choice([tarfile.REGTYPE] * 4 + [tarfile.AREGTYPE])
    _add_entry(archive, entry, content)


def _add_entry(archive: tarfile.TarFile, entry: tarfile.TarInfo, content: bytes | None) -> None:
    with contextlib.suppress(ValueError):  # too long a name for USTAR
        archive.addfile(entry, io.BytesIO(content or b""))


def _system_tar(rng: random.Random, folder: Path, trees: list[Tree]) -> Packed:
    if not shutil.which("tar"):
        return None
    style = f"--format={rng.choice(sorted(TAR_FORMATS))}"
    roots = [_write(tree, folder / f"tree{number}", rng) for number, tree in enumerate(trees)]
    if is_linked := rng.random() < 0.2:
        source = os.path.join(os.fsencode(roots[0]), rng.choice(sorted(trees[0])))
        os.link(source, os.path.join(os.path.dirname(source), b"link.png"))
    path = folder / "a.tar"

    def tar(*arguments: str, root: Path) -> None:
        names = b"\0".join(sorted(os.listdir(os.fsencode(root)))) if rng.random() < 0.5 else b"."
        given = ["--null", "--verbatim-files-from", "-T", "-"]
        _run("tar", "-C", str(root), *arguments, *given, input=names + b"\0")

    tar(style, "-cf", str(path), root=roots[0])
    if len(roots) > 1:
        how = rng.choice(["append", "join", "concatenate"])
        if how == "append":
            tar(style, "-rf", str(path), root=roots[1])
        else:
            other = folder / "b.tar"
            tar(style, "-cf", str(other), root=roots[1])
            if how == "join":
                path.write_bytes(path.read_bytes() + other.read_bytes())
            else:
                _run("tar", "-Af", str(path), str(other))
    plain = len(roots) == 1 and not is_linked
    return path, rng.choice([_tar_program, _tarfile]) if plain else _tar_program


def _python_zip(rng: random.Random, folder: Path, trees: list[Tree]) -> Packed:
    path = folder / "a.zip"
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", rng.choice([0, zipfile.ZIP_DEFLATED])) as archive:
        warnings.simplefilter("ignore")  # names that come twice
        for tree in trees:
            for name in rng.sample(sorted(tree), len(tree)):
                try:
                    archive.writestr(name.decode(), tree[name])
                except UnicodeDecodeError:  # the module writes text only
                    continue
    return path, _zipfile


def _powershell_zip(rng: random.Random, folder: Path, trees: list[Tree]) -> Packed:
    path, system = folder / "a.zip", rng.choice([0, 0, 3])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in trees[0].items():
            if name.isascii() and b"\\" not in name and b"\n" not in name and b"\t" not in name:
                info = zipfile.ZipInfo("x")
                info.filename, info.create_system = name.decode().replace("/", "\\"), system
                archive.writestr(info, content)
    return path, _zipfile


def _system_zip(rng: random.Random, folder: Path, trees: list[Tree]) -> Packed:
    if not shutil.which("zip"):
        return None
    path = folder / "a.zip"
    language = {**os.environ, "LC_ALL": rng.choice(["C", "C.UTF-8"])}
    for number, tree in enumerate(trees):
        root = _write(tree, folder / f"tree{number}", rng)
        _run("zip", "-qr", str(path.resolve()), ".", *rng.choice([[], ["-D"]]), cwd=root, env=language)
    return path, _zipfile


PACKERS: list[Callable[[random.Random, Path, list[Tree]], Packed]] = [
    *(_python_tar, _python_tar, _python_tar, _system_tar, _python_zip, _powershell_zip, _system_zip)
]


# --- other readers


def _run(*command: str, **settings) -> None:
    """Run a program; names that its format can't hold make it fail, and are then in no archive."""
    subprocess.run(command, check=False, capture_output=True, timeout=60, **settings)


def _tar_program(archive: Path, unpacked: Path) -> None:
    _run("tar", "-C", str(unpacked), "-xif", str(archive))


def _tarfile(archive: Path, unpacked: Path) -> None:
    with tarfile.open(archive, ignore_zeros=True) as file:
        file.extractall(unpacked, filter="fully_trusted")


def _zipfile(archive: Path, unpacked: Path) -> None:
    """Unpack as Info-ZIP does, which keeps the bytes of names; it can't be used, since it drops control characters."""
    with zipfile.ZipFile(archive) as file:
        infos = file.infolist()
        names = [_zip_name(info) for info in infos]
        if not any(b"/" in name for name in names):
            names = [name.replace(b"\\", b"/") for name in names]
        for info, name in zip(infos, names):
            path = os.path.join(os.fsencode(unpacked), name)
            os.makedirs(path if name.endswith(b"/") else os.path.dirname(path), exist_ok=True)
            if not name.endswith(b"/"):
                with open(path, "wb") as written:
                    written.write(file.read(info))


def _is_npz(archive: Path) -> bool:
    with zipfile.ZipFile(archive) as file:
        return all(name.endswith(".npy") and "/" not in name for name in file.namelist())


def _zip_name(info: zipfile.ZipInfo) -> bytes:
    is_text = info.flag_bits & 0x800
    name = info.orig_filename.encode("utf-8" if is_text else "cp437")
    return name.replace(b"\\", b"/") if info.create_system == 0 and b"/" not in name else name


# --- shards


def _check_shard(rng: random.Random, folder: Path) -> None:
    """A sample's first picture and its label come out, in the order of the tar; further pictures are counted."""
    keys = rng.sample([os.fsdecode(stem).split(".")[0] for stem in STEMS if stem.split(b".")[0]], 5)
    keys = [f"{rng.choice(['', '', 'part/'])}{key}" for key in dict.fromkeys(keys)]
    files: list[tuple[str, bytes]] = []
    expected: list[tuple[bytes, str]] = []
    further = 0
    for number, key in enumerate(keys):
        endings = rng.sample([".png", ".left.JPG", ".x.y.webp"], rng.choice([1, 1, 1, 2, 3]))
        label = str(number % 2)
        sample = [(key + ending, f"{number} {ending}".encode()) for ending in endings]
        expected.append((sample[0][1], label))
        further += len(endings) - 1
        sample.insert(rng.randint(0, len(sample)), (key + ".cls", f"{label}\n".encode()))
        if rng.random() < 0.5:
            sample.insert(rng.randint(0, len(sample)), (key + ".json", json.dumps({"label": 7}).encode()))
        if rng.random() < 0.5:
            sample.insert(rng.randint(0, len(sample)), (key + ".npy", b"features"))
        files += sample
    path = folder / "shard.tar"
    with tarfile.open(path, "w", format=rng.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])) as tar:
        for name, content in files:
            _add(tar, name, content, rng)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        source = open_source(str(path), "train", labelled=True)
    told = [str(warning.message) for warning in said]
    assert (f" {further} images are not the first" in " ".join(told)) == (further > 0), (further, told)
    assert source.labels is not None
    labels = [source.classes[label] for label in source.labels]
    found = [(source.stored(i), label) for i, label in enumerate(labels)]
    assert found == expected, (found, expected)
