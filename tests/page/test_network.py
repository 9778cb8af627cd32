"""The page's scripts compute what Paddle computes, for every kind of model, with both kinds of arithmetic."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from paddlemae.engine.safe_import import paddle
from paddlemae.model.classifier import VisionTransformer
from paddlemae.model.encoder import encode, evaluating, features, pool_tokens
from paddlemae.model.kernels.attention import split_heads
from paddlemae.model.mae import MaskedAutoencoder, predict
from paddlemae.model.masking import given_mask
from paddlemae.model.segmenter import Segmenter
from paddlemae.page.bundle import Samples, bundle
from paddlemae.page.write_page import ASSETS, ENGINE
from paddlemae.tasks.models.build import describe
from paddlemae.tasks.models.page_samples import CAPTIONS, pool_of
from paddlemae.tasks.models.preprocess import to_input
from paddlemae.weights.transfer import to_official

pytestmark = pytest.mark.browser

SHAPE: dict[str, Any] = {"image_size": [12, 18], "patch_size": [4, 3], "channels": 3, "embed_dim": 20, "depth": 3}
SHAPE |= {"num_heads": 4, "mlp_ratio": 3.0}
DECODER: dict[str, Any] = {"decoder_embed_dim": 12, "decoder_depth": 2, "decoder_num_heads": 3}
MODELS: dict[str, Callable[[], Any]] = {
    "mae": lambda: MaskedAutoencoder(**SHAPE, **DECODER, norm_pix_loss=True),
    "mae without cls, learned": lambda: MaskedAutoencoder(**SHAPE, **DECODER, cls_token=False, positions="learned"),
    "cross": lambda: MaskedAutoencoder(**SHAPE, **DECODER, decoder="cross"),
    "cross of the last map": lambda: MaskedAutoencoder(
        **SHAPE, **DECODER, decoder="cross", inter_block_attention=False, positions="sincos1d"
    ),
    "classifier": lambda: VisionTransformer(**SHAPE, num_classes=7),
    "classifier of mean and deviation": lambda: VisionTransformer(**SHAPE, num_classes=4, pool="mean+std"),
    "classifier of the cls token": lambda: VisionTransformer(**SHAPE, num_classes=3, pool="cls"),
    "linear": lambda: Segmenter(**SHAPE, num_classes=4, head="linear"),
    "conv": lambda: Segmenter(**SHAPE, num_classes=4, head="conv", head_width=8, relative_positions=True),
    "upernet": lambda: Segmenter(**SHAPE, num_classes=5, head="upernet", head_width=8, taps=[1, 2, 2, 3]),
}
REMOVED = np.random.default_rng(3).permutation(18) < 11
RUN = """async ([header, content, removed, pixels, attention, plain]) => {
  if (plain) paddlemaeArithmetic.usePlain();
  const engine = paddlemaeEngines.createPageEngine(header, paddlemaeEngines.bytesOf(content));
  const result = await engine.run(
    {pixels: Float32Array.from(pixels), removed: Uint8Array.from(removed), attention, features: true});
  const listed = (value) => ArrayBuffer.isView(value) ? Array.from(value) : value;
  const all = (record) => record &&
    Object.fromEntries(Object.entries(record).map(([key, value]) => [key, listed(value)]));
  return [all(result), all(result.attention), paddlemaeArithmetic.isFast()];
}"""


@pytest.fixture
def run(chromium, tmp_path) -> Iterator[Callable[..., Any]]:
    """Run a function in a page that has the engine's scripts."""
    path = tmp_path / "engine.html"
    scripts = "\n".join((ASSETS / name).read_text() for name in ENGINE)
    path.write_text(f"<!doctype html><meta charset=utf-8><script>{scripts}</script>")
    page = chromium.new_page()
    page.goto(path.as_uri())
    yield page.evaluate
    page.close()


def randomised(model: Any) -> Any:
    """Give every tensor numbers that matter: also norms, biases, statistics and tables that begin at 0."""
    generator = np.random.default_rng(5)
    for name, tensor in model.state_dict().items():
        if name.endswith("pos_embed") and tensor.stop_gradient:
            continue
        noise = generator.normal(0, 0.3, tensor.shape).astype(np.float32)
        is_scale = "norm" in name and "weight" in name
        tensor.set_value(np.abs(noise) + 0.5 if "running_var" in name else noise + is_scale)
    model.eval()
    return model


