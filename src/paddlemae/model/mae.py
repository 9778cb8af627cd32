"""The masked autoencoder, in the paper's order: encode, decode, loss; then pictures.

Shapes: B images, C channels, H x W pixels, L patches, K kept, M = L - K removed, D width,
Q predicted, P pixels a patch (rows x columns x C).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from paddlemae.engine.safe_import import nn, paddle
from paddlemae.model.blocks import initialise
from paddlemae.model.decoders import DECODERS
from paddlemae.model.encoder import Encoder, evaluating
from paddlemae.model.kernels.rows import mean_all
from paddlemae.model.masking import Mask
from paddlemae.model.patches import flat_rows, patchify, take_patches, unpatchify
from paddlemae.model.shape import architecture_of, document_keys, split_keys
from paddlemae.model.targets import TARGETS


@document_keys
class MaskedAutoencoder(nn.Layer):
    """MAE (He et al., arXiv 2111.06377, sec. 3): encode the visible patches, decode all, predict pixels.

    Args:
        <keys>
    Raises:
        TypeError: an unknown key.
        ValueError: a shape that does not fit together, or an unknown `decoder` or `positions`.
    """

    kind = "mae"
    has_head = False

    def __init__(self, **keys: Any) -> None:
        super().__init__()
        shape, decoder = split_keys(self.kind, keys)
        self.config = architecture_of(shape, decoder)
        self.grid: tuple[int, int] = shape.grid
        self.pixels: int = shape.pixels
        self.pool = "cls" if shape.cls_token else "mean"  # the token that stands for an image
        self.recompute = False  # see `run_blocks`; a setting of the training, not of the model
        self.target_name = decoder.target
        self.target = TARGETS[self.target_name]
        self.norm_pix_floor = decoder.norm_pix_floor
        if self.pixels < self.target.fewest_pixels:
            raise ValueError(
                f"{decoder.target} pixels need patches of at least {self.target.fewest_pixels} values, "
                f"got {self.pixels}"
            )
        self.encoder = Encoder(shape)
        self.decoder = DECODERS[decoder.decoder](shape, decoder)
        if not self.decoder.uses_norm:
            for parameter in self.encoder.norm.parameters():
                parameter.stop_gradient = True  # not part of this training; it stays as it is for `features`
        initialise(self)

    def forward(
        self,
        images_BCHW: paddle.Tensor,
        mask: Mask,
        predicted_BQ: np.ndarray | None = None,
        path_noise: np.ndarray | None = None,
    ) -> paddle.Tensor:
        """Return the loss, a scalar: mean squared error over removed patches only (MAE, sec. 3).

        Args:
            images_BCHW: float tensor of the model's own image size.
            mask: which patches are removed, at least one in each image.
            predicted_BQ: the removed patches to predict, from `masking.draw_predicted`; None for all of them.
            path_noise: for drop path, see `encoder.encode`.
        Raises:
            ValueError: images or mask of another shape, a mask that removes nothing, or `predicted_BQ` for a
                decoder that predicts all.
        """
        if mask.removed.shape[1] == 0:
            raise ValueError("the loss is computed on removed patches, but this mask removes none; raise mask_ratio")
        prediction_BQP = self.decoder(self.encoder, images_BCHW, mask, predicted_BQ, path_noise, self.recompute)
        target_BQP = patch_target(self, images_BCHW, mask.removed if predicted_BQ is None else predicted_BQ)
        return mean_all((prediction_BQP - target_BQP).square())


@paddle.no_grad()
def patch_target(model: MaskedAutoencoder, images_BCHW: paddle.Tensor, patches_BQ: np.ndarray) -> paddle.Tensor:
    """Return the targets of patches, by index: [B, Q, P] (MAE, sec. 3, "Reconstruction target")."""
    patches_BLP = patchify(images_BCHW, model.encoder.patch_size)
    target_BQP = take_patches(patches_BLP, flat_rows(patches_BQ, patches_BLP.shape[1]))
    return model.target.of(target_BQP, model.norm_pix_floor)


def predict(model: MaskedAutoencoder, images_BCHW: paddle.Tensor, mask: Mask) -> paddle.Tensor:
    """Return the decoder's output for every patch, kept ones included, in the image's order: [B, L, P]."""
    return model.decoder.every_patch(model.encoder, images_BCHW, mask)


@dataclass(frozen=True)
class Reconstruction:
    """Pictures [B, C, H, W] in the pixel scale of the images that went in.

    Attributes:
        original: the images.
        prediction: every patch as predicted. With normalised pixels as the target, each prediction is
            given the mean and deviation of the *original* patch, which the model never saw.
        completed: `prediction` with the visible patches put back.
        plain: the decoder's output as it is (the same as `prediction` for raw pixels).
    """

    original: paddle.Tensor
    prediction: paddle.Tensor
    completed: paddle.Tensor
    plain: paddle.Tensor


@paddle.no_grad()
def reconstruct(model: MaskedAutoencoder, images_BCHW: paddle.Tensor, mask: Mask) -> Reconstruction:
    """Reconstruct images from their visible patches and draw the stages (MAE, figures 2 to 4).

    Args:
        images_BCHW: float tensor, normalised as in pretraining.
        mask: from `masking`.
    """
    patches_BLP = patchify(images_BCHW, model.encoder.patch_size)
    with evaluating(model):
        plain_BLP = predict(model, images_BCHW, mask)
    prediction_BLP = model.target.pixels(plain_BLP, patches_BLP, model.norm_pix_floor)
    removed_BL1 = paddle.to_tensor(mask.as_map().astype(np.float32)).unsqueeze(-1)

    def picture(x_BLP: paddle.Tensor) -> paddle.Tensor:
        return unpatchify(x_BLP, model.encoder.patch_size, model.grid)

    return Reconstruction(
        original=images_BCHW,
        prediction=picture(prediction_BLP),
        completed=picture(patches_BLP * (1 - removed_BL1) + prediction_BLP * removed_BL1),
        plain=picture(plain_BLP),
    )
