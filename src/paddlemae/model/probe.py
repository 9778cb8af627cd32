"""The head of a linear probe: features normalised one by one, then a linear layer.

Shapes: B images, D features.
"""

from __future__ import annotations

from paddlemae.engine.safe_import import nn, paddle
from paddlemae.model.kernels.layers import Linear
from paddlemae.model.kernels.rows import mean_rows

NORM_EPSILON = 1e-6  # MAE's published linear probing
TAKEN_IN = 0.1  # of a batch's statistics into the running ones
HEAD_STD = 0.01  # MoCo v3's and MAE's


class FeatureNorm(nn.Layer):
    """Batch norm without weight and bias (Ioffe and Szegedy, arXiv 1502.03167), its buffers under PyTorch's names.

    In training each feature gets the batch's mean 0 and deviation 1, in evaluation the running statistics' ones.
    (Paddle's own layer warns at every training step, and keeps a weight and bias that nobody asked for.)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", paddle.zeros([width]))
        self.register_buffer("running_var", paddle.ones([width]))

    def forward(self, features_BD: paddle.Tensor) -> paddle.Tensor:
        if not self.training:
            return (features_BD - self.running_mean) * paddle.rsqrt(self.running_var + NORM_EPSILON)
        mean_D, count = mean_rows(features_BD.unsqueeze(0))[0], features_BD.shape[0]
        centred_BD = features_BD - mean_D
        variance_D = mean_rows(centred_BD.square().unsqueeze(0))[0]
        with paddle.no_grad():  # the running variance is the unbiased one, as in PyTorch
            self.running_mean.scale_(1 - TAKEN_IN).add_(mean_D * TAKEN_IN)
            self.running_var.scale_(1 - TAKEN_IN).add_(variance_D * (TAKEN_IN * count / max(1, count - 1)))
        return centred_BD * paddle.rsqrt(variance_D + NORM_EPSILON)


class ProbeHead(nn.Layer):
    """Batch norm without affine parameters, then a linear classifier (MAE, appendix A.1, "linear probing").

    The norm makes up for what frozen features leave to chance: their sizes differ from feature to feature, and one lr
    must do for all. Parameters carry the names of MAE's published probes (`head.0`, `head.1`).

    Args:
        width: D.
        num_classes: of the classifier.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.config = dict(width=width, num_classes=num_classes)
        linear = Linear(width, num_classes)
        nn.initializer.Normal(std=HEAD_STD)(linear.weight)
        nn.initializer.Constant(0.0)(linear.bias)
        self.head = nn.Sequential(FeatureNorm(width), linear)

    def forward(self, features_BD: paddle.Tensor) -> paddle.Tensor:
        """Return logits [B, num_classes]."""
        return self.head(features_BD)
