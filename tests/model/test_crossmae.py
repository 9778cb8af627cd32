"""CrossMAE's decoder: it is the paper's formulas, each patch is read out for itself, and only those asked for."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddlemae.data.batches import Batch
from paddlemae.model.decoders.cross import InterBlockAttention, encode_memories, read_out
from paddlemae.model.encoder import encode, features
from paddlemae.model.mae import MaskedAutoencoder, patch_target, predict, reconstruct
from paddlemae.model.masking import Mask, block_mask, draw_predicted, grid_mask, num_predicted, random_mask
from paddlemae.model.patches import patchify, unpatchify
from paddlemae.recipe import load_recipe
from paddlemae.runs.runlog import read_metrics
from paddlemae.tasks.models.build import arguments_with_head, build_classifier, load_autoencoder
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.pretrain import dry_run, memory_estimate, pretrain
from paddlemae.tasks.training.pretraining_loss import batch_mask, batch_predicted
from paddlemae.tasks.training.pretraining_setup import prepare
from paddlemae.tasks.training.run_start import Start
from paddlemae.train.checkpoint_folders import find_checkpoint
from paddlemae.weights.model_folder import read_description, read_tensors
from paddlemae.weights.transfer import load_official, official_parameters, to_official
from tests.support.resumed_runs import REPEATABLE, assert_same_run, stopped_and_resumed

SMALL = dict(
    image_size=(8, 16),
    patch_size=4,
    channels=3,
    embed_dim=16,
    depth=2,
    num_heads=4,
    mlp_ratio=2.0,
    decoder="cross",
    decoder_embed_dim=8,
    decoder_depth=3,
    decoder_num_heads=2,
)
PATCHES, PIXELS = 8, 48
CLOSE = 1e-5  # relative to the largest magnitude


def autoencoder(**changes) -> MaskedAutoencoder:
    """Biases and norms are drawn too: at their zeros and ones much of a formula could be missing unseen."""
    paddle.seed(0)
    model = MaskedAutoencoder(**{**SMALL, **changes})
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.set_value(parameter + paddle.to_tensor(rng.normal(0, 0.3, parameter.shape).astype(np.float32)))
    model.eval()
    return model


def images(batch: int = 2, seed: int = 0) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(seed).normal(size=(batch, 3, 8, 16)).astype(np.float32))


def a_mask(batch: int = 2, keep: int = 3, seed: int = 0) -> Mask:
    return random_mask(np.random.default_rng(seed).uniform(size=(batch, PATCHES)), keep)


def with_patches_changed(pixels: paddle.Tensor, chosen_BK: np.ndarray) -> paddle.Tensor:
    patches = patchify(pixels, 4).numpy().copy()
    np.put_along_axis(patches, chosen_BK[..., None], 100.0, axis=1)
    return unpatchify(paddle.to_tensor(patches), 4, (2, 4))


def assert_close(got, wanted, relative: float = CLOSE) -> None:
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= relative * np.abs(wanted).max()


# the paper's formulas, slowly, in float64 and on the weights as they are on disk


def normalised(x: np.ndarray, weights: dict, name: str) -> np.ndarray:
    deviation = np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
    return (x - x.mean(axis=-1, keepdims=True)) / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def projected(x: np.ndarray, weights: dict, name: str) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def attended(query_D: np.ndarray, memory_NE: np.ndarray, weights: dict, name: str, heads: int) -> np.ndarray:
    query, both = projected(query_D, weights, f"{name}.q"), projected(memory_NE, weights, f"{name}.kv")
    key, value = both[:, : len(query)], both[:, len(query) :]
    size, out = len(query) // heads, []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = np.array([query[part] @ row for row in key[:, part]]) / math.sqrt(size)
        shares = np.exp(scores) / np.exp(scores).sum()
        out.append(sum(share * row for share, row in zip(shares, value[:, part])))
    return projected(np.concatenate(out), weights, f"{name}.proj")


def reference(weights: dict, maps: list, patches_BQ: np.ndarray, *, heads: int = 2, depth: int = 3) -> np.ndarray:
    """Equation 1 and sections 3.2 to 3.4 for one patch after the other; `maps` are the encoder's, [B, N, E] each."""
    front = maps[0].shape[1] - 3  # of 3 kept patches
    out = []
    for image, patches in enumerate(patches_BQ):
        for patch in patches:
            x = weights["mask_token"][0, 0] + weights["decoder_pos_embed"][0, front + patch]
            for k in range(depth):
                if "inter_block.weight" in weights:
                    memory = sum(w * one[image] for w, one in zip(weights["inter_block.weight"][k], maps))
                    memory = normalised(memory, weights, f"inter_block.norms.{k}")
                else:
                    memory = normalised(maps[-1][image], weights, "norm")
                block = f"decoder_blocks.{k}"
                seen = normalised(x, weights, f"{block}.norm1")
                x = x + attended(seen, memory, weights, f"{block}.attn", heads)
                hidden = projected(normalised(x, weights, f"{block}.norm2"), weights, f"{block}.mlp.fc1")
                hidden = hidden * np.array([0.5 * (1 + math.erf(one / math.sqrt(2))) for one in hidden])
                x = x + projected(hidden, weights, f"{block}.mlp.fc2")
            out.append(projected(normalised(x, weights, "decoder_norm"), weights, "decoder_pred"))
    return np.reshape(out, [*patches_BQ.shape, -1])


