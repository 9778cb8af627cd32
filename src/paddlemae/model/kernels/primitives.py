"""What the halves of a block compute, by oneDNN's primitives; each function has a formula in Paddle's operations.

Products take their bias and the residual sum along, attention reads its heads where the linear layer wrote them, and
GELU, norms and softmax are vectorized. Numbers are float32; matrices of rows and gradients are contiguous.

Shapes: R rows, D and E widths; B images, H heads, Q queries, N tokens, d width of a head.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from paddlemae.engine import onednn
from paddlemae.engine.onednn import Layout, dense, transpose
from paddlemae.engine.safe_import import matrix_library, paddle
from paddlemae.model.kernels.rows import constant_matrix

FLOAT_BYTES = 4
ROW_MAJOR, AS_IT_IS, TRANSPOSED = 101, 111, 112  # of cblas.h
CACHED_SCORES = 1 << 18  # numbers: scores of so few images stay in the processor's cache until they are used
KEPT_PIECE = 3 << 20  # numbers: larger buffers the allocator gives back, and page faults then cost 5 to 10% of a step
# sums of this many rows or more, for a weight of this size or more, are 0 to 20% faster by MKL; for one of the last
# size any sum is (measured)
LONG_SUM, LARGE_WEIGHT, HUGE_WEIGHT = 2048, 1 << 18, 1 << 20


def _empty(shape: Sequence[int]) -> paddle.Tensor:
    """Return a tensor without values yet."""
    return paddle.empty(shape, "float32")


def product(
    left: paddle.Tensor, right: paddle.Tensor, transpose_x: bool = False, transpose_y: bool = False
) -> paddle.Tensor:
    """Return the product of two matrices, either of them transposed."""
    left, right = left.contiguous(), right.contiguous()
    of_left, of_right = dense(*left.shape), dense(*right.shape)
    of_left, of_right = transpose(of_left) if transpose_x else of_left, transpose(of_right) if transpose_y else of_right
    out = _empty([of_left[0][0], of_right[0][1]])
    prepared = onednn.matmul(of_left, of_right, dense(*out.shape))
    prepared(left.data_ptr(), right.data_ptr(), out.data_ptr())
    return out


def _put_product(
    left: tuple[int, Layout], right: tuple[int, Layout], out: int, bias: int | None = None, added: int | None = None
) -> None:
    """Write `left @ right + bias + added` to an address; matrices are (address, layout)."""
    layout = dense(left[1][0][0], right[1][0][1])
    more = [each for each in (bias, added) if each is not None]
    prepared = onednn.matmul(left[1], right[1], layout, bias is not None, 1.0, None if added is None else layout)
    prepared(left[0], right[0], out, *more)


def weight_gradient(x_RD: paddle.Tensor, gradient_RE: paddle.Tensor) -> paddle.Tensor:
    """Return `x^T @ gradient`, [D, E]."""
    out = _empty([x_RD.shape[1], gradient_RE.shape[1]])
    _put_weight_gradient(x_RD.data_ptr(), gradient_RE.data_ptr(), x_RD.shape[0], out, False)
    return out


def _put_weight_gradient(x: int, gradient: int, rows: int, out_DE: paddle.Tensor, accumulates: bool) -> None:
    width, other = out_DE.shape
    is_long = rows >= LONG_SUM and width * other >= LARGE_WEIGHT
    if (is_long or width * other >= HUGE_WEIGHT) and (mkl := matrix_library()):
        one, kept = ctypes.c_float(1), ctypes.c_float(accumulates)
        matrices = [ctypes.c_void_p(each) for each in (x, gradient, out_DE.data_ptr())]
        numbers = one, matrices[0], width, matrices[1], other, kept, matrices[2], other
        mkl.cblas_sgemm(ROW_MAJOR, TRANSPOSED, AS_IT_IS, width, other, rows, *numbers)
        return
    layouts = transpose(dense(rows, width)), dense(rows, other), dense(width, other)
    onednn.matmul(*layouts, accumulates=accumulates)(x, gradient, out_DE.data_ptr())


def mlp(
    seen_RD: paddle.Tensor,
    weight1: paddle.Tensor,
    bias1: paddle.Tensor,
    weight2: paddle.Tensor,
    bias2: paddle.Tensor,
    added_RD: paddle.Tensor | None,
) -> tuple[paddle.Tensor, list[paddle.Tensor]]:
    """Return (`gelu(seen @ weight1 + bias1) @ weight2 + bias2 + added`, pieces of the hidden layer before its GELU)."""
    (count, width), hidden_width = seen_RD.shape, weight1.shape[1]
    weight1, bias1, weight2, bias2 = (each.contiguous() for each in (weight1, bias1, weight2, bias2))
    out, active = _empty([count, width]), _empty([_most_rows(count, hidden_width), hidden_width])
    layer1, layer2 = ((each.data_ptr(), dense(*each.shape)) for each in (weight1, weight2))
    hiddens = []
    for start, rows in _row_pieces(count, hidden_width):
        shift = FLOAT_BYTES * start * width
        hidden = _empty([rows, hidden_width])
        _put_product((seen_RD.data_ptr() + shift, dense(rows, width)), layer1, hidden.data_ptr(), bias1.data_ptr())
        onednn.gelu(rows * hidden_width)(hidden.data_ptr(), active.data_ptr())
        added = None if added_RD is None else added_RD.data_ptr() + shift
        of_active = active.data_ptr(), dense(rows, hidden_width)
        _put_product(of_active, layer2, out.data_ptr() + shift, bias2.data_ptr(), added)
        hiddens.append(hidden)
    return out, hiddens


def mlp_gradients(
    seen_RD: paddle.Tensor,
    hiddens: Sequence[paddle.Tensor],
    weight1: paddle.Tensor,
    weight2: paddle.Tensor,
    gradient_RD: paddle.Tensor,
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """Return the gradients of what `mlp` sees, of its first weight and bias and of its second weight.

    The pieces of the hidden layer are overwritten.
    """
    (count, width), hidden_width = seen_RD.shape, weight1.shape[1]
    weight1, weight2 = weight1.contiguous(), weight2.contiguous()
    to_seen, inner = _empty([count, width]), _empty([_most_rows(count, hidden_width), hidden_width])
    to_weight1, to_weight2, to_bias1 = _empty(weight1.shape), _empty(weight2.shape), _empty([hidden_width])
    transposed1, transposed2 = ((each.data_ptr(), transpose(dense(*each.shape))) for each in (weight1, weight2))
    ones = constant_matrix(1, inner.shape[0], 1.0, inner.dtype)
    for (start, rows), hidden in zip(_row_pieces(count, hidden_width), hiddens, strict=True):
        shift, adds, size = FLOAT_BYTES * start * width, start > 0, rows * hidden_width
        seen, gradient, to_hidden = seen_RD.data_ptr() + shift, gradient_RD.data_ptr() + shift, inner.data_ptr()
        _put_product((gradient, dense(rows, width)), transposed2, to_hidden)
        onednn.gelu_gradient(size)(hidden.data_ptr(), to_hidden, to_hidden)
        onednn.gelu(size)(hidden.data_ptr(), hidden.data_ptr())
        _put_weight_gradient(hidden.data_ptr(), gradient, rows, to_weight2, adds)
        _put_weight_gradient(seen, to_hidden, rows, to_weight1, adds)
        layouts = dense(1, rows), dense(rows, hidden_width), dense(1, hidden_width)
        onednn.matmul(*layouts, accumulates=adds)(ones.data_ptr(), to_hidden, to_bias1.data_ptr())
        _put_product((to_hidden, dense(rows, hidden_width)), transposed1, to_seen.data_ptr() + shift)
    return to_seen, to_weight1, to_bias1, to_weight2


def _most_rows(count: int, width: int) -> int:
    """Return the rows of the largest piece."""
    pieces = -(-count * width // KEPT_PIECE)
    return -(-count // pieces)


def _row_pieces(count: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield (first row, rows) of about equal pieces of at most `KEPT_PIECE` numbers."""
    most = _most_rows(count, width)
    for start in range(0, count, most):
        yield start, min(most, count - start)


