"""A model as a program of Paddle's inference engine.

Shapes: B images, C channels, L patches, K kept ones, N tokens, D width, P pixels a patch, R rows of a batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
from paddle import inference, nn

from paddlemae.export.interface import Interface, Model
from paddlemae.model.kernels import scale_channels
from paddlemae.model.mae import TARGET_EPSILON, MaskedAutoencoder
from paddlemae.model.vit import VisionTransformer, evaluating, features, patchify, run_blocks, unpatchify

STEM = "inference"  # of the two files, as Paddle's own tools name them
FILES = (f"{STEM}.json", f"{STEM}.pdiparams")


def save_program(model: Model, interface: Interface, mean: list[float], std: list[float], folder: Path) -> None:
    """Write `FILES` into a folder: the part of a model that an interface describes.

    Args:
        mean, std: of images in [0, 1], a channel; uint8 ones are normalised with them inside.
    """
    network = NETWORKS[interface.what](model, interface, mean, std)
    network.eval()
    specs = [
        paddle.static.InputSpec([-1, *one.shape], getattr(paddle, one.dtype), one.name) for one in interface.inputs
    ]
    with evaluating(model), paddle.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of lists that it does not trace, such as `run_blocks`' inputs
        paddle.jit.save(network, str(folder / STEM), input_spec=specs)


class _Pixels(nn.Layer):
    """uint8 images to normalised ones, and back to 0..1."""

    def __init__(self, mean: list[float], std: list[float]):
        super().__init__()
        mean_C, std_C = np.asarray(mean, np.float64), np.asarray(std, np.float64)
        arrays = {"mean": mean_C, "std": std_C, "scale": 1 / (255 * std_C), "shift": -mean_C / std_C}
        for name, array in arrays.items():
            self.register_buffer(name, paddle.to_tensor(array.astype(np.float32)))

    def forward(self, images_u8):
        return scale_channels(images_u8.astype("float32"), self.scale, self.shift)

    def back(self, images_BCHW):
        return scale_channels(images_BCHW, self.std, self.mean)


class _Encoder(nn.Layer):
    def __init__(self, model: Model, interface: Interface, mean: list[float], std: list[float]):
        super().__init__()
        self.model, self.token, self.pixels = model, interface.token, _Pixels(mean, std)

    def forward(self, images_u8):
        return features(self.model, self.pixels(images_u8), self.token)


class _Classifier(nn.Layer):
    def __init__(self, model: VisionTransformer, interface: Interface, mean: list[float], std: list[float]):
        super().__init__()
        self.model, self.pixels = model, _Pixels(mean, std)

    def forward(self, images_u8):
        return self.model(self.pixels(images_u8))


class _Reconstructor(nn.Layer):
    """`mae.predict` and `mae.reconstruct` for masks that are only known when the program runs."""

    def __init__(self, model: MaskedAutoencoder, interface: Interface, mean: list[float], std: list[float]):
        super().__init__()
        self.model, self.pixels = model, _Pixels(mean, std)

    def forward(self, images_u8, mask_u8):
        model, patches = self.model, self.model.grid[0] * self.model.grid[1]
        patches_BLP = patchify(self.pixels(images_u8), model.patch_size)
        removed_BL = mask_u8.reshape([-1, patches]).astype("bool")
        kept_rows = paddle.nonzero(paddle.logical_not(removed_BL).flatten()).flatten()  # among all images' patches
        visible_RP = paddle.gather(patches_BLP.reshape([-1, model.pixels]), kept_rows)
        front = int(model.has_cls)
        positions_RD = paddle.gather(model.pos_embed[0, front:], kept_rows % patches)
        x_RD = model.patch_embed(visible_RP) + positions_RD
        x_BND = x_RD.reshape([paddle.shape(images_u8)[0], -1, x_RD.shape[-1]])
        if model.has_cls:
            cls_B1D = (model.cls_token + model.pos_embed[:, :1]).expand([paddle.shape(x_BND)[0], -1, -1])
            x_BND = paddle.concat([cls_B1D, x_BND], axis=1)
        maps: list = []
        last_BND = run_blocks(model.blocks, x_BND, inputs=maps)
        maps.append(last_BND)
        x_BLD = self.cross_decoder(maps) if model.decoder == "cross" else self.decoder(last_BND, kept_rows)
        plain_BLP = model.decoder_pred(model.decoder_norm(x_BLD)) + _nan_if_uneven(removed_BL)
        prediction_BLP = plain_BLP
        if model.norm_pix_loss:
            mean_BL1 = patches_BLP.mean(axis=-1, keepdim=True)
            variance_BL1 = (patches_BLP - mean_BL1).square().sum(axis=-1, keepdim=True) / (model.pixels - 1)
            prediction_BLP = plain_BLP * paddle.sqrt(variance_BL1 + TARGET_EPSILON) + mean_BL1
        completed_BLP = paddle.where(removed_BL.unsqueeze(-1), prediction_BLP, patches_BLP)
        return self.pixels.back(unpatchify(completed_BLP, model.patch_size, model.grid)), plain_BLP

    def decoder(self, x_BND, kept_rows):
        """Up to the last norm, of all patches in the image's order: [B, L, D]."""
        model, patches = self.model, self.model.grid[0] * self.model.grid[1]
        x_BND = model.decoder_embed(model.norm(x_BND))
        width, front = x_BND.shape[-1], int(model.has_cls)
        visible_RD = x_BND[:, front:].reshape([-1, width])
        masks_RD = model.mask_token[0].expand([paddle.shape(x_BND)[0] * patches, -1])
        x_RD = paddle.scatter(masks_RD, kept_rows, visible_RD)
        x_BLD = x_RD.reshape([-1, patches, width]) + model.decoder_pos_embed[:, front:]
        if model.has_cls:
            x_BLD = paddle.concat([x_BND[:, :1] + model.decoder_pos_embed[:, :1], x_BLD], axis=1)
        return run_blocks(model.decoder_blocks, x_BLD)[:, front:]

    def cross_decoder(self, maps: list):
        """The same of CrossMAE's decoder."""
        model, batch = self.model, paddle.shape(maps[0])[0]
        if model.inter_block is None:
            memories = [model.norm(maps[-1])] * len(model.decoder_blocks)
        else:
            sums_BNEJ = paddle.matmul(paddle.stack(maps, axis=-1), model.inter_block.weight, transpose_y=True)
            memories = [norm(sum_BNE) for norm, sum_BNE in zip(model.inter_block.norms, sums_BNEJ.unbind(-1))]
        x_BLD = (model.mask_token + model.decoder_pos_embed[:, int(model.has_cls) :]).expand([batch, -1, -1])
        for block, memory_BNE in zip(model.decoder_blocks, memories):
            x_BLD = block(x_BLD, memory_BNE)
        return x_BLD


