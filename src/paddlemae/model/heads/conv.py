"""A head of convolutions between two upsamplings.

Shapes: B images, h x w patches, D width of the encoder, W channels of the head, K classes.
"""

from __future__ import annotations

from paddlemae.engine.safe_import import F, nn, paddle
from paddlemae.model.blocks import NORM_EPSILON
from paddlemae.model.heads.layers import Convolution, Upsampling
from paddlemae.model.heads.linear import HEAD_STD
from paddlemae.model.kernels.layers import LayerNorm, Linear

STAGES = 2  # each doubles height and width


class Stage(nn.Layer):
    """An upsampling, then a convolution of 3 x 3, each with a norm over channels and GELU behind it."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.up = Upsampling(channels, outputs)
        self.norm1 = LayerNorm(outputs, epsilon=NORM_EPSILON)
        self.conv = Convolution(outputs, outputs)
        self.norm2 = LayerNorm(outputs, epsilon=NORM_EPSILON)

    def forward(self, x_BhwC: paddle.Tensor) -> paddle.Tensor:
        x_BhwC = F.gelu(self.norm1(self.up(x_BhwC)))
        return F.gelu(self.norm2(self.conv(x_BhwC)))


class ConvHead(nn.Layer):
    """Two stages, then a linear layer for each place of a map four times as high and wide.

    Images of a batch do not mix, unlike with batch norm: any batch size and number of threads gives the same.

    Args:
        width: D.
        channels: W.
        num_classes: K.
    """

    def __init__(self, width: int, channels: int, num_classes: int) -> None:
        super().__init__()
        sizes = [width] + [channels] * STAGES
        self.stages = nn.LayerList([Stage(*sizes[number : number + 2]) for number in range(STAGES)])
        self.classifier = Linear(channels, num_classes)

    def initialise(self) -> None:
        nn.initializer.Normal(std=HEAD_STD)(self.classifier.weight)

    def forward(self, map_BhwD: paddle.Tensor) -> paddle.Tensor:
        """Return logits [B, 4 h, 4 w, K]."""
        for stage in self.stages:
            map_BhwD = stage(map_BhwD)
        return self.classifier(map_BhwD)
