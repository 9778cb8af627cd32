"""What the tests share: Paddle as a new process has it, tiny images and models, and commands as a user types them."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pytest
from PIL import Image

from paddlemae.cli import app
from paddlemae.engine.host import STRIDE_FLAG
from paddlemae.runs import figures
from paddlemae.system.signals import SIGNAL_NAMES
from paddlemae.tasks.training import memory_trial

pytest.register_assert_rewrite("tests.support", "tests.fuzz")
from tests.support.few_digits import use_few_digits  # noqa: E402
from tests.support.pictures import COLOURS, write_png  # noqa: E402

TIMEOUT_SECONDS = 120
# the files that take longest: workers that share the files begin with them, so that none is left alone at the end
LONG_FILES = ("export/test_export.py", "docs/test_commands.py", "cli/test_app.py", "journeys/test_resume.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of long files first; the order is otherwise as collected."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONG_FILES))


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def hangup_that_ends_a_process() -> None:
    """Let SIGHUP do what it does by default: under `nohup` processes that tests start would ignore it, too."""
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def disk_that_is_not_waited_for() -> Iterator[None]:
    """Leave out `fsync` in this process: a power cut can't be tested, and disks take up to 10 ms for each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def figures_that_are_not_rendered() -> Iterator[Callable[..., None]]:
    """Write an empty picture for each PNG figure: to render them takes most of the time of a training of few steps."""
    empty, render = io.BytesIO(), figures._save
    Image.new("RGB", (640, 480), "white").save(empty, "PNG")

    def save(figure, path: Path | BinaryIO, *, tight: bool = False) -> None:
        if not isinstance(path, Path) or path.suffix.lower() != ".png":
            return render(figure, path, tight=tight)
        path.parent.mkdir(parents=True, exist_ok=True)
        figures.replace_bytes(path, empty.getbuffer())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "_save", save)
        yield render


@pytest.fixture
def rendered_figures(figures_that_are_not_rendered, monkeypatch: pytest.MonkeyPatch) -> None:
    """Render figures, for tests that look at them."""
    monkeypatch.setattr(figures, "_save", figures_that_are_not_rendered)


@pytest.fixture(autouse=True)
def paddle_as_in_a_new_process() -> None:
    """Begin each test with Paddle as a user's program has it, whatever the tests before have set."""
    if (paddle := sys.modules.get("paddle")) is not None:
        paddle.set_device("cpu")
        paddle.set_flags({STRIDE_FLAG: True})
        paddle.base.core.set_num_threads(1)  # Paddle's import sets OMP_NUM_THREADS=1


