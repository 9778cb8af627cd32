"""Inference: the compiled model computes what the plain one does, again and again, or is not used."""

import tempfile
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddlemae import device
from paddlemae.data.sources import open_source, subset
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.vit import SIZES, VisionTransformer
from paddlemae.tasks import inference
from paddlemae.tasks.embed import decoding_workers, embed
from paddlemae.tasks.inference import compiled_forward, fast_forward, plain_forward
from paddlemae.tasks.models import describe

SHAPE = dict(image_size=8, patch_size=4, channels=3, embed_dim=16, depth=2, num_heads=2)
DECODER = dict(decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
STATISTICS = ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3])
# Two engines add up in another order: float32 is 1.2e-7 fine, and 1e-6 of the largest output is what ViT-Base showed
ROUNDING = 1e-5


def described(model, seed: int = 0):
    """(model, description); every weight is random, norms and positions too, so that none can be left out."""
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        parameter.set_value(rng.normal(0, 0.3, parameter.shape).astype(np.float32))
    return model, describe(model, STATISTICS, eval_crop_ratio=1.0)


def classifier(seed: int = 0, **changes):
    return described(VisionTransformer(**{**SHAPE, "num_classes": 7, **changes}), seed)


def autoencoder():
    return described(MaskedAutoencoder(**SHAPE, **DECODER))


def pictures(batch: int, height: int = 8, width: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (batch, 3, height, width), np.uint8)


def assert_close(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=ROUNDING * np.abs(expected).max())


@pytest.fixture(autouse=True)
def temp_folder(monkeypatch, tmp_path) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def always_compiled(monkeypatch) -> None:
    monkeypatch.setattr(inference, "_repays_compiling", lambda model, num_patches: True)


@pytest.mark.parametrize(
    ("make", "output", "size"),
    [
        (autoencoder, "cls", None),
        (autoencoder, "mean", (12, 8)),
        (lambda: classifier(pool="cls", positions="learned"), "logits", (4, 16)),
        (lambda: classifier(pool="mean", drop_path=0.5), "logits", None),
        (lambda: classifier(pool="mean"), "cls", None),
        (lambda: classifier(pool="mean", cls_token=False, positions="learned"), "mean", None),
    ],
    ids=["mae-cls", "mae-mean-size", "cls-logits-size", "mean-logits-drop-path", "fc-norm-cls", "no-cls"],
)
def test_compiled_and_plain_agree_on_every_batch(make, output: str, size, temp_folder: Path, capfd) -> None:
    """Sizes come again and results are kept: what the engine holds of one batch must not reach another."""
    model, description = make()
    model.train()  # drop path would draw, were it not for eval mode
    plain = plain_forward(model, description, output)
    compiled = compiled_forward(model, description, output, image_size=size, threads=1)
    batches = [pictures(count, *(size or (8, 8)), seed) for seed, count in enumerate((1, 3, 1, 3, 3, 1, 5))]
    got = [compiled(batch) for batch in batches]
    for result, batch in zip(got, batches):
        assert_close(result, plain(batch))
    assert np.abs(got[0] - got[2]).max() > 100 * ROUNDING  # other pictures, other features
    assert model.training
    assert not list(temp_folder.iterdir())
    assert capfd.readouterr() == ("", "")


def test_two_compiled_models_keep_apart() -> None:
    """The engine's caches are the process's, and these models differ in their weights only."""
    models = [classifier(seed, pool="cls") for seed in (1, 2)]
    compiled = [compiled_forward(*model, "cls", threads=1) for model in models]
    plain = [plain_forward(*model, "cls") for model in models]
    for turn in range(4):
        batch = pictures(2, seed=turn)
        assert_close(compiled[turn % 2](batch), plain[turn % 2](batch))


def test_threads_stay_as_they_were_asked_for(monkeypatch) -> None:
    """Paddle's engine sets them to one after each run, for everything that comes later."""
    compiled = compiled_forward(*classifier(), "mean", threads=1)
    seen: list[int] = []
    monkeypatch.setattr(paddle.base.core, "set_num_threads", seen.append)
    compiled(pictures(1))
    assert seen == [1]


def test_a_compiled_model_is_for_one_size() -> None:
    compiled = compiled_forward(*classifier(), "mean", threads=1)
    with pytest.raises(ValueError, match=r"compiled for images of \[3, 8, 8\], got \[3, 12, 8\]"):
        compiled(pictures(2, 12, 8))