def encoder_maps(model: MaskedAutoencoder, pixels, mask: Mask) -> list:
    """The input of the first block and what each block gives, float64."""
    maps: list = []
    last = encode(model.encoder, pixels, mask, block_inputs=maps)
    assert len(maps) == len(model.encoder.blocks)
    return [one.numpy().astype(np.float64) for one in [*maps, last]]


def official64(model: MaskedAutoencoder) -> dict[str, np.ndarray]:
    return {name: tensor.astype(np.float64) for name, tensor in to_official(model).items()}


@pytest.mark.parametrize("changes", [{}, dict(cls_token=False), dict(inter_block_attention=False)])
def test_the_decoder_is_the_papers_formulas(changes: dict) -> None:
    model, mask = autoencoder(**changes), a_mask()
    got = read_out(model.decoder, encode_memories(model.decoder, model.encoder, images(), mask), mask.removed)
    assert_close(got, reference(official64(model), encoder_maps(model, images(), mask), mask.removed))


@pytest.mark.parametrize("inter_block_attention", [True, False])
def test_gradients_are_the_formulas_slopes(inter_block_attention: bool) -> None:
    """Central differences in float64 of every decoder tensor: its strongest entries, and all inter-block weights."""
    model, mask = autoencoder(inter_block_attention=inter_block_attention), a_mask()
    predicted = mask.removed[:, 1:3]
    model(images(), mask, predicted).backward()
    weights, maps = official64(model), encoder_maps(model, images(), mask)
    target = patch_target(model, images(), predicted).numpy().astype(np.float64)
    last_norm = [] if inter_block_attention else ["norm."]

    def loss() -> float:
        return float(np.square(reference(weights, maps, predicted) - target).mean())

    checked = 0
    for name, parameter in official_parameters(model):
        if name.startswith(("decoder_", "mask_token", "inter_block", *last_norm)):
            is_linear = parameter.ndim == 2 and name != "inter_block.weight"
            gradient = parameter.grad.numpy().T if is_linear else parameter.grad.numpy()
            count = gradient.size if name == "inter_block.weight" else 3
            for place in np.argsort(-np.abs(gradient), axis=None)[:count]:
                at = np.unravel_index(place, gradient.shape)
                before, losses = weights[name][at], []
                for step in (1e-5, -1e-5):
                    weights[name][at] = before + step
                    losses.append(loss())
                weights[name][at] = before
                slope = (losses[0] - losses[1]) / 2e-5
                assert abs(slope - gradient[at]) <= 1e-4 * np.abs(gradient).max(), name
                checked += 1
    assert checked > 100


