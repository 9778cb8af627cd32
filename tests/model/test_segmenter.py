"""Segmenters: logits of every pixel for any shape of image, patch and encoder."""

from itertools import product

import numpy as np
import paddle
import pytest

from paddlemae.model.encoder import encode
from paddlemae.model.segmenter import Segmenter
from paddlemae.model.shape import SHAPES, keys_of, tensor_shapes
from paddlemae.weights.transfer import official_shapes

TINY = dict(embed_dim=16, depth=4, num_heads=4, image_size=8, patch_size=4, channels=3, num_classes=5)
HEADS = ("linear",)


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
    model = segmenter(head=head)
    assert official_shapes(model) == tensor_shapes("segmenter", model.config)


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
    assert not {"taps", "head_width"} & set(segmenter(taps=[1, 2, 3, 4], head_width=7).config)
    names = {key.name for key in keys_of(*SHAPES["segmenter"])}
    assert set(segmenter().config) == names - {"taps", "head_width"}


@pytest.mark.parametrize("head", HEADS)
def test_recomputing_gives_the_same_loss_and_gradients(head: str, recompute_changes_nothing) -> None:
    model = segmenter(head=head)
    model.train()
    pixels = images(4, 3, 8, 8)
    recompute_changes_nothing(model, model.encoder.blocks, lambda: model(pixels).square().mean())
