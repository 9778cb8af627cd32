"""Products of bfloat16 are at least as near to float64 as autocast is, in outputs and gradients, in every kernel."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddlemae.engine import onednn_primitives
from paddlemae.model.blocks import Attention, Mlp, run_recomputed
from paddlemae.model.decoders.cross import CrossAttention
from paddlemae.model.kernels import halves, layers, primitives, reference
from paddlemae.model.kernels.halves import residual_attention, residual_cross_attention, residual_mlp
from paddlemae.model.kernels.layers import LayerNorm
from tests.support import bfloat16 as autocast
from tests.support.bfloat16 import errors, has_bfloat16, in_bfloat16, needs_avx512

pytestmark = [needs_avx512, pytest.mark.usefixtures("bfloat16_allowed")]
EPSILON, HEADS, DRAWS = 1e-6, 3, 8
Formula = Callable[..., paddle.Tensor]


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def leaf(values: np.ndarray, dtype: str = "float32") -> paddle.Tensor:
    return paddle.to_tensor(values.astype(dtype), stop_gradient=False)


def drawn(*layers_: paddle.nn.Layer) -> list[paddle.Tensor]:
    """The layers' parameters, set to numbers of a trained model's size."""
    weights = [weight for layer in layers_ for weight in layer.parameters()]
    for number, weight in enumerate(weights):
        weight.set_value(numbers(*weight.shape, seed=20 + number) * weight.shape[0] ** -0.5)
    return weights


def results(formula: Formula, leaves: Sequence[paddle.Tensor]) -> list[np.ndarray]:
    """The output, and the gradients of the leaves, of a loss that weighs each number of the output differently."""
    for each in leaves:
        each.clear_gradient(False)
    output = formula(*leaves)
    assert output.dtype == leaves[0].dtype
    weights = paddle.to_tensor(numbers(*output.shape, seed=1).astype(output.numpy().dtype))
    (output * weights).sum().backward()
    assert all(each.grad.dtype == each.dtype for each in leaves)
    return [each.astype("float64").numpy() for each in (output, *(each.grad for each in leaves))]


def assert_as_near(fast: Formula, exact: Formula, rounded: Formula, leaves: Sequence[paddle.Tensor]) -> None:
    """`fast` differs from float32, and from the exact formula no more than the rounded one does, over several draws."""
    mine, theirs = (np.zeros(len(leaves) + 1) for _ in range(2))
    for draw in range(DRAWS):
        leaves[0].set_value(numbers(*leaves[0].shape, seed=100 + draw))
        wide = [leaf(each.numpy(), "float64") for each in leaves]
        expected = results(exact, wide)
        with in_bfloat16():
            mine += errors(results(fast, leaves), expected)
        theirs += errors(results(rounded, wide), expected)
    assert mine.max() > 1e-3, "nothing was rounded"
    ratios = mine / theirs  # of a vector of few numbers several percent are chance
    assert ratios.mean() < 1 and ratios.max() < 1.05, ratios.round(2)
    assert errors(results(fast, leaves), expected).max() < 1e-4, "outside of the context it is float32"


def pairs(weights: Sequence[paddle.Tensor]) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
    return zip(weights[::2], weights[1::2])


@pytest.mark.parametrize("shape", [(64, 48), (3, 16, 48), (1, 48)])
def test_a_linear_layer(shape: tuple[int, ...]) -> None:
    layer = layers.Linear(48, 32)
    drawn(layer)
    leaves = [leaf(numbers(*shape)), layer.weight, layer.bias]
    wide = [leaf(each.numpy(), "float64") for each in leaves]
    expected = results(F.linear, wide)
    theirs = errors(results(lambda x, *rest: autocast.linear(x, rest), wide), expected)
    with in_bfloat16():
        mine = errors(results(lambda x, *_: layer(x), leaves), expected)
        pixels = paddle.to_tensor(numbers(*shape))
        layer(pixels).sum().backward()
    assert (mine <= theirs).all() and mine.max() > 1e-4
    assert pixels.grad is None


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("keeps", [None, [0.0, 1.25, 1.25]])
def test_the_mlp_half(small: bool, keeps: list[float] | None, monkeypatch) -> None:
    if small:  # pieces of rows, the last of them shorter
        monkeypatch.setattr(primitives, "KEPT_PIECE", 25 * 96)
    norm, mlp = LayerNorm(24, epsilon=EPSILON), Mlp(24, 96)
    leaves = [leaf(numbers(3, 20, 24)), *drawn(norm, mlp)]
    keep_B = None if keeps is None else paddle.to_tensor(keeps)

    def formula(half: Formula) -> Formula:
        def whole(x: paddle.Tensor, *weights: paddle.Tensor) -> paddle.Tensor:
            branch = half(x, *pairs(weights), EPSILON)
            return x + (branch if keep_B is None else branch * keep_B.astype(branch.dtype).reshape([-1, 1, 1]))

        return whole

    def fast(x: paddle.Tensor, *weights: paddle.Tensor) -> paddle.Tensor:
        return residual_mlp(x, norm, mlp, keep_B)

    assert_as_near(fast, formula(reference.mlp_half), formula(autocast.mlp_half), leaves)
    assert halves._ResidualMlpOnCpu.__name__ in fast(*leaves).grad_fn.name()


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("tokens", [None, (0, 1), (1, 20), (5, 12)])
def test_the_attention_half(small: bool, tokens: tuple[int, int] | None, monkeypatch) -> None:
    if small:  # pieces of images
        monkeypatch.setattr(primitives, "CACHED_SCORES", 20 * 20 * HEADS)
        monkeypatch.setattr(primitives, "KEPT_PIECE", 2 * 20 * 20 * HEADS)
    norm, attn = LayerNorm(24, epsilon=EPSILON), Attention(24, HEADS)
    leaves = [leaf(numbers(3, 20, 24)), *drawn(norm, attn)]
    start, stop = tokens or (0, 20)

    def formula(half: Formula) -> Formula:
        return lambda x, *weights: x[:, start:stop] + half(x, *pairs(weights), EPSILON, HEADS, start, stop)

    def fast(x: paddle.Tensor, *weights: paddle.Tensor) -> paddle.Tensor:
        return residual_attention(x, norm, attn, tokens)

    assert_as_near(fast, formula(reference.attention_half), formula(autocast.attention_half), leaves)


@pytest.mark.parametrize("tokens", [None, (1, 20)])
def test_attention_with_a_bias_of_scores(tokens: tuple[int, int] | None) -> None:
    norm, attn = LayerNorm(24, epsilon=EPSILON), Attention(24, HEADS)
    start, stop = tokens or (0, 20)
    leaves = [leaf(numbers(3, 20, 24)), leaf(numbers(HEADS, stop - start, 20, seed=9)), *drawn(norm, attn)]

    def formula(linear: Formula, attention: Formula) -> Formula:
        def whole(x: paddle.Tensor, bias: paddle.Tensor, *weights: paddle.Tensor) -> paddle.Tensor:
            of_norm, qkv, proj = pairs(weights)
            query, key, value = linear(reference.layer_norm(x, of_norm, EPSILON), qkv).chunk(3, axis=-1)
            return x[:, start:stop] + linear(attention(query[:, start:stop], key, value, HEADS, bias), proj)

        return whole

    def exact(query, key, value, heads: int, bias: paddle.Tensor) -> paddle.Tensor:
        parts = [each.reshape([*each.shape[:2], heads, -1]).transpose([0, 2, 1, 3]) for each in (query, key, value)]
        scores = paddle.matmul(parts[0], parts[1], transpose_y=True) * parts[0].shape[-1] ** -0.5
        return paddle.matmul(F.softmax(scores + bias, axis=-1), parts[2]).transpose([0, 2, 1, 3]).reshape(query.shape)

    assert_as_near(
        lambda x, bias, *weights: residual_attention(x, norm, attn, tokens, bias_HQN=bias),
        formula(lambda x, layer: F.linear(x, *layer), exact),
        formula(autocast.linear, autocast.attention),
        leaves,
    )


@pytest.mark.parametrize("tokens", [20, 2])
def test_the_cross_attention_half(tokens: int) -> None:
    norm, attn = LayerNorm(24, epsilon=EPSILON), CrossAttention(24, 36, HEADS)
    leaves = [leaf(numbers(3, 9, 24)), leaf(numbers(3, tokens, 36, seed=5)), *drawn(norm, attn)]

    def formula(half: Formula) -> Formula:
        return lambda x, memory, *weights: x + half(x, memory, *pairs(weights), EPSILON, HEADS)

    def fast(x: paddle.Tensor, memory: paddle.Tensor, *weights: paddle.Tensor) -> paddle.Tensor:
        return residual_cross_attention(x, memory, norm, attn)

    assert_as_near(fast, formula(reference.cross_attention_half), formula(autocast.cross_attention_half), leaves)


def test_attention_over_one_token_takes_paddles_operations() -> None:
    """oneDNN 3.6 can't."""
    norm, attn = LayerNorm(24, epsilon=EPSILON), Attention(24, HEADS)
    drawn(norm, attn)
    exact = results(lambda x: residual_attention(x, norm, attn), [leaf(numbers(3, 1, 24))])
    with in_bfloat16():
        mine = results(lambda x: residual_attention(x, norm, attn), [leaf(numbers(3, 1, 24))])
    assert 1e-4 < errors(mine, exact).max() < 0.02


