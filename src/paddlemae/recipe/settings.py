"""The settings of each task: their types, defaults and limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator
from typing_extensions import Self

from paddlemae.recipe.training import Training
from paddlemae.recipe.types import (
    NUMBER,
    STRICT,
    Channels,
    Labels,
    Layers,
    Mean,
    NonNegative,
    NonNegativeFloat,
    Pixels,
    Positions,
    Positive,
    PositiveFloat,
    Share,
    ShareOrAll,
    Size,
    Std,
)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCRATCH = "scratch"  # what fine-tuning starts from without weights
AUTO: Literal["auto"] = "auto"  # in the place of mean and std: those of the training images

# descriptions of settings that several tasks have
SIZE = Field(
    description="patch size, width, depth and heads by name: `mini`, `tiny`, `small`, `base`, `large` or `huge`; the "
    "settings below override it"
)
IMAGE_SIZE = Field(description="side in pixels, or [height, width]")
PATCH_SIZE = Field(description="side of a patch in pixels, or [height, width]; null is that of `size`")
CHANNELS = Field(description="channels of an image")
EMBED_DIM = Field(description="width of the encoder; null is that of `size`")
DEPTH = Field(description="blocks of the encoder; null is that of `size`")
NUM_HEADS = Field(description="attention heads of a block; null is that of `size`")
MLP_RATIO = Field(description="hidden width of an MLP, relative to the encoder's width")
CLS_TOKEN = Field(description="add a class token to the patch tokens")
POSITIONS = Field(
    description="position embeddings: `sincos2d` and `sincos1d` are fixed, `learned` are trained (from a fixed table "
    "where the initial weights have one)"
)
DROP_PATH = Field(
    description="probability of skipping a residual branch in the last block; rises to it linearly from 0"
)
CROP_SCALE = Field(description="smallest and largest area of a random crop, as a share of the image; null: no crop")
FLIP = Field(description="mirror half of the training views left to right")
DATA = Field(
    description="images, as with `--data`: a folder, list, archive, shards, table or arrays, or `digits`; "
    "`::max_image_bytes=2GB` "
    "after the path raises the memory limit of one image, 500 MB"
)
MEAN = Field(
    description="mean of each channel, of pixels in [0, 1]; null is that of the initial weights, else ImageNet's for "
    "3 channels and "
    "0.5 for others; `auto` (with `std=auto`) is that of the training images"
)
STD = Field(description="standard deviation of each channel; null and `auto` as for `mean`")
BETAS = Field(description="betas of AdamW")
TRAIN_SPLIT = Field(description="split to train on")
EVAL_SPLIT = Field(description="split to evaluate on")
VAL_FRACTION = Field(
    description="share of each class of the training split that is held out for evaluation, instead of `eval_split`"
)
LABELS = Field(
    description="train on this many images only: a number, a share (`10%`) or a number per class (`5/class`); as many "
    "of each class"
)
EVALUATE_EVERY = Field(description="epochs between evaluations")


class AutoencoderShape(BaseModel):
    """The model of a pretraining. What `size` names can be overruled one by one."""

    model_config = STRICT
    size: Annotated[Size, SIZE] = "base"
    image_size: Annotated[Pixels, IMAGE_SIZE] = 224
    patch_size: Annotated[Pixels | None, PATCH_SIZE] = None
    channels: Annotated[Channels, CHANNELS] = 3
    embed_dim: Annotated[Positive | None, EMBED_DIM] = None
    depth: Annotated[Layers | None, DEPTH] = None
    num_heads: Annotated[Positive | None, NUM_HEADS] = None
    mlp_ratio: Annotated[PositiveFloat, MLP_RATIO] = 4.0
    cls_token: Annotated[bool, CLS_TOKEN] = True
    positions: Annotated[Positions, POSITIONS] = "sincos2d"
    drop_path: Annotated[Share, DROP_PATH] = 0.0
    decoder: Literal["mae", "cross"] = Field(default="mae", description="`mae`, or `cross` for CrossMAE's decoder")
    decoder_embed_dim: Positive = Field(default=512, description="width of the decoder")
    decoder_depth: Layers = Field(default=8, description="blocks of the decoder; 12 with `decoder=cross`")
    decoder_num_heads: Positive = Field(default=16, description="attention heads of a decoder block")
    inter_block_attention: bool = Field(
        default=True,
        description="each block of CrossMAE's decoder weights the outputs of all encoder blocks; `decoder=cross` only",
    )
    norm_pix_loss: bool = Field(
        default=True,
        description="predict the pixels of each patch normalised by the patch's own mean and standard deviation",
    )

    @model_validator(mode="before")
    @classmethod
    def _papers_depth(cls, content: Any) -> Any:
        """CrossMAE's decoder has 12 blocks (arXiv 2401.14391, sec. 4.1) where MAE's has 8."""
        if isinstance(content, dict) and content.get("decoder") == "cross":
            return {"decoder_depth": 12, **content}
        return content

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.decoder == "mae" and not self.inter_block_attention:
            raise ValueError("inter_block_attention=false has no effect with decoder=mae; leave it out")
        return self


class ClassifierShape(BaseModel):
    """The model of a fine-tuning. Whatever is left out comes from the pretrained model, or from `size`."""

    model_config = STRICT
    size: Annotated[Size | None, SIZE] = None
    image_size: Annotated[Pixels | None, IMAGE_SIZE] = None
    patch_size: Annotated[Pixels | None, PATCH_SIZE] = None
    channels: Annotated[Channels | None, CHANNELS] = None
    embed_dim: Annotated[Positive | None, EMBED_DIM] = None
    depth: Annotated[Layers | None, DEPTH] = None
    num_heads: Annotated[Positive | None, NUM_HEADS] = None
    mlp_ratio: Annotated[PositiveFloat | None, MLP_RATIO] = None
    cls_token: Annotated[bool | None, CLS_TOKEN] = None
    positions: Annotated[Positions | None, POSITIONS] = None
    drop_path: Annotated[Share, DROP_PATH] = 0.1
    pool: Literal["mean", "cls"] = Field(
        default="mean", description="the classifier reads the `mean` of the patch tokens, or the `cls` token"
    )


class Augmentation(BaseModel):
    """How a training view is made of an image: random resized crop and flip, or small shifts."""

    model_config = STRICT
    crop_scale: Annotated[tuple[PositiveFloat, PositiveFloat] | None, CROP_SCALE] = (0.2, 1.0)
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = Field(
        default=(3 / 4, 4 / 3), description="smallest and largest width / height of a random crop"
    )
    flip: Annotated[bool, FLIP] = True
    shift: NonNegative = Field(default=0, description="maximum random shift in pixels, instead of cropping")
    eval_crop_ratio: ShareOrAll = Field(
        default=0.875, description="side of the evaluation view's centre crop, as a share of the resized image"
    )
    decode: Literal["fast", "exact"] = Field(
        default="fast",
        description="`fast` decodes a JPEG no larger than its crop needs and resizes faster; `exact` decodes every "
        "pixel and resizes as Pillow does",
    )
    repeats: Positive = Field(
        default=1, description="views of each decoded image; an epoch is as many views as there are images"
    )
    bits: Literal[8, 16] | None = Field(
        default=None,
        description="bits of a channel's value, `8` or `16`; null is 8 for 1, 3 and 4 channels and 16 otherwise",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, bounds in (("crop_scale", self.crop_scale), ("crop_ratio", self.crop_ratio)):
            if bounds and bounds[0] > bounds[1]:
                raise ValueError(f"{name} must be [lowest, highest], got {list(bounds)}")
        if self.crop_scale and self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale is a share of the image's area, at most 1, got {list(self.crop_scale)}")
        if self.crop_scale and self.shift:
            raise ValueError("crop_scale and shift exclude each other; set crop_scale=null to shift")
        if self.shift and self.eval_crop_ratio != 1:
            raise ValueError("shifted views show whole images, and so must evaluation; set eval_crop_ratio=1")
        return self


class FinetuneAugmentation(Augmentation):
    """The same, and what fine-tuning does to views: RandAugment, then random erasing (MAE, appendix A.2)."""

    randaugment: NonNegative = Field(default=0, description="RandAugment operations per image; 0: none")
    magnitude: Annotated[float, NUMBER, Field(ge=0, le=10)] = Field(
        default=9.0, description="strength of RandAugment's operations, 0 to 10"
    )
    magnitude_std: NonNegativeFloat = Field(default=0.5, description="standard deviation of that strength")
    erasing: Share = Field(default=0.0, description="probability of erasing a random rectangle of a view")


def _check_whole(training: Training) -> None:
    if training.sharding != "none":
        raise ValueError("sharding shares out the state of a pretraining; leave it out here")


def _check_statistics(mean: Mean | None, std: Std | None) -> None:
    if (mean == AUTO) != (std == AUTO):
        raise ValueError("mean=auto and std=auto go together, they come from one pass; set both, or neither")


def _check_repeats(augment: Augmentation, training: Training) -> None:
    if training.batch_size % augment.repeats:
        raise ValueError(
            f"batch_size ({training.batch_size}) must be a multiple of repeats ({augment.repeats}), "
            "so that all views of an image are in one batch"
        )


class PretrainRecipe(BaseModel):
    """Masked-autoencoder pretraining (MAE, sec. 3 and appendix A.1)."""

    model_config = STRICT
    task: Literal["pretrain"] = "pretrain"
    init: str | None = Field(
        default=None,
        description="initial weights: a run folder, or MAE or ViT weights in a supported layout; null: random weights",
    )
    data: Annotated[str | None, DATA] = None
    split: str | None = Field(default=None, description="split to train on; null is the training split")
    mean: Annotated[Mean | None, MEAN] = None
    std: Annotated[Std | None, STD] = None
    mask: Literal["random", "block", "grid"] = Field(
        default="random", description="how patches are removed: `random`, `block` or `grid`"
    )
    mask_ratio: Share = Field(default=0.75, description="share of the patches that is removed")
    prediction_ratio: ShareOrAll | None = Field(
        default=None,
        description="share of all patches that is predicted; null: all removed ones. Requires `decoder=cross`",
    )
    betas: Annotated[tuple[Share, Share], BETAS] = (0.9, 0.95)
    decay_tokens: bool = Field(
        default=False, description="apply weight decay to the cls and mask tokens too, as the official code does"
    )
    model: AutoencoderShape = AutoencoderShape()
    augment: Augmentation = Augmentation()
    training: Training = Training()

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_repeats(self.augment, self.training)
        _check_statistics(self.mean, self.std)
        if self.prediction_ratio is not None and self.model.decoder == "mae":
            raise ValueError(
                f"prediction_ratio={self.prediction_ratio:g} needs decoder=cross; MAE's decoder predicts every removed "
                "patch"
            )
        return self


class FinetuneRecipe(BaseModel):
    """End-to-end fine-tuning of a classifier (MAE, appendix A.2)."""

    model_config = STRICT
    task: Literal["finetune"] = "finetune"
    init: str | None = Field(
        default=None,
        description="pretrained weights: a run folder, or MAE or ViT weights in a supported layout; `scratch`: random "
        "weights",
    )
    data: Annotated[str | None, DATA] = None
    train_split: Annotated[str, TRAIN_SPLIT] = "train"
    eval_split: Annotated[str, EVAL_SPLIT] = "test"
    val_fraction: Annotated[Share, VAL_FRACTION] = 0.0
    labels: Annotated[Labels | None, LABELS] = None
    mean: Annotated[Mean | None, MEAN] = None
    std: Annotated[Std | None, STD] = None
    trainable_blocks: NonNegativeFloat | None = Field(
        default=None, description="fine-tune the last blocks only: 0, 0.5 (the last MLP), 1, 2, ...; null: all weights"
    )
    label_smoothing: Share = Field(default=0.1, description="share of each label that is spread over all classes")
    layer_decay: ShareOrAll = Field(
        default=0.75, description="factor on the learning rate from each block to the one before it"
    )
    ema_decay: Share | None = Field(
        default=None,
        description="evaluate and save an exponential moving average of the weights, over about 1 / (1 - `ema_decay`) "
        "steps; null: the weights themselves",
    )
    betas: Annotated[tuple[Share, Share], BETAS] = (0.9, 0.999)
    mixup: NonNegativeFloat = Field(
        default=0.0, description="alpha of mixup; 0: none. If `cutmix` is set too, each batch gets one of the two"
    )
    cutmix: NonNegativeFloat = Field(default=0.0, description="alpha of CutMix; 0: none")
    cutmix_probability: ShareOrAll = Field(
        default=0.5, description="probability of CutMix rather than mixup if both are set"
    )
    evaluate_every: Annotated[PositiveFloat, EVALUATE_EVERY] = 1
    model: ClassifierShape = ClassifierShape()
    augment: FinetuneAugmentation = FinetuneAugmentation()
    training: Training = Training()

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_whole(self.training)
        _check_repeats(self.augment, self.training)
        _check_statistics(self.mean, self.std)
        if self.mean == AUTO and self.init not in (None, SCRATCH):
            raise ValueError("mean=auto goes with init=scratch; pretrained weights bring the mean and std of theirs")
        return self


# MAE, appendix A.1, table 10, with a batch for one machine
PROBE_TRAINING = {"batch_size": 512, "epochs": 90, "warmup_epochs": 10, "base_lr": 0.1, "weight_decay": 0.0}


class ProbeRecipe(BaseModel):
    """Linear probing of a frozen encoder (MAE, appendix A.1)."""

    model_config = STRICT
    task: Literal["probe"] = "probe"
    init: str | None = Field(
        default=None,
        description="pretrained weights to probe: a run folder, or MAE or ViT weights in a supported layout",
    )
    random: bool = Field(default=False, description="probe the same encoder with random weights, as a baseline")
    data: Annotated[str | None, DATA] = None
    train_split: Annotated[str, TRAIN_SPLIT] = "train"
    eval_split: Annotated[str, EVAL_SPLIT] = "test"
    val_fraction: Annotated[Share, VAL_FRACTION] = 0.0
    labels: Annotated[Labels | None, LABELS] = None
    token: Literal["cls", "mean"] = Field(
        default="cls", description="features are the `cls` token, or the `mean` of the patch tokens"
    )
    layer: Positive | None = Field(
        default=None, description="block whose output gives the features, from 1; null is the last"
    )
    cached: bool = Field(
        default=False,
        description="compute the features of each image once, from its evaluation view, without augmentation",
    )
    crop_scale: Annotated[tuple[PositiveFloat, PositiveFloat] | None, CROP_SCALE] = (0.08, 1.0)
    flip: Annotated[bool, FLIP] = True
    momentum: Share = Field(default=0.9, description="momentum of LARS")
    evaluate_every: Annotated[PositiveFloat, EVALUATE_EVERY] = 10
    training: Training = Training.model_validate(PROBE_TRAINING)

    @model_validator(mode="before")
    @classmethod
    def _fill_training(cls, content: Any) -> Any:
        if isinstance(content, dict) and isinstance(given := content.get("training"), dict):
            return {**content, "training": {**PROBE_TRAINING, **given}}
        return content

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_whole(self.training)
        if self.training.cache and self.cached:
            raise ValueError("cached=true reads each image once, so a cache of images has no effect; leave one out")
        return self


RECIPES: dict[str, type[BaseModel]] = {"pretrain": PretrainRecipe, "finetune": FinetuneRecipe, "probe": ProbeRecipe}
Recipe = PretrainRecipe | FinetuneRecipe | ProbeRecipe


def default_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) when a recipe names none: ImageNet's for three channels, 0.5 for any other number."""
    return (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,) * channels, (0.5,) * channels)
