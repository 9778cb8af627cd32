"""Run two ranks for test_zero2: train with Paddle's group sharding, save, resume; results go to a JSON file.

Paddle refuses group sharding on CPU. Its checks are patched away here, and so is what only moves tensors to a device;
the rest, sharing out, gathering, reducing, updating and sending, is Paddle's own, over gloo. The model computes as on
accelerators, without its kernels for CPU.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.distributed.fleet.meta_parallel.sharding import group_sharded_optimizer_stage2 as stage2
from paddle.distributed.fleet.meta_parallel.sharding import group_sharded_storage as storage

from paddlemae.data.batches import Batch
from paddlemae.engine import device
from paddlemae.model.encoder import attention_maps
from paddlemae.model.kernels import placement
from paddlemae.recipe import load_recipe
from paddlemae.tasks import pretrain
from paddlemae.tasks.models.preprocess import to_input
from paddlemae.tasks.models.reconstruction import draw_stages
from paddlemae.tasks.training import run_training
from paddlemae.tasks.training.pretraining_loss import batch_mask, loss_function
from paddlemae.tasks.training.pretraining_setup import Parts, prepare
from paddlemae.tasks.training.run_start import Start
from paddlemae.train.checkpoint import TrainState, load_checkpoint, take_snapshot, write_snapshot
from paddlemae.train.checkpoint_folders import find_checkpoint
from paddlemae.train.loop import FitSettings, fit
from paddlemae.train.optim import adamw
from paddlemae.train.parallel.ranks import ALONE, Ranks, join
from paddlemae.train.parallel.zero2 import ShardedAdamW

SMALL = ["embed_dim=36", "depth=2", "num_heads=2", "decoder_embed_dim=16", "decoder_depth=2", "positions=learned"]
BATCH = 8
STEPS, PICTURE_STEP = 4, 2
MORE_STEPS, NO_LOSS, NO_GRADIENT = 5, 5, 7  # after a resume; steps, from 0, that are not finite and so dropped
# clip_grad, recompute, accumulation_steps, decoder
PLAIN, RECOMPUTED = (None, False, 1, "mae"), (0.5, True, 1, "mae")
CROSSED = (None, False, 1, "cross")
# how it is shared out at first, and when it is resumed
COURSES = [
    ("optimizer", "optimizer", PLAIN),
    ("optimizer", "optimizer", RECOMPUTED),
    ("optimizer", "optimizer", CROSSED),
    ("optimizer", "none", PLAIN),
    ("none", "optimizer", PLAIN),
]


def pretend_an_accelerator() -> None:
    class Core:
        def __getattr__(self, name: str) -> Any:
            return getattr(paddle.base.core, name)

        def is_compiled_with_cuda(self) -> bool:
            return True

    def called_by(*modules: str) -> bool:
        return sys._getframe(2).f_globals["__name__"].split(".")[-1] in modules

    true_device = paddle.get_device
    fooled = ("group_sharded", "group_sharded_optimizer_stage2", "zero2")
    paddle.get_device = lambda: "cpu:0" if called_by(*fooled) else true_device()
    paddle.device.get_all_custom_device_type = lambda: ["cpu"] if called_by("group_sharded") else []
    paddle.Tensor.cpu = lambda tensor: tensor.clone()
    stage2.core = Core()
    stage2.alignment["cpu"] = 256
    storage.cvt_to_device = lambda tensor, *_, **__: tensor
    placement.on_cpu = lambda tensor: False


def batches(ranks: Ranks, start: int, count: int) -> Iterator[Batch]:
    share = BATCH // ranks.world
    own = slice(ranks.rank * share, (ranks.rank + 1) * share)
    for number in range(start, start + count):
        images = np.random.default_rng(number).integers(0, 256, (BATCH, 1, 28, 28)).astype(np.uint8)
        indices = np.arange(BATCH) + BATCH * number
        yield Batch(images[own], None, indices[own], np.zeros(BATCH, np.int64)[own])


def trained(sharding: str, ranks: Ranks, steps: int, settings: tuple, resume: Path | None = None) -> dict[str, Any]:
    clip, recompute, accumulation_steps, decoder = settings
    chosen = ["data=digits", f"batch_size={BATCH}", "threads=1", f"decoder={decoder}", *SMALL]
    recipe = load_recipe("pretrain", "digits", chosen)
    parts = prepare(recipe)
    parts.model.recompute = recompute
    optimizer: Any = adamw(parts.model, grouped=False)
    if sharding == "optimizer":
        optimizer = ShardedAdamW(parts.model, optimizer, ranks)
    state = TrainState(parts.model, optimizer)
    if resume:
        load_checkpoint(resume, state)
    lines: list[list[float]] = []
    pictures: list[Any] = []

    def look(state: TrainState, _: Any) -> None:
        if state.step == PICTURE_STEP and ranks.is_first:
            pictures.extend(draw_pictures(recipe, parts))

    loss_fn = loss_function(recipe, parts.description)

    def broken_loss(model: Any, batch: Batch) -> paddle.Tensor:
        """Return the loss, but in the last micro-batches of two steps none on one rank, or one without a gradient."""
        loss = loss_fn(model, batch)
        number, image = divmod(int(batch.indices[0]), BATCH)
        if image == 0 and number == (NO_LOSS + 1) * accumulation_steps - 1:
            return loss * math.nan
        if image == 0 and number == (NO_GRADIENT + 1) * accumulation_steps - 1:
            return loss + (loss - loss.detach()).sqrt()
        return loss

    fit(
        state,
        batches(ranks, state.step * accumulation_steps, steps * accumulation_steps),
        broken_loss,
        lambda step: 1e-3,
        FitSettings(
            total_steps=state.step + steps,
            ranks=ranks,
            clip_grad=clip,
            accumulation_steps=accumulation_steps,
            overlap=not recompute,  # as a training has it
            after_step=[lambda state, result: lines.append([result.loss, result.grad_norm]), look],
        ),
    )
    return dict(state=state, description=parts.description, lines=lines, pictures=pictures)


def draw_pictures(recipe: Any, parts: Parts) -> list[np.ndarray]:
    """Return a reconstruction and the attention of the last block, which run only a part of the model."""
    (batch,) = batches(ALONE, 99, 1)
    mask = batch_mask(recipe.mask, recipe.mask_ratio, parts.model.grid, 0, batch)
    drawn = draw_stages(parts.model, parts.description, batch.images, mask)["plain prediction"] / 255
    return [drawn, attention_maps(parts.model, to_input(batch.images, parts.description), "cls").numpy()]


def numbers(state: TrainState) -> np.ndarray:
    return np.concatenate([one.numpy().ravel() for one in state.model.parameters()]).astype(np.float64)


def count_kept_numbers(state: TrainState) -> dict[str, int]:
    """Count the numbers that this rank keeps between two steps: weights, and moments of AdamW."""
    weights = sum(one.size for one in state.model.parameters() if one._is_initialized())
    optimizer = state.optimizer
    slots = getattr(optimizer, "adamw", optimizer).state_dict()
    return {"weights": weights, "slots": sum(math.prod(one.shape) for key, one in slots.items() if "moment" in key)}


def follow_course(out: Path, ranks: Ranks, first: str, then: str, settings: tuple) -> dict[str, Any]:
    """Return facts of an interrupted course, on the first rank."""
    folder = out / "-".join(str(one) for one in (first, then, *settings))
    found: dict[str, Any] = {}
    for sharding, steps in ((first, STEPS), (then, MORE_STEPS)):
        own = ALONE if sharding == "none" else ranks
        if own.world > 1 or ranks.is_first:
            checkpoint = find_checkpoint(folder, whole=True) if folder.exists() else None
            done = trained(sharding, own, steps, settings, checkpoint)
            found["lines"] = found.get("lines", []) + done["lines"]
            found.setdefault("pictures", done["pictures"])
            found["held"] = own.gather(count_kept_numbers(done["state"]))
            snapshot = take_snapshot(done["state"], done["description"], own)
            if snapshot is not None:
                write_snapshot(folder, snapshot)
            found["numbers"] = numbers(done["state"])
        ranks.wait()
    return found


def run_pretraining(out: Path, ranks: Ranks) -> None:
    """Run the task itself from the first picture to the last, on both ranks and then on one."""
    run_training.share_cpu = lambda settings, *_: settings
    settings = ["data=digits", f"batch_size={BATCH}", "steps=5", "checkpoint_every=0.005", *SMALL]  # 3 steps
    recipe = load_recipe("pretrain", "digits", ["sharding=optimizer", *settings])
    pretrain.pretrain(recipe, Start(out / "both", quiet=True, ranks=ranks))
    if ranks.is_first:
        pretrain.pretrain(load_recipe("pretrain", "digits", settings), Start(out / "one", quiet=True))


def compared(found: dict[str, Any], alone: dict[str, Any]) -> dict[str, Any]:
    different = np.linalg.norm(found["numbers"] - alone["numbers"]) / np.linalg.norm(alone["numbers"])
    seen = [float(np.abs(one - other).max()) for one, other in zip(found["pictures"], alone["pictures"], strict=True)]
    return {
        "lines": found["lines"],
        "held": found["held"],
        "difference": float(different),
        "seen": seen,
        "lines_alone": alone["lines"],
        "held_alone": alone["held"][0],
    }


def main(out: Path) -> None:
    device.prepare("cpu", 1)
    ranks = join()
    pretend_an_accelerator()
    facts, alone = [], {}
    for first, then, settings in COURSES:
        if settings not in alone:
            alone[settings] = follow_course(out, ranks, "none", "none", settings)
        found = follow_course(out, ranks, first, then, settings)
        if ranks.is_first:
            facts.append({"course": [first, then, settings], **compared(found, alone[settings])})
    run_pretraining(out, ranks)
    if ranks.is_first:
        (out / "facts.json").write_text(json.dumps(facts))
    ranks.wait()
    ranks.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
