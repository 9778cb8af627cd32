"""The masked autoencoder: what it may see, what it is scored on, and the pictures it draws."""

import inspect
import re

import numpy as np
import paddle
import pytest

from paddlemae.model.classifier import VisionTransformer
from paddlemae.model.decoders.mae import decode
from paddlemae.model.encoder import encode_visible
from paddlemae.model.mae import MaskedAutoencoder, predict, reconstruct
from paddlemae.model.masking import Mask, block_mask, given_mask, grid_mask, random_mask
from paddlemae.model.patches import patchify, unpatchify
from paddlemae.model.shape import EncoderShape
from paddlemae.model.targets import normalise_patches
from paddlemae.weights.transfer import official_parameters

SMALL = dict(
    image_size=(8, 16),
    patch_size=4,
    channels=3,
    embed_dim=16,
    depth=2,
    num_heads=4,
    decoder_embed_dim=8,
    decoder_depth=1,
    decoder_num_heads=2,
)
PATCHES, PIXELS = 8, 48


def autoencoder(**changes) -> MaskedAutoencoder:
    paddle.seed(0)
    model = MaskedAutoencoder(**{**SMALL, **changes})
    model.eval()
    return model


def images(batch: int = 2, channels: int = 3, seed: int = 0) -> paddle.Tensor:
    values = np.random.default_rng(seed).normal(size=(batch, channels, 8, 16))
    return paddle.to_tensor(values.astype(np.float32))


def a_mask(batch: int = 2, keep: int = 3, seed: int = 0) -> Mask:
    return random_mask(np.random.default_rng(seed).uniform(size=(batch, PATCHES)), keep)


def with_patches_changed(pixels: paddle.Tensor, chosen_BK: np.ndarray) -> paddle.Tensor:
    patches = patchify(pixels, 4).numpy().copy()
    np.put_along_axis(patches, chosen_BK[..., None], 100.0, axis=1)
    return unpatchify(paddle.to_tensor(patches), 4, (2, 4))


@pytest.mark.parametrize("cls_token", [True, False])
def test_removed_pixels_are_never_seen(cls_token: bool) -> None:
    model, mask = autoencoder(cls_token=cls_token), a_mask()
    before = predict(model, images(), mask).numpy()
    hidden = predict(model, with_patches_changed(images(), mask.removed), mask).numpy()
    assert (before == hidden).all()
    seen = predict(model, with_patches_changed(images(), mask.keep[:, :1]), mask).numpy()
    assert np.abs(before - seen).max() > 1e-3, "kept pixels must be seen"


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_the_loss_is_the_mean_square_over_removed_patches_by_hand(norm_pix_loss: bool) -> None:
    model, mask = autoencoder(norm_pix_loss=norm_pix_loss), a_mask()
    target = patchify(images(), 4).numpy().astype(np.float64)
    if norm_pix_loss:
        deviation = np.sqrt(target.var(axis=-1, ddof=1, keepdims=True) + 1e-6)
        target = (target - target.mean(axis=-1, keepdims=True)) / deviation
    error = (predict(model, images(), mask).numpy() - target) ** 2
    wanted = error[mask.as_map()].mean()
    assert model(images(), mask).item() == pytest.approx(wanted, rel=1e-5)
    assert error.mean() != pytest.approx(wanted, rel=1e-3), "kept patches would have made a difference"


def test_only_visible_tokens_enter_the_encoder() -> None:
    model, seen = autoencoder(), []
    for block in [*model.encoder.blocks, *model.decoder.decoder_blocks]:
        block.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].shape))
    model.encoder.patch_embed.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].shape))
    model(images(), a_mask(keep=3))
    assert seen == [[2, 3, PIXELS], [2, 1 + 3, 16], [2, 1 + 3, 16], [2, 1 + PATCHES, 8]]


def test_the_order_of_kept_patches_does_not_matter() -> None:
    model, mask = autoencoder(), a_mask()
    turned = Mask(mask.keep[:, ::-1].copy(), mask.removed[:, ::-1].copy())
    np.testing.assert_allclose(predict(model, images(), mask), predict(model, images(), turned), atol=1e-5)
    assert model(images(), mask).item() == pytest.approx(model(images(), turned).item(), rel=1e-5)


def test_every_image_is_predicted_by_its_own_mask() -> None:
    model, mask = autoencoder(), a_mask(batch=3)
    assert len(np.unique(mask.as_map(), axis=0)) == 3
    together = predict(model, images(3), mask).numpy()
    for i in range(3):
        alone = predict(model, images(3)[i : i + 1], Mask(mask.keep[i : i + 1], mask.removed[i : i + 1]))
        np.testing.assert_allclose(together[i], alone.numpy()[0], atol=1e-5)


