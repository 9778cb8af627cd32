"""Names on their way out: escaped where they would steer a terminal, and no stream, picture or file refuses them."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.runs import fonts
from paddlemae.runs.confusion import Confusion
from paddlemae.runs.contact_sheet import Block, draw_sheet
from paddlemae.runs.figures import draw_confusion
from paddlemae.runs.progress import progress
from paddlemae.system.display_names import display_name, escape_lines, escape_output, escape_surrogates, say
from paddlemae.tasks.models.feature_file import read_file
from tests.fuzz.names import check, check_pictures

pytestmark = pytest.mark.usefixtures("rendered_figures")

EVIL = "\x1b]0;pwn\x07\u202e"


def test_what_steers_a_terminal_or_is_no_text_is_escaped() -> None:
    for name, line in [
        ("caf\udce9", r"caf\xe9"),
        ("\udc80\udcff\udd00", r"\x80\xff\udd00"),
        ("\x1b[2J\x07\x9b", r"\x1b[2J\x07\u009b"),
        ("a\nb\t\r", r"a\nb\t\r"),
        ("\u202egnp\u2066\u200b", r"\u202egnp\u2066\u200b"),
        ("\ud800\U000e0041", r"\ud800\U000e0041"),
        ("中文 café 😀 US$_{$", "中文 café 😀 US$_{$"),
        (r"C:\x1b", r"C:\x1b"),
    ]:
        assert display_name(name) == line and display_name(line) == line


def test_long_names_lose_their_middle() -> None:
    assert display_name("x" * 4096, 9) == "xxx...xxx" and display_name("y" * 80) == "y" * 80
    assert display_name("文" * 4096, 10) == "文文...文" and len(display_name("文" * 4096)) == 3 + 38
    assert display_name("a" + "\x1b" * 10**7, 9) == r"a\x...x1b", "without looking at all of it"


def test_files_keep_all_but_bytes_that_are_no_text() -> None:
    assert escape_surrogates(f"caf\udce9{EVIL}文") == rf"caf\xe9{EVIL}文"


@pytest.mark.parametrize("start", range(0, 400, 100))
def test_any_name_is_shown_as_promised(start: int, tmp_path: Path) -> None:
    for seed in range(start, start + 100):
        check(seed, tmp_path)


@pytest.mark.parametrize("seed", range(2))
def test_any_name_can_be_drawn_and_stored(seed: int, tmp_path: Path) -> None:
    check_pictures(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(10, 90, 20))
def test_many_names_can_be_drawn_and_stored(start: int, tmp_path: Path) -> None:
    for seed in range(start, start + 20):
        check_pictures(seed, tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_strict_stream_takes_any_name(encoding: str, monkeypatch) -> None:
    written = {}
    for name in ("stdout", "stderr"):
        written[name] = io.BytesIO()
        monkeypatch.setattr(sys, name, io.TextIOWrapper(written[name], encoding, errors="strict"))
    with escape_output():
        print(f"é文{EVIL}\udce9\n\tnext")
        print("\udce9", file=sys.stderr)
        say(f"one\nline{EVIL}", error=True)
    out, err = (written[name].getvalue() if not getattr(sys, name).flush() else b"" for name in ("stdout", "stderr"))
    assert out == escape_lines(f"é文{EVIL}\udce9\n\tnext\n", encoding).encode(encoding)
    assert err == rb"\xe9" + b"\n" + rb"one\nline\x1b]0;pwn\x07\u202e" + b"\n"
    assert b"\x1b" not in out + err and b"\x07" not in out + err


def test_a_progress_bar_escapes_labels_and_printed_lines(monkeypatch) -> None:
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with escape_output(), progress(f"[bold]{EVIL}\udce9", 3) as show:
        show(1, f"[red]{EVIL}")
        print(f"note {EVIL}", file=sys.stderr)
        show(3)
    seen = screen.getvalue()
    assert "\x1b[" in seen, "a bar moves the cursor"
    assert "\x1b]0" not in seen and "\u202e" not in seen and "\udce9" not in seen
    assert r"[bold]\x1b]0;pwn" in seen and r"note \x1b]0;pwn\x07\u202e" in seen


def test_what_reads_as_mathematics_is_drawn_as_written(tmp_path: Path) -> None:
    """As mathematics it ends in an error, after all training."""
    nothing = Confusion.of(np.arange(0), np.arange(0), 2)
    draw_confusion(tmp_path / "a.png", nothing, ["US$_{$ bill", "b"], "$_{$")
    with Image.open(tmp_path / "a.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 1


@pytest.fixture
def chinese_font(tmp_path: Path, monkeypatch) -> Path:
    """A font that has one Chinese character, a black square, as matplotlib's list would name it."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    for place, corner in enumerate([(0, 0), (0, 900), (900, 900), (900, 0)]):
        pen.lineTo(corner) if place else pen.moveTo(corner)
    pen.closePath()
    build = FontBuilder(1000, isTTF=True)
    build.setupGlyphOrder([".notdef", "square"])
    build.setupCharacterMap({ord("中"): "square"})
    build.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    build.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    build.setupHorizontalHeader(ascent=900, descent=-100)
    build.setupNameTable({"familyName": "Test CJK", "styleName": "Regular"})
    build.setupOS2()
    build.setupPost()
    build.save(tmp_path / "font.ttf")
    manager = fonts.fonts().fontManager
    before = list(manager.ttflist)
    manager.addfont(tmp_path / "font.ttf")
    fonts._lettering.cache_clear()
    yield tmp_path / "font.ttf"
    manager.ttflist[:] = before
    fonts._lettering.cache_clear()