@pytest.fixture
def bfloat16_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process compute in bfloat16, emulated where the processor has no such instructions."""
    from paddlemae.engine import device, precision

    monkeypatch.setenv(precision.EMULATE, "1")
    device.prepare("cpu", threads=1)


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """Restore what a test left: a command that was preempted ignores schedulers until its process ends."""
    names = [name for name in SIGNAL_NAMES if hasattr(signal, name)]
    before = {name: signal.getsignal(getattr(signal, name)) for name in names}
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


@pytest.fixture(scope="session")
def encoder() -> list[str]:
    """Overrides for an encoder of 4 patches that a step takes milliseconds for."""
    return ["size=mini", "image_size=8", "patch_size=4", "embed_dim=16", "depth=1", "num_heads=2"]


@pytest.fixture(scope="session")
def tiny(encoder: list[str]) -> list[str]:
    """Overrides for a pretraining of 3 steps."""
    decoder = ["decoder_embed_dim=16", "decoder_depth=1", "decoder_num_heads=2"]
    return [*encoder, *decoder, "steps=3", "batch_size=8", "log_every=1", "threads=1"]


@pytest.fixture
def paddlemae(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run `paddlemae ARGUMENTS` in this process."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command sets its own
        monkeypatch.setattr(sys, "argv", ["paddlemae", *map(str, arguments)])
        capsys.readouterr()
        try:
            app.main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        return Done(status, *capsys.readouterr())

    return run


@pytest.fixture
def start_command() -> Iterator[Callable[..., subprocess.Popen]]:
    """Start `python -m paddlemae ARGUMENTS` as a process of its own, which does not outlive the test."""
    processes: list[subprocess.Popen] = []

    def start(*arguments: object, **settings) -> subprocess.Popen:
        command = [sys.executable, "-m", "paddlemae", *map(str, arguments)]
        pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        # a session of its own, so that whatever it starts can be ended with it
        process = subprocess.Popen(command, **{**pipes, "start_new_session": True, **settings})
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def run_command(start_command) -> Callable[..., Done]:
    """Run `python -m paddlemae ARGUMENTS` to its end."""

    def run(*arguments: object, **settings) -> Done:
        process = start_command(*arguments, **settings)
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        return Done(process.returncode, out, err)

    return run


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 pictures in nested folders without meaning. Not to be changed."""
    root = tmp_path_factory.mktemp("photos")
    for number, colour in enumerate(list(COLOURS.values()) * 4):
        write_png(root / f"day{number % 2}" / ("" if number < 6 else "late") / f"{number}.png", colour, number)
    return root


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes that a colour tells apart: train/CLASS 8 each, test/CLASS 4 each. Not to be changed."""
    root = tmp_path_factory.mktemp("colours")
    for part, count in (("train", 8), ("test", 4)):
        for place, (name, colour) in enumerate(COLOURS.items()):
            for number in range(count):
                write_png(root / part / name / f"{number}.png", colour, 1000 * place + 100 * (part == "test") + number)
    return root


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory, photos: Path, tiny: list[str]) -> Path:
    """The run folder of a tiny pretraining (normalised pixels). Not to be changed."""
    from paddlemae.recipe import load_recipe
    from paddlemae.tasks.pretrain import pretrain
    from paddlemae.tasks.training.run_start import Start

    out = tmp_path_factory.mktemp("runs") / "pretrained"
    return pretrain(load_recipe("pretrain", None, [*tiny, f"data={photos}"]), Start(out, quiet=True))


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory, pretrained: Path, encoder: list[str], colours: Path) -> Path:
    """The run folder of a tiny classifier of three colours. Not to be changed, but for its results."""
    from paddlemae import finetune

    out = tmp_path_factory.mktemp("runs") / "tuned"
    settings: dict[str, Any] = dict(pair.split("=") for pair in encoder)
    finetune(init=pretrained, data=colours, out=out, steps=5, threads=1, batch_size=8, quiet=True, **settings)
    return out


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The system's browser, without a window."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no Chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dry runs that say what they measure without trying it: ViT-Base would take half a minute."""
    monkeypatch.setattr(memory_trial, "measure", lambda recipe: memory_trial.Footprint(2.0 * 2**30, 0.1 * 2**30))


@pytest.fixture(scope="module")
def few_digits() -> Iterator[None]:
    """A tenth of the embedded digits and scenes."""
    with pytest.MonkeyPatch.context() as patch:
        use_few_digits(patch)
        yield


@pytest.fixture
def recompute_changes_nothing() -> Callable[..., None]:
    """Check that a model's loss and gradients are the same with `recompute`, and that it runs these blocks twice."""

    def check(model: Any, blocks: Sequence[Any], loss: Callable[[], Any]) -> None:
        results: list[list[np.ndarray]] = []
        calls: list[int] = []
        for block in blocks:
            block.register_forward_pre_hook(lambda layer, inputs: calls.append(1))
        for model.recompute in (False, True):
            value = loss()
            value.backward()
            trained = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
            results.append([value.numpy(), *(parameter.grad.numpy().copy() for parameter in trained)])
            model.clear_gradients()
        assert len(calls) == 3 * len(blocks), "each block once, and again in the backward pass"
        for once, again in zip(*results):
            np.testing.assert_allclose(again, once, rtol=0, atol=1e-5 * np.abs(once).max())
        assert all(np.abs(one).max() > 0 for one in results[0])

    return check
