"""Define the layers of all layouts' models in NumPy, and the two position tables by their formulas.

Shapes: B images, L patches, N tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

PATCH = 4
EPSILON = 1e-6

Tensors = dict[str, np.ndarray]
Linear = Callable[[np.ndarray, Tensors, str], np.ndarray]


def norm(x: np.ndarray, t: Tensors, name: str) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)
    return centred / scale * t[f"{name}.weight"] + t[f"{name}.bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def out_in(x: np.ndarray, t: Tensors, name: str) -> np.ndarray:
    """Apply PyTorch's Linear, weight [out, in]."""
    return np.einsum("...i,oi->...o", x, t[f"{name}.weight"]) + t.get(f"{name}.bias", 0.0)


def in_out(x: np.ndarray, t: Tensors, name: str) -> np.ndarray:
    """Apply Paddle's Linear, weight [in, out]."""
    return np.einsum("...i,io->...o", x, t[f"{name}.weight"]) + t.get(f"{name}.bias", 0.0)


def attend(query: np.ndarray, key: np.ndarray, value: np.ndarray, heads: int) -> np.ndarray:
    batch, tokens, width = query.shape
    query, key, value = (x.reshape(batch, tokens, heads, width // heads) for x in (query, key, value))
    scores = np.einsum("bnhd,bmhd->bhnm", query, key) / math.sqrt(width // heads)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return np.einsum("bhnm,bmhd->bnhd", shares, value).reshape(batch, tokens, width)


def convolve(images: np.ndarray, t: Tensors, name: str) -> np.ndarray:
    """Apply a Conv2D whose stride is its kernel: [B, L, D]."""
    weight = t[f"{name}.weight"]
    rows, columns = images.shape[2] // PATCH, images.shape[3] // PATCH
    found = np.zeros((len(images), rows * columns, len(weight)))
    for row in range(rows):
        for column in range(columns):
            place = images[:, :, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
            found[:, row * columns + column] = np.einsum("bchw,dchw->bd", place, weight)
    return found + t[f"{name}.bias"]


def with_cls(tokens: np.ndarray, t: Tensors, name: str, table: np.ndarray) -> np.ndarray:
    first = np.broadcast_to(t[name] + table[:, :1], (len(tokens), 1, tokens.shape[-1]))
    return np.concatenate([first, tokens], axis=1)


def taken(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.take_along_axis(x, rows[..., None], axis=1)


# Tables


def table_2d(width: int, rows: int, columns: int, front: int = 1) -> np.ndarray:
    """Return MAE's position table: half for the column, half for the row; a row of zeros for the cls token."""
    table = np.zeros((1, front + rows * columns, width), np.float32)
    quarter = width // 4
    for row in range(rows):
        for column in range(columns):
            angles = [c / 10000 ** (k / quarter) for c in (column, row) for k in range(quarter)]
            pieces = [f(a) for part in (angles[:quarter], angles[quarter:]) for f in (math.sin, math.cos) for a in part]
            table[0, front + row * columns + column] = pieces
    return table


def table_1d(width: int, count: int) -> np.ndarray:
    """Return MAE-pytorch's position table, after "Attention Is All You Need"."""
    angles = [[place / 10000 ** (2 * (k // 2) / width) for k in range(width)] for place in range(count)]
    table = np.array(angles)
    table[:, 0::2], table[:, 1::2] = np.sin(table[:, 0::2]), np.cos(table[:, 1::2])
    return table[None]