def black(path: Path) -> int:
    with Image.open(path) as image:
        return int((np.asarray(image.convert("L")) < 128).sum())


def test_letters_are_drawn_by_a_font_that_has_them(chinese_font: Path, tmp_path: Path) -> None:
    letters = fonts.choose_fonts(["中文", "é"])
    assert letters.families == [fonts.DEFAULT_FONT, "Test CJK"] and letters("中文é", None) == r"中\u6587é"
    nothing = Confusion.of(np.arange(0), np.arange(0), 2)
    draw_confusion(tmp_path / "a.png", nothing, ["中" * 4, "b"], "")
    draw_confusion(tmp_path / "b.png", nothing, ["....", "b"], "")
    assert black(tmp_path / "a.png") > black(tmp_path / "b.png") + 4 * 60, "squares of seven points"
    draw_sheet(tmp_path / "c.png", [("x", [Block("中" * 4)])])
    draw_sheet(tmp_path / "d.png", [("x", [Block("....")])])
    assert black(tmp_path / "c.png") > black(tmp_path / "d.png") + 4 * 60


def test_letters_without_a_font_are_escaped(tmp_path: Path) -> None:
    letters = fonts.choose_fonts(["é \U0001fae8\U00020000"])
    assert letters.lacking <= {"\U0001fae8", "\U00020000"}
    assert letters("é \U00020000", None) in (r"é \U00020000", "é \U00020000")
    assert "\x1b" not in letters(EVIL, None)