def given(model: Any, precision: Any = "float32") -> tuple[Any, list[Any]]:
    """Return (Paddle's input, the script's arguments: header, bytes, removed patches, pixels) for one image."""
    classes = [str(number) for number in range(model.config.get("num_classes", 0))]
    description = describe(model, ([0.4, 0.5, 0.6], [0.2, 0.3, 0.25]), eval_crop_ratio=1.0, classes=classes, bits=8)
    pixels = np.random.default_rng(2).integers(0, 256, (1, 3, 12, 18), np.uint8)
    none = Samples([], pixels[:0])
    about: dict[str, Any] = {"title": "t", "pool": pool_of(model), "captions": CAPTIONS, "precision": precision}
    header, content = bundle(description, to_official(model), none, **about)
    shares = (pixels[0].transpose(1, 2, 0).ravel() / 255).tolist()
    listed = [json.loads(json.dumps(header)), base64.b64encode(content).decode(), REMOVED.astype(int).tolist(), shares]
    return to_input(pixels, description), listed


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("plain", [False, True], ids=["vectors", "plain"])
def test_scripts_compute_what_paddle_computes(name: str, plain: bool, run: Callable[..., Any]) -> None:
    paddle.seed(1)
    model = randomised(MODELS[name]())
    images, arguments = given(model)
    result, attention, is_fast = run(RUN, [*arguments, {"part": "encoder", "block": 2}, plain])
    assert is_fast is not plain
    close = {"rtol": 1e-5, "atol": 1e-5}
    with evaluating(model), paddle.no_grad():
        feature = features(model, images, pool_of(model), normalise=model.encoder.has_norm).numpy()[0]
        np.testing.assert_allclose(result["features"], feature / np.linalg.norm(feature), **close)
        if isinstance(model, MaskedAutoencoder):
            expected = predict(model, images, given_mask(REMOVED[None], (3, 6))).numpy().ravel()
            np.testing.assert_allclose(result["plain"], expected, **close)
        elif isinstance(model, Segmenter):
            visible = REMOVED.reshape(3, 6).repeat(4, axis=0).repeat(3, axis=1) == 0
            images = images * paddle.to_tensor(visible.astype(np.float32))
            maps = model._maps(images, None)
            logits = model.head(maps if model.taps else maps[0])
            assert result["logitsGrid"] == list(logits.shape[1:3])
            expected = logits.numpy().ravel()
            np.testing.assert_allclose(result["logits"], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
        else:
            mask = given_mask(REMOVED[None], (3, 6))
            pooled = pool_tokens(encode(model.encoder, images, mask), model.pool, model.encoder.has_cls)
            last_norm = model.encoder.fc_norm if model.encoder.norms_pooled else model.encoder.norm
            np.testing.assert_allclose(result["logits"], model.head(last_norm(pooled)).numpy()[0], **close)
        mask = None if isinstance(model, Segmenter) else given_mask(REMOVED[None], (3, 6))
        weights = attention_of_block(model, images, mask, 2).numpy()
    assert [attention[key] for key in ("heads", "queries", "keys")] == list(weights.shape)
    np.testing.assert_allclose(attention["weights"], weights.ravel(), **close)
    places = list(range(18)) if mask is None else mask.keep[0].tolist()
    assert attention["keyPatches"] == attention["queryPatches"] == [-1] * model.encoder.has_cls + places


def attention_of_block(model: Any, images: paddle.Tensor, mask: Any, number: int) -> paddle.Tensor:
    """Return the attention of a block of the encoder, [heads, N, N]."""
    block, tokens = model.encoder.blocks[number], encode(model.encoder, images, mask, depth=number)
    query, key, _ = split_heads(block.attn.qkv(block.norm1(tokens)), 3, block.attn.num_heads)
    scores = paddle.matmul(query, key, transpose_y=True)[0] / query.shape[-1] ** 0.5
    bias = block.attn.score_bias(None)
    return paddle.nn.functional.softmax(scores if bias is None else scores + bias, axis=-1)


def test_half_precision_is_close_and_small(run: Callable[..., Any]) -> None:
    paddle.seed(1)
    model = MaskedAutoencoder(**{**SHAPE, "embed_dim": 64}, **DECODER)
    sizes, errors = {}, {}
    for precision in ("float16", "float32"):
        images, arguments = given(model, precision)
        expected = predict(model, images, given_mask(REMOVED[None], (3, 6))).numpy().ravel()
        found = np.array(run(RUN, [*arguments, None, False])[0]["plain"])
        sizes[precision], errors[precision] = len(arguments[1]), np.abs(found - expected).max() / np.ptp(expected)
    assert errors["float32"] < 1e-5 < errors["float16"] < 2e-3
    assert sizes["float16"] < 0.6 * sizes["float32"]
