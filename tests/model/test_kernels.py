"""Every faster formulation is the plain layer in its outputs and in every gradient, in float32 and against float64."""

import math

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddlemae.model import kernels
from paddlemae.model.crossmae import CrossAttention
from paddlemae.model.kernels import (
    LayerNorm,
    Linear,
    attention,
    gelu_backward,
    linear,
    normal_rows,
    residual_attention,
    residual_cross_attention,
    residual_mlp,
    scale_channels,
    softmax_,
    tokens_of,
    weighted_sums,
)
from paddlemae.model.vit import Attention, Mlp

CLOSE = 1e-5  # relative to the largest magnitude
EPSILON = 1e-6
DTYPES = ["float32", "float64"]  # of the plain formulation; the fast one is float32


def numbers(*shape: int, seed: int = 0, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1, shape).astype(np.float32)


def leaf(values: np.ndarray, *, trains: bool = True, dtype: str = "float32") -> paddle.Tensor:
    return paddle.to_tensor(values.astype(dtype), stop_gradient=not trains)


def backward(output: paddle.Tensor) -> np.ndarray:
    """The output, after the backward pass of a loss that weighs each of its numbers differently."""
    (output * paddle.to_tensor(numbers(*output.shape, seed=1).astype(output.numpy().dtype))).sum().backward()
    return output.numpy()


def gradients(leaves: list) -> list:
    return [None if one.grad is None else one.grad.numpy() for one in leaves]


def assert_close(got, wanted, *, least: float = 0.0, where: object = "") -> None:
    """`least` is a magnitude that is compared with where all numbers are smaller."""
    assert (got is None) == (wanted is None), where
    if got is not None:
        assert got.shape == wanted.shape, where
        assert np.abs(got - wanted).max() <= CLOSE * max(np.abs(wanted).max(), least), where


def assert_all_close(got: list, wanted: list) -> None:
    assert len(got) == len(wanted)
    for number, (mine, theirs) in enumerate(zip(got, wanted)):
        assert_close(mine, theirs, where=number)


def computed_by(output: paddle.Tensor, layer: type) -> bool:
    """Whether the output comes right out of this PyLayer: no fast path is tested that was not taken."""
    return layer.__name__ in output.grad_fn.name()


# linear layers


def linear_leaves(shape: list[int], trains: list[bool], dtype: str = "float32") -> list[paddle.Tensor]:
    """x, weight [5, 3] and bias [3]."""
    sizes = (shape, (5, 3), (3,))
    return [leaf(numbers(*size, seed=k), trains=trains[k], dtype=dtype) for k, size in enumerate(sizes)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("input_trains", [True, False])
@pytest.mark.parametrize("shape", [[7, 5], [2, 7, 5], [2, 3, 4, 5], [1, 5], [1, 1, 5]])
def test_linear_is_paddles_own(shape: list[int], input_trains: bool, dtype: str) -> None:
    trains = [input_trains, True, True]
    mine, theirs = linear_leaves(shape, trains), linear_leaves(shape, trains, dtype)
    output = linear(*mine)
    assert computed_by(output, kernels._LinearOnCpu)
    assert_close(backward(output), backward(F.linear(*theirs)))
    assert_all_close(gradients(mine), gradients(theirs))
    assert (mine[0].grad is not None) == input_trains


@pytest.mark.parametrize("frozen", [1, 2])
def test_a_frozen_weight_or_bias_gets_no_gradient_and_the_others_theirs(frozen: int) -> None:
    trains = [number != frozen for number in range(3)]
    mine, theirs = linear_leaves([4, 5], trains), linear_leaves([4, 5], trains)
    assert_close(backward(linear(*mine)), backward(F.linear(*theirs)))
    assert_all_close(gradients(mine), gradients(theirs))
    assert [one.grad is not None for one in mine] == trains


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


def test_without_gradients_a_linear_layers_output_is_paddles_bit_for_bit() -> None:
    leaves = linear_leaves([4, 5], [True] * 3)
    with paddle.no_grad():
        output = linear(*leaves)
    assert output.stop_gradient
    assert (output.numpy() == F.linear(*leaves).numpy()).all()


# norms and channels


@pytest.mark.parametrize("shape", [(7, 12), (1, 12), (5, 2), (64, 48)])
@pytest.mark.parametrize("fewer", [0, 1])
def test_normal_rows_by_hand(shape: tuple[int, int], fewer: int) -> None:
    rows = numbers(*shape, mean=2.0)
    normal, mean, scale = (part.numpy() for part in normal_rows(paddle.to_tensor(rows), shape[1] - fewer, EPSILON))
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
    normal, mean, scale = (part.numpy() for part in normal_rows(rows, degrees, EPSILON))
    np.testing.assert_allclose(mean, constants, rtol=1e-6)
    np.testing.assert_allclose(scale, EPSILON**-0.5, rtol=1e-3)
    assert (np.abs(normal) <= 4 * 2**-23 * np.abs(constants) / EPSILON**0.5).all()


def layer_norm_leaves(rows: np.ndarray, dtype: str) -> list[paddle.Tensor]:
    width = rows.shape[-1]
    return [leaf(values, dtype=dtype) for values in (rows, numbers(width, seed=2, mean=1.0), numbers(width, seed=3))]


def fast_layer_norm(x: paddle.Tensor, weight: np.ndarray, bias: np.ndarray) -> tuple[paddle.Tensor, LayerNorm]:
    layer = LayerNorm(x.shape[-1], epsilon=EPSILON)
    layer.weight.set_value(weight)
    layer.bias.set_value(bias)
    return layer(x), layer


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 12), (2, 7, 12), (1, 1, 12), (3, 3)])
def test_layer_norm_is_paddles_own(shape: tuple[int, ...], dtype: str) -> None:
    x, weight, bias = layer_norm_leaves(numbers(*shape, mean=1.0), dtype)
    mine = leaf(x.numpy())
    output, layer = fast_layer_norm(mine, weight.astype("float32"), bias.astype("float32"))
    assert computed_by(output, kernels._LayerNormOnCpu)
    assert_close(backward(output), backward(F.layer_norm(x, shape[-1], weight, bias, EPSILON)))
    assert_all_close(gradients([mine, layer.weight, layer.bias]), gradients([x, weight, bias]))


