"""Write a model as an ONNX graph, operation by operation (`graph`).

There is no converter in between: the only one of Paddle's programs holds `onnx` to a version of 2024 and has no build
for Python 3.13 (docs/export.md).

Shapes: B images, H heads, Q tokens that ask, N tokens, d width of a head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from paddlemae.export.graph import build, weights_of
from paddlemae.export.interface import Interface, Model
from paddlemae.export.operations import Count

OPSET = 20  # the first with Gelu
IR_VERSION = 9  # opset 20's
ELEMENTS = {
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
    "float32": TensorProto.FLOAT,
    "bool": TensorProto.BOOL,
    "int64": TensorProto.INT64,
}
SHARPNESS = -0.75  # of cubic interpolation, Paddle's and PyTorch's
Name = str  # of a value in the graph


class OnnxGraph:
    """A `graph.Graph`: nodes and constants as they are added."""

    def __init__(self, weights: dict[str, np.ndarray]):
        self.weights = weights
        self.nodes: list[NodeProto] = []
        self.constants: dict[Name, TensorProto] = {}

    def input(self, name: str) -> Name:
        return name

    def constant(self, name: str, array: np.ndarray) -> Name:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def numbers(self, *values: Count) -> Name:
        if any(isinstance(value, str) for value in values):
            return self.add("Concat", *(self.numbers(one) if isinstance(one, int) else one for one in values), axis=0)
        return self.constant("_".join(["int", *map(str, values)]), np.array(values, np.int64))

    def number(self, value: float) -> Name:
        return self.constant(f"float_{value}", np.array(value, np.float32))

    def add(self, operation: str, *inputs: Name, name: str | None = None, **attributes: Any) -> Name:
        output = name or f"{operation.lower()}_{len(self.nodes)}"
        if operation == "Cast":
            attributes = {"to": ELEMENTS[attributes["to"]]}
        self.nodes.append(helper.make_node(operation, inputs, [output], name=output, **attributes))
        return output

    def scores(self, query_BHQd: Name, key_BNHd: Name) -> Name:
        return self.add("MatMul", query_BHQd, self.add("Transpose", key_BNHd, perm=[0, 2, 3, 1]))

    def resize(self, x_BChw: Name, height: Count, width: Count, mode: str) -> Name:
        sizes = self.numbers(self.add("Shape", x_BChw, start=0, end=2), height, width)
        how: dict[str, Any] = {"coordinate_transformation_mode": "half_pixel", "cubic_coeff_a": SHARPNESS}
        return self.add("Resize", x_BChw, "", "", sizes, mode=mode, **how)


def onnx_model(model: Model, interface: Interface, mean: list[float], std: list[float]) -> ModelProto:
    """Convert the part of a model that an interface describes; for mean and std see `graph.build`."""
    graph = OnnxGraph(weights_of(model))
    build(graph, model, interface, mean, std)
    inputs, outputs = (
        [helper.make_tensor_value_info(one.name, ELEMENTS[one.dtype], ["batch", *one.shape]) for one in several]
        for several in (interface.inputs, interface.outputs)
    )
    whole = helper.make_graph(graph.nodes, interface.what, inputs, outputs, list(graph.constants.values()))
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(whole, opset_imports=opset, ir_version=IR_VERSION, producer_name="PaddleMAE")
