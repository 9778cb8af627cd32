"""The settings that every task has: how long a training is, how fast it learns, on what it runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from paddlemae.recipe.types import (
    STRICT,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Seed,
    ShareOrNone,
    Side,
    Threads,
    Workers,
)

MAX_BAD_IMAGES = 0.01
FREE = "may change on resume"  # marks a setting that does not affect the result of a run


class Training(BaseModel):
    """How long, how fast and on what: the same for every task."""

    model_config = STRICT
    batch_size: Positive = Field(default=64, description="images per micro-batch, over all processes")
    accumulation_steps: Positive = Field(
        default=1,
        description="micro-batches per optimizer step; the effective batch size is `batch_size` x `accumulation_steps`",
    )
    epochs: PositiveFloat = Field(
        default=100, description="length of the run; one epoch is as many views as there are images"
    )
    steps: Positive | None = Field(
        default=None,
        description="length of the run in optimizer steps, instead of `epochs`; the warmup keeps its share of the run",
    )
    warmup_epochs: NonNegativeFloat = Field(default=5, description="epochs in which the learning rate rises from 0")
    base_lr: PositiveFloat = Field(
        default=1.5e-4,
        description="learning rate for an effective batch size of 256; it scales linearly with the effective batch "
        "size",
    )
    min_lr: NonNegativeFloat = Field(default=0.0, description="learning rate at the end of the cosine schedule")
    weight_decay: NonNegativeFloat = Field(
        default=0.05, description="weight decay of matrices; biases and norms have none"
    )
    clip_grad: PositiveFloat | None = Field(default=None, description="largest norm of the gradient; null: no clipping")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="`float32`; on accelerators also `bfloat16` or `float16`"
    )
    sharding: Annotated[Literal["none", "optimizer"], FREE] = Field(
        default="none",
        description="`none`, or `optimizer` to share gradients and optimizer state among the accelerators of a "
        "pretraining",
    )
    seed: Seed = Field(default=0, description="seed of weights, order, crops and masks")
    device: Annotated[str, FREE] = Field(
        default="auto", description="`cpu`, `gpu`, ...; `auto` is the accelerator that Paddle was built for"
    )
    threads: Annotated[Threads | Literal["auto"], FREE] = Field(
        default="auto", description="CPU threads; `auto` is all cores"
    )
    recompute: bool = Field(
        default=False,
        description="keep only the input of each block and compute the rest again in the backward pass: slower, less "
        "memory",
    )
    workers: Annotated[Workers, FREE] = Field(default=0, description="processes that prepare batches ahead")
    cache: str | None = Field(default=None, description="folder for a packed copy of the training images, resized once")
    cache_size: Side | None = Field(
        default=None, description="short side of the images in the cache, in pixels; null is 8/7 of the view's"
    )
    max_bad_images: Annotated[ShareOrNone, FREE] = Field(
        default=MAX_BAD_IMAGES, description="share of the images, rounded up, that may be unreadable"
    )
    log_every: Annotated[Positive, FREE] = Field(default=10, description="steps between lines of the log")
    checkpoint_every: Annotated[PositiveFloat, FREE] = Field(default=10, description="epochs between checkpoints")
    keep_checkpoints: Annotated[Positive, FREE] = Field(
        default=2, description="newest checkpoints to keep, in addition to the best one"
    )
    keep_every: Annotated[PositiveFloat | None, FREE] = Field(
        default=None, description="epochs between checkpoints that are kept for good; null: none"
    )
    max_hours: Annotated[PositiveFloat | None, FREE] = Field(
        default=None, description="hours until the run is saved and ends with exit status 75; null: no limit"
    )

    @field_validator("sharding", mode="before")
    @classmethod
    def _check_sharding(cls, value: Any) -> Any:
        if value == "parameters":
            raise ValueError("sharding=parameters was removed; use sharding=optimizer")
        return value

    @model_validator(mode="after")
    def _check(self) -> Training:
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
