"""Every faster formulation is the plain layer in its outputs and in every gradient, in float32 and against float64."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddlemae.engine import mkl, products
from paddlemae.model.blocks import Attention, Mlp
from paddlemae.model.decoders.cross import CrossAttention
from paddlemae.model.kernels import attention as attentions
from paddlemae.model.kernels import halves, layers, placement, primitives, reference, rows
from paddlemae.model.kernels.attention import attention, softmax_, take_tokens
from paddlemae.model.kernels.halves import residual_attention, residual_cross_attention, residual_mlp
from paddlemae.model.kernels.layers import LayerNorm, Linear, gelu_backward, linear, weighted_sums
from paddlemae.model.kernels.rows import normalise_rows, scale_channels

CLOSE = 1e-5  # relative to the largest magnitude
EPSILON = 1e-6
DTYPES = ["float32", "float64"]  # of the plain formulation; the fast one is float32


@pytest.fixture(autouse=True, params=["onednn", "paddle"])
def library(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run every test with either library."""
    before = products.by_onednn()
    products.use_onednn(request.param == "onednn")
    yield request.param
    products.use_onednn(before)


def numbers(*shape: int, seed: int = 0, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1, shape).astype(np.float32)


def leaf(values: np.ndarray, *, trains: bool = True, dtype: str = "float32") -> paddle.Tensor:
    return paddle.to_tensor(values.astype(dtype), stop_gradient=not trains)


def copies(leaves: Sequence[paddle.Tensor], dtype: str = "float32") -> list[paddle.Tensor]:
    return [leaf(each.numpy(), trains=not each.stop_gradient, dtype=dtype) for each in leaves]


def backward(output: paddle.Tensor) -> np.ndarray:
    """The output, after the backward pass of a loss that weighs each of its numbers differently."""
    (output * paddle.to_tensor(numbers(*output.shape, seed=1).astype(output.numpy().dtype))).sum().backward()
    return output.numpy()


def gradients(leaves: Sequence[paddle.Tensor]) -> list[np.ndarray | None]:
    return [None if each.grad is None else each.grad.numpy() for each in leaves]


def assert_close(got: Any, expected: Any, *, least: float = 0.0, where: object = "") -> None:
    """`least` is a magnitude that is compared with where all numbers are smaller."""
    assert (got is None) == (expected is None), where
    if got is not None:
        assert got.shape == expected.shape, where
        assert np.abs(got - expected).max() <= CLOSE * max(np.abs(expected).max(), least), where


def assert_all_close(got: list, expected: list, least: Callable[[int], float] = lambda number: 0.0) -> None:
    for number, (mine, theirs) in enumerate(zip(got, expected, strict=True)):
        assert_close(mine, theirs, least=least(number), where=number)


def computed_by(output: paddle.Tensor, layer: type) -> bool:
    """Whether the output comes right out of this PyLayer: no fast path is tested that was not taken."""
    return layer.__name__ in output.grad_fn.name()


def assert_same(
    mine: list[paddle.Tensor],
    fast: Callable[..., paddle.Tensor],
    plain: Callable[..., paddle.Tensor],
    dtype: str = "float32",
    *,
    layer: type | None = None,
    least: Callable[[int, float], float] = lambda number, largest: 0.0,
) -> paddle.Tensor:
    """Output and gradients of `fast(*mine)` are those of `plain` on copies; what is frozen alone has no gradient.

    `layer` must have computed the output; `least` maps a leaf's number and the largest gradient of all to a magnitude.
    """
    for each in mine:
        each.clear_gradient(False)
    frozen = [each.stop_gradient for each in mine]
    theirs = copies(mine, dtype)
    output = fast(*mine)
    assert layer is None or computed_by(output, layer)
    assert_close(backward(output), backward(plain(*theirs)))
    largest = max(np.abs(each).max() for each in gradients(theirs) if each is not None)
    assert_all_close(gradients(mine), gradients(theirs), lambda number: least(number, largest))
    assert [each.grad is None for each in mine] == frozen
    return output


def linear_leaves(*shape: int) -> list[paddle.Tensor]:
    """x, weight [5, 3] and bias [3]."""
    return [leaf(numbers(*size, seed=k)) for k, size in enumerate((shape, (5, 3), (3,)))]


