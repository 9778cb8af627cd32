"""The Paddle side of a case, and its distance from the PyTorch side.

The map of names and layouts here is written on its own, apart from `paddlemae.weights`, so that
neither can hide the other's mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import paddle

from paddlemae.model.mae import MaskedAutoencoder, predict
from paddlemae.model.masking import Mask, num_kept, random_mask
from paddlemae.train.optim import adamw, lr_at, peak_lr
from paddlemae.weights.transfer import official_parameters, official_state
from tests.parity import cases

# largest errors allowed, each relative to the tensor's largest magnitude
PREDICTION, LOSS, GRADIENT, WEIGHT = 1e-4, 1e-5, 1e-3, 1e-4
NOISE = 1e-5  # of a gradient that is 0 in exact arithmetic
FAINT, FAINT_SHARE = 1e-6, 1e-3  # of a matrix' largest gradient, and of all elements; see `Errors`

Tensors = dict[str, np.ndarray]

RENAMED = (
    (r"^vit\.embeddings\.cls_token$", "cls_token"),
    (r"^vit\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^vit\.layers\.", "blocks."),
    (r"^vit\.layernorm\.", "norm."),
    (r"^decoder\.decoder_layers\.", "decoder_blocks."),
    (r"^decoder\.", ""),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
)


@dataclass(frozen=True)
class Errors:
    """Largest errors of a case; of gradients and weights also the tensor that has it.

    `weights` leaves the key biases out. Adding one vector to every key moves no softmax, so a key
    bias' gradient is 0 and what a framework computes for it is rounding noise, which Adam (gradient
    over its own deviation) turns into steps of up to the lr: no two implementations agree on them.
    They are held to what is true of them instead, and their error is only reported.

    The same, one by one, for the few elements of a matrix whose gradient in the reference lies below FAINT of the
    matrix' largest: frameworks agree on gradients no better than that, so Adam's first steps divide noise by noise.
    Which of ViT-Base's 111 million they are depends on the processor; no other element may hide among them.

    Attributes:
        faint_share: of all elements, those that are left out of `weights` so.
        faint_difference: how far apart the frameworks moved one of them, over twice the sum of lr.
        key_bias_gradients: their noise, either framework's, over the whole fused bias' gradient.
        key_bias_moves: how far either framework moved them, over the sum of lr.
        key_bias_weights: their error as that of any weight.
        trained_prediction: after the ten steps, so with everything that these have moved.
    """

    prediction: float
    loss: float
    gradients: tuple[float, str]
    weights: tuple[float, str]
    trained_prediction: float
    key_bias_gradients: float
    key_bias_moves: float
    key_bias_weights: float
    faint_share: float
    faint_difference: float


def to_official(tensors: Tensors) -> Tensors:
    """transformers' tensors under the official names in Paddle's layout, queries, keys and values fused."""
    renamed = {}
    for name, value in tensors.items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        if value.ndim == 4:  # [D, C, height, width] -> [height, width, C, D]: pixels by row, column, channel
            value = value.transpose(2, 3, 1, 0).reshape(-1, len(value))
        elif value.ndim == 2:
            value = value.T
        renamed[name] = value
    for name in [name for name in renamed if ".attn.q." in name]:
        parts = [renamed.pop(name.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
        renamed[name.replace(".attn.q.", ".attn.qkv.")] = np.concatenate(parts, axis=-1)
    return renamed


def named(expected: Tensors, kind: str) -> Tensors:
    return {key.removeprefix(kind): value for key, value in expected.items() if key.startswith(kind)}


def initial_weights(trained: Iterable[tuple[str, tuple[int, ...]]]) -> Tensors:
    """What both frameworks start from, given transformers' names and shapes."""
    return to_official({name: cases.weight(name, shape) for name, shape in trained})


def build(case: cases.Case, weights: Tensors) -> MaskedAutoencoder:
    keywords = asdict(case)
    del keywords["name"]
    model = MaskedAutoencoder(**keywords)
    parameters = dict(official_parameters(model))
    if set(weights) != set(parameters):
        raise AssertionError(f"names that only one side has: {sorted(set(weights) ^ set(parameters))}")
    for name, parameter in parameters.items():
        if list(weights[name].shape) != parameter.shape:
            raise AssertionError(f"{name} is {parameter.shape}, transformers' is {list(weights[name].shape)}")
        parameter.set_value(np.ascontiguousarray(weights[name]))
    return model