@pytest.mark.parametrize("inter_block_attention", [True, False])
def test_every_trained_tensor_gets_a_gradient(inter_block_attention: bool) -> None:
    model, mask = autoencoder(inter_block_attention=inter_block_attention), a_mask()
    model(images(), mask, mask.removed[:, :2]).backward()
    trained = {name: one for name, one in official_parameters(model) if not one.stop_gradient}
    for name, parameter in trained.items():
        assert np.abs(parameter.grad.numpy()).max() > 0, name
    assert ("norm.weight" in trained) == (not inter_block_attention), "appendix A.6: it has no part in the training"


def test_inter_block_weights_begin_as_the_paper_says() -> None:
    """N(0, 1/n), one row a decoder block; the input of the first encoder block is a feature map too (sec. 3.4)."""
    paddle.seed(1)
    layer = InterBlockAttention(25, 400, 2)
    assert layer.weight.shape == [400, 25]
    assert layer.weight.numpy().std() == pytest.approx(1 / 5, rel=0.05)
    assert abs(layer.weight.numpy().mean()) < 0.01
    assert autoencoder().decoder.inter_block.weight.shape == [3, 2 + 1]


# nothing passes between predicted patches


@pytest.mark.parametrize("inter_block_attention", [True, False])
def test_a_prediction_does_not_depend_on_what_else_is_predicted(inter_block_attention: bool) -> None:
    model, mask = autoencoder(inter_block_attention=inter_block_attention), a_mask()
    memories = encode_memories(model.decoder, model.encoder, images(), mask)
    together = read_out(model.decoder, memories, mask.removed).numpy()
    for chosen in ([0], [3, 1], [4, 3, 2, 1, 0], [2, 2]):
        assert_close(read_out(model.decoder, memories, mask.removed[:, chosen]), together[:, chosen])


def test_plain_mae_would_not_pass_that_test() -> None:
    """Removing a mask token there changes the others: the difference that the test above rests on is real."""
    from paddlemae.model.decoders.mae import decode
    from paddlemae.model.encoder import encode_visible

    model, mask = autoencoder(decoder="mae"), a_mask()
    latent = encode_visible(model.encoder, images(), mask)
    alone = decode(model.decoder, latent, Mask(mask.keep, mask.removed[:, :1])).numpy()
    assert np.abs(alone - decode(model.decoder, latent, mask).numpy()[:, :1]).max() > 1e-3


@pytest.mark.parametrize("inter_block_attention", [True, False])
@pytest.mark.parametrize("cls_token", [True, False])
def test_removed_pixels_are_never_seen_and_kept_ones_are(cls_token: bool, inter_block_attention: bool) -> None:
    model = autoencoder(cls_token=cls_token, inter_block_attention=inter_block_attention)
    mask = a_mask()
    before = predict(model, images(), mask).numpy()
    assert (before == predict(model, with_patches_changed(images(), mask.removed), mask).numpy()).all()
    seen = predict(model, with_patches_changed(images(), mask.keep[:, :1]), mask).numpy()
    assert (np.abs(before - seen).max(axis=(0, 2)) > 1e-4).all(), "every patch sees every kept one"


def test_every_feature_map_is_used_by_every_decoder_block() -> None:
    model, mask = autoencoder(), a_mask()
    maps = [paddle.to_tensor(one.astype(np.float32)) for one in encoder_maps(model, images(), mask)]
    before = [memory.numpy() for memory in model.decoder.inter_block(maps)]
    assert len(before) == 3
    for number in range(len(maps)):
        other = [*maps[:number], maps[number] * -2.0, *maps[number + 1 :]]
        assert all(np.abs(b - a.numpy()).max() > 1e-3 for b, a in zip(before, model.decoder.inter_block(other)))