@pytest.mark.parametrize("frozen", [None, 0])
def test_linear_is_paddles_own(frozen: int | None) -> None:
    for shape, dtype in product(((7, 5), (2, 7, 5), (2, 3, 4, 5), (1, 5), (1, 1, 5)), DTYPES):
        mine = linear_leaves(*shape)
        if frozen is not None:
            mine[frozen].stop_gradient = True
        assert_same(mine, linear, F.linear, dtype, layer=layers._LinearOnCpu)


@pytest.mark.parametrize("frozen", [1, 2])
def test_a_frozen_weight_or_bias_gets_no_gradient(frozen: int) -> None:
    mine = linear_leaves(4, 5)
    mine[frozen].stop_gradient = True
    assert_same(mine, linear, F.linear)


def test_gradients_flow_through_a_chain_of_layers() -> None:
    """The input of the second layer needs a gradient, though the pixels of the first don't."""
    paddle.seed(0)
    first, second = Linear(5, 4), Linear(4, 3)
    plain = paddle.nn.Sequential(paddle.nn.Linear(5, 4), paddle.nn.GELU(), paddle.nn.Linear(4, 3))
    for mine, theirs in zip([*first.parameters(), *second.parameters()], plain.parameters()):
        theirs.set_value(mine)
    pixels = leaf(numbers(6, 5), trains=False)
    second(F.gelu(first(pixels))).square().mean().backward()
    plain(pixels).square().mean().backward()
    assert_all_close(gradients([*first.parameters(), *second.parameters()]), gradients(plain.parameters()))


def test_without_gradients_a_linear_layer_is_paddles_bitwise(library: str) -> None:
    leaves = linear_leaves(4, 5)
    with paddle.no_grad():
        output = linear(*leaves)
    assert output.stop_gradient
    assert_close(output.numpy(), F.linear(*leaves).numpy())
    assert library == "onednn" or (output.numpy() == F.linear(*leaves).numpy()).all()


def test_normal_rows_by_hand() -> None:
    for shape, fewer in product(((7, 12), (1, 12), (5, 2), (64, 48)), (0, 1)):
        rows = numbers(*shape, mean=2.0)
        normal, mean, scale = (
            each.numpy() for each in normalise_rows(paddle.to_tensor(rows), shape[1] - fewer, EPSILON)
        )
        exact = rows.astype(np.float64)
        deviation = np.sqrt(exact.var(axis=1, ddof=fewer, keepdims=True) + EPSILON)
        assert_close(mean, exact.mean(axis=1, keepdims=True))
        assert_close(scale, 1 / deviation)
        assert_close(normal, (exact - exact.mean(axis=1, keepdims=True)) / deviation)


@pytest.mark.parametrize("degrees", [11, 12])
def test_a_constant_row_is_normal_up_to_its_means_rounding(degrees: int) -> None:
    """Its deviation is the root of epsilon, so that a thousandfold of the rounding may be seen, but not more."""
    constants = np.array([[0.0], [0.7], [-3.0], [1e-20]], np.float32)
    rows = paddle.to_tensor(np.tile(constants, (1, 12)))
    normal, mean, scale = (each.numpy() for each in normalise_rows(rows, degrees, EPSILON))
    np.testing.assert_allclose(mean, constants, rtol=1e-6)
    np.testing.assert_allclose(scale, EPSILON**-0.5, rtol=1e-3)
    assert (np.abs(normal) <= 4 * 2**-23 * np.abs(constants) / EPSILON**0.5).all()


def layer_norm_leaves(rows: np.ndarray) -> tuple[list[paddle.Tensor], Callable[..., paddle.Tensor]]:
    """Rows, weight and bias, the latter of a layer; and that layer's call with all three."""
    layer = LayerNorm(rows.shape[-1], epsilon=EPSILON)
    layer.weight.set_value(numbers(rows.shape[-1], seed=2, mean=1.0))
    layer.bias.set_value(numbers(rows.shape[-1], seed=3))
    return [leaf(rows), layer.weight, layer.bias], lambda x, *parameters: layer(x)


