"""The program around the library: calls leave it as it was, and need no setting of Paddle's."""

from __future__ import annotations

import gc
import locale
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import paddle
import PIL.Image
import PIL.ImageFile
import pytest

import paddlemae
from paddlemae.engine import device, memory
from paddlemae.engine.host import STRIDE_FLAG, host_as_before
from paddlemae.engine.memory import ARENAS, HOST_MALLOC_SETTINGS, little_memory
from paddlemae.engine.threads import current_product_threads

ALONE = """
import sys
import numpy as np
import paddle
from paddlemae import MaskedAutoencoder, VisionTransformer, features, num_kept, random_mask, reconstruct

flag = paddle.get_flags("FLAGS_use_stride_kernel")
shape = dict(image_size=32, patch_size=4, embed_dim=64, depth=2, num_heads=2)
decoding = dict(decoder_embed_dim=32, decoder_depth=2, decoder_num_heads=2)
mask = random_mask(np.random.default_rng(0).random((2, 64)), num_kept(64, 0.75))
pictures = {
    "usual": paddle.rand([2, 3, 32, 32]),
    "channels last": paddle.rand([2, 32, 32, 3]).transpose([0, 3, 1, 2]),
    "every second": paddle.rand([2, 3, 64, 64])[:, :, ::2, ::2],
}
for images in pictures.values():
    for train in (True, False):
        for drop_path in (0.0, 0.2):
            for pool in ("mean", "cls"):
                model = VisionTransformer(**shape, drop_path=drop_path, num_classes=5, pool=pool)
                model.train() if train else model.eval()
                model(images).sum().backward()
                assert model.encoder.patch_embed.proj.weight.grad is not None
                assert features(model, images, pool).shape == [2, 64]
            for decoder in ("mae", "cross"):
                model = MaskedAutoencoder(**shape, **decoding, decoder=decoder, drop_path=drop_path)
                model.train() if train else model.eval()
                model(images, mask).backward()
                assert features(model, images).shape == [2, 64]
                assert reconstruct(model, images, mask).completed.shape == [2, 3, 32, 32]
assert paddle.get_flags("FLAGS_use_stride_kernel") == flag == {"FLAGS_use_stride_kernel": True}
"""


def test_the_model_classes_work_in_a_new_process() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("decoder", ["mae", "cross"])
def test_strided_kernels_change_no_bit(decoder: str) -> None:
    images = paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 3, 16, 16), np.float32))
    mask = paddlemae.random_mask(np.random.default_rng(0).random((2, 16)), 4)
    found: list[list[np.ndarray]] = []
    for strided in (True, False):
        paddle.set_flags({STRIDE_FLAG: strided})
        paddle.seed(0)
        shape = dict(image_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2)
        model = paddlemae.MaskedAutoencoder(
            **shape, decoder=decoder, decoder_embed_dim=8, decoder_depth=2, decoder_num_heads=2
        )
        loss = model(images, mask)
        loss.backward()
        gradients = [one.grad.numpy() for one in model.parameters() if one.grad is not None]
        found.append([loss.numpy(), paddlemae.features(model, images, "mean").numpy(), *gradients])
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other)


def host_state() -> dict[str, Any]:
    """All that a library might change without being asked."""
    flags = paddle.base.core.globals()
    loggers = [one for one in logging.Logger.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    return {
        "flags": {name: flags[name] for name in flags.keys()},  # noqa: SIM118  it is no dict
        "device": paddle.get_device(),
        "product threads": current_product_threads(),
        "random numbers": [str(one.__getstate__()) for one in paddle.get_rng_state()],
        "modes": (paddle.get_default_dtype(), paddle.is_grad_enabled(), paddle.in_dynamic_mode()),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "masked": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "warnings": (list(warnings.filters), warnings.showwarning, warnings.formatwarning),
        "logging": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "loggers": {one.name: one.level for one in loggers if one.level},
        "numpy": (np.geterr(), str(np.random.get_state()), np.get_printoptions()),
        "random": random.getstate(),
        "matplotlib": {name: matplotlib.rcParams._get(name) for name in matplotlib.rcParams},
        "pillow": (PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES),
        "hooks": (sys.excepthook, threading.excepthook, sys.unraisablehook, sys.displayhook, sys.stdout, sys.stderr),
        "gc": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count(), list(gc.callbacks)),
        "interpreter": (list(sys.path), list(sys.argv), sys.getrecursionlimit(), sys.getswitchinterval()),
        "system": (locale.setlocale(locale.LC_ALL), socket.getdefaulttimeout(), tempfile.tempdir),
    }


