"""Operations of oneDNN, prepared for fixed layouts: products, conversions, sums, GELU, norms and softmax.

Numbers are float32 or bfloat16 and computed in float32. Addresses are those of `Tensor.data_ptr`; the caller keeps the
tensors alive.
"""

from __future__ import annotations

import ctypes

from paddlemae.engine.onednn_primitives import (
    BACKWARD,
    BIAS,
    BINARY_ADD,
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
    Primitive,
    dense,
    library,
    prepared,
    take_named,
)


def matmul(
    left: Layout,
    right: Layout,
    out: Layout,
    has_bias: bool = False,
    scale: float = 1.0,
    added: Layout | None = None,
    accumulates: bool = False,
) -> Primitive:
    """Prepare `scale * (left @ right + bias) + added`; addresses: left, right, out, then bias and added if there are.

    Args:
        left, right: of the same kind of numbers.
        has_bias: whether a row of float32 numbers is added; a contiguous one.
        added: its layout; sizes of 1 are repeated.
        accumulates: whether the result is added to what is in `out`.
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
) -> Primitive:
    with Builder() as builder:
        src, weights, dst = (builder.memory(each) for each in (left, right, out))
        bias = builder.memory(dense(*[1] * (len(out.sizes) - 1), out.sizes[-1])) if has_bias else None
        more = None if added is None else builder.memory(added)
        given = src, weights, bias, dst, builder.attributes(scale, more, accumulates)
        descriptor = builder.descriptor("matmul", *given)
        if len(out.sizes) == 2 and left.kind == FLOAT32 and not take_named(descriptor, "gemm:jit"):
            descriptor = builder.descriptor("matmul", *given)
        arguments = [(SRC, src), (WEIGHTS, weights), (DST, dst), (BIAS, bias)]
        arguments.append((POST_OP * (1 if scale == 1 else 2) | SRC_1, more))
        return Primitive(descriptor, [(kind, each) for kind, each in arguments if each is not None])


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
    return prepared(_add, size)


def _add(size: int) -> Primitive:
    with Builder() as builder:
        memory = builder.memory(dense(size))
        descriptor = builder.descriptor("binary", BINARY_ADD, memory, memory, memory, builder.attributes())
        return Primitive(descriptor, [(SRC, memory), (SRC_1, memory), (DST, memory)])


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


def softmax_gradient(rows: int, width: int, kind: int = FLOAT32) -> Primitive:
    """Prepare a softmax's backward pass; addresses: its result, the gradient of that, the gradient of x.

    All are of one kind, and the two gradients may be the same.
    """
    return prepared(_softmax_gradient, rows, width, kind)


def _softmax_gradient(rows: int, width: int, kind: int) -> Primitive:
    with Builder() as builder:
        x = builder.memory(dense(rows, width, kind=kind))
        arguments = SOFTMAX, x, x, x, 1, _softmax_forward(builder, x, x), builder.attributes()
        descriptor = builder.descriptor("softmax_backward", *arguments)
        return Primitive(descriptor, [(DST, x), (DIFF_DST, x), (DIFF_SRC, x)])