def test_removed_patches_differ_by_their_position_only() -> None:
    """Every mask token is the same vector; without positions all removed patches would be predicted alike."""
    model, mask = autoencoder(), a_mask()
    removed = np.take_along_axis(predict(model, images(), mask).numpy(), mask.removed[..., None], axis=1)
    assert np.abs(removed[:, 0] - removed[:, 1]).max() > 1e-3
    model.decoder.decoder_pos_embed.set_value(paddle.zeros_like(model.decoder.decoder_pos_embed))
    removed = np.take_along_axis(predict(model, images(), mask).numpy(), mask.removed[..., None], axis=1)
    np.testing.assert_allclose(removed[:, 0], removed[:, 1], atol=1e-6)


@pytest.mark.parametrize("cls_token", [True, False])
def test_a_decoder_without_blocks_by_hand(cls_token: bool) -> None:
    """Each patch is the prediction of its own token, visible or mask, at its own position."""
    model, mask = autoencoder(decoder_depth=0, cls_token=cls_token), a_mask()
    tokens = np.broadcast_to(model.decoder.mask_token.numpy(), (2, PATCHES, 8)).copy()
    visible = model.decoder.decoder_embed(encode_visible(model.encoder, images(), mask)).numpy()[:, int(cls_token) :]
    np.put_along_axis(tokens, mask.keep[..., None], visible, axis=1)
    tokens += model.decoder.decoder_pos_embed.numpy()[:, int(cls_token) :]
    wanted = model.decoder.decoder_pred(model.decoder.decoder_norm(paddle.to_tensor(tokens)))
    np.testing.assert_allclose(predict(model, images(), mask), wanted, atol=1e-5)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_every_trained_tensor_gets_a_gradient(norm_pix_loss: bool) -> None:
    model = autoencoder(norm_pix_loss=norm_pix_loss)
    model(images(), a_mask()).backward()
    for name, parameter in official_parameters(model):
        assert np.abs(parameter.grad.numpy()).max() > 0, name
    assert {name for name, _ in model.named_buffers()} == {"encoder.pos_embed", "decoder.decoder_pos_embed"}


def test_learned_positions_get_gradients_where_patches_were_kept() -> None:
    model = autoencoder(positions="learned")
    mask = a_mask(batch=1)
    model(images(1), mask).backward()
    moved = np.abs(model.encoder.pos_embed.grad.numpy()[0]).max(axis=1) > 0
    assert moved[0], "the cls row"
    assert (moved[1:] == ~mask.as_map()[0]).all()
    assert "decoder_pos_embed" not in dict(official_parameters(model)), "the decoder's stay fixed"


def test_gradients_are_the_slope_of_the_loss() -> None:
    """A short way along the gradient the loss rises by the gradient's norm, and falls against it."""
    model, mask, pixels = autoencoder(norm_pix_loss=True), a_mask(), images()
    model(pixels, mask).backward()
    starts = [(parameter, parameter.numpy().copy(), parameter.grad.numpy().copy()) for parameter in model.parameters()]
    norm = np.sqrt(sum((gradient.astype(np.float64) ** 2).sum() for _, _, gradient in starts))

    def loss_at(distance: float) -> float:
        for parameter, start, gradient in starts:
            parameter.set_value(start + np.float32(distance / norm) * gradient)
        return model(pixels, mask).item()

    assert (loss_at(1e-3) - loss_at(-1e-3)) / 2e-3 == pytest.approx(norm, rel=2e-3)


@pytest.mark.parametrize("model", [MaskedAutoencoder, VisionTransformer])
def test_help_of_a_model_lists_its_keys_and_an_unknown_one_is_answered_with_the_nearest(model) -> None:
    for name, key in inspect.signature(EncoderShape).parameters.items():
        assert re.search(rf"^ +{name}: .+ \(default {re.escape(repr(key.default))}\)\.$", model.__doc__, re.MULTILINE)
    with pytest.raises(TypeError, match="'embed_dims'; did you mean 'embed_dim'"):
        model(embed_dims=64)
    with pytest.raises(TypeError, match="'qqq'; The keys are image_size, "):
        model(qqq=1)


def with_dropping(**changes) -> tuple[MaskedAutoencoder, np.ndarray]:
    """A model in training whose last block drops branches, and noise for two images: one branch of each goes."""
    model = autoencoder(drop_path=0.5, **changes)
    model.train()
    return model, np.float32([[[0.9, 0.9], [0.1, 0.9]], [[0.9, 0.9], [0.9, 0.2]]])