@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-3])
def test_layer_norm_of_nearly_constant_rows(noise: float) -> None:
    """Next to float64, up to what rounding the mean makes of any formulation."""
    rows = np.float32([[0.5], [-2.0], [0.0]]) + np.float32(noise) * numbers(3, 32)
    weight, bias = numbers(32, seed=2, mean=1.0), numbers(32, seed=3)
    x, *exact = layer_norm_leaves(rows, "float64")
    wanted = backward(F.layer_norm(x, 32, *exact, EPSILON))
    mine = leaf(rows)
    output, layer = fast_layer_norm(mine, weight, bias)
    deviation = np.sqrt(rows.astype(np.float64).var(axis=1, keepdims=True) + EPSILON)
    rounding = 16 * 2**-23 * 2.0 / deviation.min()  # of the mean, in deviations; 2 is the largest magnitude
    got = [backward(output), *gradients([mine, layer.weight, layer.bias])]
    for one, true in zip(got, [wanted, *gradients([x, *exact])]):
        assert np.abs(one - true).max() <= max(rounding, CLOSE) * max(1.0, np.abs(true).max())


@pytest.mark.parametrize("frozen", ["weight", "bias", "input"])
def test_layer_norm_without_one_of_its_gradients(frozen: str) -> None:
    x, weight, bias = layer_norm_leaves(numbers(4, 12), "float32")
    plain = LayerNorm(12, epsilon=EPSILON)
    plain.weight.set_value(weight)
    plain.bias.set_value(bias)
    mine = dict(input=leaf(x.numpy()), weight=plain.weight, bias=plain.bias)
    theirs = dict(input=x, weight=weight, bias=bias)
    mine[frozen].stop_gradient = theirs[frozen].stop_gradient = True
    assert_close(backward(plain(mine["input"])), backward(F.layer_norm(x, 12, weight, bias, EPSILON)))
    for name in mine:
        assert_close(*gradients([mine[name], theirs[name]]), where=name)
        assert (mine[name].grad is None) == (name == frozen)


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (1, 1, 5, 3), (3, 4, 1, 1), (1, 3, 8, 8)])
def test_channels_are_scaled_and_shifted_each_by_its_own(shape, on_cpu: bool, monkeypatch) -> None:
    monkeypatch.setattr(kernels, "on_cpu", lambda x: on_cpu)
    images, scale, shift = numbers(*shape), numbers(shape[1], seed=1), numbers(shape[1], seed=2)
    got = scale_channels(*(paddle.to_tensor(values) for values in (images, scale, shift))).numpy()
    assert_close(got, images.astype(np.float64) * scale[:, None, None] + shift[:, None, None])
    assert (paddle.to_tensor(images).numpy() == numbers(*shape)).all()


