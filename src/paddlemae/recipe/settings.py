"""The settings of each task: their types, defaults and limits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model, field_validator, model_validator

from paddlemae.model.masking import MASKS
from paddlemae.model.shape import (
    DECODER_KINDS,
    MOST,
    MOST_PIXELS,
    SIZES,
    DecoderShape,
    EncoderShape,
    HeadShape,
    Key,
    Pixels,
    keys_of,
    names_of,
)

STRICT = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
MOST_WORKERS = 4096
MAX_BAD_IMAGES = 0.01
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCRATCH = "scratch"  # what fine-tuning starts from without weights
AUTO: Literal["auto"] = "auto"  # in the place of mean and std: those of the training images


def _no_bool(value: Any) -> Any:
    """YAML's yes and on are booleans, which Python would count as 1."""
    if isinstance(value, bool):
        raise ValueError("Input should be a number")
    return value


def _few(value: Any) -> Any:
    """Images in all, "10%" of them, or "5/class"; always as many of each class as of any other."""
    number = isinstance(value, int) and not isinstance(value, bool) and value > 0
    if number or (isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?%|\d+/class", value)):
        return value
    raise ValueError(f'expected a number of images, a share ("10%") or a number a class ("5/class"), got {value!r}')


NUMBER = BeforeValidator(_no_bool)
Positive = Annotated[int, NUMBER, Field(ge=1, le=MOST)]
NonNegative = Annotated[int, NUMBER, Field(ge=0, le=MOST)]
PositiveFloat = Annotated[float, NUMBER, Field(gt=0, le=MOST)]
NonNegativeFloat = Annotated[float, NUMBER, Field(ge=0, le=MOST)]
Seed = Annotated[int, NUMBER, Field(ge=0, lt=2**63)]
Share = Annotated[float, NUMBER, Field(ge=0, lt=1)]
ShareOrNone = Annotated[float, NUMBER, Field(ge=0, le=1)]
ShareOrAll = Annotated[float, NUMBER, Field(gt=0, le=1)]
Side = Annotated[int, NUMBER, Field(ge=1, le=MOST_PIXELS)]
Workers = Annotated[int, NUMBER, Field(ge=0, le=MOST_WORKERS)]
Threads = Annotated[int, NUMBER, Field(ge=1, le=MOST_WORKERS)]
if TYPE_CHECKING:
    Size: TypeAlias = str
    MaskName: TypeAlias = str
else:
    Size, MaskName = Literal[tuple(SIZES)], Literal[tuple(MASKS)]
Labels = Annotated[int | str, BeforeValidator(_few)]
# of pixels in [0, 1]; beyond these bounds, as in `weights.description`, normalised values are no numbers
Mean = tuple[Annotated[float, Field(ge=-1e6, le=1e6)], ...] | Literal["auto"]
Std = tuple[Annotated[float, NUMBER, Field(ge=1e-6, le=1e6)], ...] | Literal["auto"]


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
    size: Size = "base"

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
    def _check(self):
        if not (self.inter_block_attention or DECODER_KINDS[self.decoder].sees_all_maps):
            raise ValueError(f"inter_block_attention=false has no effect with decoder={self.decoder}; leave it out")
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
    size: Size | None = None

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class Augmentation(BaseModel):
    """How a training view is made of an image: random resized crop and flip, or small shifts."""

    model_config = STRICT
    crop_scale: tuple[PositiveFloat, PositiveFloat] | None = (0.2, 1.0)
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    flip: bool = True
    shift: NonNegative = 0
    eval_crop_ratio: ShareOrAll = 0.875
    decode: Literal["fast", "exact"] = "fast"  # fast: JPEGs no larger than the crop needs, a faster resize
    repeats: Positive = 1  # views of each image that is decoded; an epoch stays as many views as there are images
    bits: Literal[8, 16] | None = None  # of a channel's value; by default 8 of 1, 3, 4 channels and 16 of others

    @model_validator(mode="after")
    def _check(self):
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

    randaugment: NonNegative = 0  # operations an image
    magnitude: Annotated[float, NUMBER, Field(ge=0, le=10)] = 9.0
    magnitude_std: NonNegativeFloat = 0.5
    erasing: Share = 0.0  # probability of an image losing a rectangle


class Training(BaseModel):
    """How long, how fast and on what: the same for every task."""

    model_config = STRICT
    batch_size: Positive = 64  # images a micro-batch, shared out among the processes
    accumulation_steps: Positive = 1
    epochs: PositiveFloat = 100
    steps: Positive | None = None  # ends the run instead of `epochs`; the warmup keeps its share of it
    warmup_epochs: NonNegativeFloat = 5
    base_lr: PositiveFloat = 1.5e-4  # for an effective batch of 256
    min_lr: NonNegativeFloat = 0.0
    weight_decay: NonNegativeFloat = 0.05
    clip_grad: PositiveFloat | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    sharding: Literal["none", "optimizer"] = "none"  # optimizer: slots and gradients shared out among accelerators
    seed: Seed = 0
    device: str = "auto"
    threads: Threads | Literal["auto"] = "auto"
    recompute: bool = False  # keep each block's input only and compute the rest again for its gradients: less memory
    workers: Workers = 0  # processes that make batches ahead
    cache: str | None = None  # folder for a packed copy of the training images, resized once
    cache_size: Side | None = None  # short side there, in pixels; by default 8/7 of the view's, as 256 is of 224
    max_bad_images: ShareOrNone = MAX_BAD_IMAGES  # share, rounded up, of images that may be unreadable
    log_every: Positive = 10  # steps
    checkpoint_every: PositiveFloat = 10  # epochs
    keep_checkpoints: Positive = 2  # the newest; the best one is kept besides
    keep_every: PositiveFloat | None = None  # epochs; the checkpoints of these are written and kept for good
    max_hours: PositiveFloat | None = None  # of one session; then the run is saved and ends with exit status 75

    @field_validator("sharding", mode="before")
    @classmethod
    def _check_sharding(cls, value: Any) -> Any:
        if value == "parameters":
            raise ValueError("sharding=parameters was removed; use sharding=optimizer")
        return value

    @model_validator(mode="after")
    def _check(self):
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs:g}) must be below epochs ({self.epochs:g}); set both")
        if self.sharding == "optimizer" and self.accumulation_steps > 1:
            raise ValueError("sharding=optimizer requires accumulation_steps=1")
        if self.sharding != "none" and self.precision == "float16":
            raise ValueError(f"sharding={self.sharding} requires precision float32 or bfloat16")
        if self.cache_size and not self.cache:
            raise ValueError("cache_size has no effect without a cache; name its folder with cache=FOLDER")
        return self

    @property
    def effective_batch_size(self) -> int:
        return self.batch_size * self.accumulation_steps

    def total_steps(self, num_images: int) -> int:
        """Optimizer steps of the whole run over `num_images` images an epoch."""
        return self.steps or max(1, round(self.epochs * num_images / self.effective_batch_size))

    def warmup_steps(self, num_images: int) -> float:
        return self.total_steps(num_images) * self.warmup_epochs / self.epochs


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
    init: str | None = None  # weights to start from: a run, or anyone's MAE or ViT; by default new ones
    data: str | None = None
    split: str | None = None
    mean: Mean | None = None
    std: Std | None = None
    mask: MaskName = "random"
    mask_ratio: Share = 0.75
    prediction_ratio: ShareOrAll | None = None  # of all patches; by default all removed ones are predicted
    betas: tuple[Share, Share] = (0.9, 0.95)
    decay_tokens: bool = False  # weight decay of the cls and mask tokens too, as in the official code
    model: AutoencoderShape = AutoencoderShape()
    augment: Augmentation = Augmentation()
    training: Training = Training()

    @model_validator(mode="after")
    def _check(self):
        _check_repeats(self.augment, self.training)
        _check_statistics(self.mean, self.std)
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
    init: str | None = None  # a pretrained run, anyone's MAE or ViT weights, or "scratch"
    data: str | None = None
    train_split: str = "train"
    eval_split: str = "test"
    val_fraction: Share = 0.0  # held out of the training part when there is no other part to evaluate on
    labels: Labels | None = None  # train on so few images only
    mean: Mean | None = None
    std: Std | None = None
    trainable_blocks: NonNegativeFloat | None = None  # 0, 0.5 (the last MLP), 1, 2 ...; by default everything
    label_smoothing: Share = 0.1
    layer_decay: ShareOrAll = 0.75
    ema_decay: Share | None = None  # evaluate and save an average of the weights, over about 1 / (1 - ema_decay) steps
    betas: tuple[Share, Share] = (0.9, 0.999)
    mixup: NonNegativeFloat = 0.0  # alpha; each batch does one of both, or none if both are 0
    cutmix: NonNegativeFloat = 0.0
    cutmix_probability: ShareOrAll = 0.5  # where both are done
    evaluate_every: PositiveFloat = 1  # epochs
    model: ClassifierShape = ClassifierShape()
    augment: FinetuneAugmentation = FinetuneAugmentation()
    training: Training = Training()

    @model_validator(mode="after")
    def _check(self):
        _check_whole(self.training)
        _check_repeats(self.augment, self.training)
        _check_statistics(self.mean, self.std)
        if self.mean == AUTO and self.init not in (None, SCRATCH):
            raise ValueError("mean=auto goes with init=scratch; pretrained weights bring the mean and std of theirs")
        return self


