"""Measure PyTorch: transformers' ViTMAE and ViT in float32 or under autocast, in their fastest settings."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.processor import has_bfloat16
from benchmarks.worker import Clock, NotAvailable, images_u8, labels, masks, resident_bytes
from benchmarks.works import (
    AUXILIARY_WEIGHT,
    BETAS,
    CHANNELS,
    LR,
    MEAN,
    MLP_RATIO,
    NUM_CLASSES,
    PIXEL_CLASSES,
    STD,
    WEIGHT_DECAY,
    Job,
)

Options = dict[str, Any]


def pretrain(job: Job, options: Options) -> dict[str, object]:
    """Time pretraining steps: uint8 images -> normalised -> loss -> gradients -> AdamW."""
    return _pretrain(job, options, ((normalised(images),) for images in endless(images_u8(job))))


def end_to_end(job: Job, options: Options) -> dict[str, object]:
    """Time pretraining from JPEG files: decoded, cropped, flipped and normalised in a DataLoader's workers."""
    from benchmarks.torch_files import shuffled_batches

    return _pretrain(job, options, shuffled_batches(job))


def _pretrain(job: Job, options: Options, batches: Iterator[tuple]) -> dict[str, object]:
    started = prepare(job)
    shape = job.shape
    config = transformers.ViTMAEConfig(
        **encoder(shape),
        decoder_hidden_size=shape["decoder_embed_dim"],
        decoder_num_hidden_layers=shape["decoder_depth"],
        decoder_num_attention_heads=shape["decoder_num_heads"],
        decoder_intermediate_size=shape["decoder_embed_dim"] * MLP_RATIO,
        mask_ratio=job.mask_ratio,
        norm_pix_loss=True,
        attn_implementation=options["attention"],
    )
    model = compiled(transformers.ViTMAEForPreTraining(config).train(), options)

    autocast = autocast_of(job, options)

    def loss(pixels: torch.Tensor) -> torch.Tensor:
        with autocast:
            return model(pixel_values=pixels).loss

    with compiling(options):
        return {**train(job, model, batches, loss, options.get("adamw")), "start_bytes": started}


def classify(job: Job, options: Options) -> dict[str, object]:
    """Time training steps of a classifier."""
    started = prepare(job)
    model = classifier(job, options).train()
    model = compiled(model, options)
    pairs = zip(endless(images_u8(job)), endless(labels(job)))
    batches = ((normalised(images), target) for images, target in pairs)

    def loss(pixels: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(pixel_values=pixels).logits, target)

    with compiling(options):
        return {**train(job, model, batches, loss), "start_bytes": started}


def memory(job: Job, options: Options) -> dict[str, object]:
    """Run pretraining steps with the AdamW that needs no temporaries."""
    return pretrain(job, {**options, "adamw": "fused"})


def features(job: Job, options: Options) -> dict[str, object]:
    """Time the cls token of whole images, from uint8 images to a NumPy array."""
    started = prepare(job)
    config = transformers.ViTConfig(**encoder(job.shape), attn_implementation=options["attention"])
    model = compiled(transformers.ViTModel(config, add_pooling_layer=False).eval(), options)
    clock, batches = Clock(job), endless(images_u8(job))
    autocast = autocast_of(job, options)
    with torch.inference_mode(), compiling(options), autocast:
        while not clock.done():
            model(pixel_values=normalised(next(batches))).last_hidden_state[:, 0].float().numpy()
            clock.mark()
    return {"seconds": clock.seconds(), "start_bytes": started, "threads": torch.get_num_threads()}


