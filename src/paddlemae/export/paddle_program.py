"""Write a model as a program of Paddle's inference engine, operation by operation (`graph`).

Shapes: B images, H heads, Q tokens that ask, N tokens, R rows of a batch, d width of a head.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from paddlemae.engine import private
from paddlemae.engine.safe_import import F, paddle
from paddlemae.export.graph import build, weights_of
from paddlemae.export.interface import Interface, Model
from paddlemae.export.operations import Count

STEM = "inference"  # of the two files, as Paddle's own tools name them
FILES = (f"{STEM}.json", f"{STEM}.pdiparams")


def _only(numbers: Any) -> Any:
    """Return the number in a list of one, where an operation takes a number instead of a shape."""
    return numbers[0] if isinstance(numbers, list) else numbers


def _is_whole(x: Any) -> bool:
    return x.dtype in (paddle.int32, paddle.int64)


# ONNX's operations in the forms that `graph` uses. Shapes and axes are lists
OPERATIONS: dict[str, Callable[..., Any]] = {
    "Add": lambda x, y: x + _only(y),
    "And": paddle.logical_and,
    "Cast": lambda x, to: x.astype(to),
    "Concat": lambda *several, axis: paddle.concat(several, axis),
    "Conv": lambda x, weight, bias, pads: F.conv2d(x, weight, bias, padding=pads[0]),
    "ConvTranspose": lambda x, weight, bias, strides: F.conv2d_transpose(x, weight, bias, stride=strides),
    "Div": lambda x, y: x // _only(y) if _is_whole(x) else x / y,
    "Expand": paddle.expand,
    "Gather": paddle.gather,
    "Gelu": F.gelu,
    # as Paddle's own passes for GPU and oneDNN make it; a sum of its own would take 3% as long as the product
    "Gemm": private.linear_in_program,
    "GreaterOrEqual": paddle.greater_equal,
    "Identity": paddle.assign,
    "LayerNormalization": lambda x, weight, bias, axis, epsilon: F.layer_norm(x, x.shape[axis:], weight, bias, epsilon),
    "Less": paddle.less_than,
    "MatMul": paddle.matmul,
    "MaxPool": lambda x, kernel_shape, strides: F.max_pool2d(x, kernel_shape, strides),
    "Mod": lambda x, y: x % _only(y),
    "Mul": lambda x, y: x * _only(y),
    "NonZero": paddle.nonzero,
    "Not": paddle.logical_not,
    "ReduceMax": lambda x, axes, keepdims: x.max(axes, bool(keepdims)),
    "ReduceMean": lambda x, axes, keepdims=1: x.mean(axes, bool(keepdims)),
    "ReduceMin": lambda x, axes, keepdims: x.min(axes, bool(keepdims)),
    "ReduceSum": lambda x, axes, keepdims: x.sum(axes, keepdim=bool(keepdims)),
    "ReduceSumSquare": lambda x, axes: x.square().sum(axes, keepdim=True),
    "Relu": F.relu,
    "Reshape": paddle.reshape,
    "ScatterND": paddle.scatter,
    "Shape": lambda x, start=0, end=None: paddle.shape(x)[start:end].astype("int64"),
    "Slice": lambda x, starts, ends, axes: paddle.slice(x, axes, starts, ends),
    "Softmax": F.softmax,
    "Sqrt": paddle.sqrt,
    "Sub": paddle.subtract,
    "Transpose": paddle.transpose,
    "Unsqueeze": paddle.unsqueeze,
    "Where": paddle.where,
}


def _dimensions(shape: tuple[int | str, ...]) -> list[int]:
    """Return a shape with its batch; sizes that are known when the program runs are named, and -1 here."""
    return [-1, *(-1 if isinstance(size, str) else size for size in shape)]


class ProgramGraph:
    """A `graph.Graph`: adds to the program that Paddle builds just now."""

    def __init__(self, weights: dict[str, np.ndarray], interface: Interface):
        self.weights = weights
        self.inputs = {
            one.name: paddle.static.data(one.name, _dimensions(one.shape), one.dtype) for one in interface.inputs
        }
        self.outputs: dict[str, Any] = {}
        self.constants: dict[str, Any] = {}

    def input(self, name: str) -> Any:
        return self.inputs[name]

    def constant(self, name: str, array: np.ndarray) -> Any:
        if name not in self.constants:
            self.constants[name] = paddle.static.create_parameter(array.shape, "float32", name)
            private.fill_tensor(paddle.static.global_scope().var(name), array)
        return self.constants[name]

    def numbers(self, *values: Count) -> list[Count]:
        return list(values)

    def number(self, value: float) -> float:
        return value

    def add(self, operation: str, *inputs: Any, name: str | None = None, **attributes: Any) -> Any:
        output = OPERATIONS[operation](*inputs, **attributes)
        if name:
            self.outputs[name] = output
        return output

    def resize(self, x_BChw: Any, height: Count, width: Count, mode: str) -> Any:
        name: Any = {"linear": "bilinear", "cubic": "bicubic"}[mode]
        return F.interpolate(x_BChw, size=[height, width], mode=name, align_corners=False)

    def scores(self, query_BHQd: Any, key_BNHd: Any) -> Any:
        return paddle.matmul(query_BHQd, paddle.transpose(key_BNHd, [0, 2, 1, 3]), transpose_y=True)


def save_program(model: Model, interface: Interface, mean: list[float], std: list[float], folder: Path) -> None:
    """Write `FILES` into a folder: the part of a model that an interface describes; see `graph.build`."""
    weights = weights_of(model)
    with _building():
        graph = ProgramGraph(weights, interface)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `paddle.where` asks a program's values where they are
            build(graph, model, interface, mean, std)
        outputs = [graph.outputs[one.name] for one in interface.outputs]
        inputs, executor = list(graph.inputs.values()), paddle.static.Executor(paddle.CPUPlace())
        paddle.static.save_inference_model(str(folder / STEM), inputs, outputs, executor)


@contextmanager
def _building() -> Iterator[None]:
    """Let Paddle's functions add to a new program instead of computing."""
    paddle.enable_static()
    try:
        static = paddle.static
        with static.program_guard(static.Program(), static.Program()), static.scope_guard(static.Scope()):
            yield
    finally:
        paddle.disable_static()


def load_program(folder: Path, threads: int, *, onednn: bool = False) -> Callable[..., list[np.ndarray]]:
    """Return a function that runs a program on the CPU: inputs in order to outputs in order.

    Args:
        onednn: Paddle's default, which was no faster here and not always right (docs/export.md).
    """
    config = paddle.inference.Config(*(str(folder / name) for name in FILES))
    config.disable_glog_info()
    (config.enable_mkldnn if onednn else config.disable_mkldnn)()
    config.set_cpu_math_library_num_threads(threads)
    predictor = paddle.inference.create_predictor(config)  # has read the files then
    inputs = [predictor.get_input_handle(name) for name in predictor.get_input_names()]

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        for handle, array in zip(inputs, arrays):
            handle.copy_from_cpu(np.ascontiguousarray(array))
        predictor.run()
        return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]

    return run
