"""Inference: batches shared among threads give what the model gives, and leave everything as it was."""

from dataclasses import replace
from itertools import product

import numpy as np
import paddle
import pytest

from paddlemae.data.sources import open_source, subset
from paddlemae.data.workers import workers_for
from paddlemae.engine.cpus import LOCAL_SIZE
from paddlemae.model.classifier import VisionTransformer
from paddlemae.model.encoder import encode, evaluating, features
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.tasks.models import inference
from paddlemae.tasks.models.build import describe
from paddlemae.tasks.models.features import embed
from paddlemae.tasks.models.inference import LOGITS, NORMS, FeatureKind, forward_function
from paddlemae.tasks.models.preprocess import to_input

SHAPE = dict(image_size=8, patch_size=4, channels=3, embed_dim=16, depth=2, num_heads=2)
DECODER = dict(decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
STATISTICS = ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3])
# Other slices are added up in another order: float32 is 1.2e-7 fine, and 1e-6 of the largest is what ViT-Base showed
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


@pytest.fixture
def always_shared(monkeypatch) -> None:
    monkeypatch.setattr(inference, "worthwhile_replicas", lambda threads, operations: threads)


@pytest.mark.parametrize(
    ("make", "output", "size"),
    [
        (autoencoder, FeatureKind("cls"), (8, 8)),
        (autoencoder, FeatureKind("mean"), (12, 8)),
        (lambda: classifier(pool="cls", positions="learned"), LOGITS, (4, 16)),
        (lambda: classifier(pool="mean", drop_path=0.5), LOGITS, (8, 8)),
        (lambda: classifier(pool="mean"), FeatureKind("cls"), (8, 8)),
        (lambda: classifier(pool="mean", cls_token=False, positions="learned"), FeatureKind("mean"), (8, 8)),
    ],
    ids=["mae-cls", "mae-mean-size", "cls-logits-size", "mean-logits-drop-path", "fc-norm-cls", "no-cls"],
)
def test_every_batch_gives_what_the_model_gives(make, output, size, always_shared) -> None:
    model, description = make()
    model.train()  # drop path would draw, were it not for eval mode
    forward = forward_function(model, description, output, threads=3)
    for seed, count in enumerate((1, 3, 2, 7)):
        batch = pictures(count, *size, seed)
        with evaluating(model), paddle.no_grad():
            images = to_input(batch, description)
            expected = model(images) if output == LOGITS else features(model, images, output.token)
        assert_close(forward(batch), expected.numpy())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("images", "each"), [(1, 5), (2, 2), (4, 1), (9, 1)])
def test_threads_are_shared_out_and_given_back(images: int, each: int, always_shared, monkeypatch) -> None:
    seen: list[int] = []
    forward = forward_function(*classifier(), FeatureKind("mean"), threads=5)
    monkeypatch.setattr("paddlemae.engine.threads.current_product_threads", lambda: 4)
    monkeypatch.setattr(paddle.base.core, "set_num_threads", seen.append)
    forward(pictures(images))
    assert set(seen[:-1]) == {each} and seen[-1] == 4  # by all threads, each for itself too


@pytest.mark.parametrize("output", [FeatureKind("mean"), LOGITS])
@pytest.mark.parametrize("damage", ["a weight", "mean"])
def test_outputs_that_are_not_finite_are_an_error(output, damage: str) -> None:
    """An all-nan row would count for the first class."""
    model, description = classifier()
    if damage == "a weight":
        model.encoder.fc_norm.weight.set_value(np.full(16, np.nan, np.float32))
    else:
        description = replace(description, mean=[float("nan"), 0.5, 0.5])
    with pytest.raises(FloatingPointError, match="not finite for 5 of 5 images"):
        forward_function(model, description, output, threads=1)(pictures(5))


def test_small_batches_stay_on_one_thread(monkeypatch) -> None:
    seen: list[int] = []
    forward = forward_function(*classifier(), FeatureKind("mean"), threads=2)
    monkeypatch.setattr(paddle.base.core, "set_num_threads", seen.append)
    forward(pictures(6))
    assert seen[0] == 2