def plain_layer_norm(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
    return reference.layer_norm(x, (weight, bias), EPSILON)


def test_layer_norm_is_paddles_own() -> None:
    for shape, dtype in product(((7, 12), (2, 7, 12), (1, 1, 12), (3, 3)), DTYPES):
        mine, layer = layer_norm_leaves(numbers(*shape, mean=1.0))
        assert_same(mine, layer, plain_layer_norm, dtype, layer=layers._LayerNormOnCpu)


@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-3])
def test_layer_norm_of_nearly_constant_rows(noise: float) -> None:
    """Next to float64, up to what rounding the mean makes of any formulation."""
    rows = np.float32([[0.5], [-2.0], [0.0]]) + np.float32(noise) * numbers(3, 32)
    mine, layer = layer_norm_leaves(rows)
    theirs = copies(mine, "float64")
    expected = [backward(plain_layer_norm(*theirs)), *gradients(theirs)]
    deviation = np.sqrt(rows.astype(np.float64).var(axis=1, keepdims=True) + EPSILON)
    rounding = 16 * 2**-23 * 2.0 / deviation.min()  # of the mean, in deviations; 2 is the largest magnitude
    for got, true in zip([backward(layer(*mine)), *gradients(mine)], expected, strict=True):
        assert np.abs(got - true).max() <= max(rounding, CLOSE) * max(1.0, np.abs(true).max())


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_layer_norm_without_one_of_its_gradients(frozen: int) -> None:
    mine, layer = layer_norm_leaves(numbers(4, 12))
    mine[frozen].stop_gradient = True
    assert_same(mine, layer, plain_layer_norm)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_channels_are_scaled_and_shifted_each_by_its_own(on_cpu: bool, monkeypatch) -> None:
    monkeypatch.setattr(placement, "on_cpu", lambda x: on_cpu)
    for shape in ((2, 3, 4, 6), (1, 1, 5, 3), (3, 4, 1, 1), (1, 3, 8, 8)):
        images, scale, shift = numbers(*shape), numbers(shape[1], seed=1), numbers(shape[1], seed=2)
        tensors = [paddle.to_tensor(values) for values in (images, scale, shift)]
        expected = images.astype(np.float64) * scale[:, None, None] + shift[:, None, None]
        assert_close(scale_channels(*tensors).numpy(), expected, where=shape)
        assert (tensors[0].numpy() == images).all(), "the images stay as they are"


@pytest.mark.parametrize("largest", [1.0, 6.0, 30.0, 1e4, 1e20])
def test_gelu_and_its_slope_are_the_formulas(largest: float) -> None:
    """Each number for itself, not next to the largest: far out on the left both are nothing."""
    x = np.concatenate([np.linspace(-largest, largest, 201), [0.0, -1e-6, 1e-30]]).astype(np.float32)
    hidden, slope = paddle.to_tensor(x[:, None]), paddle.ones([len(x), 1])
    gelu_backward(hidden, slope)
    value, slope = (each.numpy()[:, 0].astype(np.float64) for each in (hidden, slope))
    exact = x.astype(np.float64)
    cumulative = np.array([0.5 * math.erfc(-each / math.sqrt(2)) for each in exact])
    density = np.exp(-np.square(exact) / 2) / math.sqrt(2 * math.pi)
    assert (np.abs(value - exact * cumulative) <= 1e-6 * np.maximum(1, np.abs(exact))).all()
    assert (np.abs(slope - (cumulative + exact * density)) <= 2e-6).all()


def test_gelu_in_pieces_is_that_of_the_whole(monkeypatch) -> None:
    results = []
    for size in (rows.PIECE, 1, 10, 11, 64):
        monkeypatch.setattr(rows, "PIECE", size)
        hidden, gradient = paddle.to_tensor(numbers(7, 5)), paddle.to_tensor(numbers(7, 5, seed=2))
        gelu_backward(hidden, gradient)
        results.append([hidden.numpy(), gradient.numpy()])
    assert all((np.stack(result) == np.stack(results[0])).all() for result in results)


