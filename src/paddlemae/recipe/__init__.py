"""Typed recipes: the settings of a training, from the defaults, a YAML file and key=value. Imports no Paddle."""

from paddlemae.recipe.about import About
from paddlemae.recipe.fields import Setting, settings_of
from paddlemae.recipe.load import (
    build_recipe,
    dump_recipe,
    load_recipe,
    override_text,
    parse_overrides,
    read_recipe_file,
    recipe_about,
    recipe_content,
    recipe_names,
    task_of,
)
from paddlemae.recipe.settings import (
    AUTO,
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
    default_statistics,
)
from paddlemae.recipe.training import MAX_BAD_IMAGES, Training

__all__ = [
    "AUTO",
    "MAX_BAD_IMAGES",
    "RECIPES",
    "SCRATCH",
    "About",
    "Augmentation",
    "AutoencoderShape",
    "ClassifierShape",
    "FinetuneAugmentation",
    "FinetuneRecipe",
    "PretrainRecipe",
    "ProbeRecipe",
    "Recipe",
    "Setting",
    "Training",
    "build_recipe",
    "default_statistics",
    "dump_recipe",
    "load_recipe",
    "override_text",
    "parse_overrides",
    "read_recipe_file",
    "recipe_about",
    "recipe_content",
    "recipe_names",
    "settings_of",
    "task_of",
]
