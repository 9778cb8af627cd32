"""UPerNet on a plain ViT: a pyramid of four maps, pooling, fusion, and an auxiliary head for training.

Xiao et al., "Unified Perceptual Parsing for Scene Understanding" (arXiv 1807.10221), with the pyramid that BEiT (arXiv
2106.08254) and MAE (sec. 5) put in front.

Shapes: B images, h x w places of a map, D width of the encoder, W channels of the head, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from paddlemae.engine.safe_import import F, nn, paddle
from paddlemae.model.heads.layers import Convolution, ConvolutionBlock, Upsampling, drop_channels, halved
from paddlemae.model.heads.linear import HEAD_STD
from paddlemae.model.heads.tensors import AUXILIARY_WIDTH, POOLS
from paddlemae.model.kernels.batch_norm import BatchNorm
from paddlemae.model.kernels.convolution import PLACES, convolution, resized_convolution
from paddlemae.model.kernels.grids import change_grid
from paddlemae.model.kernels.layers import Linear
from paddlemae.model.shape import TAPS

Maps = Sequence[paddle.Tensor]
PLACE = 1  # of a convolution of 1 x 1
AUXILIARY_MAP = 2  # the one that has the size of the patch grid


class Quadrupling(nn.Layer):
    """Two upsamplings with batch norm and GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = Upsampling(width, width)
        self.norm = BatchNorm(width)
        self.second = Upsampling(width, width)

    def forward(self, x_BhwD: paddle.Tensor) -> paddle.Tensor:
        return self.second(F.gelu(self.norm(self.first(x_BhwD))))


class Pyramid(nn.Layer):
    """Bring four maps of one size to four times, twice, once and half the height and width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.quadrupled = Quadrupling(width)
        self.doubled = Upsampling(width, width)

    def forward(self, maps_BhwD: Maps) -> list[paddle.Tensor]:
        first, second, third, last = maps_BhwD
        return [self.quadrupled(first), self.doubled(second), third, halved(last)]


class Fusion(nn.Layer):
    """A convolution over the channels of four maps of different sizes, batch norm and ReLU: [B, h, w, W] of the first.

    The smaller maps are resized to the first one's size by bilinear interpolation, after their channels were mixed.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Convolution(TAPS * channels, channels)
        self.norm = BatchNorm(channels, relu=True)

    def forward(self, maps_BhwW: Maps) -> paddle.Tensor:
        channels = self.conv.weight.shape[-1]
        weights_9WW = self.conv.weight.reshape([PLACES, TAPS, channels, channels]).unbind(1)
        size = maps_BhwW[0].shape[1:3]
        fused = convolution(maps_BhwW[0], weights_9WW[0])
        for map_BhwW, weight_9WW in zip(maps_BhwW[1:], weights_9WW[1:]):
            fused = fused + resized_convolution(map_BhwW, weight_9WW, size)
        return self.norm(fused)


class UperNetHead(nn.Layer):
    """Pool the smallest map, add each map to the next larger one, and fuse all (UPerNet, sec. 3.2).

    Args:
        width: D.
        channels: W.
        num_classes: K.
        dropout: share of the channels that are dropped before the last layer in training.
    """

    def __init__(self, width: int, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.pools = nn.LayerList([ConvolutionBlock(width, channels, PLACE) for _ in POOLS])
        self.pooled = ConvolutionBlock(width + len(POOLS) * channels, channels)
        self.laterals = nn.LayerList([ConvolutionBlock(width, channels, PLACE) for _ in range(TAPS - 1)])
        self.smooths = nn.LayerList([ConvolutionBlock(channels, channels) for _ in range(TAPS - 1)])
        self.fusion = Fusion(channels)
        self.classifier = Linear(channels, num_classes)

    def initialise(self) -> None:
        nn.initializer.Normal(std=HEAD_STD)(self.classifier.weight)

    def forward(self, maps_BhwD: Maps) -> paddle.Tensor:
        """Return logits [B, h, w, K] of the size of the first, largest map."""
        maps = [lateral(map_BhwD) for lateral, map_BhwD in zip(self.laterals, maps_BhwD)]
        maps.append(self.pool(maps_BhwD[-1]))
        for number in range(TAPS - 1, 0, -1):
            maps[number - 1] = maps[number - 1] + change_grid(maps[number], maps[number - 1].shape[1:3])
        fused = self.fusion([*(smooth(one) for smooth, one in zip(self.smooths, maps)), maps[-1]])
        if self.training and self.dropout:
            fused = drop_channels(fused, self.dropout)
        return self.classifier(fused)

    def pool(self, map_BhwD: paddle.Tensor) -> paddle.Tensor:
        """Return the smallest map with means of its regions (Zhao et al., PSPNet, arXiv 1612.01105): [B, h, w, W]."""
        size = map_BhwD.shape[1:3]
        parts = [map_BhwD]
        for side, layer in zip(POOLS, self.pools):
            parts.append(change_grid(layer(change_grid(map_BhwD, (side, side), "pooling")), size))
        return self.pooled(paddle.concat(parts, axis=-1))


class AuxiliaryHead(nn.Layer):
    """A convolution and a linear layer on one map, which trains the lower blocks (PSPNet, sec. 3.3)."""

    def __init__(self, width: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.convs = nn.LayerList([ConvolutionBlock(width, AUXILIARY_WIDTH)])
        self.classifier = Linear(AUXILIARY_WIDTH, num_classes)

    def initialise(self) -> None:
        nn.initializer.Normal(std=HEAD_STD)(self.classifier.weight)

    def forward(self, maps_BhwD: Maps) -> paddle.Tensor:
        """Return logits [B, h, w, K] of the size of the patch grid."""
        x_BhwC = maps_BhwD[AUXILIARY_MAP]
        for conv in self.convs:
            x_BhwC = conv(x_BhwC)
        if self.training and self.dropout:
            x_BhwC = drop_channels(x_BhwC, self.dropout)
        return self.classifier(x_BhwC)
