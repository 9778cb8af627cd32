"""What the server computes for the page equals what the models compute otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from paddlemae.engine.safe_import import F, paddle
from paddlemae.model.attention_weights import attention_weights
from paddlemae.model.classifier import VisionTransformer
from paddlemae.model.encoder import attention_maps, encode, features
from paddlemae.model.mae import MaskedAutoencoder, reconstruct
from paddlemae.model.masking import Mask
from paddlemae.model.segmenter import Segmenter
from paddlemae.serve.jobs import Unwanted
from paddlemae.serve.messages import Answer, Block, Request
from paddlemae.tasks.models import answers
from paddlemae.tasks.models.answers import answer_function, request_shape
from paddlemae.tasks.models.build import describe
from paddlemae.tasks.models.preprocess import to_input

SHAPE: dict[str, Any] = dict(embed_dim=16, depth=2, num_heads=4, image_size=[12, 20], patch_size=4, channels=3)
DECODER: dict[str, Any] = dict(decoder_embed_dim=12, decoder_depth=2, decoder_num_heads=3)
MODELS = {
    "mae": (MaskedAutoencoder, DECODER),
    "mae without cls": (MaskedAutoencoder, {**DECODER, "cls_token": False, "norm_pix_loss": False}),
    "cross": (MaskedAutoencoder, {**DECODER, "decoder": "cross"}),
    "cross without cls": (MaskedAutoencoder, {**DECODER, "decoder": "cross", "cls_token": False}),
    "classifier": (VisionTransformer, {"num_classes": 5}),
    "classifier of the mean": (VisionTransformer, {"num_classes": 5, "pool": "mean"}),
    "encoder": (VisionTransformer, {"num_classes": 0}),
    "segmenter": (Segmenter, {"num_classes": 4, "head": "linear"}),
    "upernet": (
        Segmenter,
        {"num_classes": 4, "head": "upernet", "head_width": 8, "taps": [1, 1, 2, 2], "relative_positions": True},
    ),
}
STATISTICS = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
LIMIT = dict(rtol=0, atol=1e-5)


def answering(model: Any, description: Any) -> Callable[[Request], Answer]:
    compute = answer_function(model, description)
    return lambda request: compute(request, lambda: None)


@pytest.fixture(params=MODELS)
def made(request) -> tuple[Any, Any]:
    return build(request.param)


def build(name: str) -> tuple[Any, Any]:
    """Return (model, description) with weights that are far enough from zero for every part to matter."""
    kind, keys = MODELS[name]
    paddle.seed(3)
    model = kind(**SHAPE, **keys)
    rng = np.random.default_rng(4)
    for tensor in model.parameters():
        tensor.set_value(tensor.numpy() + rng.normal(size=tensor.shape, scale=0.1).astype(np.float32))
    classes = [f"class {number}" for number in range(keys.get("num_classes", 0))]
    return model, describe(model, STATISTICS, eval_crop_ratio=1.0, classes=classes)


def image() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (1, 3, 12, 20), dtype=np.uint8)


def asked(removed: list[int] | None = None, **changes: Any) -> Request:
    map_L = np.zeros(15, bool)
    map_L[[1, 2, 5, 8, 9, 14] if removed is None else removed] = True
    return replace(Request(image()[0].transpose(1, 2, 0) / np.float32(255), map_L), **changes)


def mask_of(request: Request) -> Mask:
    return Mask(np.flatnonzero(~request.removed)[None], np.flatnonzero(request.removed)[None])


@pytest.mark.parametrize("name", [name for name in MODELS if "mae" in name or "cross" in name])
@pytest.mark.parametrize("removed", [None, [], list(range(14))], ids=["some", "none", "all but one"])
def test_the_plain_prediction_is_that_of_reconstruct(name: str, removed: list[int] | None) -> None:
    model, description = build(name)
    request = asked(removed)
    plain_LP = answering(model, description)(request).arrays["plain"]
    expected = reconstruct(model, to_input(image(), description), mask_of(request)).plain.numpy()
    drawn = plain_LP.reshape(3, 5, 4, 4, 3).transpose(4, 0, 2, 1, 3).reshape(1, 3, 12, 20)
    np.testing.assert_allclose(drawn, expected, **LIMIT)


@pytest.mark.parametrize("name", ["classifier", "classifier of the mean"])
def test_a_whole_image_has_the_classifiers_logits(name: str) -> None:
    model, description = build(name)
    logits_K = answering(model, description)(asked([])).arrays["logits"]
    model.eval()
    np.testing.assert_allclose(logits_K, model(to_input(image(), description))[0].numpy(), **LIMIT)


@pytest.mark.parametrize("name", ["classifier", "classifier of the mean"])
def test_a_classifier_sees_the_visible_patches_only(name: str) -> None:
    model, description = build(name)
    answer = answering(model, description)
    request = asked()
    changed = request.pixels.copy()
    changed[:4, 4:12] = 0  # patches 1 and 2
    logits_K = answer(request).arrays["logits"]
    np.testing.assert_array_equal(answer(replace(request, pixels=changed)).arrays["logits"], logits_K)
    assert np.abs(answer(asked([])).arrays["logits"] - logits_K).max() > 1e-3


@pytest.mark.parametrize("name", ["segmenter", "upernet"])
def test_a_segmenters_logits_become_its_own_when_resized(name: str) -> None:
    model, description = build(name)
    logits_hwK = answering(model, description)(asked([])).arrays["logits"]
    model.eval()
    expected = model(to_input(image(), description)).numpy()
    resized = F.interpolate(
        paddle.to_tensor(logits_hwK.transpose(2, 0, 1)[None]), size=[12, 20], mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(resized.numpy(), expected, **LIMIT)


@pytest.mark.parametrize("name", ["segmenter", "upernet"])
def test_a_segmenter_sees_the_mean_colour_where_patches_are_removed(name: str) -> None:
    model, description = build(name)
    answer, request = answering(model, description), asked()
    filled = request.pixels.copy()
    for patch in np.flatnonzero(request.removed):
        row, column = divmod(patch, 5)
        filled[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = description.mean
    expected = answer(asked([], pixels=filled)).arrays["logits"]
    np.testing.assert_allclose(answer(request).arrays["logits"], expected, **LIMIT)


def test_features_are_those_of_the_whole_image_of_length_one(made) -> None:
    model, description = made
    found_D = answering(model, description)(asked(features=True)).arrays["features"]
    pool = "mean" if description.architecture.get("pool") == "mean" or not model.encoder.has_cls else "cls"
    model.eval()
    images = to_input(image(), description)
    expected_D = features(model, images, pool, normalise=model.encoder.has_norm)[0].numpy()
    np.testing.assert_allclose(found_D, expected_D / np.linalg.norm(expected_D), **LIMIT)
    assert "features" not in answering(model, description)(asked()).arrays


def test_attention_is_that_of_every_block_and_head(made) -> None:
    """Mixed with the values, the weights give what the block's attention gives."""
    model, description = made
    shape = request_shape(model)
    for part, heads in shape.blocks.items():
        for number, count in enumerate(heads):
            answer = answering(model, description)(asked(attention=Block(part, number))).arrays
            weights_HQN = answer["attention"]
            assert weights_HQN.shape == (count, len(answer["query_patches"]), len(answer["key_patches"]))
            assert answer["query_patches"].dtype == answer["key_patches"].dtype == np.int32
            np.testing.assert_allclose(weights_HQN.sum(-1), 1, **LIMIT)
    plain = answering(model, description)(asked()).arrays
    assert "attention" not in plain
    for name in plain:  # asking changes nothing else
        np.testing.assert_array_equal(answer[name], plain[name])