def drawn_block(width: int, heads: int, hidden: int) -> tuple[Callable[..., paddle.Tensor], list[paddle.Tensor]]:
    """A block, as a function of x whose other arguments are its own weights anyway; and those."""
    norm, attn, mlp = LayerNorm(width, epsilon=EPSILON), Attention(width, heads), Mlp(width, hidden)

    def block(x: paddle.Tensor, *_: paddle.Tensor) -> paddle.Tensor:
        return residual_mlp(residual_attention(x, norm, attn), norm, mlp)

    return block, drawn(norm, attn, mlp)


def test_any_sizes() -> None:
    """Widths of a head, tokens and rows that no vector divides."""
    for (batch, tokens, width, heads), hidden in product([(1, 2, 4, 4), (2, 7, 15, 5), (5, 65, 33, 1)], (3, 17, 64)):
        block, weights = drawn_block(width, heads, hidden)
        leaves = [leaf(numbers(batch, tokens, width)), *weights]
        exact = results(block, leaves)
        with in_bfloat16():
            mine = results(block, leaves)
        for number, (got, expected) in enumerate(zip(mine, exact)):
            assert np.abs(got - expected).max() < 0.03 * np.abs(expected).max() + 1e-4, (width, hidden, number)


def test_recomputation_gives_the_same_bits() -> None:
    block, weights = drawn_block(24, HEADS, 96)
    leaves = [leaf(numbers(3, 20, 24)), *weights]
    with in_bfloat16():
        plain = results(block, leaves)
        again = results(lambda x, *_: run_recomputed(block, x), leaves)
    assert all((a == b).all() for a, b in zip(plain, again))