def test_matplotlib_says_nothing_of_its_folders(tmp_path: Path) -> None:
    """Its warnings of a home that can't be written look like faults of ours."""
    (tmp_path / "file").touch()
    code = """
import logging
logging.basicConfig(level=logging.INFO)
from paddlemae.runs.figures import draw_curves
draw_curves(__import__("pathlib").Path("a.png"), [{"step": 1, "loss": 1.0}], ["loss"], "")
"""
    at = {"MPLCONFIGDIR": str(tmp_path / "file" / "no"), "PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=at, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and (tmp_path / "a.png").is_file(), done.stderr
    assert done.stderr == ""
    assert logging.getLogger("matplotlib").level == logging.NOTSET, "the host's own settings stay"


CLASSES = ["US$_{$ bill", "caf\udce9", f"x{EVIL}", "中文\n", "[bold]<b>"]


@pytest.fixture(scope="module")
def strangely_named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of classes of any name, with one file that is no image."""
    root = tmp_path_factory.mktemp("names") / f"ph\udce9{EVIL}"
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for number in range(2):
                picture = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
                with (root / part / name / f"{EVIL}{number}.png").open("wb") as file:
                    picture.save(file, "PNG")
    return root


def harmless(done) -> str:
    """What a command said, once it is known to have ended well and to steer no terminal."""
    said = done.out + done.err
    assert done.status == 0, said
    assert not set(said) & set("\x1b\x07\u202e\udce9"), said
    return said


def test_commands_take_any_names_and_print_none_of_them_raw(
    paddlemae, tiny, encoder, strangely_named: Path, tmp_path: Path
) -> None:
    """Standard output is strict here, and names of bytes that are no text can't be encoded."""
    data, run, tuned = strangely_named, tmp_path / f"r\udce9{EVIL}", tmp_path / f"t{EVIL}"
    escaped = r"ph\xe9\x1b]0;pwn\x07\u202e"
    assert escaped in harmless(paddlemae("pretrain", *tiny, "--data", data, "--out", run))
    assert escaped in harmless(
        paddlemae("finetune", *encoder, "steps=2", "batch_size=4", "--init", run, "--data", data, "--out", tuned)
    )
    harmless(paddlemae("probe", "steps=2", "batch_size=4", "--init", run, "--data", data, "--out", tmp_path / "probe"))
    assert (tuned / "figures" / "confusion.png").is_file() and "finished" in (tuned / "environment.json").read_text()
    harmless(paddlemae("evaluate", tuned, "--data", data))
    harmless(paddlemae("knn", run, "--data", data, "--k", "1"))
    harmless(paddlemae("report", run, tuned, "--out", tmp_path / f"rep{EVIL}"))
    harmless(paddlemae("data", "stats", data))
    page = (tmp_path / f"rep{EVIL}" / "report.html").read_text()
    assert not set(page) & set("\x1b\x07\u202e") and r"caf\xe9" in page and "US$_{$ bill" in page
    with Image.open(tuned / "figures" / "confusion.png") as picture:
        picture.load()
    query = data / "train" / CLASSES[2]
    for ending in (".npz", ".parquet") if importlib.util.find_spec("pyarrow") else (".npz",):
        features = tmp_path / f"f{EVIL}{ending}"
        assert "wrote" in harmless(paddlemae("embed", run, "--data", data, "--split", "train", "--out", features))
        found = read_file(features)
        assert set(found.labels or ()) == {escape_surrogates(name) for name in CLASSES}
        said = harmless(paddlemae("search", features, query, "--run", run, "--k", "10", "--out", tmp_path / "s.png"))
        assert r"caf\xe9" in said and len(said.splitlines()) == 2 * 11 + 1, "a name is one line"


@pytest.mark.parametrize(
    "make",
    [
        lambda folder, run: ["pretrain", _file(folder / f"{EVIL}.yaml", f'{{"task": "{_JSON}"}}')],
        lambda folder, run: ["pretrain", "--data", _file(folder / f"{EVIL}.txt", "no.png\n"), "--out", folder / "run"],
        lambda folder, run: ["pretrain", "--data", _file(folder / "a.csv", f"x{EVIL},y\n1,2\n"), "--out", folder / "r"],
        lambda folder, run: ["embed", _model(run, folder, format=EVIL), "--data", "digits", "--out", folder / "f.npz"],
        lambda folder, run: ["embed", _model(run, folder, kind="probe", provenance={"init": EVIL}), "--data", "digits"],
        lambda folder, run: ["weights", "inspect", _weights(folder / "w.safetensors")],
        lambda folder, run: ["report", folder / f"no{EVIL}\udce9"],
        lambda folder, run: ["pretrain", "digits", f"{EVIL}=1"],
        lambda folder, run: ["pretrain", f"--{EVIL}"],
        lambda folder, run: [f"{EVIL}\udce9"],
    ],
)
def test_refusals_print_no_name_raw(make, paddlemae, pretrained: Path, tmp_path: Path) -> None:
    done = paddlemae(*make(tmp_path, pretrained))
    said = done.out + done.err
    assert done.status == 2 and said and not set(said) & set("\x1b\x07\u202e\udce9"), said


def test_an_inspected_model_prints_nothing_raw(paddlemae, pretrained: Path, tmp_path: Path) -> None:
    done = paddlemae("weights", "inspect", _model(pretrained, tmp_path, kind=EVIL, architecture={EVIL: 1}))
    assert r"\x1b]0;pwn" in done.out + done.err and not set(done.out + done.err) & set("\x1b\x07\u202e")


_JSON = r"\u001b]0;pwn\u0007\u202e"


def _file(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _model(run: Path, folder: Path, **changes: object) -> Path:
    """A model of ours whose description says something else."""
    checkpoint = next((run / "checkpoints").glob("step_*"))
    shutil.copy(checkpoint / "model.safetensors", folder)
    description = json.loads((checkpoint / "model.json").read_text())
    changes = {
        key: {**description[key], **value} if isinstance(value, dict) else value for key, value in changes.items()
    }
    return _file(folder / "model.json", json.dumps({**description, **changes})).parent


def _weights(path: Path) -> Path:
    from safetensors.numpy import save_file

    save_file({f"k{EVIL}": np.zeros((2, 2), np.float32), f"blocks.0{EVIL}.norm": np.zeros(3, np.float32)}, path)
    return path