def segment(job: Job, options: Options) -> dict[str, object]:
    """Time training steps of a segmenter with UPerNet and its auxiliary head."""
    started = prepare(job)
    model = segmenter(job, options).train()
    pairs = zip(endless(images_u8(job)), endless(masks(job)))
    batches = ((normalised(images), classes) for images, classes in pairs)

    def loss(pixels: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        return model(pixel_values=pixels, labels=classes).loss

    return {**train(job, model, batches, loss), "start_bytes": started}


def predict_masks(job: Job, options: Options) -> dict[str, object]:
    """Time the class of every pixel, from uint8 images to a NumPy array."""
    started = prepare(job)
    model = segmenter(job, options).eval()
    clock, batches, size = Clock(job), endless(images_u8(job)), [job.shape["image_size"]] * 2
    with torch.inference_mode():
        while not clock.done():
            logits = model(pixel_values=normalised(next(batches))).logits
            logits = torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            logits.argmax(dim=1).numpy()
            clock.mark()
    return {"seconds": clock.seconds(), "start_bytes": started, "threads": torch.get_num_threads()}


def segmenter(job: Job, options: Options) -> torch.nn.Module:
    """Return a BEiT with absolute positions and without layer scale, whose blocks are MAE's."""
    depth = job.shape["depth"]
    config = transformers.BeitConfig(
        **encoder(job.shape),
        num_labels=PIXEL_CLASSES,
        out_indices=[max(1, depth * number // 4) for number in range(1, 5)],
        use_absolute_position_embeddings=True,
        layer_scale_init_value=0.0,
        drop_path_rate=0.0,
        auxiliary_loss_weight=AUXILIARY_WEIGHT,
        attn_implementation=options["attention"],
    )
    return transformers.BeitForSemanticSegmentation(config)


def products(job: Job, options: Options) -> dict[str, object]:
    """Time matrix products, see `limit`."""
    from benchmarks.limit import time_products

    prepare(job)

    def product(batch: int, rows: int, inner: int, columns: int) -> Callable[[], object]:
        left, right = torch.rand(batch, rows, inner), torch.rand(batch, inner, columns)
        if batch == 1:
            left, right = left[0], right[0]
        return lambda: torch.matmul(left, right)

    return time_products(job, product)


def autocast_of(job: Job, options: Options) -> torch.autocast:
    """Return autocast to bfloat16 if the side asks for it, else one that does nothing.

    Raises:
        NotAvailable: the processor has no bfloat16, or the job may not use it.
    """
    wanted = options.get("precision") == "bfloat16"
    if wanted and (job.isa or not has_bfloat16()):
        raise NotAvailable("no bfloat16 instructions")
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=wanted)


def prepare(job: Job) -> int:
    """Set the threads; returns the bytes that this process holds before it has a model."""
    torch.manual_seed(0)
    torch.set_num_threads(job.threads)
    return resident_bytes()


def encoder(shape: dict[str, int]) -> Options:
    """Return an encoder's shape under transformers' names."""
    return dict(
        image_size=shape["image_size"],
        patch_size=shape["patch_size"],
        num_channels=CHANNELS,
        hidden_size=shape["embed_dim"],
        num_hidden_layers=shape["depth"],
        num_attention_heads=shape["num_heads"],
        intermediate_size=shape["embed_dim"] * MLP_RATIO,
        layer_norm_eps=1e-6,
    )


def classifier(job: Job, options: Options) -> torch.nn.Module:
    config = transformers.ViTConfig(
        **encoder(job.shape), num_labels=NUM_CLASSES, attn_implementation=options["attention"]
    )
    return transformers.ViTForImageClassification(config)


def compiled(model: torch.nn.Module, options: Options) -> Any:
    return torch.compile(model) if options.get("compile") else model


class compiling:
    """Make the side unavailable if the compiler fails, with the first line of its message."""

    def __init__(self, options: Options):
        self.tolerant = bool(options.get("compile"))

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, fault, trace) -> None:
        if self.tolerant and isinstance(fault, (RuntimeError, torch._dynamo.exc.TorchDynamoException)):
            raise NotAvailable(f"torch.compile failed: {str(fault).strip().splitlines()[0][:200]}") from fault


def endless(arrays: list[np.ndarray]) -> Iterator[torch.Tensor]:
    return itertools.cycle([torch.from_numpy(array) for array in arrays])


MEAN_C11 = torch.tensor(MEAN).mul(255).reshape(-1, 1, 1)
SCALE_C11 = torch.tensor(STD).mul(255).reciprocal().reshape(-1, 1, 1)


def normalised(images: torch.Tensor) -> torch.Tensor:
    return images.to(torch.float32).sub_(MEAN_C11).mul_(SCALE_C11)


def train(
    job: Job,
    model: Any,
    batches: Iterator[tuple],
    loss_fn: Callable[..., torch.Tensor],
    adamw_kind: str | None = None,
) -> dict[str, object]:
    """Time training steps with the named AdamW, or with the faster one of PyTorch's."""
    clock, losses = Clock(job), []
    optimizer = None
    while not clock.done():
        loss = loss_fn(*next(batches))
        losses.append(loss.item())
        loss.backward()
        if optimizer is None:  # it takes gradients to compare them
            kind = adamw_kind or fastest_adamw(model)
            optimizer = adamw(model, kind)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.mark()
    return {
        "seconds": clock.seconds(),
        "losses": [losses[0], losses[-1]],
        "threads": torch.get_num_threads(),
        "adamw": kind,
    }


def adamw(model: Any, kind: str) -> torch.optim.AdamW:
    groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[parameter.ndim > 1].append(parameter)
    decay = [
        {"params": groups[True], "weight_decay": WEIGHT_DECAY},
        {"params": groups[False], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(decay, lr=LR, betas=BETAS, eps=1e-8, **{kind: True})


def fastest_adamw(model: Any) -> str:
    """Return "fused" or "foreach": the one whose third step took less time; the moments are discarded."""
    took = {}
    for kind in ("fused", "foreach"):
        optimizer = adamw(model, kind)
        for _ in range(3):
            started = time.perf_counter()
            optimizer.step()
            took[kind] = time.perf_counter() - started
    return min(took, key=lambda kind: took[kind])


TASKS = {
    "pretrain": pretrain,
    "end-to-end": end_to_end,
    "memory": memory,
    "classify": classify,
    "features": features,
    "products": products,
    "segment": segment,
    "predict-masks": predict_masks,
}
