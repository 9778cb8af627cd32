"""Tiny segmenters on disk."""

from pathlib import Path

import numpy as np

CLASSES = ["sky", "road", "tree"]
PALETTE = [[0, 0, 0], [128, 64, 128], [107, 142, 35]]


def write_segmenter(folder: Path, *, channels: int = 3, bits=None, seed: int = 0, patch_size: int = 4) -> Path:
    """Write a segmenter of images of 16 x 16 pixels, not trained, that predicts all classes."""
    from paddlemae.model.segmenter import Segmenter
    from paddlemae.tasks.models.build import describe
    from paddlemae.weights.model_folder import write_model
    from paddlemae.weights.transfer import to_official

    shape = dict(embed_dim=16, depth=2, num_heads=4, image_size=16, patch_size=patch_size, channels=channels)
    model = Segmenter(**shape, num_classes=len(CLASSES), head="linear")
    rng = np.random.default_rng(seed)
    for name, tensor in model.state_dict().items():
        if name.startswith(("head", "encoder.patch_embed")):
            tensor.set_value((rng.normal(size=tensor.shape) * (len(tensor.shape) > 1)).astype(np.float32))
    folder.mkdir(parents=True)
    statistics = [0.5] * channels, [0.2] * channels
    facts = describe(model, statistics, eval_crop_ratio=1.0, classes=CLASSES, palette=PALETTE, bits=bits)
    write_model(folder, to_official(model), facts)
    return folder
