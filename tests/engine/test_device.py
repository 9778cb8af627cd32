"""Paddle made ready: found, on the device asked for, with the settings that speed a CPU up."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddlemae.engine import device, safe_import
from paddlemae.engine.cpus import usable_cpus
from paddlemae.engine.device import used_memory
from paddlemae.engine.private import rows_view
from paddlemae.engine.safe_import import MKL_TYPE
from paddlemae.engine.tensors import tensor_of


def test_auto_is_the_cpu_where_there_is_nothing_else(monkeypatch) -> None:
    assert device.prepare("auto", threads=1) == device.prepare("cpu", threads=1) == "cpu"


@pytest.mark.parametrize("name", ["gpu", "gpu:3", "tpu", ""])
def test_a_device_that_is_not_there_is_one_line_with_those_that_are(name: str) -> None:
    if paddle.is_compiled_with_cuda():
        pytest.skip("this Paddle build has GPUs")
    with pytest.raises(
        ValueError, match=f"device {name!r} is not available in this Paddle build; it has: .*cpu"
    ) as fault:
        device.prepare(name)
    assert "\n" not in str(fault.value)
    assert paddle.get_device() == "cpu"


def test_strided_kernels_are_off_on_a_cpu() -> None:
    paddle.set_flags({"FLAGS_use_stride_kernel": True})
    device.prepare("cpu", threads=1)
    assert paddle.get_flags("FLAGS_use_stride_kernel") == {"FLAGS_use_stride_kernel": False}


@pytest.mark.parametrize(("threads", "wanted"), [(1, 1), (2, 2), ("auto", usable_cpus())])
def test_threads_are_those_asked_for(monkeypatch, threads, wanted: int) -> None:
    seen: list[int] = []
    monkeypatch.setattr(paddle.base.core, "set_num_threads", seen.append)
    device.prepare("cpu", threads=threads)
    assert seen == [wanted]


def test_cores_are_those_that_the_process_may_use(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert usable_cpus() == 3


def test_without_paddle_the_error_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'paddlemae\[cpu\]'.*GPU"):
        safe_import.import_paddle()


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "wanted"),
    [
        ("x86_64", "vendor_id : AuthenticAMD\nflags : sse avx2 fma\n", "5"),
        ("x86_64", "vendor_id : AuthenticAMD\nflags : avx2 avx512f avx512dq avx512bw avx512vl fma\n", "7"),
        ("x86_64", "vendor_id : AuthenticAMD\nflags : sse avx fma\n", None),
        ("x86_64", "vendor_id : GenuineIntel\nflags : sse avx2 fma\n", None),
        ("aarch64", "vendor_id : AuthenticAMD\nflags : sse avx2 fma\n", None),
    ],
)
def test_mkl_is_unlocked_on_amd_only(monkeypatch, machine: str, cpuinfo: str, wanted: str | None) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path: cpuinfo)
    assert safe_import._mkl_variables().get(MKL_TYPE) == wanted


@pytest.mark.parametrize("of_users", [{}, {"MKL_DEBUG_CPU_TYPE": "4", "GLOG_minloglevel": "1"}])
def test_variables_read_once_are_not_left_to_child_processes(monkeypatch, of_users: dict[str, str]) -> None:
    products: list[str] = []

    class Mkl:
        def cblas_sgemm(self, *numbers: object) -> None:
            products.append(os.environ["MKL_DEBUG_CPU_TYPE"])

    for name in ("MKL_DEBUG_CPU_TYPE", "GLOG_minloglevel"):
        monkeypatch.delenv(name, raising=False)
    for name, value in of_users.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(safe_import, "_mkl_variables", lambda: {"MKL_DEBUG_CPU_TYPE": "5"})
    monkeypatch.setattr(safe_import, "matrix_library", Mkl)
    before = dict(os.environ)
    safe_import.import_paddle()
    assert dict(os.environ) == before
    assert products == ([] if of_users else ["5"]), "MKL reads the variable at its first product"


@pytest.mark.parametrize("dtype", ["uint8", "bool", "int64", "float32", "float64"])
def test_a_tensor_holds_what_its_array_held(dtype: str) -> None:
    array = (np.arange(6).reshape(2, 3) % 2).astype(dtype).T  # not contiguous
    made, usual = tensor_of(array), paddle.to_tensor(array)
    array[:] = 0
    assert (made.dtype, made.shape, made.stop_gradient) == (usual.dtype, usual.shape, usual.stop_gradient)
    assert np.array_equal(made.numpy(), usual.numpy())


def test_a_view_of_rows_is_the_same_memory() -> None:
    whole = paddle.arange(12, dtype="float32").reshape([4, 3])
    view = rows_view(whole, 1, 3)
    view.scale_(-1.0)
    assert np.array_equal(whole.numpy(), [[0, 1, 2], [-3, -4, -5], [-6, -7, -8], [9, 10, 11]])


def test_what_is_done_every_step_keeps_no_memory() -> None:
    array, rows = np.zeros((4, 8), np.float32), paddle.zeros([4, 8])

    def step() -> None:
        rows_view(rows, 0, 2)
        tensor_of(array)

    for _ in range(1000):
        step()
    before = used_memory()
    for _ in range(10_000):
        step()
    after = used_memory()
    if before is None or after is None:
        pytest.skip("this system does not tell what memory is in use")
    assert after - before < 300_000  # Paddle's own calls keep 1,760,000 bytes


def test_sigterm_before_training_ends_it_without_paddle_s_frames() -> None:
    code = "import os, signal; import paddlemae.engine.safe_import; "
    code += "os.kill(os.getpid(), signal.SIGTERM)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGTERM, "", "")


@pytest.mark.parametrize(("named", "speaks"), [({}, False), ({"GLOG_minloglevel": "0"}, True)])
def test_paddle_s_log_is_silent_unless_the_user_asks_for_it(named: dict[str, str], speaks: bool) -> None:
    """A sum in a static program is an occasion at which it would say something."""
    code = (
        "from paddlemae.engine.safe_import import paddle; paddle.enable_static();"
        "x = paddle.static.data('x', [1]); x + x"
    )
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("GLOG_")}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=quiet | named, check=True)
    assert bool(said.stderr) == speaks
