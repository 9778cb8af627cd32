"""Private names of Paddle and Python: each does what this package expects of it, and no other module uses any."""

import ast
import multiprocessing.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle

import paddlemae
from paddlemae.engine import private
from paddlemae.engine.threads import current_product_threads, product_threads
from paddlemae.system.private import interpreter_flag

ROOT = Path(paddlemae.__file__).parent
HOMES = ("engine/private.py", "engine/safe_import.py", "system/private.py")
PUBLIC = {"_exit", "_replace", "_repr_png_"}  # that Python or IPython documents
INTERNALS = ("paddle.base", "paddle.framework", "paddle._", "paddle.pir", "paddle.utils")


def private_names(text: str) -> set[str]:
    """Return the private attributes, the paths into Paddle's internals and Paddle's imports in a module's text."""
    tree = ast.parse(text)
    nodes = list(ast.walk(tree))
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    ours = {node.attr for node in attributes if isinstance(node.ctx, ast.Store)} | PUBLIC
    ours |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    ours |= {ast.unparse(node.target) for node in nodes if isinstance(node, ast.AnnAssign)}
    names = {f"import {node.module}" for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {f"import {alias.name}" for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names = {name for name in names if name.removeprefix("import ").split(".")[0] == "paddle"}
    for node in attributes:
        path, name = ast.unparse(node), node.attr
        is_hidden = name.startswith("_") and not name.endswith("__") and name not in ours
        if is_hidden or name == "get_tensor" or path.startswith(INTERNALS):
            names.add(path)
    return names


def test_private_names_are_in_one_module() -> None:
    text = "from paddle.base import core\nx = y._slice(1)\nz = paddle.base.core\nself._mine = self._mine\n"
    assert private_names(text) == {"import paddle.base", "y._slice", "paddle.base", "paddle.base.core"}
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in ROOT.rglob("*.py")}
    assert not {name: found for name, text in texts.items() if name not in HOMES and (found := private_names(text))}


def test_threads_of_products_are_set() -> None:
    before = current_product_threads()
    with product_threads(before + 1):
        assert current_product_threads() == before + 1
    assert current_product_threads() == before


def test_a_tensor_is_filled_with_a_copy_of_an_array() -> None:
    tensor, array = paddle.empty([0], "float32"), np.arange(6, dtype=np.float32).reshape(2, 3)
    private.fill_tensor(tensor, array.T)
    array[:] = 0
    assert tensor.numpy().tolist() == [[0, 3], [1, 4], [2, 5]]


def test_memory_on_cpu_has_a_shape_and_a_type() -> None:
    for dtype in (paddle.float32, paddle.bfloat16):
        found = private.empty_on_cpu([2, 3], dtype)
        assert (found.shape, found.dtype, found.place.is_cpu_place()) == ([2, 3], dtype, True)


def test_rows_are_the_same_memory() -> None:
    whole = paddle.zeros([4, 3])
    view = private.rows_view(whole, 1, 3)
    assert view.data_ptr() == whole.data_ptr() + 3 * 4 and view.shape == [2, 3]


def test_a_parameter_begins_without_memory_and_shares_another_s() -> None:
    parameter, other = private.parameter_without_memory([2, 3], paddle.float32), paddle.ones([2, 3])
    assert isinstance(parameter, paddle.Tensor) and not parameter.stop_gradient
    assert not private.has_memory(parameter) and private.has_memory(other)
    private.share_memory(other, parameter)
    assert private.has_memory(parameter) and parameter.data_ptr() == other.data_ptr()
    assert parameter.numpy().tolist() == other.numpy().tolist()


def test_a_gradient_is_announced_once_and_whole() -> None:
    weight = paddle.create_parameter([2], "float32", default_initializer=paddle.nn.initializer.Constant(3.0))
    seen: list[list[float]] = []
    private.call_after_gradient(weight, lambda *_: seen.append(weight.grad.numpy().tolist()))
    (weight * weight + weight).sum().backward()
    assert seen == [[7.0, 7.0]]


def test_a_layer_norm_gives_mean_and_variance() -> None:
    rows = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    normal, mean, variance = private.layer_norm(paddle.to_tensor(rows), None, None, 0.0)
    np.testing.assert_allclose(mean.numpy(), rows.mean(1), atol=1e-6)
    np.testing.assert_allclose(variance.numpy(), rows.var(1), atol=1e-6)
    np.testing.assert_allclose(normal.numpy() * rows.std(1)[:, None], rows - rows.mean(1)[:, None], atol=1e-5)
    assert private.epsilon_of(paddle.nn.LayerNorm(4, epsilon=0.25)) == 0.25


def test_hooks_of_a_layer_are_found() -> None:
    for register in ("register_forward_pre_hook", "register_forward_post_hook"):
        layer = paddle.nn.Linear(2, 2)
        assert not private.has_hooks(layer)
        handle = getattr(layer, register)(lambda *_: None)
        assert private.has_hooks(layer)
        handle.remove()
        assert not private.has_hooks(layer)


def test_a_linear_layer_is_one_operation_of_a_program() -> None:
    paddle.enable_static()
    try:
        with paddle.static.program_guard(program := paddle.static.Program()):
            x = paddle.static.data("x", [2, 3], "float32")
            y = private.linear_in_program(x, paddle.full([3, 4], 2.0), paddle.full([4], 1.0))
            made = paddle.static.Executor().run(program, {"x": np.ones([2, 3], np.float32)}, [y])
        assert "fc" in str(program)
    finally:
        paddle.disable_static()
    assert made[0].tolist() == [[7.0] * 4] * 2


def test_the_processes_of_a_launch_share_a_store() -> None:
    code = (
        "from paddlemae.engine.private import rendezvous_store as s; a = s(); a.set('key', 'text'); print(a.get('key'))"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    settings = {"PADDLE_TRAINER_ID": "0", "PADDLE_TRAINERS_NUM": "1", "PADDLE_MASTER": f"127.0.0.1:{port}"}
    settings |= {"PADDLE_TRAINER_ENDPOINTS": f"127.0.0.1:{port}", "PADDLE_CURRENT_ENDPOINT": f"127.0.0.1:{port}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | settings, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "b'text'\n", done.stderr


def test_processes_start_with_a_flag_of_the_interpreter() -> None:
    with interpreter_flag("-P"):
        assert multiprocessing.util._args_from_interpreter_flags()[0] == "-P"
    assert "-P" not in multiprocessing.util._args_from_interpreter_flags()