def test_patches_of_attention_are_named() -> None:
    kept, every = [0, 3, 4, 6, 7, 10, 11, 12, 13], list(range(15))
    for name, part, queries, keys in (
        ("mae", "encoder", [-1, *kept], [-1, *kept]),
        ("mae", "decoder", [-1, *every], [-1, *every]),
        ("mae without cls", "encoder", kept, kept),
        ("cross", "decoder", every, [-1, *kept]),
        ("cross without cls", "decoder", every, kept),
        ("classifier", "encoder", [-1, *kept], [-1, *kept]),
        ("segmenter", "encoder", [-1, *every], [-1, *every]),
    ):
        answer = answering(*build(name))(asked(attention=Block(part, 1))).arrays
        assert sorted(answer["query_patches"]) == queries, (name, part)
        assert sorted(answer["key_patches"]) == keys, (name, part)


def test_attention_of_the_last_block_is_that_of_the_reports_maps() -> None:
    for name in ("encoder", "upernet"):
        model, description = build(name)
        answer = answering(model, description)(asked([], attention=Block("encoder", 1))).arrays
        maps_HL = attention_maps(model, to_input(image(), description), "cls")[0].numpy()
        assert answer["query_patches"][0] == -1
        np.testing.assert_allclose(answer["attention"][:, 0, 1:], maps_HL, **LIMIT)


