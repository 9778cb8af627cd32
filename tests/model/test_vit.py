"""The ViT: patches, sizes, drop path, recomputation, features, pooling and other image sizes."""

from itertools import product

import numpy as np
import paddle
import pytest

from paddlemae.model.blocks import Block, keep_factors
from paddlemae.model.classifier import VisionTransformer, freeze
from paddlemae.model.encoder import drop_path_noise, encode, features
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.masking import random_mask
from paddlemae.model.patches import patchify, unpatchify
from paddlemae.model.positions import resize_positions
from paddlemae.model.shape import SIZES, patch_grid
from paddlemae.weights.transfer import official_name, official_parameters

TINY = dict(embed_dim=16, depth=2, num_heads=4)


def images(batch: int, channels: int, height: int, width: int, seed: int = 0) -> paddle.Tensor:
    values = np.random.default_rng(seed).normal(size=(batch, channels, height, width))
    return paddle.to_tensor(values.astype(np.float32))


def classifier(**changes) -> VisionTransformer:
    paddle.seed(0)
    model = VisionTransformer(**dict(dict(image_size=8, patch_size=4, channels=3, num_classes=5, **TINY), **changes))
    model.eval()
    return model


# patches


def test_patch_pixels_are_ordered_row_column_channel() -> None:
    pixels = images(2, 3, 4, 12)
    patches = patchify(pixels, (2, 3)).numpy()
    assert patches.shape == (2, 2 * 4, 2 * 3 * 3)
    for patch in range(8):
        top, left = patch // 4 * 2, patch % 4 * 3
        wanted = [pixels.numpy()[:, c, top + y, left + x] for y in range(2) for x in range(3) for c in range(3)]
        assert (patches[:, patch] == np.stack(wanted, axis=1)).all()


def test_unpatchify_undoes_patchify() -> None:
    for (size, patch), channels in product(
        [((8, 8), 4), ((4, 12), (2, 3)), ((6, 4), (3, 4)), ((5, 7), 1), ((9, 3), (9, 3))], [1, 3, 4]
    ):
        pixels = images(2, channels, *size)
        grid = patch_grid(size, patch)
        assert (unpatchify(patchify(pixels, patch), patch, grid).numpy() == pixels.numpy()).all()


@pytest.mark.parametrize(("size", "patch"), [((10, 8), 4), ((8, 10), 4), (8, (4, 3)), (3, 4)])
def test_patches_that_do_not_divide_the_image_are_refused(size, patch) -> None:
    with pytest.raises(ValueError, match="is not divisible by the patch size"):
        patch_grid(size, patch)


@pytest.mark.parametrize(("size", "patch"), [(8, 0), (8, (4, -4)), (0, 4), ((8, -8), 4)])
def test_sizes_below_one_pixel_are_refused(size, patch) -> None:
    with pytest.raises(ValueError, match="must be at least 1 pixel"):
        patch_grid(size, patch)


def test_the_refusal_names_the_nearest_size_that_fits() -> None:
    with pytest.raises(ValueError, match=r"image size 225 x 30 .* 16 x 16; 224 x 32 would be"):
        patch_grid((225, 30), 16)


# sizes