def test_scaling_channels_leaves_the_images_as_they_are() -> None:
    images = paddle.to_tensor(numbers(2, 3, 4, 4))
    scale_channels(images, paddle.full([3], 2.0), paddle.full([3], 1.0))
    assert (images.numpy() == numbers(2, 3, 4, 4)).all()


# GELU


@pytest.mark.parametrize("largest", [1.0, 6.0, 30.0, 1e4, 1e20])
def test_gelu_and_its_slope_are_the_formulas(largest: float) -> None:
    """Each number for itself, not next to the largest: far out on the left both are nothing."""
    x = np.concatenate([np.linspace(-largest, largest, 201), [0.0, -1e-6, 1e-30]]).astype(np.float32)
    hidden, slope = paddle.to_tensor(x[:, None]), paddle.ones([len(x), 1])
    gelu_backward(hidden, slope)
    value, slope = (part.numpy()[:, 0].astype(np.float64) for part in (hidden, slope))
    exact = x.astype(np.float64)
    cumulative = np.array([0.5 * math.erfc(-one / math.sqrt(2)) for one in exact])
    density = np.exp(-np.square(exact) / 2) / math.sqrt(2 * math.pi)
    assert (np.abs(value - exact * cumulative) <= 1e-6 * np.maximum(1, np.abs(exact))).all()
    assert (np.abs(slope - (cumulative + exact * density)) <= 2e-6).all()


@pytest.mark.parametrize("piece", [1, 10, 11, 64])
def test_gelu_in_pieces_is_that_of_the_whole(piece: int, monkeypatch) -> None:
    found = []
    for size in (kernels.PIECE, piece):
        monkeypatch.setattr(kernels, "PIECE", size)
        hidden, gradient = paddle.to_tensor(numbers(7, 5)), paddle.to_tensor(numbers(7, 5, seed=2))
        gelu_backward(hidden, gradient)
        found.append([hidden.numpy(), gradient.numpy()])
    assert all((one == other).all() for one, other in zip(*found, strict=True))


# softmax


@pytest.mark.parametrize("largest", [1.0, 79.0, 81.0, 1e4])  # by exponentials alone up to 80
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (7, 1), (3, 127), (3, 128), (2, 200)])
@pytest.mark.parametrize("piece", [6, kernels.PIECE])
def test_softmax_is_paddles_own(shape: tuple[int, ...], largest: float, piece: int, monkeypatch) -> None:
    monkeypatch.setattr(kernels, "PIECE", piece)
    for shift in (0.0, -largest):  # no row with a large number in it, too
        scores = (numbers(*shape) * largest / 3).clip(-largest, largest).astype(np.float32) + np.float32(shift)
        exact = F.softmax(paddle.to_tensor(scores.astype(np.float64)), axis=-1).numpy()
        x = paddle.to_tensor(scores)
        assert softmax_(x) is x
        assert np.abs(x.numpy() - exact).max() <= 2e-6
        np.testing.assert_allclose(x.numpy().sum(-1), 1, rtol=2e-6)


def test_softmax_of_what_is_no_number_is_none() -> None:
    scores = numbers(2, 5)
    scores[1, 3] = np.nan
    shares = softmax_(paddle.to_tensor(scores)).numpy()
    assert np.isnan(shares[1]).all() and np.isfinite(shares[0]).all()


# attention


def plain_attention(query, key, value):
    """[B, Q, H * d], in Paddle's own operations."""
    shares = F.softmax(paddle.matmul(query * query.shape[-1] ** -0.5, key.transpose([0, 1, 3, 2])), axis=-1)
    mixed = paddle.matmul(shares, value).transpose([0, 2, 1, 3])
    return mixed.reshape([query.shape[0], query.shape[2], -1])


