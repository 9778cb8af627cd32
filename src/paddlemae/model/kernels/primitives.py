"""What the halves of a block compute, by oneDNN's primitives; each function has a formula in Paddle's operations.

Products take their bias and the residual sum along, attention reads its heads where the linear layer wrote them, and
GELU, norms and softmax are vectorized. Numbers are float32; matrices of rows and gradients are contiguous.

Shapes: R rows, D and E widths; B images, H heads, Q queries, N tokens, d width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from paddlemae.engine import onednn
from paddlemae.engine.memory import use_large_pages
from paddlemae.engine.onednn import Layout, dense, turned
from paddlemae.engine.safe_import import paddle

FLOAT_BYTES = 4
CACHED_SCORES = 1 << 18  # numbers: scores of so few images stay in the processor's cache until they are used


def _empty(shape: Sequence[int]) -> paddle.Tensor:
    """Return a tensor without values yet."""
    made = paddle.empty(shape, "float32")
    use_large_pages(made.data_ptr(), FLOAT_BYTES * math.prod(shape))
    return made


def product(
    left: paddle.Tensor, right: paddle.Tensor, transpose_x: bool = False, transpose_y: bool = False
) -> paddle.Tensor:
    """Return the product of two matrices, either of them transposed."""
    left, right = left.contiguous(), right.contiguous()
    of_left, of_right = dense(*left.shape), dense(*right.shape)
    of_left, of_right = turned(of_left) if transpose_x else of_left, turned(of_right) if transpose_y else of_right
    out = _empty([of_left[0][0], of_right[0][1]])
    prepared = onednn.matmul(of_left, of_right, dense(*out.shape))
    prepared(left.data_ptr(), right.data_ptr(), out.data_ptr())
    return out


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
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return (softmax of scale * query key^T + bias [B, H, Q, N], mixed values [B, Q, D]); `width` is a head's."""
    query, key, value = split_projections(projections, heads * width)
    (batch, queries), tokens = query.rows.shape[:2], key.rows.shape[1]
    shares = _empty([batch, heads, queries, tokens])
    mixed = Heads(_empty([batch, queries, heads * width]), 0)
    scores = _empty([_images_at_once(shares), *shares.shape[1:]])
    bias_HQN = None if bias_HQN is None else bias_HQN.contiguous()
    biases = [] if bias_HQN is None else [bias_HQN.data_ptr()]
    added = dense(1, heads, queries, tokens) if biases else None
    for image, images in _pieces(shares):
        of_query, of_key, of_value, of_mixed = (
            each.layout(images, heads, width) for each in (query, key, value, mixed)
        )
        of_shares = dense(images, heads, queries, tokens)
        score = onednn.matmul(of_query, turned(of_key), of_shares, False, width**-0.5, added)
        score(query.address(image), key.address(image), scores.data_ptr(), *biases)
        place = _address(shares, image)
        onednn.softmax(images * heads * queries, tokens)(scores.data_ptr(), place)
        onednn.matmul(of_shares, of_value, of_mixed)(place, value.address(image), mixed.address(image))
    return shares, mixed.rows


def attend_gradients(
    projections: Sequence[paddle.Tensor], shares: paddle.Tensor, to_mixed_BQD: paddle.Tensor, keeps_scores: bool
) -> tuple[list[paddle.Tensor], paddle.Tensor | None]:
    """Return the gradients of the projections and, if `keeps_scores`, of the scores, [B, H, Q, N]."""
    batch, heads, queries, tokens = shares.shape
    width = to_mixed_BQD.shape[-1] // heads
    query, key, value = split_projections(projections, heads * width)
    gradients = [_empty(each.shape) for each in projections]
    to_query, to_key, to_value = split_projections(gradients, heads * width)
    to_mixed = Heads(to_mixed_BQD.contiguous(), 0)
    to_scores = _empty([batch if keeps_scores else _images_at_once(shares), *shares.shape[1:]])
    for image, images in _pieces(shares):
        of_query, of_key, of_value, of_mixed = (
            each.layout(images, heads, width) for each in (query, key, value, to_mixed)
        )
        of_shares, size = dense(images, heads, queries, tokens), (images * heads * queries, tokens)
        share, inner = _address(shares, image), _address(to_scores, image if keeps_scores else 0)
        gradient = to_mixed.address(image)
        onednn.matmul(turned(of_shares), of_mixed, of_value)(share, gradient, to_value.address(image))
        onednn.matmul(of_mixed, turned(of_value), of_shares)(gradient, value.address(image), inner)
        onednn.softmax_gradient(*size)(share, inner, inner)
        scaled = False, width**-0.5
        onednn.matmul(of_shares, of_key, of_query, *scaled)(inner, key.address(image), to_query.address(image))
        onednn.matmul(turned(of_shares), of_query, of_key, *scaled)(inner, query.address(image), to_key.address(image))
    return gradients, to_scores if keeps_scores else None


def _images_at_once(shares_BHQN: paddle.Tensor) -> int:
    batch, *rest = shares_BHQN.shape
    return max(1, min(batch, CACHED_SCORES // (rest[0] * rest[1] * rest[2])))


def _pieces(shares_BHQN: paddle.Tensor) -> Iterator[tuple[int, int]]:
    """Yield (first image, images) of the pieces whose scores stay in the cache."""
    batch, step = shares_BHQN.shape[0], _images_at_once(shares_BHQN)
    for image in range(0, batch, step):
        yield image, min(step, batch - image)


def _address(x_BHQN: paddle.Tensor, image: int) -> int:
    _, heads, queries, tokens = x_BHQN.shape
    return x_BHQN.data_ptr() + FLOAT_BYTES * image * heads * queries * tokens