@pytest.mark.parametrize("name", ["mae", "cross", "upernet"])
def test_attention_weights_mix_the_values_as_the_block_does(name: str) -> None:
    model, description = build(name)
    model.eval()
    images = to_input(image(), description)
    if name == "cross":
        block: Any = model.decoder.decoder_blocks[0]
        x_BQD, memory = paddle.rand([1, 15, 12]), paddle.rand([1, 7, 16])
        value = block.attn.kv(memory).reshape([1, 7, 2, 3, 4]).transpose([2, 0, 3, 1, 4])[1]
        expected = block.attn(block.norm1(x_BQD), memory)
        weights = attention_weights(block, x_BQD, memory)
    else:
        block = model.encoder.blocks[1]
        x_BQD = encode(model.encoder, images, depth=1)
        value = block.attn.qkv(block.norm1(x_BQD)).reshape([1, 16, 3, 4, 4]).transpose([2, 0, 3, 1, 4])[2]
        expected = block.attn(block.norm1(x_BQD), bias_HQN=block.attn.score_bias(model.grid))
        weights = attention_weights(block, x_BQD, grid=model.grid)
    mixed = paddle.matmul(weights, value).transpose([0, 2, 1, 3]).flatten(2)
    np.testing.assert_allclose(block.attn.proj(mixed).numpy(), expected.numpy(), **LIMIT)


def test_outputs_that_are_not_finite_are_an_error() -> None:
    model, description = build("mae")
    model.decoder.decoder_pred.bias.set_value(np.full(48, np.nan, np.float32))
    with pytest.raises(FloatingPointError):
        answering(model, description)(asked())


def test_requests_are_of_the_models_size(made) -> None:
    model, _ = made
    shape = request_shape(model)
    assert shape.image == (12, 20, 3) and shape.patches == 15
    assert shape.blocks["encoder"] == [4, 4]
    assert shape.blocks["decoder"] == ([3, 3] if isinstance(model, MaskedAutoencoder) else [])


def test_attention_that_is_too_large_can_not_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = build("mae")  # 4 heads in the encoder, 3 in the decoder, 16 tokens
    for most, encoder, decoder in ((4096, [4, 4], [3, 3]), (4095, [], [3, 3]), (3071, [], [])):
        monkeypatch.setattr(answers, "MOST_ATTENTION_BYTES", most)
        assert request_shape(model).blocks == {"encoder": encoder, "decoder": decoder}


def test_an_answer_that_nobody_wants_is_given_up_at_the_next_block(made) -> None:
    model, description = made
    looks: list[int] = []

    def check_wanted() -> None:
        looks.append(1)
        if len(looks) == 2:
            raise Unwanted

    answer = answer_function(model, description)
    with pytest.raises(Unwanted):
        answer(asked(), check_wanted)
    assert len(looks) == 2
    answer(asked(), lambda: looks.append(1))  # later ones are not disturbed
    assert len(looks) == 2 + sum(map(len, request_shape(model).blocks.values()))
