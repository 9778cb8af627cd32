"""Masked-autoencoder pretraining (MAE, arXiv 2111.06377) for PaddlePaddle.

Importing this package imports no Paddle: each name below loads its module when it is first used.
"""

from importlib import import_module

TYPE_CHECKING = False  # type checkers take it for True; to import it from `typing` would take time
if TYPE_CHECKING:  # what editors and type checkers read
    from paddlemae.api.models import Model as Model
    from paddlemae.api.models import load as load
    from paddlemae.api.plans import auto as auto
    from paddlemae.api.plans import plan as plan
    from paddlemae.api.trainings import finetune as finetune
    from paddlemae.api.trainings import pretrain as pretrain
    from paddlemae.api.trainings import segment as segment
    from paddlemae.data.sources import open_source as open_source
    from paddlemae.engine import device as device
    from paddlemae.model.classifier import VisionTransformer as VisionTransformer
    from paddlemae.model.encoder import features as features
    from paddlemae.model.mae import MaskedAutoencoder as MaskedAutoencoder
    from paddlemae.model.mae import reconstruct as reconstruct
    from paddlemae.model.masking import Mask as Mask
    from paddlemae.model.masking import block_mask as block_mask
    from paddlemae.model.masking import given_mask as given_mask
    from paddlemae.model.masking import grid_mask as grid_mask
    from paddlemae.model.masking import num_kept as num_kept
    from paddlemae.model.masking import random_mask as random_mask
    from paddlemae.model.shape import SIZES as SIZES
    from paddlemae.recipe import load_recipe as load_recipe

__version__: str  # read when it is asked for: what reads it takes half of the time that this import would

_HOMES = {  # the same names, and where they are loaded from
    "load": "paddlemae.api.models",
    "pretrain": "paddlemae.api.trainings",
    "finetune": "paddlemae.api.trainings",
    "segment": "paddlemae.api.trainings",
    "plan": "paddlemae.api.plans",
    "auto": "paddlemae.api.plans",
    "Model": "paddlemae.api.models",
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


def _load(name: str) -> object:
    if name == "__version__":
        from importlib import metadata

        return globals().setdefault(name, metadata.version("paddlemae"))
    if name not in _HOMES:
        raise AttributeError(f"module 'paddlemae' has no attribute {name!r}")
    if name == "device":
        return import_module("paddlemae.engine.device")
    return getattr(import_module(_HOMES[name]), name)


if not TYPE_CHECKING:  # else a name that is not there would pass for one
    __getattr__ = _load


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "__version__"})  # what a notebook completes
