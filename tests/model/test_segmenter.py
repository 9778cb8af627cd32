"""Segmenters: logits of every pixel for any shape of image, patch and encoder."""

from itertools import product

import numpy as np
import paddle
import pytest

from paddlemae.model.encoder import encode
from paddlemae.model.heads.layers import drop_channels, mixes_images
from paddlemae.model.segmenter import Segmenter
from paddlemae.model.shape import SHAPES, keys_of, tensor_shapes
from paddlemae.weights.transfer import official_shapes

TINY = dict(embed_dim=16, depth=4, num_heads=4, image_size=8, patch_size=4, channels=3, num_classes=5)
HEADS = ("linear", "conv", "upernet")


def segmenter(**changes) -> Segmenter:
    paddle.seed(0)
    model = Segmenter(**{**TINY, **changes})
    model.eval()
    return model


def images(batch: int, channels: int, height: int, width: int, seed: int = 0) -> paddle.Tensor:
    values = np.random.default_rng(seed).normal(size=(batch, channels, height, width))
    return paddle.to_tensor(values.astype(np.float32))


@pytest.mark.parametrize("head", HEADS)
def test_every_pixel_of_any_shape_has_logits(head: str) -> None:
    for channels, (size, patch), cls_token in product(
        [1, 3, 13], [(8, 4), ((8, 16), 4), ((12, 6), (3, 2)), (5, 5)], [True, False]
    ):
        model = segmenter(head=head, image_size=size, patch_size=patch, channels=channels, cls_token=cls_token)
        height, width = (size, size) if isinstance(size, int) else size
        for scale in (1, 2):
            logits = model(images(2, channels, height * scale, width)).numpy()
            assert logits.shape == (2, 5, height * scale, width) and np.isfinite(logits).all()


@pytest.mark.parametrize("head", HEADS)
def test_the_tensors_are_known_before_the_model_is_built(head: str) -> None:
    for width in (None, 24):
        model = segmenter(head=head, head_width=width)
        assert official_shapes(model) == tensor_shapes("segmenter", model.config)
        assert official_shapes(model) == tensor_shapes("segmenter", {**model.config, "head_width": width})


@pytest.mark.parametrize("head", HEADS)
def test_every_pixel_begins_with_the_probabilities_that_are_expected(head: str) -> None:
    model = segmenter(head=head)
    wanted = np.array([0.9, 0.05, 0.03, 0.019, 0.001], np.float32)
    model.expect(np.array([900, 50, 30, 19, 0]))
    for name, parameter in model.named_parameters():
        if name.endswith("classifier.weight"):
            parameter.set_value(paddle.zeros_like(parameter))
    for logits in model.forward_with_auxiliary(images(1, 3, 8, 8))[: 2 if head == "upernet" else 1]:
        found = paddle.nn.functional.softmax(logits, axis=1).numpy().mean(axis=(0, 2, 3))
        np.testing.assert_allclose(found, wanted / wanted.sum(), rtol=0.01)  # a share of 0 became 0.001
        assert abs(logits.numpy().mean()) < 1e-5


def test_each_patch_is_classified_by_its_own_token_behind_the_last_norm() -> None:
    model = segmenter(patch_size=1, image_size=3)
    pixels = images(2, 3, 3, 3)
    tokens = model.encoder.norm(encode(model.encoder, pixels))[:, 1:]
    wanted = (tokens @ model.head.classifier.weight + model.head.classifier.bias).numpy()
    np.testing.assert_allclose(model(pixels).numpy(), wanted.reshape(2, 3, 3, 5).transpose(0, 3, 1, 2), atol=1e-5)


def test_logits_between_patches_are_interpolated_with_pixels_as_areas() -> None:
    model = segmenter(image_size=8, patch_size=4)
    pixels = images(1, 3, 8, 8)
    tokens = model.encoder.norm(encode(model.encoder, pixels))[:, 1:]
    coarse = model.head(tokens.reshape([1, 2, 2, 16])).numpy()[0]
    got = model(pixels).numpy()[0]
    np.testing.assert_allclose(got[:, 0, 0], coarse[0, 0], atol=1e-5)
    np.testing.assert_allclose(got[:, 7, 0], coarse[1, 0], atol=1e-5)
    middle = 0.625 * coarse[0, 0] + 0.375 * coarse[1, 0]  # row 3 of 8 lies 3/8 of the way from row 1.5 to row 5.5
    np.testing.assert_allclose(got[:, 3, 0], middle, atol=1e-5)


