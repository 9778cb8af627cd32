"""What two ranks do in test_sharding: train with Paddle's group sharding, save, resume; facts go to a file as JSON.

Paddle refuses group sharding on CPU. Its checks are patched away here, and so is what only moves tensors to a device;
the rest, sharing out, reducing, updating and sending, is Paddle's own, over gloo.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.distributed.fleet.meta_parallel.sharding import group_sharded_optimizer_stage2 as stage2
from paddle.distributed.fleet.meta_parallel.sharding import group_sharded_storage as storage

from paddlemae import device
from paddlemae.data.batches import Batch
from paddlemae.recipe import load_recipe
from paddlemae.tasks import pretrain
from paddlemae.train.checkpoint import TrainState, find_checkpoint, load_checkpoint, take_snapshot, write_snapshot
from paddlemae.train.distributed import ALONE, Ranks, join
from paddlemae.train.loop import fit
from paddlemae.train.optim import adamw
from paddlemae.train.sharding import ShardedAdamW

SMALL = ["embed_dim=32", "depth=2", "num_heads=2", "decoder_embed_dim=16", "decoder_depth=1"]
BATCH = 8


def pretend_an_accelerator() -> None:
    class Core:
        def __getattr__(self, name: str) -> Any:
            return getattr(paddle.base.core, name)

        def is_compiled_with_cuda(self) -> bool:
            return True

    def called_by(*modules: str) -> bool:
        return sys._getframe(2).f_globals["__name__"].split(".")[-1] in modules

    true_device = paddle.get_device
    fooled = ("group_sharded", "group_sharded_optimizer_stage2", "sharding")
    paddle.get_device = lambda: "cpu:0" if called_by(*fooled) else true_device()
    paddle.device.get_all_custom_device_type = lambda: ["cpu"] if called_by("group_sharded") else []
    paddle.Tensor.cpu = lambda tensor: tensor.clone()
    stage2.core = Core()
    stage2.alignment["cpu"] = 256
    storage.cvt_to_device = lambda tensor, *_, **__: tensor


def batches(ranks: Ranks, start: int, steps: int) -> Iterator[Batch]:
    share = BATCH // ranks.world
    own = slice(ranks.rank * share, (ranks.rank + 1) * share)
    for step in range(start, start + steps):
        images = np.random.default_rng(step).integers(0, 256, (BATCH, 1, 28, 28)).astype(np.uint8)
        indices = np.arange(BATCH) + BATCH * step
        yield Batch(images[own], None, indices[own], np.zeros(BATCH, np.int64)[own])


def trained(ranks: Ranks, steps: int, clip: float | None, recompute: bool, resume: Path | None = None):
    recipe = load_recipe("pretrain", "digits", ["data=digits", f"batch_size={BATCH}", "threads=1", *SMALL])
    parts = pretrain.prepare(recipe)
    parts.model.recompute = recompute
    optimizer: Any = adamw(parts.model, grouped=False)
    if ranks.world > 1:
        optimizer = ShardedAdamW(parts.model, optimizer, ranks)
    state = TrainState(parts.model, optimizer)
    if resume:
        load_checkpoint(resume, state)
    lines: list[list[float]] = []
    fit(
        state,
        batches(ranks, state.step, steps),
        pretrain.loss_function(recipe, parts.description),
        lambda step: 1e-3,
        total_steps=state.step + steps,
        ranks=ranks,
        clip_grad=clip,
        overlap=not recompute,  # as a training has it
        after_step=[lambda state, result: lines.append([result.loss, result.grad_norm])],
    )
    return state, parts.description, lines


def numbers(state: TrainState) -> np.ndarray:
    return np.concatenate([one.numpy().ravel() for one in state.model.parameters()]).astype(np.float64)


def main(out: Path) -> None:
    device.prepare("cpu", 1)
    ranks = join()
    pretend_an_accelerator()
    facts = []
    for clip, recompute in ((None, False), (0.5, True)):
        state, description, lines = trained(ranks, 4, clip, recompute)
        own = len(state.optimizer.adamw.state_dict())
        snapshot = take_snapshot(state, description, ranks)
        if snapshot is not None:
            write_snapshot(out / f"clip-{clip}", snapshot)
        ranks.wait()
        state, _, more = trained(ranks, 3, clip, recompute, find_checkpoint(out / f"clip-{clip}", whole=True))
        found: dict[str, Any] = {"clip": clip, "slots": ranks.gather(own), "lines": lines + more}
        if ranks.is_first:
            alone, _, found["lines_alone"] = trained(ALONE, 7, clip, recompute)
            found["slots_alone"] = len(alone.optimizer.state_dict())
            different = numbers(state) - numbers(alone)
            found["difference"] = float(np.linalg.norm(different) / np.linalg.norm(numbers(alone)))
        facts.append(found)
    if ranks.is_first:
        (out / "facts.json").write_text(json.dumps(facts))
    ranks.wait()
    ranks.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
