"""The recipes by task: what `paddlemae TASK` takes."""

from __future__ import annotations

from pydantic import BaseModel

from paddlemae.recipe.segmentation import SegmentRecipe
from paddlemae.recipe.settings import FinetuneRecipe, PretrainRecipe, ProbeRecipe

RECIPES: dict[str, type[BaseModel]] = {
    "pretrain": PretrainRecipe,
    "finetune": FinetuneRecipe,
    "probe": ProbeRecipe,
    "segment": SegmentRecipe,
}
Recipe = PretrainRecipe | FinetuneRecipe | ProbeRecipe | SegmentRecipe