@pytest.mark.parametrize("largest", [1.0, 79.0, 81.0, 1e4])  # by exponentials alone up to 80
@pytest.mark.parametrize("piece", [6, rows.PIECE])
def test_softmax_is_paddles_own(largest: float, piece: int, monkeypatch) -> None:
    monkeypatch.setattr(rows, "PIECE", piece)
    # with the shift no row has a large number in it
    for shape, shift in product(((2, 3, 4, 5), (7, 1), (3, 127), (3, 128), (2, 200)), (0.0, -largest)):
        scores = (numbers(*shape) * largest / 3).clip(-largest, largest).astype(np.float32) + np.float32(shift)
        exact = F.softmax(paddle.to_tensor(scores.astype(np.float64)), axis=-1).numpy()
        x = paddle.to_tensor(scores)
        assert softmax_(x) is x
        assert np.abs(x.numpy() - exact).max() <= 2e-6, shape
        np.testing.assert_allclose(x.numpy().sum(-1), 1, rtol=2e-6)


def test_softmax_of_what_is_no_number_is_none() -> None:
    scores = numbers(2, 5)
    scores[1, 3] = np.nan
    shares = softmax_(paddle.to_tensor(scores)).numpy()
    assert np.isnan(shares[1]).all() and np.isfinite(shares[0]).all()


def plain_attention(query_BHQd, key_BHNd, value_BHNd) -> paddle.Tensor:
    rows = [each.transpose([0, 2, 1, 3]).flatten(2) for each in (query_BHQd, key_BHNd, value_BHNd)]
    return reference.attention(*rows, heads=query_BHQd.shape[1])


def attention_leaves(batch: int, heads: int, queries: int, tokens: int, width: int) -> list[paddle.Tensor]:
    counts = (queries, tokens, tokens)
    return [leaf(numbers(batch, heads, count, width, seed=10 + k)) for k, count in enumerate(counts)]


def test_attention_is_the_plain_formula() -> None:
    """With one token to look at, gradients of query and key are zero: hence next to the largest of all three."""
    shapes = ((2, 3, 5, 5, 4), (2, 3, 2, 7, 4), (2, 2, 7, 3, 5), (1, 1, 6, 4, 8), (2, 2, 1, 6, 4), (3, 2, 4, 1, 4))
    for shape, dtype in product(shapes, DTYPES):
        alone = shape[3] == 1
        assert_same(
            attention_leaves(*shape),
            attention,
            plain_attention,
            dtype,
            layer=attentions._AttentionOnCpu,
            least=lambda number, largest, alone=alone: largest if alone else 0.0,
        )


def test_attention_of_large_scores_stays_finite() -> None:
    mine = [leaf(20 * each.numpy()) for each in attention_leaves(2, 2, 5, 6, 4)]
    theirs = copies(mine, "float64")
    assert_close(backward(attention(*mine)), backward(plain_attention(*theirs)))
    for got, expected in zip(gradients(mine), gradients(theirs)):
        # scores of a thousand have a rounding of 1e-4 themselves
        assert np.abs(got - expected).max() <= 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_attention_without_one_of_its_gradients(frozen: int) -> None:
    mine = attention_leaves(2, 2, 4, 5, 3)
    mine[frozen].stop_gradient = True
    assert_same(mine, attention, plain_attention)


def test_attention_without_gradients() -> None:
    leaves = attention_leaves(2, 2, 4, 5, 3)
    with paddle.no_grad():
        output = attention(*leaves)
    assert output.stop_gradient
    assert_close(output.numpy(), plain_attention(*leaves).numpy())


SHAPES = [(2, 5, 12, 3), (1, 5, 12, 3), (3, 1, 12, 2), (2, 6, 8, 1), (1, 1, 4, 1), (4, 9, 12, 12)]  # B, N, D, H
KEEPS = {"none": None, "some": [0.0, 1.25, 0.0, 2.0], "ones": [1.0] * 4, "all": [1.5, 1.25, 2.0, 0.5], "no": [0.0] * 4}
HIDDEN = 20


def drawn(*layers: paddle.nn.Layer) -> list[paddle.Tensor]:
    """The layers' parameters, norms and biases too, with random values."""
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    for seed, parameter in enumerate(parameters, start=20):
        parameter.set_value(numbers(*parameter.shape, seed=seed) * 0.5 + (0.5 if parameter.ndim == 1 else 0.0))
    return parameters


def plain_residual(x, branch, keep: list[float] | None) -> paddle.Tensor:
    if keep is None:
        return x + branch
    return x + branch * paddle.to_tensor(np.reshape(keep, [-1, 1, 1]).astype(x.numpy().dtype))