@pytest.mark.parametrize("changes", [{}, dict(cls_token=False), dict(positions="learned"), dict(norm_pix_loss=True)])
def test_recomputing_gives_the_same_loss_and_gradients(changes: dict, recompute_changes_nothing) -> None:
    (model, noise), mask = with_dropping(**changes), a_mask()
    blocks = [*model.encoder.blocks, *model.decoder.decoder_blocks]
    assert len(blocks) == 3
    recompute_changes_nothing(model, blocks, lambda: model(images(), mask, None, noise))


def test_drop_path_follows_the_noise_that_is_given() -> None:
    model, noise = with_dropping()
    losses = [model(images(), a_mask(), None, one).item() for one in (noise, noise, noise[::-1].copy())]
    assert losses[0] == losses[1] and losses[0] != pytest.approx(losses[2], rel=1e-4)
    model.eval()
    assert model(images(), a_mask(), None, noise).item() == model(images(), a_mask()).item()


def test_the_loss_decodes_removed_patches_only() -> None:
    model, mask = autoencoder(decoder_depth=2), a_mask()
    latent = encode_visible(model.encoder, images(), mask)
    removed, every = decode(model.decoder, latent, mask), decode(model.decoder, latent, mask, only_removed=False)
    assert removed.shape == [2, 5, PIXELS] and every.shape == [2, PATCHES, PIXELS]
    np.testing.assert_allclose(removed, every[:, 3:], atol=1e-5)


@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(2, 8, 48), (1, 1, 3), (3, 5, 2)])
def test_normal_patches_by_hand(shape: tuple[int, ...], floor: float) -> None:
    patches = np.random.default_rng(0).normal(2, 3, shape).astype(np.float32)
    patches[0] *= 0.01
    normal, mean, scale = (part.numpy() for part in normalise_patches(paddle.to_tensor(patches), floor))
    exact = patches.astype(np.float64)
    deviation = np.sqrt(exact.var(axis=-1, ddof=1, keepdims=True) + 1e-6 + floor**2)
    np.testing.assert_allclose(mean, exact.mean(axis=-1, keepdims=True), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scale, 1 / deviation, rtol=1e-5)
    np.testing.assert_allclose(normal, (exact - exact.mean(axis=-1, keepdims=True)) / deviation, atol=1e-5)


def test_a_few_steps_learn_an_image_by_heart() -> None:
    model, mask, pixels = autoencoder(), a_mask(), images()
    optimizer = paddle.optimizer.Adam(0.01, parameters=model.parameters())
    before = model(pixels, mask).item()
    for _ in range(60):
        model(pixels, mask).backward()
        optimizer.step()
        optimizer.clear_grad()
    assert model(pixels, mask).item() < 0.3 * before


def test_the_decoder_is_the_papers_by_default() -> None:
    with paddle.LazyGuard():
        config = MaskedAutoencoder(image_size=32, depth=1).config
    assert config["decoder_embed_dim"] == 512 and config["decoder_depth"] == 8 and config["decoder_num_heads"] == 16
    assert (config["embed_dim"], config["patch_size"], config["norm_pix_loss"]) == (768, [16, 16], False)


def test_config_rebuilds_the_same_model() -> None:
    for changes in [
        dict(channels=1),
        dict(channels=4),
        dict(patch_size=(2, 8)),
        dict(cls_token=False),
        dict(positions="sincos1d"),
        dict(positions="learned", cls_token=False),
    ]:
        model = autoencoder(**changes)
        again = MaskedAutoencoder(**model.config)
        assert {name: value.shape for name, value in again.state_dict().items()} == {
            name: value.shape for name, value in model.state_dict().items()
        }
        again.set_state_dict(model.state_dict())
        again.eval()
        pixels = images(channels=model.config["channels"])
        assert model(pixels, a_mask()).item() == again(pixels, a_mask()).item()


@pytest.mark.parametrize("kind", ["random", "block", "grid", "given"])
def test_every_kind_of_mask_trains(kind: str) -> None:
    masks = dict(
        random=a_mask(),
        block=block_mask([np.random.default_rng(i) for i in range(2)], (2, 4), 3),
        grid=grid_mask(2, (2, 4)),
        given=given_mask(np.array([[[1, 0, 0, 1], [1, 1, 1, 1]]] * 2), (2, 4)),
    )
    model = autoencoder()
    loss = model(images(), masks[kind])
    loss.backward()
    assert loss.shape == [] and np.isfinite(loss.item())


def test_the_loss_alone_refuses_a_mask_that_removes_nothing() -> None:
    model, mask = autoencoder(), a_mask(keep=PATCHES)
    with pytest.raises(ValueError, match="this mask removes none; raise mask_ratio"):
        model(images(), mask)
    assert predict(model, images(), mask).shape == [2, PATCHES, PIXELS]