def test_only_the_predicted_patches_pass_through_the_decoder() -> None:
    model, mask, seen = autoencoder(), a_mask(), []
    for block in [*model.encoder.blocks, *model.decoder.decoder_blocks, model.decoder.decoder_pred]:
        block.register_forward_pre_hook(lambda layer, inputs: seen.append([one.shape for one in inputs]))
    model(images(), mask, mask.removed[:, :2])
    assert seen == [[[2, 4, 16]]] * 2 + [[[2, 2, 8], [2, 4, 16]]] * 3 + [[[2, 2, 8]]]


# loss and pictures


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_the_loss_is_the_mean_square_over_predicted_patches(norm_pix_loss: bool) -> None:
    model, mask = autoencoder(norm_pix_loss=norm_pix_loss), a_mask()
    target = patchify(images(), 4).numpy().astype(np.float64)
    if norm_pix_loss:
        deviation = np.sqrt(target.var(axis=-1, ddof=1, keepdims=True) + 1e-6)
        target = (target - target.mean(axis=-1, keepdims=True)) / deviation
    error = ((predict(model, images(), mask).numpy() - target) ** 2).mean(axis=-1)
    part = mask.removed[:, [3, 0]]
    assert model(images(), mask).item() == pytest.approx(error[mask.as_map()].mean(), rel=1e-5)
    assert model(images(), mask, mask.removed).item() == model(images(), mask).item()
    wanted = np.take_along_axis(error, part, axis=1).mean()
    assert model(images(), mask, part).item() == pytest.approx(wanted, rel=1e-5)
    assert wanted != pytest.approx(error[mask.as_map()].mean(), rel=1e-3)


def test_the_expected_loss_is_that_over_all_removed_patches() -> None:
    """Section 3.3: each removed patch is equally likely to be predicted. All pairs of 5 stand for many draws."""
    model, mask = autoencoder(), a_mask()
    pairs = [(one, two) for one in range(5) for two in range(one)]
    losses = [model(images(), mask, mask.removed[:, list(pair)]).item() for pair in pairs]
    assert np.mean(losses) == pytest.approx(model(images(), mask).item(), rel=1e-5)


@pytest.mark.parametrize("changes", [{}, dict(cls_token=False), dict(inter_block_attention=False)])
def test_recomputing_gives_the_same_loss_and_gradients(changes: dict, recompute_changes_nothing) -> None:
    model, mask = autoencoder(drop_path=0.5, **changes), a_mask()
    model.train()
    noise = np.float32([[[0.9, 0.9], [0.1, 0.9]], [[0.9, 0.9], [0.9, 0.2]]])
    blocks = [*model.encoder.blocks, *model.decoder.decoder_blocks]
    assert len(blocks) == 5
    recompute_changes_nothing(model, blocks, lambda: model(images(), mask, mask.removed[:, :3], noise))


@pytest.mark.parametrize("inter_block_attention", [True, False])
def test_drop_path_follows_the_noise_that_is_given(inter_block_attention: bool) -> None:
    model, mask = autoencoder(drop_path=0.5, inter_block_attention=inter_block_attention), a_mask()
    noises = [np.full((2, 2, 2), value, np.float32) for value in (0.1, 0.1, 0.9)]
    still = [model(images(), mask, None, noise).item() for noise in noises]
    model.train()
    losses = [model(images(), mask, None, noise).item() for noise in noises]
    assert still[0] == still[2] and losses[0] == losses[1]
    assert abs(losses[0] - losses[2]) > 1e-3 and abs(losses[0] - still[0]) > 1e-3


def test_pictures_show_every_patch_though_few_were_trained_on() -> None:
    model, mask = autoencoder(), a_mask()
    drawn = reconstruct(model, images(), mask)
    every = np.tile(np.arange(PATCHES), (2, 1))
    wanted = reference(official64(model), encoder_maps(model, images(), mask), every)
    assert_close(patchify(drawn.plain, 4), wanted)
    assert (patchify(drawn.completed, 4).numpy()[~mask.as_map()] == patchify(images(), 4).numpy()[~mask.as_map()]).all()


