"""MAE and ViT in NumPy and double precision, straight from the papers: what other implementations are held against.

Written apart from `model/`, without its speed. MAE: arXiv 2111.06377, sec. 3; ViT: arXiv 2010.11929, sec. 3.1.

Shapes: B images, C channels, L patches, N tokens, D width, P pixels a patch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Tensors = Mapping[str, np.ndarray]
EPSILON = 1e-6


def outputs(
    kind: str, architecture: Mapping[str, Any], tensors: Tensors, images_BCHW: np.ndarray, keep_BK: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute the model's outputs for images.

    Args:
        kind, architecture, tensors: as `layouts.Imported` has them.
        images_BCHW: normalised.
        keep_BK: the patches that an autoencoder sees.
    Returns:
        "features" [B, D], of all patches: what a classifier's head gets, else the mean of the normalised patch tokens;
        "prediction" [B, L, P] of an autoencoder, "logits" [B, classes] of a classifier.
    """
    model = _Model(architecture, {name: np.asarray(tensor, np.float64) for name, tensor in tensors.items()})
    every = model.encode(images_BCHW, None)
    pool = architecture.get("pool", "mean")
    found = {"features": model.pool(every, pool)}
    if kind == "mae":
        found["prediction"] = model.decode(model.encode(images_BCHW, keep_BK), keep_BK)
    elif kind == "classifier":
        found["logits"] = model.linear(found["features"], "head")
    return found


class _Model:
    def __init__(self, architecture: Mapping[str, Any], tensors: Tensors):
        self.shape, self.tensors = architecture, tensors
        self.front = int(architecture["cls_token"])

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)
        return scaled * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def block(self, x_BND: np.ndarray, name: str, heads: int) -> np.ndarray:
        batch, tokens, width = x_BND.shape
        mixed = self.linear(self.norm(x_BND, f"{name}.norm1"), f"{name}.attn.qkv")
        query, key, value = mixed.reshape(batch, tokens, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
        scores = query @ key.swapaxes(-1, -2) / math.sqrt(width // heads)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        joined = (shares @ value).transpose(0, 2, 1, 3).reshape(batch, tokens, width)
        x_BND = x_BND + self.linear(joined, f"{name}.attn.proj")
        hidden = self.linear(self.norm(x_BND, f"{name}.norm2"), f"{name}.mlp.fc1")
        return x_BND + self.linear(_gelu(hidden), f"{name}.mlp.fc2")

    def encode(self, images_BCHW: np.ndarray, keep_BK: np.ndarray | None) -> np.ndarray:
        """Return tokens [B, N, D], before the last norm."""
        weight = self.tensors["patch_embed.proj.weight"]
        rows, columns = weight.shape[2:]
        batch, channels, height, width = images_BCHW.shape
        cut = images_BCHW.reshape(batch, channels, height // rows, rows, width // columns, columns)
        x_BND = np.einsum("bchrwk,dcrk->bhwd", cut, weight, optimize=True).reshape(batch, -1, len(weight))
        table = self.tensors["pos_embed"]
        x_BND = x_BND + self.tensors["patch_embed.proj.bias"] + table[:, self.front :]
        if keep_BK is not None:
            x_BND = np.take_along_axis(x_BND, keep_BK[..., None], axis=1)
        if self.front:
            first = np.broadcast_to(self.tensors["cls_token"] + table[:, :1], (batch, 1, len(weight)))
            x_BND = np.concatenate([first, x_BND], axis=1)
        for number in range(self.shape["depth"]):
            x_BND = self.block(x_BND, f"blocks.{number}", self.shape["num_heads"])
        return x_BND

    def pool(self, x_BND: np.ndarray, pool: str) -> np.ndarray:
        """Normalise what is pooled, as fine-tuned models do (MAE, appendix A.2), or pool normalised tokens."""
        after = "fc_norm.weight" in self.tensors
        x_BND = x_BND if after else self.norm(x_BND, "norm")
        x_BLD = x_BND[:, self.front :]
        x_BD = x_BND[:, 0] if pool == "cls" else x_BLD.mean(axis=1)
        if pool == "mean+std":
            x_BD = np.concatenate([x_BD, x_BLD.std(axis=1)], axis=1)
        return self.norm(x_BD, "fc_norm") if after else x_BD

    def decode(self, x_BND: np.ndarray, keep_BK: np.ndarray) -> np.ndarray:
        """Return pixels [B, L, P] of every patch, in the image's order."""
        x_BND = self.linear(self.norm(x_BND, "norm"), "decoder_embed")
        table = self.tensors["decoder_pos_embed"]
        patches = table.shape[1] - self.front
        filled_BLD = np.tile(self.tensors["mask_token"], (len(x_BND), patches, 1))
        np.put_along_axis(filled_BLD, keep_BK[..., None], x_BND[:, self.front :], axis=1)
        x_BND = np.concatenate([x_BND[:, : self.front], filled_BLD], axis=1) + table
        for number in range(self.shape["decoder_depth"]):
            x_BND = self.block(x_BND, f"decoder_blocks.{number}", self.shape["decoder_num_heads"])
        return self.linear(self.norm(x_BND, "decoder_norm"), "decoder_pred")[:, self.front :]


def _gelu(x: np.ndarray) -> np.ndarray:
    """Compute x times the normal distribution function of x, exactly (Hendrycks and Gimpel, arXiv 1606.08415)."""
    return x * 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2)))