@pytest.fixture
def unchanged() -> Callable[..., Any]:
    """Call something, and check that nothing has changed for the program around."""
    np.random.seed(5)
    random.seed(5)
    paddle.seed(5)
    paddle.rand([3])

    def call(function: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
        before = host_state()
        try:
            return function(*arguments, **settings)
        finally:
            after = host_state()
            changed = {name for name in before if before[name] != after[name]}
            assert not changed, {name: (before[name], after[name]) for name in changed}
            # what the flag means: a program's own writes through views reach what they are views of
            whole = paddle.zeros([2, 2])
            whole[0].fill_(1.0)
            assert whole.sum().item() == 2

    return call


@pytest.mark.parametrize("threads", [1, 2, "auto"])
@pytest.mark.parametrize("of_program", [1, 2])
def test_models_leave_their_host_as_it_was(pretrained: Path, unchanged, threads, of_program: int, tmp_path) -> None:
    paddle.base.core.set_num_threads(of_program)
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    model = unchanged(paddlemae.load, pretrained, threads=threads)
    unchanged(model.encode, [picture, picture])
    shown = unchanged(model.reconstruct, [picture], seed=3)
    unchanged(shown.save, tmp_path / "shown.png")
    with pytest.raises(ValueError):
        unchanged(model.predict, [picture])
    with pytest.raises(FileNotFoundError):
        unchanged(paddlemae.load, tmp_path / "none")


def test_trainings_leave_their_host_as_it_was(tiny, encoder, colours: Path, unchanged, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        name: int(value) for name, value in (one.split("=") for one in tiny if "size=m" not in one)
    }
    settings["size"] = "mini"
    run = unchanged(paddlemae.pretrain, data=colours, out=tmp_path / "run", quiet=True, **settings)
    of_encoder = [one.split("=")[0] for one in encoder if "size=m" not in one]
    tuning = {name: settings[name] for name in (*of_encoder, "steps", "batch_size", "log_every", "threads")}
    unchanged(paddlemae.finetune, init=run, data=colours, out=tmp_path / "tuned", quiet=True, **tuning)
    unchanged(unchanged(paddlemae.load, tmp_path / "tuned").predict, [np.zeros((9, 9, 3), np.uint8)])
    with pytest.raises(ValueError):
        unchanged(paddlemae.pretrain, data=colours, out=tmp_path / "run", quiet=True, **settings)


@contextmanager
def float64_by_default() -> Iterator[None]:
    paddle.set_default_dtype("float64")
    try:
        yield
    finally:
        paddle.set_default_dtype("float32")


@contextmanager
def static_mode() -> Iterator[None]:
    paddle.enable_static()
    try:
        yield
    finally:
        paddle.disable_static()


@pytest.mark.parametrize("mode", [float64_by_default, static_mode, paddle.no_grad])
def test_calls_do_the_same_whatever_mode_paddle_is_in(
    mode: Callable[[], Any], pretrained: Path, colours: Path, encoder, tmp_path: Path
) -> None:
    """Without gradients a training trained nothing, and said nothing."""
    pictures = np.random.default_rng(0).integers(0, 256, (2, 9, 8, 3), np.uint8)
    settings: dict[str, Any] = {name: int(value) for name, value in (one.split("=") for one in encoder[1:])}
    settings |= dict(
        data=colours, quiet=True, size="mini", init=pretrained, steps=3, batch_size=8, threads=1, base_lr=1
    )

    def results(out: Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        model = paddlemae.load(pretrained, threads=1)
        tuned = paddlemae.finetune(out=out, **settings)
        return model.encode(pictures), model.reconstruct(pictures).completed, tuned

    usual = results(tmp_path / "usual")
    with mode():
        before = (paddle.get_default_dtype(), paddle.in_dynamic_mode(), paddle.is_grad_enabled())
        found = results(tmp_path / "found")
        assert (paddle.get_default_dtype(), paddle.in_dynamic_mode(), paddle.is_grad_enabled()) == before
    for one, other in zip(usual[:2], found[:2]):
        assert np.array_equal(one, other)
    assert usual[2] == found[2]


def test_calls_that_overlap_put_back_what_the_first_one_found() -> None:
    began, may_end = threading.Event(), threading.Event()

    def other() -> None:
        with host_as_before():
            device.prepare("cpu", threads=1)
            began.set()
            may_end.wait(60)

    thread = threading.Thread(target=other)
    with host_as_before():
        device.prepare("cpu", threads=1)
        thread.start()
        assert began.wait(60)
    assert paddle.get_flags(STRIDE_FLAG)[STRIDE_FLAG] is False, "the other call needs it still"
    may_end.set()
    thread.join(60)
    assert paddle.get_flags(STRIDE_FLAG)[STRIDE_FLAG] is True


def test_the_allocators_arenas_are_left_alone_in_a_library_call(monkeypatch) -> None:
    made: list[dict[int, int]] = []
    monkeypatch.setattr(memory, "_set_malloc", made.append)
    with host_as_before():
        device.prepare("cpu", threads=1)
        with little_memory(True):
            pass
    assert made[-1] == HOST_MALLOC_SETTINGS
    assert not any(ARENAS in settings for settings in made)
    device.prepare("cpu", threads=1)
    assert ARENAS in made[-1], "a command owns its process"


def test_an_import_leaves_the_root_logger_alone() -> None:
    code = "import logging, paddlemae; paddlemae.load; assert not logging.root.handlers and logging.root.level == 30"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
