"""Typed recipes: the settings of a training, from the defaults, a YAML file and key=value. Imports no Paddle."""

from paddlemae.recipe.load import (
    build_recipe,
    dump_recipe,
    load_recipe,
    read_recipe_file,
    recipe_content,
    recipe_names,
)
from paddlemae.recipe.settings import (
    AUTO,
    MAX_BAD_IMAGES,
    RECIPES,
    SCRATCH,
    Augmentation,
    AutoencoderShape,
    ClassifierShape,
    FinetuneAugmentation,
    FinetuneRecipe,
    PretrainRecipe,
    ProbeRecipe,
    Recipe,
    Training,
    default_statistics,
)

__all__ = [
    "AUTO",
    "MAX_BAD_IMAGES",
    "RECIPES",
    "SCRATCH",
    "Augmentation",
    "AutoencoderShape",
    "ClassifierShape",
    "FinetuneAugmentation",
    "FinetuneRecipe",
    "PretrainRecipe",
    "ProbeRecipe",
    "Recipe",
    "Training",
    "build_recipe",
    "default_statistics",
    "dump_recipe",
    "load_recipe",
    "read_recipe_file",
    "recipe_content",
    "recipe_names",
]
