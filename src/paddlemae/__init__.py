"""Masked-autoencoder pretraining (MAE, arXiv 2111.06377) for PaddlePaddle.

Importing this package imports no Paddle: each name below loads its module when it is first used.
"""

from importlib import import_module

__version__: str  # read when it is asked for: what reads it takes half of the time that this import would

_API = "paddlemae.api"
_HOMES = {
    "load": _API,
    "pretrain": _API,
    "finetune": _API,
    "Model": _API,
    "MaskedAutoencoder": "paddlemae.model.mae",
    "VisionTransformer": "paddlemae.model.classifier",
    "SIZES": "paddlemae.model.shape",
    "features": "paddlemae.model.encoder",
    "Mask": "paddlemae.model.masking",
    "random_mask": "paddlemae.model.masking",
    "block_mask": "paddlemae.model.masking",
    "grid_mask": "paddlemae.model.masking",
    "given_mask": "paddlemae.model.masking",
    "num_kept": "paddlemae.model.masking",
    "reconstruct": "paddlemae.model.mae",
    "open_source": "paddlemae.data.sources",
    "load_recipe": "paddlemae.recipe",
    "device": "paddlemae.engine",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name == "__version__":
        from importlib import metadata

        return globals().setdefault(name, metadata.version("paddlemae"))
    if name not in _HOMES:
        raise AttributeError(f"module 'paddlemae' has no attribute {name!r}")
    if name == "device":
        return import_module("paddlemae.engine.device")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "__version__"})  # what a notebook completes
