"""LARS: SGD with momentum whose step of each weight matrix follows the size of that matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from paddlemae.engine.safe_import import paddle
from paddlemae.train.optim import sum_of_squares

TRUST_COEFFICIENT = 0.001  # You et al., sec. 5
SLOT = "velocity"


class Lars:
    """Layer-wise adaptive rate scaling (You et al., arXiv 1708.03888), with Paddle's optimizers' interface.

    A matrix's gradient, weight decay included, is brought to `trust` times the matrix's own norm before momentum sees
    it; biases and the like are left as they are and don't decay.

    Args:
        parameters: to train.
        momentum, weight_decay, trust: as in the paper.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = TRUST_COEFFICIENT,
    ):
        self.parameters = list(parameters)
        self.momentum, self.weight_decay, self.trust, self.lr = momentum, weight_decay, trust, 0.0
        self.velocity = {weight.name: paddle.zeros(weight.shape, weight.dtype) for weight in self.parameters}

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the following steps."""
        self.lr = lr

    @paddle.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for parameter in self.parameters:
            if parameter.grad is None:
                continue
            change = parameter.grad
            if parameter.ndim > 1:
                change = change + self.weight_decay * parameter
                change = change * self._ratio(parameter, change)
            velocity = self.velocity[parameter.name]
            velocity.scale_(self.momentum).add_(change)
            parameter.subtract_(self.lr * velocity)

    def _ratio(self, parameter: paddle.Tensor, change: paddle.Tensor) -> float:
        """Return the trust ratio; 1 where either norm is 0, since a matrix of zeros could not grow otherwise."""
        # Paddle's own norm adds numbers one by one on CPU: of 5 million it is 2e-3 off
        size, step = (math.sqrt(sum_of_squares([tensor])) for tensor in (parameter, change))
        return self.trust * size / step if size > 0 and step > 0 else 1.0

    def clear_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.clear_grad()

    def state_dict(self) -> dict[str, Any]:
        """Return the slots under names as Paddle would give them."""
        return {f"{name}_{SLOT}_0": value for name, value in self.velocity.items()}

    def set_state_dict(self, state: dict[str, Any]) -> None:
        """Take over slots as `state_dict` gives them, as arrays or tensors."""
        for name, velocity in self.velocity.items():
            velocity.set_value(np.asarray(state[f"{name}_{SLOT}_0"]))
