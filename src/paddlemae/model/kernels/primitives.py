"""What the halves of a block compute, by oneDNN's primitives; each function has a formula in Paddle's operations.

Products take their bias and the residual sum along, attention reads its heads where the linear layer wrote them, and
GELU, norms and softmax are vectorized. Matrices of rows and gradients are contiguous.

Numbers are float32. Operands of products may be bfloat16, both of a product: products add up in float32, and GELU and
softmax compute in float32. Then what is kept between a half's products is bfloat16 too; the results that leave a half,
and gradients of weights and biases, are float32.

Shapes: R rows, D and E widths; B images, H heads, Q queries, N tokens, d width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from paddlemae.engine import onednn, private
from paddlemae.engine.onednn_primitives import BFLOAT16, FLOAT32, FLOAT_BYTES, Layout, dense, transpose
from paddlemae.engine.precision import KINDS
from paddlemae.engine.safe_import import paddle
from paddlemae.model.kernels.rows import constant_matrix

CACHED_SCORES = 1 << 18  # numbers: scores of so few images stay in the processor's cache until they are used
KEPT_PIECE = 3 << 20  # numbers: larger buffers the allocator gives back, and page faults then cost 5 to 10% of a step


class Matrix(NamedTuple):
    """A matrix in memory that its tensor keeps: [rows, columns]."""

    address: int
    layout: Layout

    def transpose(self) -> Matrix:
        """Return the same memory with its axes exchanged."""
        return Matrix(self.address, transpose(self.layout))


def _empty(shape: Sequence[int], dtype: Any = paddle.float32) -> paddle.Tensor:
    """Return a tensor without values yet."""
    return private.empty_on_cpu(shape, dtype)


def _kind(x: paddle.Tensor) -> int:
    return KINDS[x.dtype]


def _rows_of(x_RD: paddle.Tensor, start: int = 0, rows: int | None = None) -> Matrix:
    """Return some rows of a contiguous matrix; by default all of them."""
    count, width = x_RD.shape
    address = x_RD.data_ptr() + x_RD.element_size() * start * width
    return Matrix(address, dense(count if rows is None else rows, width, kind=_kind(x_RD)))


def product(
    left: paddle.Tensor,
    right: paddle.Tensor,
    transpose_x: bool = False,
    transpose_y: bool = False,
    dtype: Any = paddle.float32,
) -> paddle.Tensor:
    """Return the product of two matrices, either of them transposed, in a type."""
    left, right = left.contiguous(), right.contiguous()
    of_left, of_right = _rows_of(left), _rows_of(right)
    of_left = of_left.transpose() if transpose_x else of_left
    of_right = of_right.transpose() if transpose_y else of_right
    out = _empty([of_left.layout.sizes[0], of_right.layout.sizes[1]], dtype)
    _put_product(of_left, of_right, _rows_of(out))
    return out


def _put_product(
    left: Matrix,
    right: Matrix,
    out: Matrix,
    bias: int | None = None,
    added: Matrix | None = None,
    accumulates: bool = False,
) -> None:
    """Write `left @ right + bias + added` to `out`, or add it to what is there."""
    more = [] if bias is None else [bias]
    if added is not None:
        more.append(added.address)
    of_added = None if added is None else added.layout
    prepared = onednn.matmul(left.layout, right.layout, out.layout, bias is not None, 1.0, of_added, accumulates)
    prepared(left.address, right.address, out.address, *more)


def weight_gradient(x_RD: paddle.Tensor, gradient_RE: paddle.Tensor) -> paddle.Tensor:
    """Return `x^T @ gradient`, [D, E]."""
    out = _empty([x_RD.shape[1], gradient_RE.shape[1]])
    _put_product(_rows_of(x_RD).transpose(), _rows_of(gradient_RE), _rows_of(out))
    return out


def mlp(
    seen_RD: paddle.Tensor,
    weight1: paddle.Tensor,
    bias1: paddle.Tensor,
    weight2: paddle.Tensor,
    bias2: paddle.Tensor,
    added_RD: paddle.Tensor | None,
) -> tuple[paddle.Tensor, list[paddle.Tensor]]:
    """Return (`gelu(seen @ weight1 + bias1) @ weight2 + bias2 + added`, pieces of the hidden layer before its GELU)."""
    (count, width), hidden_width, dtype = seen_RD.shape, weight1.shape[1], seen_RD.dtype
    weight1, bias1, weight2, bias2 = (each.contiguous() for each in (weight1, bias1, weight2, bias2))
    layer1, layer2 = _rows_of(weight1), _rows_of(weight2)
    out, active = _empty([count, width]), _empty([_most_rows(count, hidden_width), hidden_width], dtype)
    hiddens = []
    for start, rows in _row_pieces(count, hidden_width):
        hidden = _empty([rows, hidden_width], dtype)
        _put_product(_rows_of(seen_RD, start, rows), layer1, _rows_of(hidden), bias1.data_ptr())
        onednn.gelu(hidden.size, _kind(hidden))(hidden.data_ptr(), active.data_ptr())
        added = None if added_RD is None else _rows_of(added_RD, start, rows)
        _put_product(_rows_of(active, 0, rows), layer2, _rows_of(out, start, rows), bias2.data_ptr(), added)
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
    (count, width), hidden_width, dtype = seen_RD.shape, weight1.shape[1], seen_RD.dtype
    weight1, weight2 = weight1.contiguous(), weight2.contiguous()
    transposed1, transposed2 = _rows_of(weight1).transpose(), _rows_of(weight2).transpose()
    to_seen, inner = _empty([count, width]), _empty([_most_rows(count, hidden_width), hidden_width], dtype)
    to_weight1, to_weight2, to_bias1 = _empty(weight1.shape), _empty(weight2.shape), _empty([1, hidden_width])
    ones = constant_matrix(1, inner.shape[0], 1.0, dtype)
    for (start, rows), hidden in zip(_row_pieces(count, hidden_width), hiddens, strict=True):
        seen, gradient = _rows_of(seen_RD, start, rows), _rows_of(gradient_RD, start, rows)
        to_hidden, adds = _rows_of(inner, 0, rows), start > 0
        _put_product(gradient, transposed2, to_hidden)
        _put_gelu_gradient(hidden, to_hidden.address)
        _put_product(_rows_of(hidden).transpose(), gradient, _rows_of(to_weight2), accumulates=adds)
        _put_product(seen.transpose(), to_hidden, _rows_of(to_weight1), accumulates=adds)
        of_ones = Matrix(ones.data_ptr(), dense(1, rows, kind=_kind(ones)))
        _put_product(of_ones, to_hidden, _rows_of(to_bias1), accumulates=adds)
        _put_product(to_hidden, transposed1, _rows_of(to_seen, start, rows))
    return to_seen, to_weight1, to_bias1.flatten(), to_weight2


def _put_gelu_gradient(hidden: paddle.Tensor, gradient: int) -> None:
    """Replace, in place, `hidden` by its GELU and the gradient at an address by that of `hidden`."""
    onednn.gelu_gradient(hidden.size, _kind(hidden))(hidden.data_ptr(), gradient, gradient)
    onednn.gelu(hidden.size, _kind(hidden))(hidden.data_ptr(), hidden.data_ptr())


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
    x_RD: paddle.Tensor,
    weight: paddle.Tensor,
    bias: paddle.Tensor,
    added_RE: paddle.Tensor | None = None,
    dtype: Any = paddle.float32,
) -> paddle.Tensor:
    """Return `x @ weight + bias + added`, [R, E], in a type."""
    weight, bias = weight.contiguous(), bias.contiguous()
    out = _empty([x_RD.shape[0], weight.shape[1]], dtype)
    added = None if added_RE is None else _rows_of(added_RE)
    _put_product(_rows_of(x_RD), _rows_of(weight), _rows_of(out), bias.data_ptr(), added)
    return out


def gelu(x: paddle.Tensor) -> paddle.Tensor:
    """Return the exact GELU."""
    out = _empty(x.shape)
    onednn.gelu(x.size)(x.data_ptr(), out.data_ptr())
    return out


def gelu_backward(hidden: paddle.Tensor, gradient: paddle.Tensor) -> None:
    """Replace, in place, `hidden` by its exact GELU and the gradient of the GELU by that of `hidden`."""
    _put_gelu_gradient(hidden, gradient.data_ptr())


def layer_norm(
    x_RD: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor, epsilon: float, dtype: Any = paddle.float32
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """Return (layer norm of each row in a type, mean [R], variance [R])."""
    rows, width = x_RD.shape
    out, mean_R, variance_R = _empty([rows, width], dtype), _empty([rows]), _empty([rows])
    results = out.data_ptr(), mean_R.data_ptr(), variance_R.data_ptr()
    prepared = onednn.layer_norm(rows, width, epsilon, _kind(out))
    prepared(x_RD.data_ptr(), *results, weight.data_ptr(), bias.data_ptr())
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
        return Layout((images, heads, tokens, width), (tokens * row, width, row, 1), _kind(self.rows))

    def address(self, image: int) -> int:
        """Return where an image's numbers begin."""
        _, tokens, row = self.rows.shape
        return self.rows.data_ptr() + self.rows.element_size() * (image * tokens * row + self.start)