def _nan_if_uneven(removed_BL):
    """0, or nan where images of a batch keep different numbers of patches: what is computed then is of no image."""
    counts_B = removed_BL.astype("float32").sum(axis=1)
    return paddle.sqrt(counts_B.min() - counts_B.max())  # the engine can't read a program with nan in it


NETWORKS: dict[str, Callable[..., nn.Layer]] = {
    "encoder": _Encoder,
    "classifier": _Classifier,
    "reconstructor": _Reconstructor,
}


def load_program(folder: Path, threads: int, *, onednn: bool = False) -> Callable[..., list[np.ndarray]]:
    """What runs a program on the CPU: from its inputs in their order to its outputs in theirs.

    Args:
        onednn: Paddle's default, which was no faster here and not always right (docs/export.md).
    """
    config = inference.Config(*(str(folder / name) for name in FILES))
    config.disable_glog_info()
    (config.enable_mkldnn if onednn else config.disable_mkldnn)()
    config.set_cpu_math_library_num_threads(threads)
    predictor = inference.create_predictor(config)  # has read the files then
    inputs = [predictor.get_input_handle(name) for name in predictor.get_input_names()]

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        for handle, array in zip(inputs, arrays):
            handle.copy_from_cpu(np.ascontiguousarray(array))
        predictor.run()
        return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]

    return run
