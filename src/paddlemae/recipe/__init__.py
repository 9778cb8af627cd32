"""Typed recipes: the settings of a training, from the defaults, a YAML file and key=value. Imports no Paddle."""

from paddlemae.recipe.fields import settings_of as settings_of
from paddlemae.recipe.load import build_recipe as build_recipe
from paddlemae.recipe.load import dump_recipe as dump_recipe
from paddlemae.recipe.load import load_recipe as load_recipe
from paddlemae.recipe.load import override_text as override_text
from paddlemae.recipe.load import parse_overrides as parse_overrides
from paddlemae.recipe.load import read_recipe_file as read_recipe_file
from paddlemae.recipe.load import recipe_about as recipe_about
from paddlemae.recipe.load import recipe_content as recipe_content
from paddlemae.recipe.load import recipe_names as recipe_names
from paddlemae.recipe.settings import AUTO as AUTO
from paddlemae.recipe.settings import RECIPES as RECIPES
from paddlemae.recipe.settings import SCRATCH as SCRATCH
from paddlemae.recipe.settings import TEST_CHOOSES as TEST_CHOOSES
from paddlemae.recipe.settings import Augmentation as Augmentation
from paddlemae.recipe.settings import AutoencoderShape as AutoencoderShape
from paddlemae.recipe.settings import ClassifierShape as ClassifierShape
from paddlemae.recipe.settings import FinetuneAugmentation as FinetuneAugmentation
from paddlemae.recipe.settings import FinetuneRecipe as FinetuneRecipe
from paddlemae.recipe.settings import PretrainRecipe as PretrainRecipe
from paddlemae.recipe.settings import ProbeRecipe as ProbeRecipe
from paddlemae.recipe.settings import Recipe as Recipe
from paddlemae.recipe.settings import default_statistics as default_statistics
from paddlemae.recipe.training import MAX_BAD_IMAGES as MAX_BAD_IMAGES
from paddlemae.recipe.training import Training as Training