def factors(name: str, batch: int) -> tuple[list[float] | None, paddle.Tensor | None]:
    keep = KEEPS[name] and KEEPS[name][:batch]
    return keep, None if keep is None else paddle.to_tensor(np.float32(keep))


class Half:
    """Half a block with random weights: `fast(x, ...)`, and `plain(x, weights, ...)`, its formula."""

    def __init__(self, width: int, heads: int, attends: bool) -> None:
        self.heads, self.attends = heads, attends
        self.layers = (LayerNorm(width, epsilon=EPSILON), Attention(width, heads) if attends else Mlp(width, HIDDEN))
        self.weights = drawn(*self.layers)
        self.computed_by = halves._ResidualAttentionOnCpu if attends else halves._ResidualMlpOnCpu

    def fast(self, x, tokens=None, keep_B=None) -> paddle.Tensor:
        return (
            residual_attention(x, *self.layers, tokens, keep_B)
            if self.attends
            else residual_mlp(x, *self.layers, keep_B)
        )

    def plain(self, x, weights: Sequence[paddle.Tensor], tokens=None, keep: list[float] | None = None) -> paddle.Tensor:
        norm, first, second = zip(weights[::2], weights[1::2])
        if not self.attends:
            return plain_residual(x, reference.mlp_half(x, norm, first, second, EPSILON), keep)
        start, stop = tokens or (0, x.shape[1])
        branch = reference.attention_half(x, norm, first, second, EPSILON, self.heads, start, stop)
        return plain_residual(x[:, start:stop], branch, keep)

    def assert_same(self, x: paddle.Tensor, tokens=None, keeps: str = "none", **how: Any) -> paddle.Tensor:
        keep, keep_B = factors(keeps, x.shape[0])
        return assert_same(
            [x, *self.weights],
            lambda x, *weights: self.fast(x, tokens, keep_B),
            lambda x, *weights: self.plain(x, weights, tokens, keep),
            **how,
        )


def ranges(tokens: int) -> list[tuple[int, int] | None]:
    """No range, all, the first token, the last, all but the first, all but the last, and from the middle."""
    every = [None, (0, tokens), (0, 1), (tokens - 1, tokens), (1, tokens), (0, tokens - 1), (1, tokens - 1)]
    return list(dict.fromkeys(each for each in every if each is None or each[0] < each[1]))


@pytest.mark.parametrize("attends", [True, False])
@pytest.mark.parametrize("keeps", KEEPS)
def test_half_a_block_is_the_plain_formula(keeps: str, attends: bool, monkeypatch) -> None:
    """The key's bias has no effect on softmax: its gradient is rounding, seen next to the whole fused bias."""
    if not attends:
        monkeypatch.setattr(rows, "PIECE", 3 * HIDDEN)
    for module, name, size in (
        (primitives, "CACHED_SCORES", 40),  # pieces of images
        (primitives, "KEPT_PIECE", 100),  # and of rows
        (mkl, "LONG_SUM", 3),  # sums by both libraries
        (mkl, "LARGE_WEIGHT", 150),
    ):
        monkeypatch.setattr(module, name, size)
    for (batch, count, width, heads), dtype in product(SHAPES, DTYPES):
        for tokens in ranges(count) if attends else [None]:
            half = Half(width, heads, attends)
            half.assert_same(leaf(numbers(batch, count, width)), tokens, keeps, dtype=dtype, layer=half.computed_by)


def test_the_mlp_half_far_out_on_the_gelu() -> None:
    half = Half(12, 3, attends=False)
    half.layers[1].fc1.bias.set_value(np.linspace(-30, 30, HIDDEN).astype(np.float32))
    half.assert_same(leaf(numbers(2, 5, 12)), dtype="float64")


@pytest.fixture(params=[True, False], ids=["attention", "mlp"])
def half(request) -> Half:
    return Half(12, 3, request.param)


