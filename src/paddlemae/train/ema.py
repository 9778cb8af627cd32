"""An exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from paddlemae.engine.safe_import import nn, paddle


class Ema:
    """Weights that follow a model's: after each step `decay` times themselves plus the rest of the model's.

    Args:
        model: its trainable weights are followed, from what they are now.
        decay: in [0, 1); an average over about 1 / (1 - decay) steps.
    """

    def __init__(self, model: nn.Layer, decay: float):
        self.decay = decay
        self.weights = _copies(model)

    @paddle.no_grad()
    def update(self, model: nn.Layer) -> None:
        """Take in the model's weights after a step."""
        for name, parameter in _trained(model):
            # (average - weights) * decay + weights: decay * average + (1 - decay) * weights is 1.7e-4 too small for
            # 0.9999, since the two factors don't add up to 1 once they are rounded to float32
            self.weights[name].subtract_(parameter).scale_(self.decay).add_(parameter)

    @contextmanager
    def applied(self, model: nn.Layer) -> Iterator[None]:
        """Give the model the averaged weights inside the context; its own come back, bit for bit."""
        trained = _copies(model)
        _set(model, self.weights)
        try:
            yield
        finally:
            _set(model, trained)


def _trained(model: nn.Layer) -> list[tuple[str, paddle.Tensor]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if not parameter.stop_gradient]


def _copies(model: nn.Layer) -> dict[str, paddle.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in _trained(model)}


def _set(model: nn.Layer, weights: dict[str, paddle.Tensor]) -> None:
    for name, parameter in _trained(model):
        parameter.set_value(weights[name])