def attention_leaves(shape: tuple[int, ...], trains: tuple[bool, ...] = (True,) * 3, dtype: str = "float32") -> list:
    batch, heads, queries, tokens, width = shape
    counts = (queries, tokens, tokens)
    return [
        leaf(numbers(batch, heads, count, width, seed=10 + k), trains=trains[k], dtype=dtype)
        for k, count in enumerate(counts)
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(2, 3, 5, 5, 4), (2, 3, 2, 7, 4), (2, 2, 7, 3, 5), (1, 1, 6, 4, 8), (2, 2, 1, 6, 4), (3, 2, 4, 1, 4)]
)
def test_attention_is_the_plain_formula(shape: tuple[int, ...], dtype: str) -> None:
    """With one token to look at, gradients of query and key are zero: hence next to the largest of all three."""
    mine, theirs = attention_leaves(shape), attention_leaves(shape, dtype=dtype)
    output = attention(*mine)
    assert computed_by(output, kernels._AttentionOnCpu)
    assert_close(backward(output), backward(plain_attention(*theirs)))
    least = max(np.abs(one).max() for one in gradients(theirs))
    for number, (got, wanted) in enumerate(zip(gradients(mine), gradients(theirs))):
        assert_close(got, wanted, least=least if shape[3] == 1 else 0.0, where=number)


def test_attention_of_large_scores_stays_finite() -> None:
    mine, theirs = ([leaf(20 * one.numpy(), dtype=d) for one in attention_leaves((2, 2, 5, 6, 4))] for d in DTYPES)
    assert_close(backward(attention(*mine)), backward(plain_attention(*theirs)))
    for got, wanted in zip(gradients(mine), gradients(theirs)):
        # scores of a thousand have a rounding of 1e-4 themselves
        assert np.abs(got - wanted).max() <= 1e-3 * np.abs(wanted).max()


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_attention_without_one_of_its_gradients(frozen: int) -> None:
    trains = tuple(number != frozen for number in range(3))
    mine, theirs = (attention_leaves((2, 2, 4, 5, 3), trains) for _ in range(2))
    assert_close(backward(attention(*mine)), backward(plain_attention(*theirs)))
    assert_all_close(gradients(mine), gradients(theirs))
    assert tuple(one.grad is not None for one in mine) == trains


def test_attention_without_gradients() -> None:
    leaves = attention_leaves((2, 2, 4, 5, 3))
    with paddle.no_grad():
        output = attention(*leaves)
    assert output.stop_gradient
    assert_close(output.numpy(), plain_attention(*leaves).numpy())


# halves of a block


SHAPES = [(2, 5, 12, 3), (1, 5, 12, 3), (3, 1, 12, 2), (2, 6, 8, 1), (1, 1, 4, 1), (4, 9, 12, 12)]  # B, N, D, H
KEEPS = {"none": None, "some": [0.0, 1.25, 0.0, 2.0], "ones": [1.0] * 4, "all": [1.5, 1.25, 2.0, 0.5], "no": [0.0] * 4}
HIDDEN = 20


def drawn(layers: list) -> list:
    """The layers' parameters, norms and biases too, drawn anew."""
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    for seed, parameter in enumerate(parameters, start=20):
        parameter.set_value(numbers(*parameter.shape, seed=seed) * 0.5 + (0.5 if parameter.ndim == 1 else 0.0))
    return parameters


def attention_half(width: int, heads: int) -> tuple[LayerNorm, Attention, list]:
    norm, attn = LayerNorm(width, epsilon=EPSILON), Attention(width, heads)
    return norm, attn, drawn([norm, attn])


def mlp_half(width: int) -> tuple[LayerNorm, Mlp, list]:
    norm, mlp = LayerNorm(width, epsilon=EPSILON), Mlp(width, HIDDEN)
    return norm, mlp, drawn([norm, mlp])


def copies(parameters: list, dtype: str) -> list:
    return [leaf(one.numpy(), trains=not one.stop_gradient, dtype=dtype) for one in parameters]


def plain_residual(x, branch, keep: list | None):
    if keep is None:
        return x + branch
    return x + branch * paddle.to_tensor(np.reshape(keep, [-1, 1, 1]).astype(x.numpy().dtype))


