"""The optimizer: who decays, who learns how fast, AdamW's arithmetic, the schedule and clipping."""

import math

import numpy as np
import paddle
import pytest

from paddlemae.model.classifier import VisionTransformer
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.train.adamw import CpuAdamW
from paddlemae.train.optim import adamw, clip_gradients, has_decay, layer_number, lr_at, peak_lr
from paddlemae.weights.transfer import official_parameters

TINY = dict(image_size=8, patch_size=4, channels=1, embed_dim=8, depth=2, num_heads=2)
DECODER = dict(decoder_embed_dim=4, decoder_depth=1, decoder_num_heads=1)
DEPTHS = {"cls_token": 0, "pos_embed": 0, "patch_embed.": 0, "blocks.0.": 1, "blocks.1.": 2}  # the rest: 3
MATRICES = {"attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"}


def groups(optimizer: CpuAdamW, model: paddle.nn.Layer) -> dict[str, tuple[float, float]]:
    """(lr scale, weight decay) of each parameter by its name."""
    names = {id(parameter): name for name, parameter in official_parameters(model)}
    return {names[id(slots.parameter)]: (slots.lr_scale, slots.weight_decay) for slots in optimizer.slots.values()}


def test_only_matrices_decay_in_pretraining() -> None:
    model = MaskedAutoencoder(**TINY, **DECODER, positions="learned")
    decay = {name for name, (_, decay) in groups(adamw(model), model).items() if decay}
    blocks = ("blocks.0", "blocks.1", "decoder_blocks.0")
    assert decay == {f"{block}.{matrix}" for block in blocks for matrix in MATRICES} | {
        "patch_embed.proj.weight",
        "decoder_embed.weight",
        "decoder_pred.weight",
    }


def test_the_rest_does_not_decay_and_nothing_is_left_out() -> None:
    model = MaskedAutoencoder(**TINY, **DECODER, positions="learned")
    of = groups(adamw(model, weight_decay=0.3), model)
    assert set(of) == {name for name, _ in official_parameters(model)}
    assert {decay for _, decay in of.values()} == {0.0, 0.3}
    still = {name for name, (_, decay) in of.items() if not decay}
    assert {"cls_token", "mask_token", "pos_embed", "norm.weight", "norm.bias", "decoder_pred.bias"} <= still
    assert all(name.endswith("bias") or "norm" in name for name in still - {"cls_token", "mask_token", "pos_embed"})


@pytest.mark.parametrize("grouped", [True, False])
def test_tokens_decay_on_request_as_in_official_pretraining(grouped: bool) -> None:
    model = MaskedAutoencoder(**TINY, **DECODER, positions="learned")
    optimizer = adamw(model, weight_decay=0.3, decay_tokens=True, grouped=grouped)
    if grouped:
        decaying = {name for name, (_, decay) in groups(optimizer, model).items() if decay}
    else:
        decaying = {name for name, one in official_parameters(model) if optimizer._apply_decay_param_fun(one.name)}
    matrices = {name for name, one in official_parameters(model) if one.ndim == 2}
    assert decaying == matrices | {"cls_token", "mask_token"}  # positions are fixed in the official one


def test_a_new_head_decays_and_fc_norm_does_not() -> None:
    model = VisionTransformer(**TINY, num_classes=3)
    of = groups(adamw(model), model)
    assert of["head.weight"][1] == 0.05 and of["head.bias"][1] == of["fc_norm.weight"][1] == 0.0


def test_frozen_parameters_are_left_out() -> None:
    model = VisionTransformer(**TINY, num_classes=3)
    for name, parameter in official_parameters(model):
        parameter.stop_gradient = not name.startswith("head.")
    assert set(groups(adamw(model), model)) == {"head.weight", "head.bias"}


def test_layer_decay_scales_each_parameter_by_its_depth() -> None:
    model = VisionTransformer(**TINY, num_classes=3, positions="learned")
    scales = {name: scale for name, (scale, _) in groups(adamw(model, layer_decay=0.5), model).items()}
    assert set(scales.values()) == {1.0, 0.5, 0.25, 0.125}
    for name, scale in scales.items():
        depth = next((depth for prefix, depth in DEPTHS.items() if name.startswith(prefix)), 3)
        assert scale == 0.5 ** (3 - depth), name


def test_layer_numbers_distinguish_blocks_1_and_11() -> None:
    assert layer_number("blocks.1.attn.qkv.weight", 12) == 2
    assert layer_number("blocks.11.attn.qkv.weight", 12) == 12
    assert layer_number("decoder_blocks.0.mlp.fc1.weight", 12) == 13