def test_a_few_steps_learn_an_image_by_heart_from_parts_of_it() -> None:
    model, mask = autoencoder(decoder_embed_dim=32, decoder_depth=1), a_mask()
    optimizer = paddle.optimizer.Adam(0.005, parameters=model.parameters())
    before, rng = model(images(), mask).item(), np.random.default_rng(0)
    for _ in range(150):
        model(images(), mask, draw_predicted([rng] * 2, mask.removed, 3)).backward()
        optimizer.step()
        optimizer.clear_grad()
    assert model(images(), mask).item() < 0.3 * before


# which patches are predicted


def test_the_prediction_ratio_is_of_all_patches() -> None:
    for patches, removed, ratio, wanted in [
        (196, 147, 0.25, 49),  # the paper's: a third of the removed ones
        (196, 147, 0.75, 147),
        (196, 147, None, 147),
        (16, 10, 0.62, 10),  # as many as a mask of that ratio removes
        (10, 8, 0.1, 1),
        (196, 147, 0.001, 1),
    ]:
        assert num_predicted(patches, removed, ratio) == wanted


def test_more_than_is_removed_cannot_be_predicted() -> None:
    with pytest.raises(ValueError, match="0.8 asks for 157 of 196, but 147 are removed; use at most 0.75") as fault:
        num_predicted(196, 147, 0.8)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("kind", ["random", "block", "grid"])
def test_predicted_patches_are_a_uniform_draw_from_the_removed_ones(kind: str) -> None:
    draws = 3000
    generators = [np.random.default_rng(seed) for seed in range(draws)]
    masks = dict(
        random=random_mask(np.random.default_rng(0).uniform(size=(1, 16)), 4),
        block=block_mask(generators[:1], (4, 4), 4),
        grid=grid_mask(1, (4, 4)),
    )
    removed = masks[kind].removed
    chosen = draw_predicted(generators, np.tile(removed, (draws, 1)), 4)
    assert chosen.shape == (draws, 4) and chosen.dtype == np.int64
    assert all(len(set(row)) == 4 for row in chosen.tolist())
    counts = Counter(chosen.ravel().tolist())
    assert set(counts) == set(removed[0].tolist())
    expected = draws * 4 / 12
    assert max(abs(count - expected) for count in counts.values()) < 5 * math.sqrt(expected * (1 - 1 / 3))
    pairs = Counter(tuple(sorted(row[:2])) for row in chosen.tolist())
    assert len(pairs) == 66, "every pair comes up"


@pytest.mark.parametrize("mask", ["random", "block", "grid"])
def test_predicted_patches_follow_seed_epoch_and_index_alone(mask: str) -> None:
    partial = ["mask_ratio=0.75", "decoder=cross", "prediction_ratio=0.25"]
    recipe, grid = load_recipe("pretrain", None, [f"mask={mask}", *partial]), (6, 6)

    def chosen(indices: list[int], epochs: list[int], seed: int = 0) -> list[list[int]]:
        batch = Batch(np.zeros((len(indices), 3, 8, 8), np.uint8), None, np.array(indices), np.array(epochs))
        drawn = batch_mask(recipe.mask, recipe.mask_ratio, grid, seed, batch)
        predicted = batch_predicted(recipe.prediction_ratio, seed, batch, drawn)
        assert predicted is not None and predicted.shape == (len(indices), 9)
        assert np.take_along_axis(drawn.as_map(), predicted, axis=1).all()
        whole = load_recipe("pretrain", None, [f"mask={mask}"])
        assert (batch_mask(whole.mask, whole.mask_ratio, grid, seed, batch).as_map() == drawn.as_map()).all()
        assert batch_predicted(whole.prediction_ratio, seed, batch, drawn) is None
        return [sorted(row) for row in predicted.tolist()]

    three = chosen([7, 8, 9], [2, 2, 2])
    assert chosen([9, 7], [2, 2]) == [three[2], three[0]] and chosen([8], [2]) == [three[1]]
    others = [*three, *chosen([7], [3]), *chosen([7], [2], seed=1)]
    assert len({tuple(one) for one in others}) == 5


