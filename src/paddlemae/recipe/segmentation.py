"""The settings of `segment`: the model, the augmentation of images with their masks, the loss and the evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from paddlemae.model.shape import EncoderShape, SegmenterShape, names_of
from paddlemae.recipe.settings import (
    AUTO,
    BETAS,
    EMA_DECAY,
    EVAL_SPLIT,
    EVALUATE_EVERY,
    FLIP,
    FLIP_VERTICAL,
    KEEP_SERIES,
    LAYER_DECAY,
    MEAN,
    ROTATE,
    SCRATCH,
    SIZE,
    STD,
    TRAIN_SPLIT,
    Size,
    check_whole,
    default_warmup,
    with_keys,
)
from paddlemae.recipe.training import Training
from paddlemae.recipe.types import (
    NUMBER,
    STRICT,
    MaskLabels,
    Mean,
    NonNegativeFloat,
    PositiveFloat,
    Share,
    ShareOrAll,
    ShareOrNone,
    Side,
    Std,
    setting,
)


@with_keys(
    EncoderShape,
    SegmenterShape,
    defaults={**dict.fromkeys(names_of(EncoderShape)), "drop_path": 0.1},
    without="num_classes",
)
class SegmentationShape(BaseModel):
    """The model of a segmentation. Whatever is left out comes from the pretrained model, or from `size`."""

    model_config = STRICT
    size: Size | None = setting(None, SIZE)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class SceneAugmentation(BaseModel):
    """The augmentation of a training view: image and mask scaled, cropped, mirrored and turned together."""

    model_config = STRICT
    short_side: Side | None = setting(
        None,
        "short side in pixels that images are brought to, in training (before `scale`) and evaluation; null: their own",
    )
    scale: tuple[PositiveFloat, PositiveFloat] = setting(
        (0.5, 2.0), "smallest and largest factor on the size of an image before it is cropped"
    )
    max_class_share: ShareOrAll = setting(
        0.75,
        "largest share of a crop that one class may have; of ten tries above it, the least one stands; 1: no limit",
    )
    rare_crops: ShareOrNone = setting(
        0.0,
        "share of crops that are chosen to hold a class which is drawn from those of the image, each as likely, where "
        "rare classes would hardly be seen",
    )
    flip: bool = setting(True, FLIP)
    flip_vertical: bool = setting(False, FLIP_VERTICAL)
    rotate: bool = setting(False, ROTATE)
    photometric: ShareOrNone = setting(
        0.5, "strength of random changes of brightness, contrast, saturation and hue; 0: none, 1: those of the paper"
    )
    decode: Literal["fast", "exact"] = setting(
        "fast",
        "`fast` decodes a JPEG no larger than its crop needs and resizes faster; `exact` decodes every pixel and "
        "resizes as Pillow does",
    )
    bits: Literal[8, 16] | None = setting(
        None, "bits of a channel's value, `8` or `16`; null is 8 for 1, 3 and 4 channels and 16 otherwise"
    )

    @model_validator(mode="after")
    def _check(self) -> SceneAugmentation:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must be [smallest, largest], got {list(self.scale)}")
        return self


class SegmentRecipe(BaseModel):
    """Training of a segmenter on images with masks, end to end or on a frozen encoder."""

    model_config = STRICT
    task: Literal["segment"] = "segment"
    init: str | None = setting(
        None, "pretrained weights: a run folder, or MAE or ViT weights in a supported layout; `scratch`: random weights"
    )
    data: str | None = setting(
        None,
        "images with masks, as with `--data`: a folder with images/ and masks/, or another layout; or `digit-scenes`",
    )
    train_split: str = setting("train", TRAIN_SPLIT)
    eval_split: str = setting("test", EVAL_SPLIT)
    val_fraction: Share = setting(
        0.0, "share of the training split that is held out as the test part, instead of `eval_split`"
    )
    labels: MaskLabels | None = setting(None, "train on this many images only: a number, or a share (`10%`)")
    validation: Share | None = setting(
        None,
        "share of the training images (of `labels` of them, if that is set) that is held back to choose the best "
        "checkpoint, the validation part. null: the split `val` if there is a split `test` too and no `labels`, else "
        "15%, and none of fewer than 7 images; 0: none, the last step counts",
    )
    keep_series: bool = setting(True, KEEP_SERIES)
    primary_metric: Literal["miou", "dice", "boundary_f1", "pixel_accuracy", "image_miou"] = setting(
        "miou",
        "metric that chooses the best checkpoint and compares runs: `miou` (mean IoU), `dice`, `boundary_f1`, "
        "`pixel_accuracy` or `image_miou` (the mean of each image's mean IoU)",
    )
    mean: Mean | None = setting(None, MEAN)
    std: Std | None = setting(None, STD)
    frozen: bool = setting(False, "train the head alone, on the features of the pretrained encoder")
    cached: bool = setting(
        False,
        "with `frozen=true`: compute features of each image once, in windows without augmentation; not for `upernet`",
    )
    layer_decay: ShareOrAll = setting(0.75, LAYER_DECAY)
    ema_decay: Share | None = setting(None, EMA_DECAY)
    betas: tuple[Share, Share] = setting((0.9, 0.999), BETAS)
    class_weights: Literal["balanced"] | tuple[PositiveFloat, ...] | None = setting(
        None,
        "weight of each class in the cross-entropy: `balanced` is inversely proportional to its training pixels, or a "
        "list in the classes' order; scaled to a mean of 1 over the training pixels",
    )
    sampling: Literal["balanced"] | None = setting(
        None,
        "`balanced` repeats images with rare classes: each image counts for the class of its own that fewest images "
        "have, and an epoch has as many views for each class; it is that much longer",
    )
    dice: NonNegativeFloat = setting(0.0, "weight of the Dice loss, which is added to the cross-entropy; 0: none")
    focal: Annotated[float, NUMBER, Field(ge=0, le=10)] = setting(
        0.0, "gamma of the focal loss, which weighs well classified pixels less; 0: plain cross-entropy"
    )
    auxiliary_weight: NonNegativeFloat = setting(0.4, "weight of the auxiliary head's loss, where the head has one")
    overlap: Share = setting(1 / 3, "least share of its side that an evaluation window shares with the next one")
    blend: Literal["smooth", "mean", "centre"] = setting(
        "smooth",
        "how windows are blended: `smooth` (weights fall to a window's border), `mean`, or `centre` (the nearest one)",
    )
    evaluate_every: PositiveFloat = setting(1, EVALUATE_EVERY)
    model: SegmentationShape = SegmentationShape()
    augment: SceneAugmentation = SceneAugmentation()
    training: Training = Training()

    @model_validator(mode="before")
    @classmethod
    def _set_warmup(cls, content: Any) -> Any:
        return default_warmup(content)

    @model_validator(mode="after")
    def _check(self) -> SegmentRecipe:
        check_whole(self.training)
        if self.training.cache:
            raise ValueError("a cache would hold images without their masks, and segment takes none; leave cache out")
        if (self.mean == AUTO) != (self.std == AUTO):
            raise ValueError("mean=auto and std=auto must be set together; set both, or neither")
        if self.mean == AUTO and self.init not in (None, SCRATCH):
            raise ValueError("mean=auto requires init=scratch; pretrained weights come with their own mean and std")
        if self.frozen and self.init == SCRATCH:
            raise ValueError("frozen=true needs pretrained weights; name a run with --init, or set frozen=false")
        if self.cached and (not self.frozen or self.model.head == "upernet"):
            raise ValueError("cached=true needs frozen=true and head=linear or head=conv; leave it out, or set these")
        if self.cached and self.sampling:
            raise ValueError("cached=true shows each image as often; leave sampling out")
        return self
