"""Threads that share a batch train as one does, slice by slice, and the same each time.

What equality to the last bit depends on is said in tests/journeys/test_resume.py.
"""

import dataclasses

import numpy as np
import paddle
import pytest

from paddlemae.data.batches import Batch
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.masking import random_mask
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.loop import FitSettings, TornStep, fit
from paddlemae.train.optim import adamw
from paddlemae.train.parallel.threads import replica_of, sharded, slices_of, worthwhile_replicas

SHAPE = dict(image_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, decoder_embed_dim=8)
CLOSE = 1e-5  # relative to the largest magnitude


def autoencoder() -> MaskedAutoencoder:
    paddle.seed(0)
    return MaskedAutoencoder(**SHAPE, decoder_depth=2, decoder_num_heads=2, norm_pix_loss=True)


def batch(images: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (images, 3, 16, 16), np.uint8)
    return Batch(pixels, None, np.arange(images), np.zeros(images, np.int64))


def loss_fn(model, batch: Batch) -> paddle.Tensor:
    """Masks of each image's own, so that they don't depend on the slices."""
    noise = np.stack([np.random.default_rng((1, index)).random(16) for index in batch.indices])
    return model(paddle.to_tensor(batch.images).astype("float32") / 255, random_mask(noise, 4))


def gradients(images: int, threads: int, parts: int = 1) -> list[np.ndarray]:
    model = autoencoder()
    with sharded(model, adamw(model), loss_fn, threads=threads) as work:
        losses = [work.add(batch(images, seed), 1 / parts, last=False) for seed in range(parts)]
    return [np.float32(np.mean(losses)), *(parameter.grad.numpy() for parameter in model.parameters())]


def whole(images: int, parts: int = 1) -> list[np.ndarray]:
    model = autoencoder()
    losses = [loss_fn(model, batch(images, seed)) for seed in range(parts)]
    (sum(losses) / parts).backward()
    return [np.mean([loss.item() for loss in losses])] + [parameter.grad.numpy() for parameter in model.parameters()]


def assert_close(mine: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs):
        assert np.abs(one - other).max() <= CLOSE * np.abs(other).max()


@pytest.mark.parametrize("images, threads", [(6, 1), (6, 2), (5, 2), (7, 3), (1, 2), (2, 3)])
def test_loss_and_gradients_are_those_of_the_whole_batch(images: int, threads: int) -> None:
    assert_close(gradients(images, threads), whole(images))


def test_micro_batches_add_up() -> None:
    assert_close(gradients(4, 2, parts=3), whole(4, parts=3))


def trained(threads: int | None, steps: int = 3, **settings) -> tuple[list[np.ndarray], list[float]]:
    model, losses = autoencoder(), []
    fit(
        TrainState(model, adamw(model)),
        (batch(6, seed) for seed in range(100)),
        loss_fn,
        lambda step: 1e-3,
        FitSettings(
            total_steps=steps,
            threads=threads,
            after_step=[lambda state, result: losses.append(result.loss)],
            **settings,
        ),
    )
    assert all(parameter.grad is None for parameter in model.parameters())
    return [parameter.numpy() for parameter in model.parameters()], losses


@pytest.mark.parametrize("settings", [{}, {"accumulation_steps": 2}, {"clip_grad": 0.1}])
@pytest.mark.parametrize("save_memory", [False, True])
def test_training_is_that_of_whole_batches(settings, save_memory: bool) -> None:
    """With updates as gradients arrive, and with one at the end. Adam's first steps divide by small numbers."""
    mine, my_losses = trained(2, save_memory=save_memory, **settings)
    theirs, their_losses = trained(None, **settings)
    np.testing.assert_allclose(my_losses, their_losses, rtol=CLOSE)
    for one, other in zip(mine, theirs):
        assert np.abs(one - other).max() <= 1e-4


def test_it_repeats_bitwise() -> None:
    first, *others = (trained(3, steps=4)[0] for _ in range(3))
    for other in others:
        assert all((one == two).all() for one, two in zip(first, other))


def test_weights_loaded_in_between_are_those_that_are_trained() -> None:
    model = autoencoder()
    with sharded(model, adamw(model), loss_fn, threads=2) as work:
        work.add(batch(4), 1.0, last=False)
        for parameter in model.parameters():
            parameter.grad = None
        other = {name: value * 1.5 for name, value in model.state_dict().items()}
        model.set_state_dict(other)
        loss = work.add(batch(4), 1.0, last=False)
    with paddle.no_grad():
        assert abs(loss - loss_fn(model, batch(4)).item()) <= CLOSE * loss