# on disk


def test_names_and_shapes_on_disk_are_maes_where_mae_has_them() -> None:
    mae, cross = (
        {name: tensor.shape for name, tensor in to_official(autoencoder(decoder=kind)).items()}
        for kind in ("mae", "cross")
    )
    shared = {name for name in mae if name in cross}
    assert all(mae[name] == cross[name] for name in shared)
    new = {name: shape for name, shape in cross.items() if name not in shared}
    blocks = {f"decoder_blocks.{k}.attn": k for k in range(3)}
    assert new == {
        **{f"{name}.q.weight": (8, 8) for name in blocks},
        **{f"{name}.q.bias": (8,) for name in blocks},
        **{f"{name}.kv.weight": (16, 16) for name in blocks},
        **{f"{name}.kv.bias": (16,) for name in blocks},
        **{f"inter_block.norms.{k}.{part}": (16,) for k in range(3) for part in ("weight", "bias")},
        "inter_block.weight": (3, 3),
    }
    gone = {name for name in mae if name not in cross}
    assert gone == {"decoder_embed.weight", "decoder_embed.bias"} | {
        f"{name}.qkv.{part}" for name in blocks for part in ("weight", "bias")
    }


@pytest.mark.parametrize("changes", [{}, dict(inter_block_attention=False), dict(cls_token=False, norm_pix_loss=True)])
def test_config_and_official_tensors_rebuild_the_same_model(changes: dict) -> None:
    model, mask = autoencoder(**changes), a_mask()
    again = MaskedAutoencoder(**json.loads(json.dumps(model.config)))
    again.eval()
    load_official(again, to_official(model))
    assert (predict(model, images(), mask).numpy() == predict(again, images(), mask).numpy()).all()


def test_a_description_without_a_decoder_is_plain_maes() -> None:
    """Models that were saved before there was a choice."""
    config = autoencoder(decoder="mae").config
    old = {name: value for name, value in config.items() if name != "decoder"}
    assert MaskedAutoencoder(**old).config == config and "inter_block_attention" not in config


def test_the_decoders_depth_is_its_papers_by_default() -> None:
    with paddle.LazyGuard():
        depths = [MaskedAutoencoder(image_size=32, depth=1, decoder=kind).config for kind in ("mae", "cross")]
    assert [config["decoder_depth"] for config in depths] == [8, 12]
    assert load_recipe("pretrain", None, ["decoder=cross"]).model.decoder_depth == 12
    assert load_recipe("pretrain", None, ["decoder=cross", "decoder_depth=4"]).model.decoder_depth == 4


def test_shapes_that_do_not_fit_are_refused() -> None:
    for changes, message in [
        (dict(decoder="self"), "decoder must be one of mae, cross, got 'self'"),
        (dict(decoder_num_heads=3), "8 is not divisible by 3 heads"),
        (dict(decoder_depth=0), "needs at least 1 block"),
    ]:
        with pytest.raises(ValueError, match=message):
            MaskedAutoencoder(**{**SMALL, **changes})


def test_maes_decoder_refuses_to_leave_patches_out() -> None:
    with pytest.raises(ValueError, match="predicts every removed patch; only decoder='cross' can leave some out"):
        autoencoder(decoder="mae")(images(), a_mask(), a_mask().removed[:, :1])


def test_options_without_effect_are_refused() -> None:
    for overrides, message in [
        (["prediction_ratio=0.25"], "prediction_ratio=0.25 needs decoder=cross"),
        (["inter_block_attention=false"], "no effect with decoder=mae"),
        (["decoder=cross", "prediction_ratio=0"], "prediction_ratio: must be greater than 0, got 0"),
        (["decoder=self"], "decoder: must be 'mae' or 'cross', got 'self'"),
    ]:
        with pytest.raises(ValueError, match=message) as fault:
            load_recipe("pretrain", None, overrides)
        assert "\n" not in str(fault.value)


