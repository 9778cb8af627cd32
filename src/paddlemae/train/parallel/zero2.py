"""Optimizer slots and gradients shared out among the ranks of accelerators, by Paddle's own group sharding (stage 2).

Each rank keeps the slots and the averaged gradient of its part of the parameters only, updates these, and sends them to
the others (Rajbhandari et al., ZeRO, arXiv 1910.02054). A checkpoint holds all slots all the same, under the names that
it always has: a run may resume with sharding or without, on another number of ranks.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from paddlemae.engine.safe_import import nn, paddle
from paddlemae.train.adamw import SLOTS
from paddlemae.train.optim import scale_down, sum_of_squares
from paddlemae.train.parallel.loss_layer import Loss
from paddlemae.train.parallel.ranks import Ranks


class ShardedAdamW:
    """Paddle's AdamW of which this rank has a part, with the interface of Paddle's optimizers.

    Args:
        model: its loss, of which `layer` is the wrapped one that must be used for the backward pass.
        optimizer: AdamW over all of its parameters, without groups: Paddle's stage 2 would take the weight decay of
            groups for an L2 penalty besides.
        ranks: all of those that train.
    Raises:
        ValueError: where Paddle can't share out: on CPU, or on one rank.
    """

    def __init__(self, model: nn.Layer, optimizer: paddle.optimizer.AdamW, ranks: Ranks):
        if ranks.world == 1 or paddle.get_device() == "cpu":
            raise ValueError("sharding=optimizer needs several accelerators (--procs); leave it out here")
        self.loss, self.adamw, self.ranks = Loss(model), optimizer, ranks
        self.parameters = [weight for weight in model.parameters() if not weight.stop_gradient]
        with _quiet():
            self.layer, self.stage2, _ = paddle.distributed.sharding.group_sharded_parallel(
                self.loss, optimizer, "os_g"
            )

    def owner(self, parameter: Any) -> int:
        """Return the rank that updates a parameter."""
        return self.stage2.param2rank[parameter.name]

    def set_lr(self, lr: float) -> None:
        self.stage2.set_lr(lr)

    def step(self) -> None:
        """Update this rank's part, and send it to the others."""
        self.stage2.step()

    def clear_grad(self) -> None:
        self.stage2.clear_grad()

    @paddle.no_grad()
    def clip(self, largest_norm: float | None) -> float:
        """Clip as `clip_gradients` over all ranks' parts; gradients are sums over ranks until `step` divides them."""
        local = [weight for weight in self.parameters if self.owner(weight) == self.ranks.rank]
        gradients = [weight.grad for weight in local if weight.grad is not None]
        squares = sum_of_squares(gradients) if gradients else 0.0
        norm = math.sqrt(math.fsum(self.ranks.gather(squares))) / self.ranks.world
        scale_down(gradients, norm, largest_norm)
        return norm

    @paddle.no_grad()
    def state_dict(self) -> dict[str, np.ndarray]:
        """Return all slots on the first rank and {} on the others; all ranks must call it together."""
        local, slots = self.adamw.state_dict(), {}
        keys = [(weight, f"{weight.name}_{slot}_0") for weight in self.parameters for slot in SLOTS]
        # by number: Paddle's names may differ from rank to rank
        there = set().union(*self.ranks.gather([number for number, (_, key) in enumerate(keys) if key in local]))
        for parameter, key in [keys[number] for number in sorted(there)]:  # none before the first step
            shape = [1] if key.endswith("_pow_acc_0") else parameter.shape
            whole = local[key].clone() if key in local else paddle.empty(shape, "float32")
            paddle.distributed.broadcast(whole, src=self.owner(parameter))
            if self.ranks.is_first:
                slots[key] = whole.numpy()
        return slots

    def set_state_dict(self, state: dict[str, Any]) -> None:
        """Take over this rank's part of the slots."""
        names = {weight.name for weight in self.parameters if self.owner(weight) == self.ranks.rank}
        kept = {key: value for key, value in state.items() if any(key.startswith(f"{name}_") for name in names)}
        self.adamw.set_state_dict(kept)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Paddle's banners."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