def linear(
    x_RD: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor, added_RE: paddle.Tensor | None = None
) -> paddle.Tensor:
    """Return `x @ weight + bias + added`, [R, E]."""
    weight, bias = weight.contiguous(), bias.contiguous()
    out = _empty([x_RD.shape[0], weight.shape[1]])
    layout = dense(*out.shape)
    addresses = [x_RD.data_ptr(), weight.data_ptr(), out.data_ptr(), bias.data_ptr()]
    if added_RE is not None:
        addresses.append(added_RE.data_ptr())
    more = None if added_RE is None else layout
    onednn.matmul(dense(*x_RD.shape), dense(*weight.shape), layout, True, 1.0, more)(*addresses)
    return out


def gelu(x: paddle.Tensor) -> paddle.Tensor:
    """Return the exact GELU."""
    out = _empty(x.shape)
    onednn.gelu(x.size)(x.data_ptr(), out.data_ptr())
    return out


def gelu_backward(hidden: paddle.Tensor, gradient: paddle.Tensor) -> None:
    """Replace, in place, `hidden` by its exact GELU and the gradient of the GELU by that of `hidden`."""
    onednn.gelu_gradient(hidden.size)(hidden.data_ptr(), gradient.data_ptr(), gradient.data_ptr())
    onednn.gelu(hidden.size)(hidden.data_ptr(), hidden.data_ptr())