def split_projections(projections: Sequence[paddle.Tensor], width: int) -> list[Heads]:
    """Return query, key and value from [B, N, 3D], or from [B, Q, D] and [B, N, 2D]."""
    if len(projections) == 1:
        return [Heads(projections[0], part * width) for part in range(3)]
    return [Heads(projections[0], 0), Heads(projections[1], 0), Heads(projections[1], width)]


class _Scores(NamedTuple):
    """Hold what `scale * query key^T + bias` is computed from, with room for the images that are computed at once.

    Attributes:
        bias_HQN: contiguous; None is 0.
        width: of a head.
    """

    query: Heads
    key: Heads
    bias_HQN: paddle.Tensor | None
    width: int
    room: paddle.Tensor

    def put_shares(self, image: int, images: int, out: int) -> None:
        """Write the softmax of the scores of some images, of the kind of the queries, to an address."""
        heads, queries, tokens = self.room.shape[1:]
        of_query, of_key = (each.layout(images, heads, self.width) for each in (self.query, self.key))
        of_scores, bias = dense(images, heads, queries, tokens), self.bias_HQN
        added = None if bias is None else dense(1, heads, queries, tokens)
        prepared = onednn.matmul(of_query, transpose(of_key), of_scores, False, self.width**-0.5, added)
        biases = [] if bias is None else [bias.data_ptr()]
        prepared(self.query.address(image), self.key.address(image), self.room.data_ptr(), *biases)
        onednn.softmax(images * heads * queries, tokens, _kind(self.query.rows))(self.room.data_ptr(), out)


