"""Weights for other images: each rule held to what it promises, and to what Paddle or PyTorch compute."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemae.model.patches import patchify
from paddlemae.model.positions import resize_positions
from paddlemae.model.segmenter import Segmenter
from paddlemae.model.shape import tensor_shapes
from paddlemae.weights.adapt import (
    Adapted,
    change_channels,
    change_image_size,
    change_patch_size,
    cubic_weights,
)
from paddlemae.weights.layouts import Imported
from paddlemae.weights.transfer import load_official, to_official
from tests.parity import cases as parity_cases
from tests.support.layout_cases import CASES, images_of
from tests.support.layout_checks import build, read
from tests.support.layout_models import HEADS

MAE, CLASSIFIER = "official: pretrained, 8 x 12", "official: fine-tuned, mean"


def imported(name: str = MAE):
    return read(CASES[name])


def assert_whole(kind: str, adapted: Adapted) -> None:
    """The tensors are those of the architecture, exactly."""
    shapes = {name: array.shape for name, array in adapted.tensors.items()}
    assert shapes == tensor_shapes(kind, adapted.architecture)
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in adapted.tensors.values())


def tokens(tensors, images: np.ndarray) -> np.ndarray:
    """The patch embedding alone: [B, L, D]."""
    weight = tensors["patch_embed.proj.weight"]
    patches = patchify(paddle.to_tensor(images), weight.shape[2:]).numpy()
    return patches @ weight.transpose(2, 3, 1, 0).reshape(-1, len(weight)) + tensors["patch_embed.proj.bias"]


def test_tables_are_resized_as_paddle_and_pytorch_do() -> None:
    for old, new in parity_cases.RESIZES:
        table = parity_cases.table_LD(old)
        rows, columns = (cubic_weights(before, after) for before, after in zip(old, new))
        got = np.einsum("hi,ijd,wj->hwd", rows, table.reshape(*old, -1), columns).reshape(new[0] * new[1], -1)
        np.testing.assert_allclose(got, resize_positions(paddle.to_tensor(table), old, new).numpy(), atol=1e-5)
        with np.load(parity_cases.RESIZED_GOLDEN) as goldens:
            np.testing.assert_allclose(got, goldens[f"{old}-{new}"], atol=1e-5)


def test_another_image_size_resizes_both_tables() -> None:
    source = imported()
    tensors = dict(source.tensors)
    tensors["pos_embed"] = tensors["pos_embed"] + 0.5  # a cls row that is not zero
    adapted = change_image_size(tensors, source.architecture, (20, 8))
    assert_whole("mae", adapted)
    assert "2 x 3 patches, now 5 x 2, are resized" in adapted.note and "8 x 12 -> 20 x 8" in adapted.note
    for name in ("pos_embed", "decoder_pos_embed"):
        np.testing.assert_array_equal(adapted.tensors[name][0, 0], tensors[name][0, 0])
        wanted = resize_positions(paddle.to_tensor(tensors[name][0, 1:]), (2, 3), (5, 2)).numpy()
        np.testing.assert_allclose(adapted.tensors[name][0, 1:], wanted, atol=1e-5)
    same = change_image_size(tensors, source.architecture, (8, 12))
    assert same.tensors["pos_embed"] is tensors["pos_embed"] and "stay as they are" in same.note
    with pytest.raises(ValueError, match=r"image of 9 x 12 is not divisible by patches of 4 x 4"):
        change_image_size(tensors, source.architecture, (9, 12))


def test_grown_patches_give_the_same_tokens() -> None:
    source = imported()
    adapted = change_patch_size(source.tensors, source.architecture, (6, 8))
    assert_whole("mae", adapted)
    assert adapted.architecture["image_size"] == [12, 24] and "FlexiViT" in adapted.note
    images = images_of(CASES[MAE])
    steps = cubic_weights(4, 6, antialias=True), cubic_weights(4, 8, antialias=True)
    pieces = images.reshape(2, 3, 2, 4, 3, 4)  # each patch on its own, as the operator resizes it
    grown = np.einsum("hi,bcriaj,wj->bcrhaw", steps[0], pieces, steps[1]).reshape(2, 3, 12, 24).astype(np.float32)
    got, wanted = tokens(adapted.tensors, grown), tokens(source.tensors, images)
    np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())


def test_shrunk_patches_are_the_nearest_and_plain_resizing_is_not() -> None:
    """Least squares over random patches, against resizing the weights themselves as a picture."""
    source = imported()
    weight = source.tensors["patch_embed.proj.weight"]
    step = cubic_weights(4, 3, antialias=True)
    adapted = change_patch_size(source.tensors, source.architecture, 3).tensors["patch_embed.proj.weight"]
    plain = np.einsum("hi,dcij,wj->dchw", step, weight, step) * (16 / 9)
    patches = np.random.default_rng(0).standard_normal((4000, 3, 4, 4))
    shrunk = np.einsum("hi,bcij,wj->bchw", step, patches, step)
    wanted = np.einsum("bchw,dchw->bd", patches, weight)
    errors = [np.square(np.einsum("bchw,dchw->bd", shrunk, one) - wanted).mean() for one in (adapted, plain)]
    assert errors[0] < 0.9 * errors[1]


def test_a_decoders_pixels_are_resized_with_the_patch() -> None:
    source = imported()
    even = {**source.tensors, "decoder_pred.bias": np.tile(np.float32([1, 2, 3]), 16)}
    adapted = change_patch_size(even, source.architecture, 8)
    np.testing.assert_allclose(
        adapted.tensors["decoder_pred.bias"].reshape(64, 3), np.tile([1, 2, 3], (64, 1)), rtol=1e-6
    )
    assert_whole("mae", change_patch_size(source.tensors, source.architecture, (2, 5)))


def test_one_channel_gives_what_three_equal_ones_gave() -> None:
    source = imported()
    adapted = change_channels(source.tensors, source.architecture, 1)
    assert_whole("mae", adapted)
    assert adapted.note == "channels 3 -> 1: the patch embedding's weights are summed"
    grey = images_of(CASES[MAE])[:, :1]
    got, wanted = tokens(adapted.tensors, grey), tokens(source.tensors, np.repeat(grey, 3, axis=1))
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [2, 5, 6])
def test_more_channels_repeat_in_turn_and_tokens_keep_their_size(channels: int) -> None:
    source = imported()
    weight = source.tensors["patch_embed.proj.weight"]
    adapted = change_channels(source.tensors, source.architecture, channels)
    assert_whole("mae", adapted)
    for channel in range(channels):
        wanted = weight[:, channel % 3] * (3 / channels)
        np.testing.assert_allclose(adapted.tensors["patch_embed.proj.weight"][:, channel], wanted, rtol=1e-6)
    back = change_channels(adapted.tensors, adapted.architecture, 3)
    assert f"times {channels}/3" in back.note
    if channels > 3:
        np.testing.assert_allclose(back.tensors["patch_embed.proj.weight"], weight, rtol=1e-6)
        np.testing.assert_array_equal(back.tensors["decoder_pred.weight"], source.tensors["decoder_pred.weight"])


def test_the_same_channels_change_nothing_and_none_are_refused() -> None:
    source = imported()
    same = change_channels(source.tensors, source.architecture, 3)
    assert all(same.tensors[name] is array for name, array in source.tensors.items())
    with pytest.raises(ValueError, match="channels must be at least 1, got 0"):
        change_channels(source.tensors, source.architecture, 0)


def test_an_adapted_model_runs() -> None:
    source = imported(CLASSIFIER)
    step = change_patch_size(source.tensors, source.architecture, (2, 3))
    step = change_image_size(step.tensors, step.architecture, (8, 9))
    step = change_channels(step.tensors, step.architecture, 1)
    model = build(Imported("official", "classifier", step.architecture, step.tensors, {}, {}))
    assert model(paddle.zeros([1, 1, 8, 9])).shape == [1, 5] and model.config["num_heads"] == HEADS


def test_relative_positions_are_resized_as_the_model_does() -> None:
    paddle.seed(0)
    keys = dict(embed_dim=16, depth=2, num_heads=2, image_size=[8, 12], patch_size=[4, 4], channels=1, num_classes=3)
    model = Segmenter(**keys, relative_positions=True, positions="learned")
    for parameter in model.parameters():
        parameter.set_value(parameter + 0.3 * paddle.randn(parameter.shape))
    adapted = change_image_size(to_official(model), model.config, (16, 8))
    larger = Segmenter(**adapted.architecture)
    load_official(larger, adapted.tensors)
    pixels = paddle.rand([2, 1, 16, 8])
    np.testing.assert_allclose(larger(pixels).numpy(), model(pixels).numpy(), atol=1e-5)