def layer_norm(
    x_RD: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor, epsilon: float
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """Return (layer norm of each row, mean [R], variance [R])."""
    rows, width = x_RD.shape
    out, mean_R, variance_R = _empty([rows, width]), _empty([rows]), _empty([rows])
    results = out.data_ptr(), mean_R.data_ptr(), variance_R.data_ptr()
    onednn.layer_norm(rows, width, epsilon)(x_RD.data_ptr(), *results, weight.data_ptr(), bias.data_ptr())
    return out, mean_R, variance_R


def norm_gradients(
    x_RD: paddle.Tensor,
    moments: Sequence[paddle.Tensor],
    weight: paddle.Tensor,
    epsilon: float,
    gradient_RD: paddle.Tensor,
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """Return the gradients of a layer norm's input, weight and bias; moments are its mean and variance."""
    rows, width = x_RD.shape
    results = _empty([rows, width]), _empty([width]), _empty([width])
    bias = weight  # an argument that is not read
    given = x_RD, *moments, weight, bias, gradient_RD, *results
    onednn.layer_norm_gradients(rows, width, epsilon)(*[tensor.data_ptr() for tensor in given])
    return results


class Heads(NamedTuple):
    """Queries, keys or values as a linear layer wrote them: D of the numbers of each row, the heads one by one.

    Attributes:
        rows: [B, N, E].
        start: the first of the D numbers.
    """

    rows: paddle.Tensor
    start: int

    def layout(self, images: int, heads: int, width: int) -> Layout:
        """Return [images, H, N, d]."""
        _, tokens, row = self.rows.shape
        return (images, heads, tokens, width), (tokens * row, width, row, 1)

    def address(self, image: int) -> int:
        """Return where an image's numbers begin."""
        _, tokens, row = self.rows.shape
        return self.rows.data_ptr() + FLOAT_BYTES * (image * tokens * row + self.start)


def split_projections(projections: Sequence[paddle.Tensor], width: int) -> list[Heads]:
    """Return query, key and value from [B, N, 3D], or from [B, Q, D] and [B, N, 2D]."""
    if len(projections) == 1:
        return [Heads(projections[0], part * width) for part in range(3)]
    return [Heads(projections[0], 0), Heads(projections[1], 0), Heads(projections[1], width)]


def attend(
    projections: Sequence[paddle.Tensor], heads: int, width: int, bias_HQN: paddle.Tensor | None
) -> tuple[list[paddle.Tensor], paddle.Tensor]:
    """Return (pieces of the softmax of scale * query key^T + bias [B, H, Q, N], mixed values [B, Q, D]).

    Args:
        width: of a head.
    """
    query, key, value = split_projections(projections, heads * width)
    (batch, queries), tokens = query.rows.shape[:2], key.rows.shape[1]
    plan = _Plan(batch, heads * queries * tokens)
    shares = [_empty([images, heads, queries, tokens]) for images in plan.kept]
    mixed = Heads(_empty([batch, queries, heads * width]), 0)
    scores = _empty([plan.step, heads, queries, tokens])
    bias_HQN = None if bias_HQN is None else bias_HQN.contiguous()
    biases = [] if bias_HQN is None else [bias_HQN.data_ptr()]
    added = dense(1, heads, queries, tokens) if biases else None
    for image, images, piece, place in plan.steps():
        of_query, of_key, of_value, of_mixed = (
            each.layout(images, heads, width) for each in (query, key, value, mixed)
        )
        of_shares = dense(images, heads, queries, tokens)
        score = onednn.matmul(of_query, transpose(of_key), of_shares, False, width**-0.5, added)
        score(query.address(image), key.address(image), scores.data_ptr(), *biases)
        share = shares[piece].data_ptr() + place
        onednn.softmax(images * heads * queries, tokens)(scores.data_ptr(), share)
        onednn.matmul(of_shares, of_value, of_mixed)(share, value.address(image), mixed.address(image))
    return shares, mixed.rows


def attend_gradients(
    projections: Sequence[paddle.Tensor],
    shares: Sequence[paddle.Tensor],
    to_mixed_BQD: paddle.Tensor,
    keeps_scores: bool,
) -> tuple[list[paddle.Tensor], paddle.Tensor | None]:
    """Return the gradients of the projections and, if `keeps_scores`, of the scores, [B, H, Q, N]."""
    (batch, queries), (_, heads, _, tokens) = to_mixed_BQD.shape[:2], shares[0].shape
    plan = _Plan(batch, heads * queries * tokens)
    width = to_mixed_BQD.shape[-1] // heads
    query, key, value = split_projections(projections, heads * width)
    gradients = [_empty(each.shape) for each in projections]
    to_query, to_key, to_value = split_projections(gradients, heads * width)
    to_mixed = Heads(to_mixed_BQD.contiguous(), 0)
    to_scores = _empty([batch if keeps_scores else plan.step, heads, queries, tokens])
    for image, images, piece, place in plan.steps():
        of_query, of_key, of_value, of_mixed = (
            each.layout(images, heads, width) for each in (query, key, value, to_mixed)
        )
        of_shares, size = dense(images, heads, queries, tokens), (images * heads * queries, tokens)
        share = shares[piece].data_ptr() + place
        inner = to_scores.data_ptr() + FLOAT_BYTES * plan.scores * (image if keeps_scores else 0)
        gradient = to_mixed.address(image)
        onednn.matmul(transpose(of_shares), of_mixed, of_value)(share, gradient, to_value.address(image))
        onednn.matmul(of_mixed, transpose(of_value), of_shares)(gradient, value.address(image), inner)
        onednn.softmax_gradient(*size)(share, inner, inner)
        scaled = False, width**-0.5
        onednn.matmul(of_shares, of_key, of_query, *scaled)(inner, key.address(image), to_query.address(image))
        onednn.matmul(transpose(of_shares), of_query, of_key, *scaled)(
            inner, query.address(image), to_key.address(image)
        )
    return gradients, to_scores if keeps_scores else None


class _Plan:
    """Which images are computed at once, `step` of them, and how many have their shares in one tensor.

    Args:
        images: of the batch.
        scores: numbers of each.
    """

    def __init__(self, images: int, scores: int):
        self.scores = scores
        self.step = max(1, min(images, CACHED_SCORES // scores))
        self.together = max(1, min(images, KEPT_PIECE // scores))
        self.kept = [min(self.together, images - start) for start in range(0, images, self.together)]

    def steps(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield (first image, images, number of the tensor of their shares, bytes from its beginning)."""
        for piece, images in enumerate(self.kept):
            for start in range(0, images, self.step):
                place = FLOAT_BYTES * self.scores * start
                yield piece * self.together + start, min(self.step, images - start), piece, place