def test_images_and_masks_that_do_not_fit_are_refused() -> None:
    for shape, mask, message in [
        ((2, 3, 16, 8), a_mask(), r"takes images of 8 x 16 pixels, got \[2, 3, 16, 8\]; resize them"),
        ((2, 1, 8, 16), a_mask(), r"must be \[B, 3, H, W\]"),
        ((3, 3, 8, 16), a_mask(), "the mask is for 2 images of 8 patches, the batch has 3 of 8"),
        (
            (2, 3, 8, 16),
            random_mask(np.random.default_rng(0).uniform(size=(2, 9)), 3),
            "the mask is for 2 images of 9 patches, the batch has 2 of 8",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            autoencoder()(paddle.zeros(shape), mask)


def test_shapes_that_do_not_fit_together_are_refused() -> None:
    for changes, message in [
        (dict(decoder_num_heads=3), "8 is not divisible by 3 heads"),
        (dict(decoder_embed_dim=6, decoder_num_heads=2), "divisible by 4, got 6"),
        (dict(patch_size=1, channels=1, norm_pix_loss=True), "at least 2 values"),
        (dict(positions="none"), "got 'none'"),
    ]:
        with pytest.raises(ValueError, match=message):
            autoencoder(**changes)


# pictures


@pytest.mark.parametrize("cls_token", [True, False])
@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_visible_patches_are_drawn_bitwise(norm_pix_loss: bool, cls_token: bool) -> None:
    mask = a_mask()
    drawn = reconstruct(autoencoder(norm_pix_loss=norm_pix_loss, cls_token=cls_token), images(), mask)
    original, visible = patchify(images(), 4).numpy(), ~mask.as_map()
    assert (drawn.original.numpy() == images().numpy()).all()
    assert drawn.completed.shape == [2, 3, 8, 16]
    assert (patchify(drawn.completed, 4).numpy()[visible] == original[visible]).all()
    assert (patchify(drawn.completed, 4).numpy()[~visible] == patchify(drawn.prediction, 4).numpy()[~visible]).all()
    assert np.abs(patchify(drawn.prediction, 4).numpy()[visible] - original[visible]).max() > 1e-2


def test_raw_predictions_are_drawn_as_they_are() -> None:
    model, mask = autoencoder(), a_mask()
    drawn = reconstruct(model, images(), mask)
    assert (drawn.plain.numpy() == drawn.prediction.numpy()).all()
    with paddle.no_grad():
        prediction = predict(model, images(), mask)
    assert (patchify(drawn.plain, 4).numpy() == prediction.numpy()).all()


@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_predictions_get_the_patchs_mean_and_deviation_back(floor: float) -> None:
    model, mask = autoencoder(norm_pix_loss=True, norm_pix_floor=floor), a_mask()
    drawn = reconstruct(model, images(), mask)
    patches = patchify(images(), 4).numpy().astype(np.float64)
    deviation = np.sqrt(patches.var(axis=-1, ddof=1, keepdims=True) + 1e-6 + floor**2)
    wanted = predict(model, images(), mask).numpy() * deviation + patches.mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(patchify(drawn.prediction, 4).numpy(), wanted, atol=1e-5)


def test_a_perfect_normalised_prediction_is_drawn_as_the_original() -> None:
    patches = patchify(images(), 4)
    normal, _, _ = normalise_patches(patches)
    model, mask = autoencoder(norm_pix_loss=True), a_mask(keep=PATCHES)
    # one image whose patches are all alike, so that the last bias alone predicts it
    alike = paddle.tile(patches[:1, :1], [1, PATCHES, 1])
    model.decoder.decoder_pred.weight.set_value(paddle.zeros_like(model.decoder.decoder_pred.weight))
    model.decoder.decoder_pred.bias.set_value(normal[0, 0])
    picture = unpatchify(alike, 4, (2, 4))
    mask = a_mask(batch=1)
    assert model(picture, mask).item() < 1e-10
    np.testing.assert_allclose(reconstruct(model, picture, mask).completed.numpy(), picture.numpy(), atol=1e-5)


def test_a_flat_patch_is_normalised_without_dividing_by_zero() -> None:
    model = autoencoder(norm_pix_loss=True)
    loss = model(paddle.full([2, 3, 8, 16], 0.7), a_mask())
    loss.backward()
    assert np.isfinite(loss.item())
    assert all(np.isfinite(parameter.grad.numpy()).all() for parameter in model.parameters())


def test_encoding_gives_one_token_for_each_kept_patch_and_the_cls() -> None:
    assert encode_visible(autoencoder().encoder, images(), a_mask(keep=3)).shape == [2, 4, 16]
    assert encode_visible(autoencoder(cls_token=False).encoder, images(), a_mask(keep=3)).shape == [2, 3, 16]