def test_the_mistakes_of_a_shape_are_refused() -> None:
    for changes, message in [
        (dict(head="mask2former"), "linear, conv, upernet, got 'mask2former'"),
        (dict(head="upernet", taps=[1, 2, 3]), "taps must be 4 blocks in order, .* the encoder's last, 4; got 1, 2, 3"),
        (dict(head="upernet", taps=[1, 3, 2, 4]), "got 1, 3, 2, 4"),
        (dict(head="upernet", taps=[0, 2, 3, 4]), "got 0, 2, 3, 4"),
        (dict(head="upernet", taps=[1, 2, 3, 3]), "the encoder's last, 4; got 1, 2, 3, 3"),
        (dict(image_size=10), "10 x 10 is not divisible by the patch size 4 x 4"),
    ]:
        with pytest.raises(ValueError, match=message) as raised:
            segmenter(**changes)
        assert "\n" not in str(raised.value)
    with pytest.raises(TypeError, match="'num_clases'; did you mean 'num_classes'"):
        Segmenter(num_clases=3)


def test_what_a_head_does_not_read_is_not_in_its_architecture() -> None:
    names = {key.name for key in keys_of(*SHAPES["segmenter"])}
    unread = {"linear": {"taps", "head_width", "head_dropout"}, "conv": {"taps", "head_dropout"}, "upernet": set()}
    for head in HEADS:
        config = segmenter(head=head, taps=[1, 1, 2, 4], head_width=8).config
        assert set(config) == names - unread[head]
        assert config.get("taps", [1, 1, 2, 4]) == [1, 1, 2, 4] and config.get("head_width", 8) == 8
    assert segmenter(head="upernet").config["taps"] == [1, 2, 3, 4]
    assert segmenter(head="upernet", depth=12).config["taps"] == [3, 6, 9, 12]
    assert segmenter(head="upernet", depth=2).config["taps"] == [1, 1, 2, 2]
    assert segmenter(head="upernet").config["head_width"] == 16 and segmenter(head="conv").config["head_width"] == 8


@pytest.mark.parametrize("head", HEADS)
def test_recomputing_gives_the_same_loss_and_gradients(head: str, recompute_changes_nothing) -> None:
    model = segmenter(head=head)
    model.train()
    pixels = images(4, 3, 8, 8)

    def loss() -> paddle.Tensor:
        paddle.seed(0)
        return sum(logits.square().mean() for logits in model.forward_with_auxiliary(pixels) if logits is not None)

    recompute_changes_nothing(model, model.encoder.blocks, loss)


# relative positions


def test_relative_positions_change_nothing_at_the_start() -> None:
    for cls_token in (True, False):
        plain, biased = (segmenter(relative_positions=on, cls_token=cls_token) for on in (False, True))
        biased.set_state_dict({**biased.state_dict(), **plain.state_dict()})
        for size in ((8, 8), (12, 4)):
            pixels = images(2, 3, *size)
            np.testing.assert_allclose(biased(pixels).numpy(), plain(pixels).numpy(), atol=1e-5)


def moved_tables(model: Segmenter) -> Segmenter:
    for block in model.encoder.blocks:
        table = block.attn.relative_position_bias_table
        table.set_value(np.random.default_rng(0).normal(size=table.shape).astype(np.float32))
    return model


