"""A linear head on patch tokens.

Shapes: B images, h x w patches, D width, K classes.
"""

from __future__ import annotations

from paddlemae.engine.safe_import import nn, paddle
from paddlemae.model.kernels.layers import Linear

HEAD_STD = 0.01  # of a new layer of logits, as of UPerNet's


class LinearHead(nn.Layer):
    """One linear layer, the same for every patch (Kerssies et al., arXiv 2404.12172).

    Args:
        width: D.
        num_classes: K.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = Linear(width, num_classes)

    def initialise(self) -> None:
        nn.initializer.Normal(std=HEAD_STD)(self.classifier.weight)

    def forward(self, map_BhwD: paddle.Tensor) -> paddle.Tensor:
        """Return logits [B, h, w, K]."""
        return self.classifier(map_BhwD)
