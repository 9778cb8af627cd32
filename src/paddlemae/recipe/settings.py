"""The settings of each task: defaults, descriptions and the rules between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, Field, create_model, model_validator

from paddlemae.data.views.limits import check_crops
from paddlemae.model.masking import MASKS
from paddlemae.model.shape import (
    DECODER_KINDS,
    SIZES,
    DecoderShape,
    EncoderShape,
    HeadShape,
    Key,
    Pixels,
    keys_of,
    names_of,
)
from paddlemae.recipe.training import DEFAULT_WARMUP, Training
from paddlemae.recipe.types import (
    NUMBER,
    STRICT,
    Labels,
    Mean,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Share,
    ShareOrAll,
    Std,
    setting,
)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCRATCH = "scratch"  # `init` of a fine-tuning from random weights
if TYPE_CHECKING:
    Size: TypeAlias = str
    MaskName: TypeAlias = str
else:
    Size, MaskName = Literal[tuple(SIZES)], Literal[tuple(MASKS)]
SIZE_NAMES, MASK_NAMES = (", ".join(f"`{name}`" for name in names) for names in (SIZES, MASKS))
AUTO: Literal["auto"] = "auto"  # as mean and std: those of the training images

TEST_CHOOSES = "test"  # as validation: the test part itself, as in runs of earlier versions
PRIMARY_METRICS = ("top1", "balanced_accuracy", "macro_f1", "auroc", "average_precision", "mean_average_precision")
if TYPE_CHECKING:
    PrimaryMetric: TypeAlias = str
else:
    PrimaryMetric = Literal[PRIMARY_METRICS]

# descriptions of settings that several tasks have
SIZE = "patch size, width, depth and heads by name: " + SIZE_NAMES + "; the settings below override it"
CROP_SCALE = "smallest and largest area of a random crop, as a share of the image; null: no crop"
FLIP = "mirror half of the training views left to right"
FLIP_VERTICAL = "mirror half of the training views top to bottom"
ROTATE = "turn training views by 0, 90, 180 or 270 degrees, for images without up and down: tiles, cells, satellites"
FIT = (
    "how images of other shapes become views: `crop` keeps their aspect and cuts off what is beyond the centre, "
    "`stretch` changes it and shows all of them; `crop_ratio` is then relative to the image's own"
)
DATA = (
    "images, as with `--data`: a folder, list, archive, shards, table or arrays, `digits` or `digit-scenes`; "
    "`::max_image_bytes=2GB` after the path raises the memory limit of one image, 500 MB"
)
MEAN = (
    "mean of each channel, of pixels in [0, 1]; null is that of the initial weights, else ImageNet's for 3 channels "
    "and 0.5 for others; `auto` (with `std=auto`) is that of the training images"
)
STD = "standard deviation of each channel; null and `auto` as for `mean`"
BETAS = "betas of AdamW"
TRAIN_SPLIT = "split to train on"
EVAL_SPLIT = "split to evaluate on: `test`, or `val`"
VAL_FRACTION = "share of each class of the training split that is held out as the test part, instead of `eval_split`"
VALIDATION = (
    "share of each class of the training images (of `labels` of them, if that is set) that is held back to choose the "
    "best checkpoint, the validation part. null: the split `val` if there is a split `test` too and no `labels`, else "
    "15%, and none where a class has fewer than 5 images; 0: none, the last step counts; `test`: the test part "
    "chooses, as in earlier versions, which makes its numbers optimistic"
)
KEEP_SERIES = (
    "hold back whole series of images rather than single ones: frames, exposures or slices, whose names count and "
    "whose neighbours look alike; images with groups keep these together instead"
)
PRIMARY_METRIC = (
    f"metric that chooses the best checkpoint and compares runs: {', '.join(f'`{name}`' for name in PRIMARY_METRICS)}; "
    "null: `top1` (accuracy) if the largest class of the training split has at most 1.5 times the images of the "
    "smallest, else `balanced_accuracy`; of images of several classes `mean_average_precision`"
)
LABELS = (
    "train on this many images only: a number, a share (`10%`) or a number per class (`5/class`); as many of each class"
)
EVALUATE_EVERY = "epochs between evaluations"
LAYER_DECAY = "factor on the learning rate from each block to the one before it"
EMA_DECAY = (
    "evaluate and save an exponential moving average of the weights, over about 1 / (1 - `ema_decay`) steps; "
    "null: the weights themselves"
)


ModelT = TypeVar("ModelT", bound=BaseModel)


def with_keys(
    *shapes: type[Any], defaults: Mapping[str, Any], without: str = ""
) -> Callable[[type[ModelT]], type[ModelT]]:
    """Return a decorator that adds the keys of shapes to a section of a recipe.

    Args:
        defaults: key -> its default in a recipe where that is another one; None allows null.
        without: a key that is left out.
    """

    def decorate(section: type[ModelT]) -> type[ModelT]:
        found: Any = {}
        for key in keys_of(*shapes):
            if key.name != without:
                default = defaults.get(key.name, key.default)
                kind = _checked(key)
                found[key.name] = (kind | None if default is None else kind, Field(default, description=key.about))
        made: type[ModelT] = create_model(
            section.__name__, __base__=section, __module__=section.__module__, __doc__=section.__doc__, **found
        )
        return made

    return decorate


def _checked(key: Key) -> Any:
    """Return the type of a key with its limits."""
    if key.kind == Pixels:
        side = Annotated[int, NUMBER, Field(**key.limits)]
        return side | tuple[side, side]
    return Annotated[key.kind, NUMBER, Field(**key.limits)] if key.limits else key.kind


@with_keys(
    EncoderShape,
    DecoderShape,
    defaults={**dict.fromkeys(SIZES["base"]), "decoder_depth": DECODER_KINDS["mae"].depth, "norm_pix_loss": True},
)
class AutoencoderShape(BaseModel):
    """The model of a pretraining. What `size` names can be overruled one by one."""

    model_config = STRICT
    size: Size = setting("base", SIZE)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    @model_validator(mode="before")
    @classmethod
    def _set_depth(cls, content: Any) -> Any:
        """Set the number of blocks that the decoder has in its paper."""
        decoder = content.get("decoder") if isinstance(content, dict) else None
        if isinstance(decoder, str) and decoder in DECODER_KINDS:
            return {"decoder_depth": DECODER_KINDS[decoder].depth, **content}
        return content

    @model_validator(mode="after")
    def _check(self) -> AutoencoderShape:
        if not (self.inter_block_attention or DECODER_KINDS[self.decoder].sees_all_maps):
            raise ValueError(f"inter_block_attention=false has no effect with decoder={self.decoder}; leave it out")
        if self.norm_pix_floor and not self.norm_pix_loss:
            raise ValueError("norm_pix_floor has no effect without norm_pix_loss=true; leave it out")
        return self


@with_keys(
    EncoderShape,
    HeadShape,
    defaults={**dict.fromkeys(names_of(EncoderShape)), "drop_path": 0.1},
    without="num_classes",
)
class ClassifierShape(BaseModel):
    """The model of a fine-tuning. Whatever is left out comes from the pretrained model, or from `size`."""

    model_config = STRICT
    size: Size | None = setting(None, SIZE)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class Augmentation(BaseModel):
    """The augmentation of a training view: random resized crop and flip, or small shifts."""

    model_config = STRICT
    crop_scale: tuple[PositiveFloat, PositiveFloat] | None = setting((0.2, 1.0), CROP_SCALE)
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = setting(
        (3 / 4, 4 / 3), "smallest and largest width / height of a random crop"
    )
    flip: bool = setting(True, FLIP)
    flip_vertical: bool = setting(False, FLIP_VERTICAL)
    rotate: bool = setting(False, ROTATE)
    shift: NonNegative = setting(0, "maximum random shift in pixels, instead of cropping")
    fit: Literal["crop", "stretch"] = setting("crop", FIT)
    eval_crop_ratio: ShareOrAll = setting(
        0.875, "side of the evaluation view's centre crop, as a share of the resized image"
    )
    decode: Literal["fast", "exact"] = setting(
        "fast",
        "`fast` decodes a JPEG no larger than its crop needs and resizes faster; `exact` decodes every pixel and "
        "resizes as Pillow does",
    )
    repeats: Positive = setting(1, "views of each decoded image; an epoch is as many views as there are images")
    bits: Literal[8, 16] | None = setting(
        None, "bits of a channel's value, `8` or `16`; null is 8 for 1, 3 and 4 channels and 16 otherwise"
    )

    @model_validator(mode="after")
    def _check(self) -> Augmentation:
        check_crops(self.crop_scale, self.crop_ratio, self.shift, self.eval_crop_ratio)
        if self.shift and self.eval_crop_ratio != 1:
            raise ValueError("with shift, views show whole images, so evaluation must too; set eval_crop_ratio=1")
        return self


class FinetuneAugmentation(Augmentation):
    """The augmentation of a training view in fine-tuning: then RandAugment and random erasing (MAE, appendix A.2)."""

    randaugment: NonNegative = setting(0, "RandAugment operations per image; 0: none")
    magnitude: Annotated[float, NUMBER, Field(ge=0, le=10)] = setting(
        9.0, "strength of RandAugment's operations, 0 to 10"
    )
    magnitude_std: NonNegativeFloat = setting(0.5, "standard deviation of that strength")
    erasing: Share = setting(0.0, "probability of erasing a random rectangle of a view")


def default_warmup(content: Any) -> Any:
    """Return what a recipe names with a shorter default warmup where a short run names none."""
    training = content.get("training") if isinstance(content, dict) else None
    if isinstance(training, dict) and "warmup_epochs" not in training:
        epochs = training.get("epochs")
        if isinstance(epochs, int | float) and not isinstance(epochs, bool) and epochs > 0:
            return {**content, "training": {**training, "warmup_epochs": min(DEFAULT_WARMUP, epochs / 10)}}
    return content


def check_whole(training: Training) -> None:
    """Raise a ValueError for what only pretraining has."""
    if training.sharding != "none":
        raise ValueError("sharding is available in pretraining only; leave it out here")


def _check_views(recipe: PretrainRecipe | FinetuneRecipe) -> None:
    batch, repeats = recipe.training.batch_size, recipe.augment.repeats
    if batch % repeats:
        raise ValueError(
            f"batch_size ({batch}) must be a multiple of repeats ({repeats}), so that all views of an image are in one "
            "batch"
        )
    if (recipe.mean == AUTO) != (recipe.std == AUTO):
        raise ValueError("mean=auto and std=auto must be set together; set both, or neither")


class PretrainRecipe(BaseModel):
    """Masked-autoencoder pretraining (MAE, sec. 3 and appendix A.1)."""

    model_config = STRICT
    task: Literal["pretrain"] = "pretrain"
    init: str | None = setting(
        None, "initial weights: a run folder, or MAE or ViT weights in a supported layout; null: random weights"
    )
    data: str | None = setting(None, DATA)
    split: str | None = setting(None, "split to train on; null is the training split")
    mean: Mean | None = setting(None, MEAN)
    std: Std | None = setting(None, STD)
    mask: MaskName = setting("random", "how patches are removed: " + MASK_NAMES)
    mask_ratio: Share = setting(0.75, "share of the patches that is removed")
    prediction_ratio: ShareOrAll | None = setting(
        None, "share of all patches that is predicted; null: all removed ones. Requires `decoder=cross`"
    )
    betas: tuple[Share, Share] = setting((0.9, 0.95), BETAS)
    decay_tokens: bool = setting(False, "apply weight decay to the cls and mask tokens too, as the official code does")
    model: AutoencoderShape = AutoencoderShape()
    augment: Augmentation = Augmentation()
    training: Training = Training()

    @model_validator(mode="after")
    def _check(self) -> PretrainRecipe:
        _check_views(self)
        if self.prediction_ratio is not None and not DECODER_KINDS[self.model.decoder].predicts_some:
            some = " or ".join(name for name, kind in DECODER_KINDS.items() if kind.predicts_some)
            raise ValueError(
                f"prediction_ratio={self.prediction_ratio:g} needs decoder={some}; "
                f"decoder={self.model.decoder} predicts every removed patch"
            )
        return self


class FinetuneRecipe(BaseModel):
    """End-to-end fine-tuning of a classifier (MAE, appendix A.2)."""

    model_config = STRICT
    task: Literal["finetune"] = "finetune"
    init: str | None = setting(
        None, "pretrained weights: a run folder, or MAE or ViT weights in a supported layout; `scratch`: random weights"
    )
    data: str | None = setting(None, DATA)
    train_split: str = setting("train", TRAIN_SPLIT)
    eval_split: str = setting("test", EVAL_SPLIT)
    val_fraction: Share = setting(0.0, VAL_FRACTION)
    labels: Labels | None = setting(None, LABELS)
    validation: Share | Literal["test"] | None = setting(None, VALIDATION)
    keep_series: bool = setting(True, KEEP_SERIES)
    primary_metric: PrimaryMetric | None = setting(None, PRIMARY_METRIC)
    mean: Mean | None = setting(None, MEAN)
    std: Std | None = setting(None, STD)
    trainable_blocks: NonNegativeFloat | None = setting(
        None, "fine-tune the last blocks only: 0, 0.5 (the last MLP), 1, 2, ...; null: all weights"
    )
    fit_head: bool = setting(
        False,
        "begin with a head that is fitted to the features of the pretrained encoder, and let it compete for the best "
        "checkpoint; without, the head begins at random",
    )
    label_smoothing: Share = setting(0.1, "share of each label that is spread over all classes")
    layer_decay: ShareOrAll = setting(0.75, LAYER_DECAY)
    ema_decay: Share | None = setting(None, EMA_DECAY)
    betas: tuple[Share, Share] = setting((0.9, 0.999), BETAS)
    mixup: NonNegativeFloat = setting(
        0.0, "alpha of mixup; 0: none. If `cutmix` is set too, each batch gets one of the two"
    )
    cutmix: NonNegativeFloat = setting(0.0, "alpha of CutMix; 0: none")
    cutmix_probability: ShareOrAll = setting(0.5, "probability of CutMix rather than mixup if both are set")
    class_weights: Literal["balanced"] | tuple[PositiveFloat, ...] | None = setting(
        None,
        "weight of each class in the loss: `balanced` is inversely proportional to its number of training images, or a "
        "list in the classes' order; scaled to a mean of 1 over the training images",
    )
    sampling: Literal["balanced"] | None = setting(
        None,
        "`balanced` repeats images of rarer classes so that an epoch has as many views of each class; it is that much "
        "longer",
    )
    evaluate_every: PositiveFloat = setting(1, EVALUATE_EVERY)
    model: ClassifierShape = ClassifierShape()
    augment: FinetuneAugmentation = FinetuneAugmentation()
    training: Training = Training()

    @model_validator(mode="before")
    @classmethod
    def _set_warmup(cls, content: Any) -> Any:
        return default_warmup(content)

    @model_validator(mode="after")
    def _check(self) -> FinetuneRecipe:
        check_whole(self.training)
        _check_views(self)
        if self.sampling == "balanced" and self.class_weights == "balanced":
            raise ValueError(
                "sampling=balanced has as many views of each class, so class_weights=balanced has no effect; leave one "
                "out"
            )
        if self.mean == AUTO and self.init not in (None, SCRATCH):
            raise ValueError("mean=auto requires init=scratch; pretrained weights come with their own mean and std")
        return self


# MAE, appendix A.1, table 10, with a batch for one machine
PROBE_TRAINING = {"batch_size": 512, "epochs": 90, "warmup_epochs": 10, "base_lr": 0.1, "weight_decay": 0.0}


class ProbeRecipe(BaseModel):
    """Linear probing of a frozen encoder (MAE, appendix A.1)."""

    model_config = STRICT
    task: Literal["probe"] = "probe"
    init: str | None = setting(
        None, "pretrained weights to probe: a run folder, or MAE or ViT weights in a supported layout"
    )
    random: bool = setting(False, "probe the same encoder with random weights, as a baseline")
    data: str | None = setting(None, DATA)
    train_split: str = setting("train", TRAIN_SPLIT)
    eval_split: str = setting("test", EVAL_SPLIT)
    val_fraction: Share = setting(0.0, VAL_FRACTION)
    labels: Labels | None = setting(None, LABELS)
    validation: Share | Literal["test"] | None = setting(None, VALIDATION)
    keep_series: bool = setting(True, KEEP_SERIES)
    primary_metric: PrimaryMetric | None = setting(None, PRIMARY_METRIC)
    token: Literal["cls", "mean"] = setting("cls", "features are the `cls` token, or the `mean` of the patch tokens")
    layer: Positive | None = setting(None, "block whose output gives the features, from 1; null is the last")
    cached: bool = setting(
        False, "compute the features of each image once, from its evaluation view, without augmentation"
    )
    crop_scale: tuple[PositiveFloat, PositiveFloat] | None = setting((0.08, 1.0), CROP_SCALE)
    flip: bool = setting(True, FLIP)
    momentum: Share = setting(0.9, "momentum of LARS")
    evaluate_every: PositiveFloat = setting(10, EVALUATE_EVERY)
    training: Training = Training.model_validate(PROBE_TRAINING)

    @model_validator(mode="before")
    @classmethod
    def _fill_training(cls, content: Any) -> Any:
        if isinstance(content, dict) and isinstance(given := content.get("training"), dict):
            return {**content, "training": {**PROBE_TRAINING, **given}}
        return content

    @model_validator(mode="after")
    def _check(self) -> ProbeRecipe:
        check_whole(self.training)
        if self.training.cache and self.cached:
            raise ValueError("cached=true reads each image once, so a cache of images has no effect; leave one out")
        return self


def default_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the (mean, std) of a recipe that names none: ImageNet's for three channels, 0.5 for any other number."""
    return (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,) * channels, (0.5,) * channels)
