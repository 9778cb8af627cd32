"""Operations of oneDNN, prepared for fixed layouts: products, conversions, sums, GELU, norms and softmax.

Products that MKL computes faster are MKL's (`engine.mkl`), and softmax's backward pass is three operations where oneDNN
has a reference implementation only.

Numbers are float32 or bfloat16 and computed in float32. Addresses are those of `Tensor.data_ptr`; the caller keeps the
tensors alive.
"""

from __future__ import annotations

import ctypes

from paddlemae.engine import mkl, private
from paddlemae.engine.onednn_primitives import (
    BACKWARD,
    BIAS,
    BINARY_ADD,
    BINARY_MULTIPLY,
    BINARY_SUBTRACT,
    DIFF_DST,
    DIFF_SCALE,
    DIFF_SHIFT,
    DIFF_SRC,
    DST,
    FLOAT32,
    FORWARD_TRAINING,
    GELU_ERF,
    MEAN,
    POST_OP,
    SCALE,
    SCALE_AND_SHIFT,
    SHIFT,
    SOFTMAX,
    SRC,
    SRC_1,
    VARIANCE,
    WEIGHTS,
    Builder,
    Layout,
    Operation,
    Primitive,
    dense,
    library,
    prepared,
    take_named,
)
from paddlemae.engine.safe_import import paddle


def matmul(
    left: Layout,
    right: Layout,
    out: Layout,
    has_bias: bool = False,
    scale: float = 1.0,
    added: Layout | None = None,
    accumulates: bool = False,
) -> Operation:
    """Prepare `scale * (left @ right + bias) + added`; addresses: left, right, out, then bias and added if there are.

    Args:
        left, right: of the same kind of numbers.
        has_bias: whether a row of float32 numbers is added; a contiguous one.
        added: its layout; sizes of 1 are repeated.
        accumulates: whether the result is added to what is in `out`; with a scale of 1 only.
    """
    return prepared(_matmul, left, right, out, has_bias, scale, added, accumulates)


def _matmul(
    left: Layout,
    right: Layout,
    out: Layout,
    has_bias: bool,
    scale: float,
    added: Layout | None,
    accumulates: bool,
) -> Operation:
    if not has_bias and added is None:
        product = mkl.product(left, right, out, scale, accumulates)
    elif has_bias and scale == 1 and not accumulates and added in (None, out):
        product = _product_and_bias(left, right, out, added is not None)
    else:
        product = None
    if product:
        return product
    with Builder() as builder:
        src, weights, dst = (builder.memory(each) for each in (left, right, out))
        bias = builder.memory(dense(*[1] * (len(out.sizes) - 1), out.sizes[-1])) if has_bias else None
        more = None if added is None else builder.memory(added)
        then = [] if more is None else [(BINARY_ADD, more)]
        given = src, weights, bias, dst, builder.attributes(scale, then, accumulates)
        descriptor = builder.descriptor("matmul", *given)
        if len(out.sizes) == 2 and left.kind == FLOAT32 and not take_named(descriptor, "gemm:jit"):
            descriptor = builder.descriptor("matmul", *given)
        arguments = [(SRC, src), (WEIGHTS, weights), (DST, dst), (BIAS, bias)]
        arguments.append((POST_OP * (1 if scale == 1 else 2) | SRC_1, more))
        return Primitive(descriptor, [(kind, each) for kind, each in arguments if each is not None])


def _product_and_bias(left: Layout, right: Layout, out: Layout, has_added: bool) -> Operation | None:
    """Prepare MKL's product, after or before a pass that adds the bias; None where oneDNN is the better choice."""
    product = mkl.product(left, right, out, 1.0, accumulates=has_added)
    if product is None:
        return None
    add_row = _binary(BINARY_ADD, out, dense(*[1] * (len(out.sizes) - 1), out.sizes[-1]))

    def call(left: int, right: int, out: int, bias: int, added: int | None = None) -> None:
        if added is not None:
            add_row(added, bias, out)
        product(left, right, out)
        if added is None:
            add_row(out, bias, out)

    return call