# the journey


@pytest.fixture(scope="module")
def partial(tiny) -> list[str]:
    """Overrides for 16 patches, of which 12 are removed and 4 predicted."""
    return [*tiny, "image_size=16", "decoder=cross", "decoder_depth=2", "prediction_ratio=0.25"]


@pytest.fixture(scope="module")
def crossed(tmp_path_factory, photos, partial) -> Path:
    """The run folder of a tiny CrossMAE pretraining."""
    out = tmp_path_factory.mktemp("runs") / "crossed"
    return pretrain(load_recipe("pretrain", None, [*partial, f"data={photos}"]), Start(out, quiet=True))


@pytest.mark.parametrize("mask", ["random", "block", "grid"])
def test_the_loss_falls_on_an_easy_problem(tmp_path, partial, photos, mask: str) -> None:
    """Pictures of one colour each: any visible patch tells the others."""
    easy = ["norm_pix_loss=false", "steps=60", "base_lr=0.15", "warmup_epochs=5", f"mask={mask}", f"data={photos}"]
    out = pretrain(load_recipe("pretrain", None, [*partial, *easy]), Start(tmp_path / "run", quiet=True))
    losses = [line["loss"] for line in read_metrics(out)]
    assert len(losses) == 60 and np.mean(losses[-5:]) < 0.4 * np.mean(losses[:5])


def test_the_training_decodes_the_predicted_patches_only(tmp_path, monkeypatch, partial, photos) -> None:
    seen, forward = [], MaskedAutoencoder.forward

    def recorded(model, pixels, mask, predicted=None, path_noise=None):
        seen.append((mask, predicted))
        return forward(model, pixels, mask, predicted, path_noise)

    monkeypatch.setattr(MaskedAutoencoder, "forward", recorded)
    pretrain(load_recipe("pretrain", None, [*partial, f"data={photos}"]), Start(tmp_path / "run", quiet=True))
    assert [(mask.removed.shape, predicted.shape) for mask, predicted in seen] == [((8, 12), (8, 4))] * 3
    assert all(np.take_along_axis(mask.as_map(), predicted, axis=1).all() for mask, predicted in seen)
    assert (seen[0][1] != seen[1][1]).any()


@pytest.mark.parametrize("inter_block_attention", ["true", "false"])
def test_it_resumes_bitwise(tmp_path, monkeypatch, partial, photos, inter_block_attention: str) -> None:
    fitted = ["batch_size=3", "accumulation_steps=2", "steps=8", "drop_path=0.3", "depth=2", *REPEATABLE]
    chosen = [*partial, *fitted, f"inter_block_attention={inter_block_attention}", f"data={photos}"]
    recipe = load_recipe("pretrain", None, chosen)
    pretrain(recipe, Start(tmp_path / "whole", quiet=True))
    stopped_and_resumed(pretrain, recipe, tmp_path / "parts", [3, 2], monkeypatch)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_the_model_says_what_it_is_and_comes_back(crossed: Path) -> None:
    description = read_description(find_checkpoint(crossed))
    assert description.kind == "mae" and description.provenance["prediction_ratio"] == 0.25
    shape = description.architecture
    assert (shape["decoder"], shape["decoder_depth"], shape["inter_block_attention"]) == ("cross", 2, True)
    model = load_autoencoder(read_checkpoint(crossed))
    for name, tensor in read_tensors(find_checkpoint(crossed)).items():
        assert (to_official(model)[name] == tensor).all(), name
    assert (model.encoder.norm.weight == 1).all() and (model.encoder.norm.bias == 0).all(), (
        "without a part in the training"
    )


def test_a_classifier_starts_from_its_encoder(crossed: Path, colours: Path, encoder) -> None:
    checkpoint = read_checkpoint(crossed)
    shape = load_recipe("finetune", None, [*encoder, "image_size=16"]).model
    classifier = build_classifier(arguments_with_head(shape, checkpoint, 3), checkpoint, seed=0)
    whole = to_official(load_autoencoder(checkpoint))
    for name, tensor in to_official(classifier).items():
        if name.split(".")[0] not in ("fc_norm", "head"):
            assert (tensor == whole[name]).all(), name


