"""A loss as a layer of its model, which is what Paddle's wrappers of parallel training take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paddlemae.engine.safe_import import nn, paddle

LossFn = Callable[[nn.Layer, Any], paddle.Tensor]


class Loss(nn.Layer):
    """(micro-batch) -> mean loss, by `loss_fn(model, micro-batch)`; `loss_fn` may be given later."""

    def __init__(self, model: nn.Layer, loss_fn: LossFn | None = None):
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, batch: Any) -> paddle.Tensor:
        assert self.loss_fn is not None
        return self.loss_fn(self.model, batch)
