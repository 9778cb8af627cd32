"""A tiny training state, stepped and compared."""

from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddlemae.model.classifier import VisionTransformer
from paddlemae.train import checkpoint
from paddlemae.train.checkpoint import TrainState, take_snapshot, write_snapshot
from paddlemae.train.optim import adamw
from paddlemae.weights.model_folder import Description

SHAPE = dict(image_size=8, patch_size=4, channels=1, embed_dim=8, depth=2, num_heads=2, num_classes=3)
DESCRIPTION = Description("classifier", SHAPE, [0.5], [0.5], 1.0, ["a", "b", "c"])


def new_state(seed: int = 0, steps: int = 0, **shape) -> TrainState:
    """Return a model after `steps` optimizer steps."""
    paddle.seed(seed)
    model = VisionTransformer(**{**SHAPE, **shape})
    state = TrainState(model, adamw(model, layer_decay=0.5))
    for _ in range(steps):
        take_step(state)
    return state


def take_step(state: TrainState) -> None:
    model = state.model
    images = paddle.rand([4, 1, 8, 8])  # from Paddle's own generator, so its state shows
    model(images).square().mean().backward()
    state.optimizer.set_lr(0.01)
    state.optimizer.step()
    state.optimizer.clear_grad()
    state.step += 1


def save_checkpoint(run: Path, state: TrainState, description: Description, **settings: Any) -> Path:
    """Snapshot and write at once; settings are those of `write_snapshot`."""
    snapshot = take_snapshot(state, description)
    assert snapshot is not None
    state.last_checkpoint = write_snapshot(run, snapshot, **settings)
    return state.last_checkpoint


def everything(state: TrainState) -> dict[str, np.ndarray]:
    """Return weights and optimizer slots under names that don't change."""
    weights = {name: tensor.numpy().copy() for name, tensor in state.model.state_dict().items()}
    return {**weights, **{name: slot.copy() for name, slot in checkpoint._optimizer_slots(state).items()}}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert set(one) == set(other)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)