def test_features_are_the_encoders_last_map_normalised_plainly() -> None:
    """The training has no norm at the encoder's end (appendix A.6), so the features' one has ones and zeros."""
    paddle.seed(0)
    model = MaskedAutoencoder(**SMALL)
    last = encode(model.encoder, images()).numpy().astype(np.float64)[:, 0]
    wanted = (last - last.mean(axis=-1, keepdims=True)) / np.sqrt(last.var(axis=-1, keepdims=True) + 1e-6)
    assert_close(features(model, images()), wanted)


@pytest.mark.usefixtures("rendered_figures")
def test_the_commands_take_it(paddlemae, tmp_path, tiny, photos, colours, encoder) -> None:
    run, picture = tmp_path / "run", tmp_path / "picture.png"
    small = [*tiny, "image_size=16", "decoder_depth=2", "accumulation_steps=1", "epochs=4", "warmup_epochs=1"]
    done = paddlemae("pretrain", "crossmae", "--data", photos, "--out", run, "--quiet", *small, "workers=0")
    assert done.status == 0, done.err
    done = paddlemae("reconstruct", run, photos, "--out", picture, "--limit", 2)
    assert done.status == 0 and picture.stat().st_size > 10_000, done.err
    quick = ["steps=2", "batch_size=8", "epochs=2", "warmup_epochs=0.5", "threads=1", "image_size=16"]
    tuning = ["--init", run, "--data", colours, "--out", tmp_path / "tuned", "--quiet"]
    done = paddlemae("finetune", *encoder, *quick, *tuning)
    assert done.status == 0, done.err
    done = paddlemae("pretrain", *tiny, "--data", photos, "--out", tmp_path / "no", "prediction_ratio=0.25")
    assert done.status == 2 and done.err.count("\n") == 1 and "needs decoder=cross" in done.err
    above = ["decoder=cross", "image_size=16", "prediction_ratio=0.9"]
    done = paddlemae("pretrain", *tiny, *above, "--data", photos, "--out", tmp_path / "no")
    assert done.status == 2 and done.err.count("\n") == 1 and "use at most 0.75" in done.err
    assert not (tmp_path / "no").exists()


@pytest.mark.filterwarnings("ignore:.*smaller than a patch:UserWarning")  # images of the tests in models of real size
def test_a_dry_run_counts_the_papers_parameters(photos, untried) -> None:
    """ViT-B with 12 cross-attention blocks of 512, counted by hand from the paper's shapes."""
    recipe = load_recipe("pretrain", "crossmae", [f"data={photos}"])
    plan = dry_run(recipe)
    encoder = (768 * 768 + 768) + 768 + 12 * (12 * 768**2 + 13 * 768)
    attention = (512**2 + 512) + (768 * 1024 + 1024) + (512**2 + 512)
    decoder = 512 + 12 * (attention + 8 * 512**2 + 5 * 512 + 4 * 512) + 2 * 512 + (512 * 768 + 768)
    assert plan["parameters"] == f"{encoder + decoder + 12 * 13 + 12 * 2 * 768:,}"
    assert plan["peak lr"] == f"{1.5e-4 * (0.25 / 0.75) * 4096 / 256:.3g}", "sec. 3.3 and appendix A.6"
    assert "102.4 MiB an image" in plan["memory"]


def test_the_memory_estimate_grows_with_the_patches_predicted(partial, photos) -> None:
    def estimate(*overrides: str) -> int:
        recipe = load_recipe("pretrain", None, [*partial, f"data={photos}", *overrides])
        return memory_estimate(prepare(recipe).model, recipe)

    assert estimate("prediction_ratio=null") > estimate() > estimate("decoder_depth=1")
    assert estimate("prediction_ratio=null") == estimate("prediction_ratio=0.75")