@pytest.mark.parametrize("name", ["cls_token", "mask_token", "pos_embed"])
def test_tokens_never_decay_however_many_axes_they_have(name: str) -> None:
    assert not has_decay(name, [1, 1, 8])
    assert has_decay("head.weight", [8, 3]) and not has_decay("head.bias", [3])


@pytest.mark.parametrize(("layer_decay", "grouped"), [(0.5, True), (1.0, False)])
def test_steps_are_adamws_in_every_group(layer_decay: float, grouped: bool) -> None:
    """Three steps of every layer scale, with and without decay, against AdamW in NumPy."""
    model = VisionTransformer(**TINY, num_classes=3)
    optimizer = adamw(model, weight_decay=0.5, betas=(0.9, 0.95), layer_decay=layer_decay, grouped=grouped)
    parameters = dict(official_parameters(model))
    wanted = {name: parameter.numpy().astype(np.float64) for name, parameter in parameters.items()}
    first = {name: np.zeros_like(value) for name, value in wanted.items()}
    second = {name: np.zeros_like(value) for name, value in wanted.items()}
    rng = np.random.default_rng(0)
    for step, lr in enumerate([0.01, 0.03, 0.02], start=1):
        for name, parameter in parameters.items():
            magnitude = 10.0 ** rng.uniform(-9, 0, parameter.shape)  # down to below epsilon
            gradient = (magnitude * rng.normal(size=parameter.shape)).astype(np.float32)
            parameter.grad = paddle.to_tensor(gradient)
            depth = next((depth for prefix, depth in DEPTHS.items() if name.startswith(prefix)), 3)
            scaled = lr * layer_decay ** (3 - depth)
            if name.endswith("weight") and "norm" not in name:
                wanted[name] *= 1 - scaled * 0.5
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.95 * second[name] + 0.05 * gradient.astype(np.float64) ** 2
            mean, variance = first[name] / (1 - 0.9**step), second[name] / (1 - 0.95**step)
            wanted[name] -= scaled * mean / (np.sqrt(variance) + 1e-8)
        optimizer.set_lr(lr)
        optimizer.step()
        optimizer.clear_grad()
    for name, parameter in parameters.items():
        np.testing.assert_allclose(parameter.numpy(), wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_lr_at_its_corners() -> None:
    schedule = dict(peak=1.0, total_steps=110, warmup_steps=10)
    assert lr_at(0, **schedule) == 0
    assert lr_at(5, **schedule) == 0.5
    assert lr_at(10, **schedule) == 1
    assert lr_at(60, **schedule) == pytest.approx(0.5)
    assert lr_at(110, **schedule) == lr_at(500, **schedule) == 0
    assert lr_at(110, **schedule, min_lr=0.1) == pytest.approx(0.1)
    assert lr_at(0, peak=1.0, total_steps=10, warmup_steps=0) == 1
    assert lr_at(3, peak=1.0, total_steps=4, warmup_steps=4) == 0.75
    assert lr_at(1, peak=1.0, total_steps=10, warmup_steps=2.5) == pytest.approx(0.4)


def test_lr_is_a_half_cosine_after_the_warmup() -> None:
    for step in range(20, 101):
        angle = math.pi / 2 * (step - 20) / 80
        wanted = 0.2 + 2.8 * math.cos(angle) ** 2  # (1 + cos 2x) / 2
        assert lr_at(step, peak=3.0, total_steps=100, warmup_steps=20, min_lr=0.2) == pytest.approx(wanted)


def test_peak_lr_is_stated_for_256_images() -> None:
    assert peak_lr(1.5e-4, 4096) == pytest.approx(2.4e-3)
    assert peak_lr(1e-3, 256) == 1e-3


def test_clipping_limits_the_norm_over_all_parameters() -> None:
    def norm_after(scale: float) -> float:
        model = VisionTransformer(**TINY, num_classes=3)
        count = sum(parameter.size for parameter in model.parameters())
        for parameter in model.parameters():
            parameter.grad = paddle.full(parameter.shape, scale / math.sqrt(count))
        clip_gradients(model, 2.0)
        squares = [(parameter.grad.numpy().astype(np.float64) ** 2).sum() for parameter in model.parameters()]
        return math.sqrt(sum(squares))

    assert norm_after(50.0) == pytest.approx(2.0, rel=1e-4)
    assert norm_after(1.5) == pytest.approx(1.5, rel=1e-4)
