"""Compute the arithmetic limit: what a step multiplies, and how fast the machine multiplies matrices."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from benchmarks.works import CHANNELS, MLP_RATIO, NUM_CLASSES, Job

Product = tuple[int, int, int, int]  # batch, rows, inner, columns: [batch, rows, inner] @ [batch, inner, columns]
SQUARES: tuple[Product, ...] = ((1, 1024, 1024, 1024), (1, 2048, 2048, 2048), (1, 4096, 1024, 4096))
SECONDS_EACH = 0.12


def step_products(job: Job) -> Counter[Product]:
    """Count the matrix products of one step of a job: product -> how often it is computed.

    Only what the mathematics needs: pixels get no gradient, and of a last block nothing is computed whose output nobody
    reads. Softmax, norms, GELU, additions, the optimizer and memory traffic are left out.
    """
    return PRODUCTS[job.task](job)


def _patches(job: Job) -> int:
    return (job.shape["image_size"] // job.shape["patch_size"]) ** 2


def _pretraining(job: Job) -> Counter[Product]:
    """Count products: the encoder takes kept patches, the decoder's last block and head only removed ones."""
    shape, patches = job.shape, _patches(job)
    kept = int(patches * (1 - job.mask_ratio) + 1e-9)
    width, narrow, heads = shape["embed_dim"], shape["decoder_embed_dim"], shape["decoder_num_heads"]
    total = _encoder(job, kept, kept + 1) + _linear(job.batch * (kept + 1), width, narrow)
    for _ in range(shape["decoder_depth"] - 1):
        total += _block(job.batch, patches + 1, patches + 1, narrow, heads)
    total += _block(job.batch, patches + 1, patches - kept, narrow, heads)
    return total + _linear(job.batch * (patches - kept), narrow, shape["patch_size"] ** 2 * CHANNELS)


def _classification(job: Job) -> Counter[Product]:
    """Count products where only the cls token of the last block is read."""
    return _encoder(job, _patches(job), 1) + _linear(job.batch, job.shape["embed_dim"], NUM_CLASSES)


def _feature_extraction(job: Job) -> Counter[Product]:
    """Count products as for classification, without a head and forward only."""
    return _encoder(job, _patches(job), 1, trains=False)


PRODUCTS = {
    "pretrain": _pretraining,
    "products": _pretraining,
    "classify": _classification,
    "features": _feature_extraction,
}


def _encoder(job: Job, patches: int, wanted: int, trains: bool = True) -> Counter[Product]:
    """Patch embedding and blocks over `patches` and the cls token, of which `wanted` tokens are read at the end."""
    shape = job.shape
    width, tokens, heads = shape["embed_dim"], patches + 1, shape["num_heads"]
    pixels = shape["patch_size"] ** 2 * CHANNELS
    total = _linear(job.batch * patches, pixels, width, trains, to_input=False)
    for _ in range(shape["depth"] - 1):
        total += _block(job.batch, tokens, tokens, width, heads, trains)
    return total + _block(job.batch, tokens, wanted, width, heads, trains)


def _linear(rows: int, inner: int, columns: int, trains: bool = True, to_input: bool = True) -> Counter[Product]:
    """Count the forward product and, in training, those of the gradients of weight and input."""
    products = [(1, rows, inner, columns)]
    if trains:
        products += [(1, inner, rows, columns)] + [(1, rows, columns, inner)] * to_input
    return Counter(products)


def _block(batch: int, tokens: int, wanted: int, width: int, heads: int, trains: bool = True) -> Counter[Product]:
    """Count the products of a transformer block over `tokens`, of which `wanted` are read afterwards."""
    rows, head, many = batch * wanted, width // heads, batch * heads
    if wanted == tokens:
        shapes = [(rows, width, 3 * width)]
    else:  # queries of the wanted ones, keys and values of all
        shapes = [(rows, width, width), (batch * tokens, width, 2 * width)]
    shapes += [(rows, width, width), (rows, width, MLP_RATIO * width), (rows, MLP_RATIO * width, width)]
    total = sum((_linear(*shape, trains) for shape in shapes), Counter[Product]())
    scores, mixed = (many, wanted, head, tokens), (many, wanted, tokens, head)
    total += Counter([scores, mixed])
    # in training each of the two has a gradient to the wanted side and one to the tokens' side
    return total + Counter([scores, mixed] + [(many, tokens, wanted, head)] * 2 if trains else [])


def operations(products: Counter[Product]) -> int:
    """Count floating-point operations; a multiplication and an addition are two."""
    return sum(2 * batch * rows * inner * columns * count for (batch, rows, inner, columns), count in products.items())


def time_products(job: Job, product: Callable[..., Callable[[], object]]) -> dict[str, object]:
    """Time matrix products, the best of several.

    Args:
        job: `model` "square" times large products, another name those of its pretraining step.
        product: makes a product's operands and returns what multiplies them.
    Returns:
        `products`: [batch, rows, inner, columns, seconds] of each.
    """
    wanted = SQUARES if job.model == "square" else tuple(step_products(job))
    return {"products": [[*shape, _best_seconds(product(*shape))] for shape in wanted], "threads": job.threads}


def _best_seconds(multiply: Callable[[], object]) -> float:
    multiply()
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < SECONDS_EACH:
        before = time.perf_counter()
        multiply()
        best = min(best, time.perf_counter() - before)
    return best


def rate(measured: list[list[float]]) -> float:
    """Return the operations per second of the fastest product."""
    return max(2 * batch * rows * inner * columns / took for batch, rows, inner, columns, took in measured)


def shaped_seconds(job: Job, measured: list[list[list[float]]]) -> float:
    """Return the seconds of a step's products, each at the speed of the framework that computes it fastest.

    Args:
        measured: `products` of one or more frameworks, for this job.
    """
    best: dict[Product, float] = {}
    for batch, rows, inner, columns, took in (row for one in measured for row in one):
        shape = (int(batch), int(rows), int(inner), int(columns))
        best[shape] = min(took, best.get(shape, took))
    return sum(best[shape] * count for shape, count in step_products(job).items())
