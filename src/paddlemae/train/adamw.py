"""AdamW on CPU, piece by piece through the processor's cache.

Paddle's own kernel takes 5.5 ns a weight where the processor has no AVX-512. NumPy's loops over pieces that stay in
the cache take 3, the addition of several threads' gradients included, and other threads go on meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from paddlemae.engine.safe_import import paddle
from paddlemae.engine.tensors import numbers_at

PIECE = 1 << 16  # numbers: smaller ones cost more calls than they save memory traffic
EPSILON = 1e-8
SLOTS = ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc")  # what it keeps for a parameter, as Paddle names it


@dataclass
class Slots:
    """What AdamW keeps of a parameter, flat, and how it is trained; powers are those of the next step, as in Paddle."""

    parameter: Any
    lr_scale: float
    weight_decay: float
    powers: tuple[float, float]
    moment1: np.ndarray = field(init=False)
    moment2: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.moment1, self.moment2 = (np.zeros(self.parameter.size, np.float32) for _ in range(2))


class CpuAdamW:
    """Decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), with Paddle's optimizers' interface.

    Args:
        groups: (parameters, lr scale, weight decay) of each group.
        betas: decay of the two moments.
    """

    def __init__(self, groups: Iterable[tuple[Sequence[Any], float, float]], betas: tuple[float, float]):
        self.lr, self.betas = 0.0, betas
        self.slots = {
            parameter.name: Slots(parameter, lr_scale, decay, as_saved(*betas))
            for parameters, lr_scale, decay in groups
            for parameter in parameters
        }

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the following steps, before each group's scale."""
        self.lr = lr

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for slots in self.slots.values():
            if slots.parameter.grad is not None:
                self.update(slots.parameter, [slots.parameter.grad])

    def clear_grad(self) -> None:
        """Forget all gradients."""
        for slots in self.slots.values():
            slots.parameter.grad = None

    @np.errstate(over="ignore", invalid="ignore")  # the squares show what is not finite, for the caller to judge
    def update(self, parameter: paddle.Tensor, gradients: Sequence[paddle.Tensor]) -> float:
        """Update one parameter with the sum of these gradients; different ones may be updated in several threads.

        Returns:
            the sum of that gradient's squares, which costs little here; not finite if the gradient is not.
        """
        slots = self.slots[parameter.name]
        lr, (beta1, beta2), (power1, power2) = self.lr * slots.lr_scale, self.betas, slots.powers
        correction = (1 - power2) ** 0.5
        size = slots.moment1.size
        weights, *summands = (flat_view(tensor, size) for tensor in (parameter, *gradients))
        spare, total = np.empty((2, min(PIECE, size)), np.float32)
        decay, rate = 1 - lr * slots.weight_decay, lr * correction / (1 - power1)
        squares = 0.0
        for start in range(0, size, PIECE):
            piece = slice(start, start + PIECE)
            weight, gradient = weights[piece], summands[0][piece]
            moment1, moment2 = slots.moment1[piece], slots.moment2[piece]
            change = spare[: weight.size]
            for summand in summands[1:]:
                gradient = np.add(gradient, summand[piece], out=total[: weight.size])
            moment1 *= beta1
            moment1 += np.multiply(gradient, 1 - beta1, out=change)
            moment2 *= beta2
            squares += float(np.multiply(gradient, gradient, out=change).sum())
            change *= 1 - beta2
            moment2 += change
            np.sqrt(moment2, out=change)
            change += EPSILON * correction  # of sqrt(moment2) / correction + EPSILON, the correction left for later
            np.divide(moment1, change, out=change)
            change *= rate
            if slots.weight_decay:
                weight *= decay
            weight -= change
        slots.powers = as_saved(power1 * beta1, power2 * beta2)
        return squares

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the slots under Paddle's names."""
        return {
            f"{name}_{slot}_0": value.reshape(shape)
            for name, slots in self.slots.items()
            for slot, value, shape in (
                ("moment1", slots.moment1, slots.parameter.shape),
                ("moment2", slots.moment2, slots.parameter.shape),
                ("beta1_pow_acc", np.array(slots.powers[0], np.float32), [1]),
                ("beta2_pow_acc", np.array(slots.powers[1], np.float32), [1]),
            )
        }

    def set_state_dict(self, state: dict[str, Any]) -> None:
        """Take over slots as `state_dict` gives them, as arrays or tensors."""
        for name, slots in self.slots.items():
            slots.moment1[:], slots.moment2[:] = (
                np.asarray(state[f"{name}_{slot}_0"]).ravel() for slot in ("moment1", "moment2")
            )
            slots.powers = as_saved(*(state[f"{name}_{slot}_0"] for slot in ("beta1_pow_acc", "beta2_pow_acc")))


def as_saved(power1: Any, power2: Any) -> tuple[float, float]:
    """Round to the float32 of a checkpoint, so that a resumed run continues with the same numbers."""
    return np.asarray(power1, np.float32).item(), np.asarray(power2, np.float32).item()


def flat_view(tensor: paddle.Tensor, size: int) -> np.ndarray:
    """Return the memory of a float32 CPU tensor as a flat array; valid until the tensor's memory is replaced."""
    return numbers_at(tensor.data_ptr(), size)