def convert(size: int, kind: int, to: int) -> Primitive:
    """Prepare a conversion of numbers of a kind into another; addresses: numbers, result."""
    return prepared(_convert, size, kind, to)


def _convert(size: int, kind: int, to: int) -> Primitive:
    with Builder() as builder:
        src, dst = builder.memory(dense(size, kind=kind)), builder.memory(dense(size, kind=to))
        engine = library().engine
        given = src, engine, dst, engine, builder.attributes()
        descriptor = builder.new("reorder_primitive_desc_create", *given, destroy="primitive_desc")
        return Primitive(descriptor, [(SRC, src), (DST, dst)])


def add(size: int) -> Primitive:
    """Prepare the sum of numbers; addresses: numbers, others, result, which may be the first numbers."""
    return prepared(_binary, BINARY_ADD, dense(size), dense(size))


def _binary(algorithm: int, left: Layout, right: Layout, is_multiplied: bool = False) -> Primitive:
    """Prepare `left` and `right` by an algorithm, and that times other numbers; sizes of 1 of `right` are repeated."""
    with Builder() as builder:
        memory, other = builder.memory(left), builder.memory(right)
        attributes = builder.attributes(then=[(BINARY_MULTIPLY, memory)] if is_multiplied else [])
        descriptor = builder.descriptor("binary", algorithm, memory, other, memory, attributes)
        arguments = [(SRC, memory), (SRC_1, other), (DST, memory)]
        return Primitive(descriptor, arguments + [(POST_OP | SRC_1, memory)] * is_multiplied)


def gelu(size: int, kind: int = FLOAT32) -> Primitive:
    """Prepare the exact GELU of numbers; addresses: numbers, result, which may be the same."""
    return prepared(_gelu, size, kind)


def _gelu(size: int, kind: int) -> Primitive:
    with Builder() as builder:
        memory = builder.memory(dense(size, kind=kind))
        return Primitive(_gelu_forward(builder, memory), [(SRC, memory), (DST, memory)])


def _gelu_forward(builder: Builder, memory: ctypes.c_void_p) -> ctypes.c_void_p:
    none = ctypes.c_float(0), ctypes.c_float(0)
    arguments = FORWARD_TRAINING, GELU_ERF, memory, memory, *none, builder.attributes()
    return builder.descriptor("eltwise_forward", *arguments)


def gelu_gradient(size: int, kind: int = FLOAT32) -> Primitive:
    """Prepare the GELU's backward pass; addresses: numbers, gradient, result, which may be the gradient."""
    return prepared(_gelu_gradient, size, kind)


def _gelu_gradient(size: int, kind: int) -> Primitive:
    with Builder() as builder:
        memory, none = builder.memory(dense(size, kind=kind)), (ctypes.c_float(0), ctypes.c_float(0))
        forward = _gelu_forward(builder, memory)
        arguments = GELU_ERF, memory, memory, memory, *none, forward, builder.attributes()
        descriptor = builder.descriptor("eltwise_backward", *arguments)
        return Primitive(descriptor, [(SRC, memory), (DIFF_DST, memory), (DIFF_SRC, memory)])


def layer_norm(rows: int, width: int, epsilon: float, out: int = FLOAT32) -> Primitive:
    """Prepare a layer norm of float32 rows; addresses: x, result of a kind, mean, variance, weight, bias."""
    return prepared(_layer_norm, rows, width, epsilon, out)


def _layer_norm(rows: int, width: int, epsilon: float, out: int) -> Primitive:
    with Builder() as builder:
        x, row, number = (builder.memory(dense(*sizes)) for sizes in ((rows, width), (width,), (rows,)))
        dst = builder.memory(dense(rows, width, kind=out))
        arguments = [(SRC, x), (DST, dst), (MEAN, number), (VARIANCE, number), (SCALE, row), (SHIFT, row)]
        return Primitive(_norm_forward(builder, x, dst, number, epsilon), arguments)