def attend(
    projections: Sequence[paddle.Tensor], heads: int, width: int, bias_HQN: paddle.Tensor | None
) -> tuple[list[paddle.Tensor], paddle.Tensor]:
    """Return (pieces of the softmax of scale * query key^T + bias [B, H, Q, N], mixed values [B, Q, D]).

    Of bfloat16 projections there are no pieces: the backward pass computes them again.

    Args:
        width: of a head.
        bias_HQN: contiguous.
    """
    query, key, value = split_projections(projections, heads * width)
    (batch, queries), tokens, dtype = query.rows.shape[:2], key.rows.shape[1], query.rows.dtype
    plan = _Plan(batch, heads * queries * tokens)
    keeps = dtype == paddle.float32
    shares = [_empty([images, heads, queries, tokens], dtype) for images in (plan.kept if keeps else [plan.step])]
    mixed = Heads(_empty([batch, queries, heads * width], dtype), 0)
    scores = _Scores(query, key, bias_HQN, width, _empty([plan.step, heads, queries, tokens]))
    for image, images, piece, place in plan.steps():
        of_value, of_mixed = (each.layout(images, heads, width) for each in (value, mixed))
        of_shares = dense(images, heads, queries, tokens, kind=KINDS[dtype])
        share = shares[piece].data_ptr() + FLOAT_BYTES * place if keeps else shares[0].data_ptr()
        scores.put_shares(image, images, share)
        onednn.matmul(of_shares, of_value, of_mixed)(share, value.address(image), mixed.address(image))
    return shares if keeps else [], mixed.rows


