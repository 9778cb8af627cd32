"""Measure the digits that Paddle's CPU kernels keep in long reductions: the table of docs/parity.md.

python scripts/reductions.py    # a minute; needs 2 GB of memory

Each kernel reduces the same float32 numbers as float64 does; printed is the largest relative difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

COUNT = 1 << 24


def largest_difference(found: Any, expected: Any) -> float:
    """Return the largest difference relative to the largest magnitude."""
    return float(np.abs(np.asarray(found, np.float64) - expected).max() / np.abs(expected).max())


def rows() -> Iterator[tuple[str, Any, Any]]:
    """Yield (kernel, its result, the float64 result) for squares of normal numbers."""
    import paddle
    import paddle.nn.functional as F

    rng = np.random.default_rng(0)
    x = np.square(rng.standard_normal(COUNT, np.float32))
    e = x.astype(np.float64)
    t = paddle.to_tensor(x)
    wide, tall = [16, COUNT // 16], [COUNT // 16, 16]
    ew, et = e.reshape(wide), e.reshape(tall)
    yield "sum of all", t.sum(), e.sum()
    yield "mean of all", t.mean(), e.mean()
    yield "mean along the last axis of [16, 2^20]", t.reshape(wide).mean(axis=1), ew.mean(axis=1)
    yield "mean along the first axis of [2^20, 16]", t.reshape(tall).mean(axis=0), et.mean(axis=0)
    yield "sum along the first axis of [2^20, 16]", t.reshape(tall).sum(axis=0), et.sum(axis=0)
    tokens, etokens = t.reshape([16, -1, 64]), e.reshape(16, -1, 64)
    yield "mean over axis 1 of [16, 2^14, 64]", tokens.mean(axis=1), etokens.mean(axis=1)
    yield "var, std of all", t.var(), e.var(ddof=1)
    yield "var along the last axis of [16, 2^20]", t.reshape(wide).var(axis=1), ew.var(axis=1, ddof=1)
    yield "linalg.norm", paddle.linalg.norm(t), np.linalg.norm(e)
    yield "squared_l2_norm (ClipGradByGlobalNorm)", paddle._C_ops.squared_l2_norm(t), e @ e
    yield "dot", paddle.dot(t, t), e @ e
    yield "product with a column of ones, [16, 2^20]", t.reshape(wide) @ paddle.ones([wide[1], 1]), ew.sum(1)[:, None]
    yield "product with a row of ones, [2^20, 16]", paddle.ones([1, tall[0]]) @ t.reshape(tall), et.sum(0)[None]
    yield "cumsum, its last", t.cumsum()[-1], e.sum()
    yield "logsumexp of all", paddle.logsumexp(t), np.log(np.exp(e).sum())
    yield "mse_loss, l1_loss, smooth_l1_loss", F.mse_loss(t, paddle.zeros_like(t)), (e * e).mean()
    pooled = F.adaptive_avg_pool2d(t.reshape([16, 16, 256, 256]), 1).flatten()
    yield "adaptive_avg_pool2d of [16, 16, 256, 256] to 1", pooled, e.reshape(256, -1).mean(axis=1)
    yield from entropies(rng)


def entropies(rng: np.random.Generator) -> Iterator[tuple[str, Any, Any]]:
    """Yield the same for cross_entropy."""
    import paddle
    import paddle.nn.functional as F

    for images, classes in ((4096, 1000), (64, 21_000)):
        logits, labels = rng.standard_normal((images, classes)).astype(np.float32), rng.integers(0, classes, images)
        soft = np.full((images, classes), 0.1 / classes, np.float32)
        soft[np.arange(images), labels] += 0.9
        values = logits.astype(np.float64)
        losses = np.log(np.exp(values).sum(axis=1, keepdims=True)) - values
        shape = f"[{images}, {classes}]"
        hard, of_soft = losses[np.arange(images), labels], (losses * soft).sum(axis=1)
        given = paddle.to_tensor(logits)
        yield f"cross_entropy, {shape}", F.cross_entropy(given, paddle.to_tensor(labels)), hard.mean()
        target = paddle.to_tensor(soft)
        yield f"the same of soft labels, {shape}", F.cross_entropy(given, target, soft_label=True), of_soft.mean()
        each = F.cross_entropy(given, target, soft_label=True, reduction="none").flatten()
        yield "the worst row of it", each, of_soft


def own_rows() -> Iterator[tuple[str, Any, Any]]:
    """Yield the same for the reductions that PaddleMAE uses."""
    import paddle

    from paddlemae.model.kernels.rows import mean_all, mean_rows
    from paddlemae.train.optim import sum_of_squares

    x = np.square(np.random.default_rng(0).standard_normal(COUNT, np.float32))
    e, t = x.astype(np.float64), paddle.to_tensor(x)
    yield "`mean_all`: losses", mean_all(t), e.mean()
    yield "`mean_rows`: tokens, [16, 2^14, 64]", mean_rows(t.reshape([16, -1, 64])), e.reshape(16, -1, 64).mean(axis=1)
    batch = t.reshape([1, 1 << 14, -1])
    yield "`mean_rows`: a probe's batch, [1, 2^14, 2^10]", mean_rows(batch), e.reshape(batch.shape).mean(axis=1)
    yield "`sum_of_squares`: norms", sum_of_squares([t]), e @ e


def table(found: Callable[[], Iterator[tuple[str, Any, Any]]]) -> list[str]:
    return [
        f"| {name} | {largest_difference(got if isinstance(got, float) else got.numpy(), expected):.0e} |"
        for name, got, expected in found()
    ]


if __name__ == "__main__":
    print("\n".join(["| kernel | off by |", "|---|---|", *table(rows), *table(own_rows)]))