def _norm_forward(
    builder: Builder, x: ctypes.c_void_p, dst: ctypes.c_void_p, number: ctypes.c_void_p, epsilon: float
) -> ctypes.c_void_p:
    arguments = FORWARD_TRAINING, x, dst, number, ctypes.c_float(epsilon), SCALE_AND_SHIFT, builder.attributes()
    return builder.descriptor("layer_normalization_forward", *arguments)


def layer_norm_gradients(rows: int, width: int, epsilon: float) -> Primitive:
    """Prepare a layer norm's backward pass.

    Addresses: x, its mean, variance, weight, bias, the gradient of the result, and those of x, weight and bias.
    """
    return prepared(_layer_norm_gradients, rows, width, epsilon)


def _layer_norm_gradients(rows: int, width: int, epsilon: float) -> Primitive:
    with Builder() as builder:
        x, row, number = (builder.memory(dense(*sizes)) for sizes in ((rows, width), (width,), (rows,)))
        forward = _norm_forward(builder, x, x, number, epsilon)
        given = BACKWARD, x, x, x, number, ctypes.c_float(epsilon), SCALE_AND_SHIFT, forward, builder.attributes()
        arguments = [(SRC, x), (MEAN, number), (VARIANCE, number), (SCALE, row), (SHIFT, row), (DIFF_DST, x)]
        arguments += [(DIFF_SRC, x), (DIFF_SCALE, row), (DIFF_SHIFT, row)]
        return Primitive(builder.descriptor("layer_normalization_backward", *given), arguments)


def softmax(rows: int, width: int, out: int = FLOAT32) -> Primitive:
    """Prepare a softmax of each float32 row; addresses: x, result of a kind."""
    return prepared(_softmax, rows, width, out)


def _softmax(rows: int, width: int, out: int) -> Primitive:
    with Builder() as builder:
        x, dst = builder.memory(dense(rows, width)), builder.memory(dense(rows, width, kind=out))
        return Primitive(_softmax_forward(builder, x, dst), [(SRC, x), (DST, dst)])


def _softmax_forward(builder: Builder, x: ctypes.c_void_p, dst: ctypes.c_void_p) -> ctypes.c_void_p:
    return builder.descriptor("softmax_forward", FORWARD_TRAINING, SOFTMAX, x, dst, 1, builder.attributes())


def softmax_gradient(rows: int, width: int, kind: int = FLOAT32) -> Operation:
    """Prepare a softmax's backward pass; addresses: its result, the gradient of that, the gradient of x.

    All are of one kind, and the two gradients may be the same.
    """
    return prepared(_softmax_gradient, rows, width, kind)


def _softmax_gradient(rows: int, width: int, kind: int) -> Operation:
    with Builder() as builder:
        x = builder.memory(dense(rows, width, kind=kind))
        arguments = SOFTMAX, x, x, x, 1, _softmax_forward(builder, x, x), builder.attributes()
        descriptor = builder.descriptor("softmax_backward", *arguments)
        found = Primitive(descriptor, [(DST, x), (DIFF_DST, x), (DIFF_SRC, x)])
    is_slow = found.name.startswith("ref") and kind == FLOAT32
    return _softmax_gradient_in_steps(rows, width) if is_slow else found


def _softmax_gradient_in_steps(rows: int, width: int) -> Operation:
    """Prepare `shares * (gradient - sum(shares * gradient))`, 10 times as fast as a reference implementation."""
    whole, column = dense(rows, width), dense(rows, 1)
    multiply = _binary(BINARY_MULTIPLY, whole, whole)
    add_up = _matmul(whole, dense(width, 1), column, False, 1.0, None, False)
    subtract = _binary(BINARY_SUBTRACT, whole, column, is_multiplied=True)
    ones = paddle.ones([width, 1])

    def call(shares: int, gradient: int, out: int) -> None:
        products, sums = (
            private.empty_on_cpu([rows, width], paddle.float32),
            private.empty_on_cpu([rows, 1], paddle.float32),
        )
        multiply(shares, gradient, products.data_ptr())
        add_up(products.data_ptr(), ones.data_ptr(), sums.data_ptr())
        subtract(gradient, sums.data_ptr(), out, shares)

    return call
