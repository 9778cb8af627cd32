"""Layers of heads, on maps whose channels come last.

Shapes: B images, h x w places, C channels in and E out.
"""

from __future__ import annotations

import math
from typing import Any

from paddlemae.engine.safe_import import F, nn, paddle
from paddlemae.model.kernels.batch_norm import BatchNorm
from paddlemae.model.kernels.convolution import PLACES, convolution
from paddlemae.model.kernels.layers import linear

GROWTH = 2  # of height and width in an upsampling


class Convolution(nn.Layer):
    """A convolution of 3 x 3 or of 1 x 1 without a bias; in files its weight is [E, C, 3, 3] or [E, C, 1, 1].

    Args:
        places: of the kernel, 9 or 1.
    """

    def __init__(self, channels: int, outputs: int, places: int = PLACES) -> None:
        super().__init__()
        deviation = math.sqrt(2 / (outputs * places))  # for ReLU, by the outputs (He et al., arXiv 1502.01852)
        self.weight = self.create_parameter(
            [places, channels, outputs], default_initializer=nn.initializer.Normal(std=deviation)
        )

    def forward(self, x_BhwC: paddle.Tensor) -> paddle.Tensor:
        if self.weight.shape[0] == 1:
            return paddle.matmul(x_BhwC, self.weight.squeeze(0))
        return convolution(x_BhwC, self.weight)


class ConvolutionBlock(nn.Layer):
    """A convolution, batch norm and ReLU."""

    def __init__(self, channels: int, outputs: int, places: int = PLACES) -> None:
        super().__init__()
        self.conv = Convolution(channels, outputs, places)
        self.norm = BatchNorm(outputs, relu=True)

    def forward(self, x_BhwC: paddle.Tensor) -> paddle.Tensor:
        return self.norm(self.conv(x_BhwC))


class Upsampling(nn.Layer):
    """A transposed convolution that turns each place into 2 x 2; in files its weight is [C, E, 2, 2]."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        keeps_variance = nn.initializer.Normal(std=channels**-0.5)
        columns = GROWTH * GROWTH * outputs  # of the four places row by row
        self.weight = self.create_parameter([channels, columns], default_initializer=keeps_variance)
        self.bias = self.create_parameter([outputs], is_bias=True)

    def forward(self, x_BhwC: paddle.Tensor) -> paddle.Tensor:
        batch, height, width, _ = x_BhwC.shape
        places = linear(x_BhwC, self.weight, self.bias.tile([GROWTH * GROWTH]))
        split = places.reshape([batch, height, width, GROWTH, GROWTH, -1]).transpose([0, 1, 3, 2, 4, 5])
        return split.reshape([batch, height * GROWTH, width * GROWTH, -1])


def drop_channels(x_BhwC: paddle.Tensor, rate: float) -> paddle.Tensor:
    """Set a share of each image's channels to 0, drawn from Paddle's generator, and scale up the others."""
    kept = (paddle.rand([x_BhwC.shape[0], 1, 1, x_BhwC.shape[-1]]) >= rate).astype(x_BhwC.dtype)
    return x_BhwC * (kept / (1 - rate))


def halved(x_BhwC: paddle.Tensor) -> paddle.Tensor:
    """Return the largest of each 2 x 2 places; along a side of one place nothing is left out."""
    kernel = [min(2, side) for side in x_BhwC.shape[1:3]]
    pooled: Any = F.max_pool2d(x_BhwC.transpose([0, 3, 1, 2]), kernel, kernel)
    return pooled.transpose([0, 2, 3, 1])


def mixes_images(model: nn.Layer) -> bool:
    """Return whether a model's output for an image depends on others of the batch, in training."""
    return any(isinstance(layer, BatchNorm) for layer in model.sublayers())
