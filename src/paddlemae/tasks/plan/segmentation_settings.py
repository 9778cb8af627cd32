"""Choose a segmentation for the masks: settings of a recipe, each with its reason."""

from __future__ import annotations

from paddlemae.data.decode.pixel_format import default_bits
from paddlemae.recipe import SegmentRecipe, choose_for_masks, with_values
from paddlemae.tasks.plan import rules
from paddlemae.tasks.plan.data_survey import DataSurvey
from paddlemae.tasks.plan.finetuning_settings import TEST_SHARE, LabelledImages
from paddlemae.tasks.plan.plan import Choice
from paddlemae.tasks.training.labelled_splits import VALIDATION_SHARE
from paddlemae.tasks.training.mask_splits import FEWEST_IMAGES

HEAD = "linear"
BATCH_SIZE = 8
MOSTLY_ONE = 0.9  # share of the pixels of one class, above which the others are shown more often
FEW_CLASSES = 2  # up to which Dice keeps a rare one from being left out


def masked_images(survey: DataSurvey) -> LabelledImages:
    """Count the images of each part about as a segmentation will draw them."""
    assert survey.masked is not None
    images, test = survey.masked.images, survey.masked.test_images
    if test is None:
        test = round(TEST_SHARE * images)
        images -= test
    validation = survey.masked.val_images
    if validation is None:
        validation = round(VALIDATION_SHARE * images) if images >= FEWEST_IMAGES else 0
        images -= validation
    is_unequal = survey.masked.commonest > MOSTLY_ONE
    views = round(images * survey.masked.balanced_views) if is_unequal else images
    return LabelledImages(images, validation, test, views, is_unequal)


def chosen_by_masks(data: str, survey: DataSurvey, shape: rules.Shape) -> tuple[SegmentRecipe, dict[str, Choice]]:
    """Return the recipe that the number of masks asks for, and its settings (see `recipe.mask_defaults`)."""
    masked = survey.masked
    assert masked is not None
    classes = len(masked.classes)
    settings = {"data": Choice(data, f"{masked.images:,} images with masks of {classes} classes")}
    if masked.test_images is None:
        settings["val_fraction"] = Choice(TEST_SHARE, "no split to evaluate on, so part of the images is held out")
    settings["model.head"] = Choice(HEAD, "learns more in a short time than convolutions do")
    if (side := rules.scene_side(survey)) is not None:
        why = f"of {survey.short_side:.0f} pixels, so that a window of {shape.side} shows what surrounds things"
        settings["augment.short_side"] = Choice(side, why)
    settings["augment.flip"] = Choice(True, "usual; set rotate and flip_vertical too for images without up and down")
    if survey.bits == 16 and default_bits(survey.channels) == 8:
        settings["augment.bits"] = Choice(16, "images are stored with 16 bits")
    if masked.commonest > MOSTLY_ONE:
        why = f"{masked.commonest:.0%} of the pixels are of one class"
        settings["dice"] = Choice(1.0, f"{why}, so that the others count")
        settings["sampling"] = Choice("balanced", f"{why}; images with others are shown more often")
        settings["augment.rare_crops"] = Choice(1.0, f"{why}; crops hold the others, too")
    elif classes <= FEW_CLASSES:
        settings["dice"] = Choice(1.0, "two classes, of which one may be rare")
    settings["training.batch_size"] = Choice(BATCH_SIZE, "small, so that the time is enough for many steps")
    recipe = with_values(SegmentRecipe(), {key: choice.value for key, choice in settings.items()})
    chosen, choices = choose_for_masks(recipe, masked_images(survey).views, shape.model.width, is_pretrained=True)
    return chosen, settings | {choice.name: Choice(choice.value, choice.reason) for choice in choices}