def test_a_backward_pass_after_the_context_is_in_its_precision() -> None:
    block, weights = drawn_block(24, HEADS, 96)
    leaves, x = [leaf(numbers(3, 20, 24)), *weights], leaf(numbers(3, 20, 24))
    with in_bfloat16():
        inside = results(block, leaves)
        output = block(x)
    (output * paddle.to_tensor(numbers(3, 20, 24, seed=1))).sum().backward()
    assert (x.grad.numpy() == inside[1]).all()


def test_without_gradients_the_same_bits() -> None:
    block, _ = drawn_block(24, HEADS, 96)
    x = leaf(numbers(3, 20, 24))
    with in_bfloat16():
        output = block(x)
        with paddle.no_grad():
            assert (block(x).numpy() == output.numpy()).all()


def test_a_block_keeps_less(monkeypatch) -> None:
    """Its two inputs stay float32; hidden layer, projections and mixed values are bfloat16; shares are not kept."""
    block, weights = drawn_block(96, 12, 4 * 96)
    kept: list[int] = []
    context = paddle.autograd.py_layer.PyLayerContext
    save = context.save_for_backward

    def keep(ctx, *tensors: paddle.Tensor) -> None:
        kept.extend(each.size * each.element_size() for each in tensors if not each.persistable)
        save(ctx, *tensors)

    monkeypatch.setattr(context, "save_for_backward", keep)
    block(leaf(numbers(2, 50, 96)))
    wide, tokens = sum(kept), 2 * 50
    kept.clear()
    with in_bfloat16():
        block(leaf(numbers(2, 50, 96)))
    rounded_weights = 2 * sum(each.size for each in weights if each.ndim == 2)
    numbers_kept = tokens * (3 + 1 + 4) * 96  # projections, mixed, hidden
    assert wide == 4 * (2 * tokens * 96 + numbers_kept + 12 * 50 * tokens)
    assert sum(kept) == 4 * 2 * tokens * 96 + 2 * numbers_kept + rounded_weights


@pytest.mark.skipif(not has_bfloat16(), reason="emulated products of many heads are oneDNN's slow reference")
def test_no_product_is_computed_by_the_slow_reference() -> None:
    block, _ = drawn_block(96, 12, 4 * 96)
    primitives_ = onednn_primitives._thread().primitives
    primitives_.clear()
    norm, attn = LayerNorm(24, epsilon=EPSILON), Attention(24, HEADS)
    drawn(norm, attn)
    with in_bfloat16():
        block(leaf(numbers(2, 50, 96))).sum().backward()
        residual_attention(leaf(numbers(3, 20, 24)), norm, attn, (1, 20), bias_HQN=leaf(numbers(HEADS, 19, 20))).sum()
    names = [each.name for each in primitives_.values() if isinstance(each, onednn_primitives.Primitive)]
    assert len(names) > 10 and not [name for name in names if name.startswith("ref")]