@pytest.mark.parametrize(("size", "count"), [("base", 85_798_656), ("large", 303_301_632), ("huge", 630_764_800)])
def test_published_sizes_have_the_published_parameters(size: str, count: int) -> None:
    """ViT's encoders without a head, and their position table, which MAE fixes and others learn."""
    with paddle.LazyGuard():  # shapes only: Huge would fill 2.5 GB
        block = Block(SIZES[size]["embed_dim"], SIZES[size]["num_heads"], 4.0)
    width, depth, patch = SIZES[size]["embed_dim"], SIZES[size]["depth"], SIZES[size]["patch_size"]
    in_blocks = depth * sum(parameter.size for parameter in block.parameters())
    embedding = (patch * patch * 3 + 1) * width
    positions = ((224 // patch) ** 2 + 1) * width
    cls_token, norm = width, 2 * width
    assert in_blocks + embedding + positions + cls_token + norm == count


def test_a_built_model_has_the_parameters_that_its_parts_add_up_to() -> None:
    model = VisionTransformer(image_size=32, channels=3, **SIZES["mini"], positions="learned", num_classes=10)
    block = sum(parameter.size for parameter in Block(128, 4, 4.0).parameters())
    assert block == 12 * 128**2 + 13 * 128
    wanted = 4 * block + (4 * 4 * 3 + 1) * 128 + (64 + 1) * 128 + 128 + 2 * 128 + (128 + 1) * 10
    assert sum(parameter.size for parameter in model.parameters()) == wanted


def test_every_size_fits_together() -> None:
    for size in SIZES:
        width, heads = SIZES[size]["embed_dim"], SIZES[size]["num_heads"]
        assert width % heads == 0 and width % 4 == 0
        assert set(SIZES[size]) == {"patch_size", "embed_dim", "depth", "num_heads"}


# images of any shape


def test_any_shape_of_image_and_patch_is_classified() -> None:
    for channels, (size, patch), cls_token in product(
        [1, 2, 3, 4], [(8, 4), ((8, 16), 4), ((12, 6), (3, 2))], [True, False]
    ):
        model = classifier(image_size=size, patch_size=patch, channels=channels, cls_token=cls_token)
        height, width = (size, size) if isinstance(size, int) else size
        logits = model(images(3, channels, height, width))
        assert logits.shape == [3, 5] and np.isfinite(logits.numpy()).all()


def test_another_image_size_resizes_the_positions() -> None:
    """The same as a model of that size that holds the resized table."""
    model = classifier(image_size=(8, 12), positions="learned")
    larger = classifier(image_size=(12, 16), positions="learned")
    state = {name: value for name, value in model.state_dict().items() if name != "encoder.pos_embed"}
    table = model.encoder.pos_embed[0]
    resized = paddle.concat([table[:1], resize_positions(table[1:], (2, 3), (3, 4))]).unsqueeze(0)
    larger.set_state_dict({**state, "encoder.pos_embed": resized})
    pixels = images(2, 3, 12, 16)
    np.testing.assert_allclose(encode(model.encoder, pixels), encode(larger.encoder, pixels), atol=1e-5)
    assert model(pixels).shape == [2, 5]
    assert model.encoder.pos_embed.shape == [1, 7, 16], "the model itself must not change"


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_position_matters(pool: str) -> None:
    """Patches in another order are another image."""
    model = classifier(pool=pool)
    pixels = images(1, 3, 8, 8)
    assert np.abs((features(model, pixels, pool) - features(model, pixels.flip(-1), pool)).numpy()).max() > 1e-3


def test_images_that_do_not_fit_are_refused() -> None:
    for shape, message in [
        ((2, 1, 8, 8), r"must be \[B, 3, H, W\].*got \[2, 1, 8, 8\]"),
        ((3, 8, 8), r"must be \[B, 3, H, W\]"),
        ((2, 3, 8, 9), "8 x 9 is not divisible"),
    ]:
        with pytest.raises(ValueError, match=message):
            classifier()(paddle.zeros(shape))


def test_shapes_that_do_not_fit_together_are_refused() -> None:
    for changes, message in [
        (dict(image_size=10), "10 x 10 is not divisible by the patch size 4 x 4; 8 x 8 would be"),
        (dict(num_heads=3), "16 is not divisible by 3 heads"),
        (dict(embed_dim=18, num_heads=3), "divisible by 4, got 18"),
        (dict(drop_path=1.0), r"drop_path must be in \[0, 1\), got 1.0"),
        (dict(positions="rotary"), "sincos2d, sincos1d, learned, got 'rotary'"),
        (dict(pool="max"), "one of cls, mean, mean.std, got 'max'"),
        (dict(pool="cls", cls_token=False), "no cls token; use pool='mean'"),
    ]:
        with pytest.raises(ValueError, match=message) as raised:
            classifier(**changes)
        assert "\n" not in str(raised.value)


# drop path


def training(**changes) -> VisionTransformer:
    """Rates high enough for some branches of few images to drop; weights other than at the start, so that it shows."""
    model = classifier(**{**dict(drop_path=0.5, depth=3), **changes})
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.set_value(parameter + paddle.to_tensor(rng.normal(0, 0.2, parameter.shape).astype(np.float32)))
    model.train()
    return model


def path_noise(batch: int, depth: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(batch, depth, 2)).astype(np.float32)


def test_a_branch_is_dropped_at_its_rate_and_its_mean_is_kept() -> None:
    noise = np.random.default_rng(0).uniform(size=(4000, 2)).astype(np.float32)
    factors = keep_factors(paddle.to_tensor(noise), 0.25).numpy()
    assert factors.dtype == np.float32
    np.testing.assert_allclose(factors, np.where(noise < 0.25, 0, 4 / 3), rtol=1e-6)
    assert (abs((factors == 0).mean(axis=0) - 0.25) < 0.04).all()  # six deviations of 4000 draws
    assert abs(factors.mean() - 1) < 0.04
    assert (keep_factors(paddle.to_tensor(noise), 0.0).numpy() == 1).all()


def test_drop_path_drops_either_branch_of_whole_images() -> None:
    """Images one to four drop both branches, the MLP, attention, none; the others' branches are made larger."""
    block = training(drop_path=0.25).encoder.blocks[-1]
    x = images(4, 1, 5, 16)[:, 0]
    got = block(x, noise_B2=paddle.to_tensor(np.float32([[0.1, 0.2], [0.25, 0], [0.24, 0.9], [0.5, 0.99]]))).numpy()
    attended = x + block.attn(block.norm1(x)) * 4 / 3
    assert (got[0] == x.numpy()[0]).all()
    np.testing.assert_allclose(got[1], attended.numpy()[1], atol=1e-5)
    np.testing.assert_allclose(got[2], (x + block.mlp(block.norm2(x)) * 4 / 3).numpy()[2], atol=1e-5)
    np.testing.assert_allclose(got[3], (attended + block.mlp(block.norm2(attended)) * 4 / 3).numpy()[3], atol=1e-5)
    assert np.abs(got[1:] - x.numpy()[1:]).max(axis=(1, 2)).min() > 1e-2


def test_drop_path_is_off_in_eval_and_on_in_training() -> None:
    model = classifier(drop_path=0.9)
    still = classifier(drop_path=0.0)
    still.set_state_dict(model.state_dict())
    pixels = images(8, 3, 8, 8)
    assert (model(pixels).numpy() == still(pixels).numpy()).all()
    assert (model(pixels, path_noise(8, 2)).numpy() == still(pixels).numpy()).all()
    model.train()
    assert np.abs(encode(model.encoder, pixels).numpy() - encode(still.encoder, pixels).numpy()).max() > 1e-3
    still.train()
    assert drop_path_noise(still.encoder, 8, None) is None, "no randomness is drawn where nothing drops"


def test_drop_path_rises_linearly_to_the_last_block() -> None:
    model = classifier(depth=5, drop_path=0.2)
    np.testing.assert_allclose([block.drop_path for block in model.encoder.blocks], [0, 0.05, 0.1, 0.15, 0.2])


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_the_noise_that_is_given_decides_what_drops(pool: str) -> None:
    model, pixels, noise = training(pool=pool), images(6, 3, 8, 8), path_noise(6)
    wanted = model(pixels, noise).numpy()
    assert (model(pixels, noise).numpy() == wanted).all()
    assert np.abs(model(pixels, path_noise(6, seed=1)).numpy() - wanted).max() > 1e-2
    np.testing.assert_allclose(
        features(model, pixels, pool, noise) @ model.head.weight + model.head.bias, wanted, atol=1e-5
    )
    for i in range(6):  # each image by its own
        np.testing.assert_allclose(model(pixels[i : i + 1], noise[i : i + 1]).numpy()[0], wanted[i], atol=1e-5)


def test_the_noise_of_each_block_and_branch_is_its_own() -> None:
    """The first block never drops; in the others, each of the two numbers of an image matters to that image alone."""
    model, pixels = training(), images(2, 3, 8, 8)
    noise = np.full((2, 3, 2), 0.99, np.float32)
    whole = encode(model.encoder, pixels, path_noise=noise).numpy()
    for block in range(3):
        for branch in range(2):
            dropped = noise.copy()
            dropped[1, block, branch] = 0
            change = np.abs(encode(model.encoder, pixels, path_noise=dropped).numpy() - whole).max(axis=(1, 2))
            assert change[0] == 0 and (change[1] > 1e-3) == (block > 0), (block, branch)


def test_without_noise_drop_path_draws_it_from_paddles_generator() -> None:
    model, pixels, outputs = training(), images(6, 3, 8, 8), []
    for seed in (1, 1, 2):
        paddle.seed(seed)
        outputs.append(model(pixels).numpy())
    assert (outputs[0] == outputs[1]).all() and np.abs(outputs[0] - outputs[2]).max() > 1e-2


# tokens that are wanted, and activations that are computed again


def test_wanted_tokens_are_those_of_the_full_result() -> None:
    for wanted, trains in product([(0, 1), (1, 9), (2, 5), (0, 9), (8, 9)], [True, False]):
        model, pixels, noise = training(image_size=(8, 16)), images(2, 3, 8, 16), path_noise(2)
        with paddle.set_grad_enabled(trains):
            full = encode(model.encoder, pixels, path_noise=noise).numpy()
            got = encode(model.encoder, pixels, path_noise=noise, token_range=wanted).numpy()
        assert got.shape == (2, wanted[1] - wanted[0], 16)
        np.testing.assert_allclose(got, full[:, slice(*wanted)], atol=1e-5)


def test_a_token_range_of_a_model_without_blocks() -> None:
    model, pixels = classifier(depth=0), images(2, 3, 8, 8)
    assert (
        encode(model.encoder, pixels, token_range=(1, 3)).numpy() == encode(model.encoder, pixels).numpy()[:, 1:3]
    ).all()


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_only_the_last_block_leaves_tokens_out_and_only_for_the_cls(pool: str) -> None:
    model, tokens = classifier(pool=pool, depth=3), []
    for block in model.encoder.blocks:
        block.register_forward_post_hook(lambda layer, inputs, output: tokens.append(output.shape[1]))
    model(images(2, 3, 8, 8))
    assert tokens == [5, 5, 1 if pool == "cls" else 5]


@pytest.mark.parametrize(("pool", "cls_token"), [("cls", True), ("mean", True), ("mean", False)])
@pytest.mark.parametrize("positions", ["learned", "sincos2d"])
def test_recomputing_gives_the_same_loss_and_gradients(
    pool: str, cls_token: bool, positions: str, recompute_changes_nothing
) -> None:
    model = training(pool=pool, cls_token=cls_token, positions=positions)
    pixels, noise = images(4, 3, 8, 8), path_noise(4)
    assert len(model.encoder.blocks) == 3
    recompute_changes_nothing(model, model.encoder.blocks, lambda: model(pixels, noise).square().mean())


def test_recomputing_trains_blocks_behind_a_frozen_embedding() -> None:
    """Paddle's recompute gives no gradient at all to a layer whose input needs none."""
    model, given = training(), []
    for name, parameter in official_parameters(model):
        parameter.stop_gradient = not name.startswith(("blocks", "fc_norm", "head"))
    for model.recompute in (False, True):
        model(images(4, 3, 8, 8), path_noise(4)).square().mean().backward()
        given.append([name for name, parameter in official_parameters(model) if parameter.grad is not None])
        model.clear_gradients(set_to_zero=False)
    assert given[0] == given[1] and len(given[0]) == 3 * 12 + 4


def test_recomputing_needs_no_gradients() -> None:
    model, pixels, outputs = classifier(), images(2, 3, 8, 8), []
    for model.recompute in (False, True):
        with paddle.no_grad():
            outputs.append(model(pixels))
    assert (outputs[0].numpy() == outputs[1].numpy()).all() and outputs[1].stop_gradient


# features


def test_features_are_deterministic_and_of_each_image_alone() -> None:
    model = classifier(drop_path=0.5)
    pixels = images(4, 3, 8, 8)
    together = features(model, pixels, "mean").numpy()
    assert (together == features(model, pixels, "mean").numpy()).all()
    alone = np.concatenate([features(model, pixels[i : i + 1], "mean").numpy() for i in range(4)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def layer_norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def test_pooling_by_hand() -> None:
    """A classifier by mean normalises after pooling; one by cls token, and an autoencoder, before."""
    pixels = images(2, 3, 8, 8)
    by_mean, by_cls = classifier(pool="mean"), classifier(pool="cls")
    tokens = encode(by_mean.encoder, pixels).numpy()
    assert tokens.shape == (2, 1 + 4, 16)
    np.testing.assert_allclose(features(by_mean, pixels, "mean"), layer_norm(tokens[:, 1:].mean(1)), atol=1e-5)
    tokens = encode(by_cls.encoder, pixels).numpy()
    np.testing.assert_allclose(features(by_cls, pixels, "cls"), layer_norm(tokens)[:, 0], atol=1e-5)
    np.testing.assert_allclose(features(by_cls, pixels, "mean"), layer_norm(tokens)[:, 1:].mean(1), atol=1e-5)
    both = features(by_cls, pixels, "mean+std")
    expected = np.concatenate([layer_norm(tokens)[:, 1:].mean(1), layer_norm(tokens)[:, 1:].std(1)], axis=1)
    np.testing.assert_allclose(both, expected, atol=1e-5)
    with pytest.raises(ValueError, match="for the mean of its tokens"):
        features(by_mean, pixels, "mean+std")
    by_both = classifier(pool="mean+std")
    patches = encode(by_both.encoder, pixels).numpy()[:, 1:]
    expected = layer_norm(np.concatenate([patches.mean(1), patches.std(1)], axis=1))
    np.testing.assert_allclose(features(by_both, pixels, "mean+std"), expected, atol=1e-5)
    np.testing.assert_allclose(features(by_both, pixels, "mean"), expected[:, :16], atol=1e-5)
    logits = expected @ by_both.head.weight.numpy() + by_both.head.bias.numpy()
    np.testing.assert_allclose(by_both(pixels), logits, atol=1e-6)
    with pytest.raises(ValueError, match="for the mean.std of its tokens"):
        features(by_both, pixels, "cls")
    wanted = layer_norm(tokens)[:, 0] @ by_cls.head.weight.numpy() + by_cls.head.bias.numpy()
    np.testing.assert_allclose(by_cls(pixels), wanted, atol=1e-6)


def test_pooling_without_a_cls_token_uses_every_token() -> None:
    model = classifier(cls_token=False)
    pixels = images(2, 3, 8, 8)
    tokens = encode(model.encoder, pixels).numpy()
    assert tokens.shape == (2, 4, 16)
    np.testing.assert_allclose(features(model, pixels, "mean"), layer_norm(tokens.mean(1)), atol=1e-5)
    with pytest.raises(ValueError, match="no cls token; use pool='mean'"):
        features(model, pixels, "cls")


def test_a_classifier_starts_from_an_autoencoders_encoder() -> None:
    """Same names, same numbers: what pretraining learned is what fine-tuning sees."""
    paddle.seed(0)
    mae = MaskedAutoencoder(
        image_size=8, patch_size=4, decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2, **TINY
    )
    model = classifier()
    shared = set(mae.state_dict()) & set(model.state_dict())
    assert {official_name(name) for name in set(model.state_dict()) - shared} == {
        "fc_norm.weight",
        "fc_norm.bias",
        "head.weight",
        "head.bias",
    }
    model.set_state_dict({**model.state_dict(), **{name: mae.state_dict()[name] for name in shared}})
    pixels = images(2, 3, 8, 8)
    assert (encode(mae.encoder, pixels).numpy() == encode(model.encoder, pixels).numpy()).all()


def test_masked_encoding_without_attention_is_the_same_tokens_picked() -> None:
    """With no block to mix them, a kept patch's token is its pixels and its place, whatever the mask."""
    model = classifier(depth=0, image_size=(8, 16))
    pixels = images(2, 3, 8, 16)
    mask = random_mask(np.random.default_rng(0).uniform(size=(2, 8)), 3)
    whole, kept = encode(model.encoder, pixels).numpy(), encode(model.encoder, pixels, mask).numpy()
    picked = np.take_along_axis(whole[:, 1:], mask.keep[..., None], axis=1)
    np.testing.assert_allclose(kept[:, 0], whole[:, 0], atol=1e-6)
    np.testing.assert_allclose(kept[:, 1:], picked, atol=1e-6)


def test_a_new_classifier_predicts_near_uniform() -> None:
    assert np.abs(classifier()(images(4, 3, 8, 8)).numpy()).max() < 1e-2


def test_partial_fine_tuning_has_the_whole_models_gradients() -> None:
    for (blocks, trained), positions in product(
        [
            (0, ["fc_norm", "head"]),
            (0.5, ["blocks.2.mlp", "blocks.2.norm2", "fc_norm", "head"]),
            (1, ["blocks.2", "fc_norm", "head"]),
            (2, ["blocks.1", "blocks.2", "fc_norm", "head"]),
            (3, ["blocks.0", "blocks.1", "blocks.2", "fc_norm", "head"]),
        ],
        ["sincos2d", "learned"],
    ):
        shape = dict(image_size=8, patch_size=4, embed_dim=8, depth=3, num_heads=2, num_classes=5, positions=positions)
        paddle.seed(0)
        whole, part = VisionTransformer(**shape), VisionTransformer(**shape)
        part.set_state_dict(whole.state_dict())
        freeze(part, blocks)
        images = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32))
        for model in (whole, part):
            (model(images) * paddle.arange(10, dtype="float32").reshape([2, 5])).sum().backward()
        theirs = dict(official_parameters(whole))
        for name, parameter in official_parameters(part):
            assert (parameter.grad is not None) == name.startswith(tuple(trained)), name
            if parameter.grad is not None:
                np.testing.assert_allclose(parameter.grad.numpy(), theirs[name].grad.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("blocks", [-1, 0.7, 1.5, 4])
def test_blocks_that_there_are_not_can_not_be_trained(blocks: float) -> None:
    model = VisionTransformer(image_size=8, patch_size=4, embed_dim=8, depth=3, num_heads=2, num_classes=5)
    with pytest.raises(ValueError, match=f"0, 0.5 or a whole number up to the encoder's 3 blocks, got {blocks:g}"):
        freeze(model, blocks)