def test_an_infinite_loss_updates_nothing() -> None:
    model = autoencoder()
    before = [parameter.numpy().copy() for parameter in model.parameters()]

    def broken(network, batch: Batch) -> paddle.Tensor:
        loss = loss_fn(network, batch)
        return loss * float("nan") if 5 in batch.indices else loss

    state = TrainState(model, adamw(model))
    fit(state, iter([batch(6)]), broken, lambda step: 1e-3, FitSettings(total_steps=1, threads=2))
    assert state.dropped == 1
    assert all((one == two.numpy()).all() for one, two in zip(before, model.parameters()))
    assert all(parameter.grad is None for parameter in model.parameters())


def square_root_at_nothing(network, batch: Batch) -> paddle.Tensor:
    """A finite loss whose gradient is not: at the first weights only, after all others were updated."""
    return loss_fn(network, batch) + (network.encoder.cls_token * 0).sqrt().sum()


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_a_gradient_that_is_not_finite_is_a_torn_step(accumulation_steps: int) -> None:
    model = autoencoder()
    state = TrainState(model, adamw(model))
    settings = dict(total_steps=1, threads=2, accumulation_steps=accumulation_steps)
    with pytest.raises(TornStep) as torn:
        fit(state, (batch(6) for _ in range(9)), square_root_at_nothing, lambda step: 1e-3, FitSettings(**settings))
    assert torn.value.step == state.step == 0


def test_clipping_waits_for_the_whole_gradient() -> None:
    model = autoencoder()
    state, before = TrainState(model, adamw(model)), [parameter.numpy().copy() for parameter in model.parameters()]
    settings = dict(total_steps=1, threads=2, clip_grad=1.0)
    fit(state, iter([batch(6)]), square_root_at_nothing, lambda step: 1e-3, FitSettings(**settings))
    assert state.dropped == 1 and all((one == two.numpy()).all() for one, two in zip(before, model.parameters()))


def test_the_norm_is_that_of_whole_batches() -> None:
    norms = []
    for settings in ({"threads": 2}, {"threads": 2, "clip_grad": 1e9}, {"threads": None}):
        model = autoencoder()
        hooks = [lambda state, result: norms.append(result.grad_norm)]
        stream = (batch(6, seed) for seed in range(9))
        fit(
            TrainState(model, adamw(model)),
            stream,
            loss_fn,
            lambda step: 1e-3,
            FitSettings(total_steps=1, accumulation_steps=2, after_step=hooks, **settings),
        )
    np.testing.assert_allclose(norms, norms[-1], rtol=CLOSE)


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    def broken(network, batch: Batch) -> paddle.Tensor:
        raise RuntimeError("no such image")

    model = autoencoder()
    with (
        pytest.raises(RuntimeError, match="no such image"),
        sharded(model, adamw(model), broken, threads=2, fused=True) as work,
    ):
        work.add(batch(4), 1.0, last=True)


def test_frozen_weights_stay_as_they_are_and_get_no_gradient() -> None:
    model = autoencoder()
    model.encoder.norm.weight.stop_gradient = True
    with sharded(model, adamw(model), loss_fn, threads=2) as work:
        work.add(batch(4), 1.0, last=False)
    assert model.encoder.norm.weight.grad is None and model.encoder.norm.bias.grad is not None


@pytest.mark.parametrize("images, count, expected", [(8, 2, [4, 4]), (5, 2, [2, 3]), (2, 4, [1, 1]), (9, 1, [9])])
def test_slices_are_every_image_once_with_what_belongs_to_it(images: int, count: int, expected: list[int]) -> None:
    slices = slices_of(dataclasses.replace(batch(images), targets=np.arange(images) * 10), count)
    assert [len(one.images) for one in slices] == expected
    assert np.concatenate([one.indices for one in slices]).tolist() == list(range(images))
    assert all((one.targets == one.indices * 10).all() for one in slices)
    assert slices_of(batch(images), count)[0].targets is None


def test_a_replica_has_no_memory_of_its_own() -> None:
    model = autoencoder()
    replica, copies = replica_of(model, list(model.parameters()))
    assert [name for name, _ in replica.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert not any(one._is_initialized() for one in copies)
    assert (
        replica.encoder.pos_embed is model.encoder.pos_embed
        and replica.encoder.blocks[0] is not model.encoder.blocks[0]
    )


@pytest.mark.parametrize("threads, operations, expected", [(2, 3e9, 1), (2, 4e10, 2), (1, 1e12, 1), (64, 1e12, 8)])
def test_small_batches_are_not_shared(threads: int, operations: float, expected: int) -> None:
    assert worthwhile_replicas(threads, operations) == expected


def test_one_replica_may_have_several_threads() -> None:
    mine, my_losses = trained(2, replicas=1)
    theirs, their_losses = trained(None)
    np.testing.assert_allclose(my_losses, their_losses, rtol=CLOSE)
    assert all(np.abs(one - other).max() <= 1e-4 for one, other in zip(mine, theirs))