@pytest.mark.parametrize(
    ("make", "output", "size", "message"),
    [
        (classifier, "mean", (9, 8), "image size 9 x 8 is not divisible by the patch size 4 x 4"),
        (lambda: classifier(cls_token=False), "cls", None, "this model has no cls token; use pool='mean'"),
        (classifier, "max", None, "pool must be 'cls' or 'mean', got 'max'"),
        (autoencoder, "logits", None, "this model has no head"),
    ],
)
def test_mistakes_are_refused_before_anything_is_compiled(make, output, size, message, always_compiled) -> None:
    with pytest.raises(ValueError, match=message) as fault:
        fast_forward(*make(), output, num_images=5, image_size=size)
    assert "\n" not in str(fault.value)


def another_result(network, *rest):
    """An engine that is wrong from its second batch on, as one with a stale cache."""

    class Engine:
        runs = 0

        def run(self, inputs):
            self.runs += 1
            return [network(*inputs) * (1.0 if self.runs == 1 else 1.001)]

    return Engine()


def no_engine(*arguments):
    raise RuntimeError("pages of text\n\nthis Paddle build has no oneDNN")


@pytest.mark.parametrize(
    ("engine", "reason"),
    [(another_result, "the compiled model differs by [0-9.]+e-"), (no_engine, "this Paddle build has no oneDNN")],
)
def test_what_disagrees_or_fails_is_not_used_and_said(engine, reason: str, always_compiled, monkeypatch) -> None:
    monkeypatch.setattr(inference, "_engine", engine)
    model, description = classifier()
    with pytest.warns(UserWarning, match=f"going on without a compiled model, which is slower: {reason}"):
        forward = fast_forward(model, description, "logits", num_images=5, threads=1)
    np.testing.assert_array_equal(forward(pictures(3)), plain_forward(model, description, "logits")(pictures(3)))


@pytest.mark.parametrize(("size", "few", "many"), [("mini", 100, 20_000), ("base", 10, 1000)])
def test_compiling_is_for_those_that_it_repays(size: str, few: int, many: int, monkeypatch) -> None:
    with paddle.LazyGuard():  # no memory for ViT-Base
        model = MaskedAutoencoder(**SIZES[size], **DECODER, image_size=28 if size == "mini" else 224)
    description = describe(model, STATISTICS, eval_crop_ratio=1.0)
    monkeypatch.setattr(inference, "_on_cpu", lambda model: True)
    monkeypatch.setattr(inference, "compiled_forward", lambda *arguments, **settings: "compiled")
    monkeypatch.setattr(inference, "plain_forward", lambda *arguments: "plain")
    assert fast_forward(model, description, "cls", num_images=few) == "plain"
    assert fast_forward(model, description, "cls", num_images=many) == "compiled"
    monkeypatch.setattr(inference, "_on_cpu", lambda model: False)
    assert fast_forward(model, description, "cls", num_images=many) == "plain"


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_embedding_is_the_same_compiled_and_plain(pool: str, photos, always_compiled, monkeypatch) -> None:
    model, description = autoencoder()
    source = subset(open_source(str(photos)), range(7))
    compiled, indices = embed(model, description, source, pool=pool, batch_size=3, threads=1)
    monkeypatch.setattr(inference, "_repays_compiling", lambda *arguments: False)
    plain, _ = embed(model, description, source, pool=pool, batch_size=7)
    assert_close(compiled, plain)
    assert compiled.shape == (7, 16) and indices.tolist() == list(range(7))


def test_embedding_with_workers_is_the_same(photos) -> None:
    model, description = autoencoder()
    source = open_source(str(photos))
    alone, ahead = (embed(model, description, source, batch_size=4, workers=count) for count in (0, 1))
    np.testing.assert_array_equal(alone[0], ahead[0])
    np.testing.assert_array_equal(alone[1], ahead[1])


@pytest.mark.parametrize(("cpus", "num_images", "wanted"), [(2, 999, 0), (2, 1000, 1), (1, 5000, 1), (64, 5000, 8)])
def test_workers_are_for_many_images(cpus: int, num_images: int, wanted: int, monkeypatch) -> None:
    monkeypatch.setattr(device, "usable_cpus", lambda: cpus)
    assert decoding_workers(num_images) == wanted
