"""The settings that every task has: how long a training is, how fast it learns, on what it runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, field_validator, model_validator

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
    setting,
)

MAX_BAD_IMAGES = 0.01
DEFAULT_WARMUP = 5.0  # epochs
FREE = "may change on resume"  # marks a setting that does not affect the result of a run


class Training(BaseModel):
    """How long, how fast and on what: the same for every task."""

    model_config = STRICT
    batch_size: Positive = setting(64, "images per micro-batch, over all processes")
    accumulation_steps: Positive = setting(
        1, "micro-batches per optimizer step; the effective batch size is `batch_size` x `accumulation_steps`"
    )
    epochs: PositiveFloat = setting(100, "length of the run; one epoch is as many views as there are images")
    steps: Positive | None = setting(
        None, "length of the run in optimizer steps, instead of `epochs`; the warmup keeps its share of the run"
    )
    warmup_epochs: NonNegativeFloat = setting(DEFAULT_WARMUP, "epochs in which the learning rate rises from 0")
    base_lr: PositiveFloat = setting(
        1.5e-4, "learning rate for an effective batch size of 256; it scales linearly with the effective batch size"
    )
    min_lr: NonNegativeFloat = setting(0.0, "learning rate at the end of the schedule")
    schedule: Literal["cosine", "linear"] = setting(
        "cosine", "how the learning rate falls after the warmup: `cosine` (half of one), or `linear`"
    )
    weight_decay: NonNegativeFloat = setting(0.05, "weight decay of matrices; biases and norms have none")
    clip_grad: PositiveFloat | None = setting(None, "largest norm of the gradient; null: no clipping")
    precision: Literal["float32", "bfloat16", "float16"] = setting(
        "float32",
        "`float32`; `bfloat16` on accelerators and on CPUs with AVX512_BF16 or AMX_BF16; or `float16` on accelerators",
    )
    sharding: Annotated[Literal["none", "optimizer"], FREE] = setting(
        "none", "`none`, or `optimizer` to share gradients and optimizer state among the accelerators of a pretraining"
    )
    seed: Seed = setting(0, "seed of weights, order, crops and masks")
    device: Annotated[str, FREE] = setting(
        "auto", "`cpu`, `gpu`, ...; `auto` is the accelerator that Paddle was built for"
    )
    threads: Annotated[Threads | Literal["auto"], FREE] = setting("auto", "CPU threads; `auto` is all cores")
    recompute: bool = setting(
        False, "keep only the input of each block and compute the rest again in the backward pass: slower, less memory"
    )
    workers: Annotated[Workers, FREE] = setting(0, "processes that prepare batches ahead")
    cache: str | None = setting(None, "folder for a packed copy of the training images, resized once")
    cache_size: Side | None = setting(
        None, "short side of the images in the cache, in pixels; null is 8/7 of the view's"
    )
    max_bad_images: Annotated[ShareOrNone, FREE] = setting(
        MAX_BAD_IMAGES, "share of the images, rounded up, that may be unreadable"
    )
    log_every: Annotated[Positive, FREE] = setting(10, "steps between lines of the log")
    checkpoint_every: Annotated[PositiveFloat, FREE] = setting(10, "epochs between checkpoints")
    keep_checkpoints: Annotated[Positive, FREE] = setting(2, "newest checkpoints to keep, in addition to the best one")
    keep_every: Annotated[PositiveFloat | None, FREE] = setting(
        None, "epochs between checkpoints that are kept for good; null: none"
    )
    max_hours: Annotated[PositiveFloat | None, FREE] = setting(
        None, "hours until the run is saved and ends with exit status 75; null: no limit"
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
            raise ValueError(f"warmup_epochs ({self.warmup_epochs:g}) must be below epochs ({self.epochs:g})")
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
        """Return the optimizer steps of the whole run over `num_images` images an epoch."""
        return self.steps or max(1, round(self.epochs * num_images / self.effective_batch_size))

    def warmup_steps(self, num_images: int) -> float:
        return self.total_steps(num_images) * self.warmup_epochs / self.epochs