class ProbeTraining(Training):
    """Table 10 of MAE's appendix A.1, with a batch for one machine."""

    batch_size: Positive = 512
    epochs: PositiveFloat = 90
    warmup_epochs: NonNegativeFloat = 10
    base_lr: PositiveFloat = 0.1
    weight_decay: NonNegativeFloat = 0.0


class ProbeRecipe(BaseModel):
    """Linear probing of a frozen encoder (MAE, appendix A.1)."""

    model_config = STRICT
    task: Literal["probe"] = "probe"
    init: str | None = None  # a pretrained run, or anyone's MAE or ViT weights
    random: bool = False  # probe the same encoder untrained, for comparison
    data: str | None = None
    train_split: str = "train"
    eval_split: str = "test"
    val_fraction: Share = 0.0
    labels: Labels | None = None  # train on so few images only
    token: Literal["cls", "mean"] = "cls"
    layer: Positive | None = None  # the block that features are taken after, by default the last
    cached: bool = False  # compute each image's features once, from its evaluation view, without augmentation
    crop_scale: tuple[PositiveFloat, PositiveFloat] | None = (0.08, 1.0)
    flip: bool = True
    momentum: Share = 0.9
    evaluate_every: PositiveFloat = 10  # epochs
    training: ProbeTraining = ProbeTraining()

    @model_validator(mode="after")
    def _check(self):
        _check_whole(self.training)
        if self.training.cache and self.cached:
            raise ValueError("cached=true reads each image once, so a cache of images has no effect; leave one out")
        return self


RECIPES: dict[str, type[BaseModel]] = {"pretrain": PretrainRecipe, "finetune": FinetuneRecipe, "probe": ProbeRecipe}
Recipe = PretrainRecipe | FinetuneRecipe | ProbeRecipe


def default_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) when a recipe names none: ImageNet's for three channels, 0.5 for any other number."""
    return (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,) * channels, (0.5,) * channels)