def plain_attention_half(x, weights: list, heads: int, wanted=None, keep: list | None = None):
    norm_weight, norm_bias, weight, bias, proj_weight, proj_bias = weights
    batch, tokens, width = x.shape
    seen = F.layer_norm(x, width, norm_weight, norm_bias, EPSILON)
    both = F.linear(seen, weight, bias).reshape([batch, tokens, 3, heads, width // heads])
    query, key, value = (both[:, :, part].transpose([0, 2, 1, 3]) for part in range(3))
    start, stop = wanted or (0, tokens)
    mixed = plain_attention(query[:, :, start:stop], key, value)
    return plain_residual(x[:, start:stop], F.linear(mixed, proj_weight, proj_bias), keep)


def plain_mlp_half(x, weights: list, keep: list | None = None):
    norm_weight, norm_bias, weight1, bias1, weight2, bias2 = weights
    seen = F.layer_norm(x, x.shape[-1], norm_weight, norm_bias, EPSILON)
    return plain_residual(x, F.linear(F.gelu(F.linear(seen, weight1, bias1)), weight2, bias2), keep)


def factors(name: str, batch: int) -> tuple[list | None, paddle.Tensor | None]:
    keep = KEEPS[name] and KEEPS[name][:batch]
    return keep, None if keep is None else paddle.to_tensor(np.float32(keep))


def ranges(tokens: int) -> list:
    """No range, all, the first token, the last, all but the first, all but the last, and from the middle."""
    every = [None, (0, tokens), (0, 1), (tokens - 1, tokens), (1, tokens), (0, tokens - 1), (1, tokens - 1)]
    return list(dict.fromkeys(one for one in every if one is None or one[0] < one[1]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keeps", KEEPS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_attention_half_is_the_plain_formula(shape: tuple[int, ...], keeps: str, dtype: str) -> None:
    batch, tokens, width, heads = shape
    keep, keep_B = factors(keeps, batch)
    for wanted in ranges(tokens):
        norm, attn, weights = attention_half(width, heads)
        x, theirs = leaf(numbers(batch, tokens, width)), copies(weights, dtype)
        plain_x = leaf(numbers(batch, tokens, width), dtype=dtype)
        output = residual_attention(x, norm, attn, wanted, keep_B)
        assert computed_by(output, kernels._ResidualAttentionOnCpu)
        assert_close(backward(output), backward(plain_attention_half(plain_x, theirs, heads, wanted, keep)))
        # the key's bias has no effect on softmax: its gradient is rounding, seen next to the whole fused bias
        assert_all_close(gradients([x, *weights]), gradients([plain_x, *theirs]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keeps", KEEPS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_mlp_half_is_the_plain_formula(shape: tuple[int, ...], keeps: str, dtype: str, monkeypatch) -> None:
    monkeypatch.setattr(kernels, "PIECE", 3 * HIDDEN)
    batch, tokens, width, _ = shape
    keep, keep_B = factors(keeps, batch)
    norm, mlp, weights = mlp_half(width)
    x, theirs = leaf(numbers(batch, tokens, width)), copies(weights, dtype)
    plain_x = leaf(numbers(batch, tokens, width), dtype=dtype)
    output = residual_mlp(x, norm, mlp, keep_B)
    assert computed_by(output, kernels._ResidualMlpOnCpu)
    assert_close(backward(output), backward(plain_mlp_half(plain_x, theirs, keep)))
    assert_all_close(gradients([x, *weights]), gradients([plain_x, *theirs]))


def test_the_mlp_half_far_out_on_the_gelu() -> None:
    norm, mlp, weights = mlp_half(12)
    mlp.fc1.bias.set_value(np.linspace(-30, 30, HIDDEN).astype(np.float32))
    x, plain_x, theirs = leaf(numbers(2, 5, 12)), leaf(numbers(2, 5, 12), dtype="float64"), copies(weights, "float64")
    assert_close(backward(residual_mlp(x, norm, mlp)), backward(plain_mlp_half(plain_x, theirs)))
    assert_all_close(gradients([x, *weights]), gradients([plain_x, *theirs]))


def attention_case(x, layers, keep_B=None, wanted=None):
    return residual_attention(x, *layers, wanted, keep_B)


def mlp_case(x, layers, keep_B=None, wanted=None):
    return residual_mlp(x, *layers, keep_B)


def both_halves() -> list[tuple]:
    """(fast, its plain formula, layers, weights) with 12 numbers a token and 3 heads."""
    norm1, attn, attn_weights = attention_half(12, 3)
    norm2, mlp, mlp_weights = mlp_half(12)

    def plain_attn(x, weights, wanted=None, keep=None):
        return plain_attention_half(x, weights, 3, wanted, keep)

    def plain_mlp(x, weights, wanted=None, keep=None):
        return plain_mlp_half(x, weights, keep)

    return [
        (attention_case, plain_attn, (norm1, attn), attn_weights),
        (mlp_case, plain_mlp, (norm2, mlp), mlp_weights),
    ]


@pytest.mark.parametrize("half", [0, 1], ids=["attention", "mlp"])
@pytest.mark.parametrize("wanted", [None, (0, 1), (1, 4)])
@pytest.mark.parametrize("frozen", [[0], [1], [2], [3], [4], [5], [0, 1], [2, 3, 4, 5], [0, 1, 2, 3, 4, 5]], ids=str)
def test_frozen_weights_get_no_gradient_and_all_else_its_own(frozen: list[int], wanted, half: int) -> None:
    fast, plain, layers, weights = both_halves()[half]
    for number in frozen:
        weights[number].stop_gradient = True
    keep, keep_B = factors("some", 3)
    x, plain_x, theirs = leaf(numbers(3, 5, 12)), leaf(numbers(3, 5, 12)), copies(weights, "float32")
    output = fast(x, layers, keep_B, wanted)
    assert not computed_by(output, kernels._ResidualAttentionOnCpu)
    assert not computed_by(output, kernels._ResidualMlpOnCpu)
    assert_close(backward(output), backward(plain(plain_x, theirs, wanted, keep)))
    assert_all_close(gradients([x, *weights]), gradients([plain_x, *theirs]))
    assert [number for number, one in enumerate(weights) if one.grad is None] == frozen


@pytest.mark.parametrize("half", [0, 1], ids=["attention", "mlp"])
@pytest.mark.parametrize("wanted", [None, (0, 1), (1, 4)])
def test_an_input_without_gradient(wanted, half: int) -> None:
    fast, plain, layers, weights = both_halves()[half]
    keep, keep_B = factors("some", 3)
    x, plain_x, theirs = leaf(numbers(3, 5, 12), trains=False), leaf(numbers(3, 5, 12)), copies(weights, "float32")
    got, wanted_out = backward(fast(x, layers, keep_B, wanted)), backward(plain(plain_x, theirs, wanted, keep))
    assert_close(got, wanted_out)
    assert_all_close(gradients(weights), gradients(theirs))
    assert x.grad is None


@pytest.mark.parametrize("half", [0, 1], ids=["attention", "mlp"])
@pytest.mark.parametrize("wanted", [None, (0, 1), (1, 5), (2, 4)])
def test_without_gradients_the_halves_give_the_same(wanted, half: int) -> None:
    fast, plain, layers, weights = both_halves()[half]
    keep, keep_B = factors("some", 3)
    x = leaf(numbers(3, 5, 12))
    with paddle.no_grad():
        output = fast(x, layers, keep_B, wanted)
    assert output.stop_gradient
    assert_close(output.numpy(), plain(x, weights, wanted, keep).numpy())


@pytest.mark.parametrize("half", [0, 1], ids=["attention", "mlp"])
@pytest.mark.parametrize("wanted", [None, (0, 1), (1, 5), (2, 4)])
def test_accelerators_take_the_plain_layers_and_give_the_same(wanted, half: int, monkeypatch) -> None:
    """Their way, here on the CPU's own kernels: Paddle's layers and its scaled_dot_product_attention."""
    monkeypatch.setattr(kernels, "on_cpu", lambda x: False)
    fast, plain, layers, weights = both_halves()[half]
    keep, keep_B = factors("all", 3)
    x, plain_x, theirs = leaf(numbers(3, 5, 12)), leaf(numbers(3, 5, 12)), copies(weights, "float32")
    assert_close(backward(fast(x, layers, keep_B, wanted)), backward(plain(plain_x, theirs, wanted, keep)))
    assert_all_close(gradients([x, *weights]), gradients([plain_x, *theirs]))


@pytest.mark.parametrize("keeps", ["none", "some"])
@pytest.mark.parametrize("half", [0, 1], ids=["attention", "mlp"])
@pytest.mark.parametrize("wanted", [None, (0, 1), (1, 5), (0, 5)])
def test_what_goes_in_stays_as_it_is(wanted, half: int, keeps: str) -> None:
    """Forward and backward work in place a lot: on neither input, weights, factors nor the gradient that comes in.

    A sum hands the same gradient to both of its terms, so a change of it would show in the other one's.
    """
    fast, _, layers, weights = both_halves()[half]
    keep, keep_B = factors(keeps, 3)
    x, before = leaf(numbers(3, 5, 12)), [one.numpy().copy() for one in weights]
    output = fast(x, layers, keep_B, wanted)
    other = leaf(numbers(*output.shape, seed=7))
    backward(output + other)
    assert (other.grad.numpy() == numbers(*output.shape, seed=1)).all()
    assert (x.numpy() == numbers(3, 5, 12)).all()
    assert all((one.numpy() == old).all() for one, old in zip(weights, before))
    assert keep_B is None or (keep_B.numpy() == np.float32(keep)).all()


@pytest.mark.parametrize("half", [0, 1], ids=["attention", "mlp"])
@pytest.mark.parametrize("wanted", [None, (0, 1), (1, 5)])
def test_gradients_add_up_over_passes(wanted, half: int) -> None:
    """Two micro-batches, and a layer that is used twice before either backward pass."""
    fast, _, layers, weights = both_halves()[half]
    _, keep_B = factors("some", 3)
    x, once = leaf(numbers(3, 5, 12)), []
    for times in (1, 2, 3):
        losses = [fast(x, layers, keep_B, wanted).square().sum() for _ in range(min(times, 2))]
        sum(losses).backward()
        once = once or [one.copy() for one in gradients([x, *weights])]
    assert_all_close(gradients([x, *weights]), [5 * one for one in once])


@pytest.mark.parametrize("keeps", ["none", "some"])
@pytest.mark.parametrize("wanted", [(0, 1), (1, 5), (2, 4), (0, 5)])
def test_wanted_tokens_are_those_of_the_full_result(wanted, keeps: str) -> None:
    fast, _, layers, _ = both_halves()[0]
    _, keep_B = factors(keeps, 3)
    x = leaf(numbers(3, 5, 12))
    full = fast(x, layers, keep_B).numpy()
    assert_close(fast(x, layers, keep_B, wanted).numpy(), full[:, slice(*wanted)])
    assert (tokens_of(x, wanted).numpy() == x.numpy()[:, slice(*wanted)]).all()


def test_a_dropped_branch_leaves_its_image_bit_for_bit() -> None:
    for fast, _, layers, _ in both_halves():
        keep, keep_B = factors("some", 3)
        got = fast(leaf(numbers(3, 5, 12)), layers, keep_B).numpy()
        dropped = np.array(keep) == 0
        assert (got[dropped] == numbers(3, 5, 12)[dropped]).all()
        assert (np.abs(got - numbers(3, 5, 12)).max(axis=(1, 2)) > 0.1).tolist() == (~dropped).tolist()


# cross-attention and weighted sums


def cross_half(width: int, memory_width: int, heads: int) -> tuple[LayerNorm, CrossAttention, list]:
    paddle.seed(0)
    norm, attn = LayerNorm(width, epsilon=EPSILON), CrossAttention(width, memory_width, heads)
    weights = [*norm.parameters(), *attn.parameters()]
    for number, one in enumerate(weights):
        one.set_value(numbers(*one.shape, seed=20 + number))
    return norm, attn, weights


def plain_cross_half(x, memory, weights: list, heads: int):
    norm_weight, norm_bias, q, q_bias, kv, kv_bias, proj, proj_bias = weights
    seen = F.layer_norm(x, x.shape[-1], norm_weight, norm_bias, EPSILON)
    batch, queries, width = x.shape
    query = F.linear(seen, q, q_bias).reshape([batch, queries, heads, -1]).transpose([0, 2, 1, 3])
    pair = F.linear(memory, kv, kv_bias).reshape([batch, -1, 2, heads, width // heads]).transpose([2, 0, 3, 1, 4])
    return x + F.linear(plain_attention(query, pair[0], pair[1]), proj, proj_bias)


def cross_leaves(shape: tuple[int, ...], dtype: str = "float32") -> list:
    batch, queries, tokens, width, memory_width = shape
    return [leaf(numbers(batch, queries, width), dtype=dtype), leaf(numbers(batch, tokens, memory_width), dtype=dtype)]


CROSS_SHAPES = [(2, 5, 7, 12, 8), (1, 1, 1, 4, 4), (3, 6, 2, 8, 12), (4, 1, 9, 12, 12)]  # B, Q, N, D, E


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("shape", CROSS_SHAPES, ids=str)
def test_the_cross_attention_half_is_the_plain_formula(shape: tuple[int, ...], heads: int, dtype: str) -> None:
    norm, attn, weights = cross_half(*shape[3:], heads)
    mine, plain, theirs = cross_leaves(shape), cross_leaves(shape, dtype), copies(weights, dtype)
    output = residual_cross_attention(*mine, norm, attn)
    assert computed_by(output, kernels._ResidualCrossAttentionOnCpu)
    assert_close(backward(output), backward(plain_cross_half(*plain, theirs, heads)))
    wanted = gradients([*plain, *theirs])
    least = max(np.abs(one).max() for one in wanted)
    for number, (got, true) in enumerate(zip(gradients([*mine, *weights]), wanted)):
        # seen from one token, or a row of one kind, queries and keys have a gradient of nothing but rounding
        assert_close(got, true, least=least if shape[2] == 1 or number in (4, 5, 6, 7) else 0.0, where=number)


@pytest.mark.parametrize("frozen", range(10))
def test_frozen_parts_of_the_cross_attention_half_get_no_gradient_and_all_else_its_own(frozen: int) -> None:
    shape = CROSS_SHAPES[0]
    norm, attn, weights = cross_half(*shape[3:], 2)
    mine = [*cross_leaves(shape), *weights]
    theirs = [*cross_leaves(shape), *copies(weights, "float32")]
    mine[frozen].stop_gradient = theirs[frozen].stop_gradient = True
    assert_close(
        backward(residual_cross_attention(*mine[:2], norm, attn)),
        backward(plain_cross_half(*theirs[:2], theirs[2:], 2)),
    )
    for number, (got, wanted) in enumerate(zip(gradients(mine), gradients(theirs))):
        assert_close(got, wanted, least=1.0, where=number)
    assert mine[frozen].grad is None


@pytest.mark.parametrize("on_cpu", [True, False])
def test_the_cross_attention_half_without_gradients_and_elsewhere(on_cpu: bool, monkeypatch) -> None:
    shape = CROSS_SHAPES[0]
    norm, attn, weights = cross_half(*shape[3:], 2)
    monkeypatch.setattr(kernels, "on_cpu", lambda x: on_cpu)
    with paddle.no_grad():
        output = residual_cross_attention(*cross_leaves(shape), norm, attn)
        assert_close(output.numpy(), plain_cross_half(*cross_leaves(shape), weights, 2).numpy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("sums", "maps"), [(3, 5), (1, 1), (2, 1), (1, 4)])
@pytest.mark.parametrize("shape", [(2, 3, 4), (5,), (1, 1, 1)])
def test_weighted_sums_are_sums(sums: int, maps: int, shape: tuple[int, ...], dtype: str) -> None:
    def leaves(kind: str) -> list:
        return [
            leaf(numbers(sums, maps), dtype=kind),
            *(leaf(numbers(*shape, seed=k), dtype=kind) for k in range(maps)),
        ]

    mine, theirs = leaves("float32"), leaves(dtype)
    outputs = weighted_sums(mine[0], mine[1:])
    assert len(outputs) == sums and all(computed_by(one, kernels._WeightedSumsOnCpu) for one in outputs)
    plain = [sum(theirs[0][j, k] * theirs[1 + k] for k in range(maps)) for j in range(sums)]
    for found in (outputs, plain):
        sum((j + 1) * (one * one).sum() for j, one in enumerate(found)).backward()
    found = [[one.numpy() for one in outputs] + gradients(mine), [one.numpy() for one in plain] + gradients(theirs)]
    for number, (got, true) in enumerate(zip(*found, strict=True)):
        assert_close(got, true, least=1.0, where=number)


def test_a_sum_that_nobody_uses_counts_for_nothing() -> None:
    mine = [leaf(numbers(3, 2)), leaf(numbers(4, seed=1)), leaf(numbers(4, seed=2))]
    weighted_sums(mine[0], mine[1:])[1].sum().backward()
    weight, *maps = (one.numpy() for one in mine)
    assert_close(
        mine[0].grad.numpy(), np.stack([np.zeros(2), [one.sum() for one in maps], np.zeros(2)]), where="weight"
    )
    assert_all_close(gradients(mine[1:]), [np.full(4, weight[1, k]) for k in range(2)])


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_weighted_sums_of_what_is_frozen(frozen: int) -> None:
    mine = [
        leaf(values, trains=k != frozen) for k, values in enumerate([numbers(2, 2), numbers(5), numbers(5, seed=1)])
    ]
    sums = weighted_sums(mine[0], mine[1:])
    (sums[0].sum() + 2 * sums[1].sum()).backward()
    assert [one.grad is None for one in mine] == [k == frozen for k in range(3)]
    if frozen:
        other = 3 - frozen
        weight = mine[0].numpy()
        assert_close(mine[other].grad.numpy(), np.full(5, weight[0, other - 1] + 2 * weight[1, other - 1]))