def test_frozen_weights_get_no_gradient_and_all_else_its_own(half: Half) -> None:
    groups = [[0], [1], [2], [3], [4], [5], [0, 1], [2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]
    for tokens, frozen in product((None, (0, 1), (1, 4)), groups):
        for number, weight in enumerate(half.weights):
            weight.stop_gradient = number in frozen
        output = half.assert_same(leaf(numbers(3, 5, 12)), tokens, "some")
        assert not computed_by(output, half.computed_by)


def test_an_input_without_gradient(half: Half) -> None:
    for tokens in (None, (0, 1), (1, 4)):
        half.assert_same(leaf(numbers(3, 5, 12), trains=False), tokens, "some")


def test_without_gradients_the_halves_give_the_same(half: Half) -> None:
    keep, keep_B = factors("some", 3)
    x = leaf(numbers(3, 5, 12))
    for tokens in (None, (0, 1), (1, 5), (2, 4)):
        with paddle.no_grad():
            output = half.fast(x, tokens, keep_B)
        assert output.stop_gradient
        assert_close(output.numpy(), half.plain(x, half.weights, tokens, keep).numpy())


def test_accelerators_take_the_plain_layers_and_give_the_same(half: Half, monkeypatch) -> None:
    """Their way, here on the CPU's own kernels: Paddle's layers and its scaled_dot_product_attention."""
    monkeypatch.setattr(placement, "on_cpu", lambda x: False)
    for tokens in (None, (0, 1), (1, 5), (2, 4)):
        half.assert_same(leaf(numbers(3, 5, 12)), tokens, "all")


def test_what_goes_in_stays_as_it_is(half: Half) -> None:
    """Forward and backward work in place a lot: on neither input, weights, factors nor the gradient that comes in.

    A sum hands the same gradient to both of its terms, so a change of it would show in the other one's.
    """
    for tokens, keeps in product((None, (0, 1), (1, 5), (0, 5)), ("none", "some")):
        keep, keep_B = factors(keeps, 3)
        x, before = leaf(numbers(3, 5, 12)), [each.numpy().copy() for each in half.weights]
        output = half.fast(x, tokens, keep_B)
        other = leaf(numbers(*output.shape, seed=7))
        backward(output + other)
        assert (other.grad.numpy() == numbers(*output.shape, seed=1)).all()
        assert (x.numpy() == numbers(3, 5, 12)).all()
        assert all((each.numpy() == old).all() for each, old in zip(half.weights, before))
        assert keep_B is None or (keep_B.numpy() == np.float32(keep)).all()


def test_gradients_add_up_over_passes(half: Half) -> None:
    """Two micro-batches, and a layer that is used twice before either backward pass."""
    _, keep_B = factors("some", 3)
    for tokens in (None, (0, 1), (1, 5)):
        leaves = [leaf(numbers(3, 5, 12)), *half.weights]
        once: list[np.ndarray] = []
        for each in leaves:
            each.clear_gradient(False)
        for times in (1, 2, 3):
            sum(half.fast(leaves[0], tokens, keep_B).square().sum() for _ in range(min(times, 2))).backward()
            once = once or [each.copy() for each in gradients(leaves)]
        assert_all_close(gradients(leaves), [5 * each for each in once])


def test_requested_tokens_are_those_of_the_full_result() -> None:
    half, x = Half(12, 3, attends=True), leaf(numbers(3, 5, 12))
    for tokens, keeps in product(((0, 1), (1, 5), (2, 4), (0, 5)), ("none", "some")):
        _, keep_B = factors(keeps, 3)
        full = half.fast(x, None, keep_B).numpy()
        assert_close(half.fast(x, tokens, keep_B).numpy(), full[:, slice(*tokens)])
        assert (take_tokens(x, tokens).numpy() == x.numpy()[:, slice(*tokens)]).all()


def test_a_dropped_branch_leaves_its_image_bit_for_bit(half: Half) -> None:
    keep, keep_B = factors("some", 3)
    got = half.fast(leaf(numbers(3, 5, 12)), None, keep_B).numpy()
    dropped = np.array(keep) == 0
    assert (got[dropped] == numbers(3, 5, 12)[dropped]).all()
    assert (np.abs(got - numbers(3, 5, 12)).max(axis=(1, 2)) > 0.1).tolist() == (~dropped).tolist()


def cross_case(shape: tuple[int, ...], heads: int) -> tuple[list[paddle.Tensor], Callable, Callable]:
    """Queries, memory and weights with the cross-attention half and its plain formula on them."""
    batch, queries, tokens, width, memory_width = shape
    norm, attn = LayerNorm(width, epsilon=EPSILON), CrossAttention(width, memory_width, heads)
    weights = [*norm.parameters(), *attn.parameters()]
    for number, weight in enumerate(weights):
        weight.set_value(numbers(*weight.shape, seed=20 + number))

    def plain(x, memory, *weights) -> paddle.Tensor:
        branch = reference.cross_attention_half(x, memory, *zip(weights[::2], weights[1::2]), EPSILON, heads)
        return x + branch

    leaves = [leaf(numbers(batch, queries, width)), leaf(numbers(batch, tokens, memory_width)), *weights]
    return leaves, lambda x, memory, *weights: residual_cross_attention(x, memory, norm, attn), plain


CROSS_SHAPES = [(2, 5, 7, 12, 8), (1, 1, 1, 4, 4), (3, 6, 2, 8, 12), (4, 1, 9, 12, 12)]  # B, Q, N, D, E


def test_the_cross_attention_half_is_the_plain_formula() -> None:
    """Seen from one token, or a row of one kind, queries and keys have a gradient of nothing but rounding."""
    for shape, heads, dtype in product(CROSS_SHAPES, (1, 4), DTYPES):
        rounding = range(10) if shape[2] == 1 else range(4, 8)
        assert_same(
            *cross_case(shape, heads),
            dtype,
            layer=halves._ResidualCrossAttentionOnCpu,
            least=lambda number, largest, rounding=rounding: largest if number in rounding else 0.0,
        )


@pytest.mark.parametrize("frozen", range(10))
def test_what_is_frozen_in_the_cross_attention_half_gets_no_gradient(frozen: int) -> None:
    leaves, fast, plain = cross_case(CROSS_SHAPES[0], 2)
    leaves[frozen].stop_gradient = True
    assert_same(leaves, fast, plain, least=lambda number, largest: 1.0)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_the_cross_attention_half_without_gradients_and_elsewhere(on_cpu: bool, monkeypatch) -> None:
    leaves, fast, plain = cross_case(CROSS_SHAPES[0], 2)
    monkeypatch.setattr(placement, "on_cpu", lambda x: on_cpu)
    with paddle.no_grad():
        assert_close(fast(*leaves).numpy(), plain(*leaves).numpy())


def test_weighted_sums_are_sums() -> None:
    for (sums, maps), shape, dtype in product(((3, 5), (1, 1), (2, 1), (1, 4)), ((2, 3, 4), (5,), (1, 1, 1)), DTYPES):
        mine = [leaf(numbers(sums, maps)), *(leaf(numbers(*shape, seed=k)) for k in range(maps))]
        theirs = copies(mine, dtype)
        outputs = weighted_sums(mine[0], mine[1:])
        assert len(outputs) == sums and all(computed_by(each, layers._WeightedSumsOnCpu) for each in outputs)
        plain = [sum(theirs[0][j, k] * theirs[1 + k] for k in range(maps)) for j in range(sums)]
        for results in (outputs, plain):
            sum((j + 1) * (each * each).sum() for j, each in enumerate(results)).backward()
        got, expected = [each.numpy() for each in outputs], [each.numpy() for each in plain]
        assert_all_close([*got, *gradients(mine)], [*expected, *gradients(theirs)], lambda number: 1.0)


def test_a_sum_that_nobody_uses_counts_for_nothing() -> None:
    mine = [leaf(numbers(3, 2)), leaf(numbers(4, seed=1)), leaf(numbers(4, seed=2))]
    weighted_sums(mine[0], mine[1:])[1].sum().backward()
    weight, *maps = (each.numpy() for each in mine)
    expected = np.stack([np.zeros(2), [each.sum() for each in maps], np.zeros(2)])
    assert_all_close(gradients(mine), [expected, *(np.full(4, weight[1, k]) for k in range(2))])


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_weighted_sums_of_what_is_frozen(frozen: int) -> None:
    mine = [leaf(each, trains=k != frozen) for k, each in enumerate([numbers(2, 2), numbers(5), numbers(5, seed=1)])]
    sums = weighted_sums(mine[0], mine[1:])
    (sums[0].sum() + 2 * sums[1].sum()).backward()
    assert [each.grad is None for each in mine] == [k == frozen for k in range(3)]
    if frozen:
        other, weight = 3 - frozen, mine[0].numpy()
        assert_close(mine[other].grad.numpy(), np.full(5, weight[0, other - 1] + 2 * weight[1, other - 1]))