def compare(case: cases.Case, expected: Tensors) -> Errors:
    """Run a case in Paddle and measure it against what `make_goldens.run` gave.

    Raises:
        AssertionError: other names, shapes, positions or masks than transformers'.
    """
    start = initial_weights((name, value.shape) for name, value in named(expected, "weight:").items())
    model = build(case, start)
    for name, table in named(expected, "positions:").items():
        np.testing.assert_allclose(official_state(model)[name].numpy(), table, rtol=0, atol=1e-6)
    images, mask = paddle.to_tensor(cases.images_BCHW(case)), draw_mask(case, step=0)
    np.testing.assert_array_equal(mask.as_map(), expected["mask"])

    prediction = predicted(model, images, mask)
    loss = model(images, mask)
    loss.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in official_parameters(model)}
    model.clear_gradients()
    train(model, images, case)
    weights = {name: parameter.numpy() for name, parameter in official_parameters(model)}
    return Errors(
        prediction=relative(prediction, expected["prediction"]),
        loss=relative(loss.numpy(), expected["loss"]),
        trained_prediction=relative(predicted(model, images, mask), expected["trained_prediction"]),
        **gradient_errors(gradients, to_official(named(expected, "gradient:"))),
        **weight_errors(
            start, weights, to_official(named(expected, "weight:")), to_official(named(expected, "gradient:"))
        ),
    )


def draw_mask(case: cases.Case, step: int) -> Mask:
    noise_BL = cases.noise_SBL(case)[step]
    return random_mask(noise_BL, num_kept(noise_BL.shape[1], cases.MASK_RATIO))


def predicted(model: MaskedAutoencoder, images, mask: Mask) -> np.ndarray:
    with paddle.no_grad():
        return predict(model, images, mask).numpy()


def train(model: MaskedAutoencoder, images, case: cases.Case) -> None:
    """Ten AdamW steps with our own schedule and parameter groups."""
    optimizer = adamw(model, weight_decay=cases.WEIGHT_DECAY, betas=cases.BETAS)
    peak = peak_lr(cases.BASE_LR, cases.BATCH_SIZE)
    for step in range(cases.STEPS):
        model(images, draw_mask(case, step)).backward()
        optimizer.set_lr(lr_at(step, peak=peak, total_steps=cases.STEPS, warmup_steps=cases.WARMUP_STEPS))
        optimizer.step()
        optimizer.clear_grad()


def gradient_errors(got: Tensors, wanted: Tensors) -> dict:
    noise = [largest(keys(side[name])) / largest(wanted[name]) for name in qkv_biases(got) for side in (got, wanted)]
    return {
        "gradients": max((relative(got[name], wanted[name]), name) for name in wanted),
        "key_bias_gradients": max(noise),
    }


def weight_errors(start: Tensors, got: Tensors, wanted: Tensors, gradients: Tensors) -> dict:
    reach = sum(cases.lr_of_step(step) for step in range(cases.STEPS))
    fused = qkv_biases(got)
    moves = [largest(keys(side[name] - start[name])) / reach for name in fused for side in (got, wanted)]
    key_errors = [largest(keys(got[name] - wanted[name])) / largest(wanted[name]) for name in fused]
    both = {name: (got[name], wanted[name]) for name in wanted}
    both |= {name: (without_keys(got[name]), without_keys(wanted[name])) for name in fused}
    faint = {name: faint_elements(gradients[name]) for name in wanted if wanted[name].ndim > 1}
    apart = [largest((got[name] - wanted[name])[there]) for name, there in faint.items() if there.any()]
    both |= {name: (np.where(there, wanted[name], got[name]), wanted[name]) for name, there in faint.items()}
    return {
        "faint_share": sum(there.sum() for there in faint.values()) / sum(value.size for value in wanted.values()),
        "faint_difference": max(apart, default=0.0) / (2 * reach),
        "weights": max((relative(*pair), name) for name, pair in both.items()),
        "key_bias_moves": max(moves),
        "key_bias_weights": max(key_errors),
    }


def faint_elements(gradient: np.ndarray) -> np.ndarray:
    """Those that rounding decides on: below FAINT of the largest, but not the exact zeros of what is not used."""
    return (np.abs(gradient) < FAINT * largest(gradient)) & (gradient != 0)


def qkv_biases(tensors: Tensors) -> list[str]:
    return [name for name in tensors if name.endswith("attn.qkv.bias")]


def keys(qkv_bias: np.ndarray) -> np.ndarray:
    return np.split(qkv_bias, 3)[1]


def without_keys(qkv_bias: np.ndarray) -> np.ndarray:
    query, _, value = np.split(qkv_bias, 3)
    return np.concatenate([query, value])


def largest(values: np.ndarray) -> float:
    return float(np.abs(values.astype(np.float64)).max())


def relative(got: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference over the largest magnitude."""
    assert got.shape == wanted.shape, f"{got.shape} against {wanted.shape}"
    return largest(got.astype(np.float64) - wanted) / largest(wanted)


def assert_close(errors: Errors) -> None:
    """The promise: prediction, loss, every gradient and every weight after ten steps."""
    assert errors.prediction <= PREDICTION, errors
    assert errors.loss <= LOSS, errors
    assert errors.gradients[0] <= GRADIENT, errors
    assert errors.weights[0] <= WEIGHT, errors
    assert errors.trained_prediction <= PREDICTION, errors
    assert errors.key_bias_gradients <= NOISE, errors
    assert errors.key_bias_moves <= 1, errors
    assert errors.faint_share <= FAINT_SHARE, errors
    assert errors.faint_difference <= 1, errors