def attend_gradients(
    projections: Sequence[paddle.Tensor],
    heads: int,
    shares: Sequence[paddle.Tensor],
    bias_HQN: paddle.Tensor | None,
    to_mixed_BQD: paddle.Tensor,
    keeps_scores: bool,
) -> tuple[list[paddle.Tensor], paddle.Tensor | None]:
    """Return the gradients of the projections and, if `keeps_scores`, of the scores, float32 [B, H, Q, N].

    Args:
        shares: the pieces that `attend` gave; without any they are computed again, from `bias_HQN` too.
    """
    (batch, queries), tokens = to_mixed_BQD.shape[:2], projections[-1].shape[1]
    dtype = projections[0].dtype
    plan = _Plan(batch, heads * queries * tokens)
    width = to_mixed_BQD.shape[-1] // heads
    query, key, value = split_projections(projections, heads * width)
    gradients = [_empty(each.shape, dtype) for each in projections]
    to_query, to_key, to_value = split_projections(gradients, heads * width)
    to_mixed = Heads(to_mixed_BQD.contiguous(), 0)
    piece_shape = [plan.step, heads, queries, tokens]
    to_scores = _empty([batch, *piece_shape[1:]]) if keeps_scores else _empty(piece_shape, dtype)
    narrow = _Narrow(piece_shape) if to_scores.dtype != dtype else None
    scores = None if shares else _Scores(query, key, bias_HQN, width, _empty(piece_shape))
    again = None if shares else _empty(piece_shape, dtype)
    for image, images, piece, place in plan.steps():
        of_query, of_key, of_value, of_mixed = (
            each.layout(images, heads, width) for each in (query, key, value, to_mixed)
        )
        of_shares, rows = dense(images, heads, queries, tokens, kind=KINDS[dtype]), images * heads * queries
        if scores is None or again is None:
            share = shares[piece].data_ptr() + FLOAT_BYTES * place
        else:
            share = again.data_ptr()
            scores.put_shares(image, images, share)
        inner = to_scores.data_ptr() + to_scores.element_size() * plan.scores * (image if keeps_scores else 0)
        gradient = to_mixed.address(image)
        onednn.matmul(transpose(of_shares), of_mixed, of_value)(share, gradient, to_value.address(image))
        of_inner = of_shares._replace(kind=_kind(to_scores))
        onednn.matmul(of_mixed, transpose(of_value), of_inner)(gradient, value.address(image), inner)
        if narrow is None:
            onednn.softmax_gradient(rows, tokens, KINDS[dtype])(share, inner, inner)
        else:
            inner = narrow.softmax_gradient(rows, tokens, share, inner)
        scaled = False, width**-0.5
        onednn.matmul(of_shares, of_key, of_query, *scaled)(inner, key.address(image), to_query.address(image))
        onednn.matmul(transpose(of_shares), of_query, of_key, *scaled)(
            inner, query.address(image), to_key.address(image)
        )
    return gradients, to_scores if keeps_scores else None


class _Narrow:
    """A softmax's backward pass of bfloat16 shares whose result is wanted in float32 too.

    Args:
        shape: of the largest piece of shares.
    """

    def __init__(self, shape: Sequence[int]):
        self.shares, self.gradient = _empty(shape), _empty(shape, paddle.bfloat16)

    def softmax_gradient(self, rows: int, tokens: int, share: int, inner: int) -> int:
        """Replace, in place, the gradient of the shares by that of the scores; return where a bfloat16 copy is."""
        onednn.convert(rows * tokens, BFLOAT16, FLOAT32)(share, self.shares.data_ptr())
        onednn.softmax_gradient(rows, tokens)(self.shares.data_ptr(), inner, inner)
        onednn.convert(rows * tokens, FLOAT32, BFLOAT16)(inner, self.gradient.data_ptr())
        return self.gradient.data_ptr()


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
        """Yield (first image, images, number of the tensor of their shares, numbers from its beginning)."""
        for piece, images in enumerate(self.kept):
            for start in range(0, images, self.step):
                place = self.scores * start
                yield piece * self.together + start, min(self.step, images - start), piece, place