def test_a_pair_of_patches_gets_the_bias_of_its_distance() -> None:
    for cls_token in (True, False):
        model = moved_tables(segmenter(image_size=(8, 12), relative_positions=True, cls_token=cls_token))
        table = model.encoder.blocks[0].attn.relative_position_bias_table.numpy()
        bias = model.encoder.blocks[0].attn.score_bias(None).numpy()
        front = int(cls_token)
        for one, other in product(range(6), range(6)):
            down, right = one // 3 - other // 3 + 1, one % 3 - other % 3 + 2
            np.testing.assert_array_equal(bias[:, one + front, other + front], table[down * 5 + right])
        if cls_token:
            np.testing.assert_array_equal(bias[:, 0, 1:], np.repeat(table[15][:, None], 6, axis=1))
            np.testing.assert_array_equal(bias[:, 1:, 0], np.repeat(table[16][:, None], 6, axis=1))
            np.testing.assert_array_equal(bias[:, 0, 0], table[17])


def test_relative_positions_train_as_the_formula_does() -> None:
    """The kernel written by hand against Paddle's own operations, with drop path."""
    model = moved_tables(segmenter(relative_positions=True, image_size=(8, 12), drop_path=0.5))
    model.train()
    pixels, noise = images(3, 3, 8, 12), np.random.default_rng(0).uniform(size=(3, 4, 2)).astype(np.float32)
    results = []
    for by_hand in (True, False):
        placement = "paddlemae.model.kernels.placement.on_cpu"
        with pytest.MonkeyPatch.context() as patch:
            if not by_hand:
                patch.setattr(placement, lambda x: False)
            loss = model(pixels, noise).square().mean()
            loss.backward()
        results.append([loss.numpy(), *(parameter.grad.numpy() for parameter in model.parameters())])
        model.clear_gradients()
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5 * np.abs(other).max())
    tables = [block.attn.relative_position_bias_table for block in model.encoder.blocks]
    assert all(not table.stop_gradient for table in tables)


# the pyramid


def test_only_the_pyramid_mixes_images() -> None:
    assert [mixes_images(segmenter(head=head)) for head in HEADS] == [False, False, True]


def test_the_taps_decide_what_the_pyramid_reads() -> None:
    pixels = images(1, 3, 8, 8)
    first, second = (segmenter(head="upernet", taps=taps) for taps in ([1, 2, 3, 4], [1, 1, 3, 4]))
    assert np.abs(first(pixels).numpy() - second(pixels).numpy()).max() > 1e-4


def test_channels_are_dropped_in_training_only() -> None:
    model, pixels = segmenter(head="upernet", head_dropout=0.5), images(4, 3, 16, 16)
    assert (model(pixels).numpy() == model(pixels).numpy()).all()
    model.train()
    paddle.seed(1)
    first = model(pixels).numpy()
    assert np.abs(first - model(pixels).numpy()).max() > 1e-4
    paddle.seed(1)
    assert (model(pixels).numpy() == first).all()
    dropped = drop_channels(paddle.ones([64, 1, 1, 64]), 0.25).numpy()
    assert set(np.unique(dropped)) == {0, np.float32(1 / 0.75)} and abs((dropped == 0).mean() - 0.25) < 0.04


@pytest.mark.parametrize("head", HEADS)
def test_a_head_trains_on_a_frozen_encoder(head: str) -> None:
    """With the same gradients as where everything is trained, and none for the encoder."""
    model, pixels, gradients = segmenter(head=head, head_dropout=0.0), images(4, 3, 8, 8), []
    model.train()
    for frozen in (False, True):
        for parameter in model.encoder.parameters():
            parameter.stop_gradient = frozen
        outputs = model.forward_with_auxiliary(pixels)
        sum(logits.square().mean() for logits in outputs if logits is not None).backward()
        gradients.append({name: each.grad for name, each in model.named_parameters() if each.grad is not None})
        gradients[-1] = {name: gradient.numpy().copy() for name, gradient in gradients[-1].items()}
        model.clear_gradients(set_to_zero=False)
    assert gradients[1] and not any(name.startswith("encoder") for name in gradients[1])
    assert set(gradients[1]) == {name for name in gradients[0] if not name.startswith("encoder")}
    for name, gradient in gradients[1].items():
        np.testing.assert_allclose(gradient, gradients[0][name], rtol=1e-4, atol=1e-6, err_msg=name)