def test_what_fails_in_a_thread_is_raised_here(always_shared) -> None:
    forward = forward_function(*classifier(), FeatureKind("mean"), threads=2)
    with pytest.raises(ValueError, match="image size 9 x 8 is not divisible by the patch size 4 x 4"):
        forward(pictures(4, 9, 8))
    assert forward(pictures(4)).shape == (4, 16)


def test_mistakes_are_refused_before_any_image() -> None:
    for make, output, message in [
        (lambda: classifier(cls_token=False), FeatureKind("cls"), "this model has no cls token; use pool='mean'"),
        (classifier, FeatureKind(layer=3), "layer must be one of the encoder's 2 blocks, 1..2, got 3"),
        (classifier, FeatureKind(layer=0), "layer must be one of the encoder's 2 blocks, 1..2, got 0"),
        (autoencoder, LOGITS, "this model has no head"),
    ]:
        with pytest.raises(ValueError, match=message) as fault:
            forward_function(*make(), output)
        assert "\n" not in str(fault.value)


def test_an_accelerator_takes_the_batch_whole(monkeypatch) -> None:
    monkeypatch.setattr(inference, "is_cpu", lambda: False)
    monkeypatch.setattr(inference, "ThreadPoolExecutor", None)
    model, description = classifier()
    expected = forward_function(model, description, FeatureKind("cls"))(pictures(3))
    monkeypatch.undo()
    assert_close(forward_function(model, description, FeatureKind("cls"))(pictures(3)), expected)


def test_features_come_from_the_layer_that_is_named() -> None:
    for norm, token, layer in product(NORMS, ["cls", "mean"], [1, 2]):
        model, description = autoencoder()
        batch = pictures(3)
        inputs: list = []
        with evaluating(model), paddle.no_grad():
            last = encode(model.encoder, to_input(batch, description), block_inputs=inputs)
            tokens = [*inputs[1:], last][layer - 1]
            if norm == "layer":
                tokens = model.encoder.norm(tokens)
        tokens = tokens.numpy()
        expected = tokens[:, 0] if token == "cls" else tokens[:, 1:].mean(axis=1)
        kind = FeatureKind(token, layer, norm)
        assert_close(forward_function(model, description, kind)(batch), expected)
        if layer == 2:
            assert_close(forward_function(model, description, FeatureKind(token, None, norm))(batch), expected)


def test_kinds_that_there_are_not() -> None:
    for token, norm, message in [
        ("max", "layer", r"token must be one of cls, mean, mean\+std, got 'max'"),
        ("cls", "l2", "norm must be one of layer, batch, whiten, none, got 'l2'"),
    ]:
        with pytest.raises(ValueError, match=message):
            FeatureKind(token, None, norm)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_embedding_does_not_depend_on_batches(pool: str, photos, always_shared) -> None:
    model, description = autoencoder()
    source = subset(open_source(str(photos)), range(7))
    parts, indices = embed(model, description, source, kind=FeatureKind(pool), batch_size=3, threads=2)
    whole, _ = embed(model, description, source, kind=FeatureKind(pool), batch_size=7, threads=1)
    assert_close(parts, whole)
    assert parts.shape == (7, 16) and indices.tolist() == list(range(7))


def test_embedding_with_workers_is_the_same(photos) -> None:
    model, description = autoencoder()
    source = open_source(str(photos))
    alone, ahead = (embed(model, description, source, batch_size=4, workers=count) for count in (0, 1))
    np.testing.assert_array_equal(alone[0], ahead[0])
    np.testing.assert_array_equal(alone[1], ahead[1])


@pytest.mark.parametrize(("cpus", "num_images", "wanted"), [(2, 999, 0), (2, 1000, 1), (1, 5000, 1), (64, 5000, 8)])
def test_workers_are_for_many_images(cpus: int, num_images: int, wanted: int, monkeypatch) -> None:
    monkeypatch.setattr("paddlemae.engine.cpus.usable_cpus", lambda: cpus)
    assert workers_for(num_images, None, computing=True) == wanted
    monkeypatch.setenv(LOCAL_SIZE, "8")  # of the processes of a launch each has its share
    assert workers_for(num_images, None, computing=True) == min(wanted, 4 if cpus == 64 else 1)
