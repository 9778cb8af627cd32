"""Large parameters shared out among the ranks of accelerators too, by Paddle's own group sharding (stage 3).

Each rank keeps a part of every large parameter, of its gradient and of its slots (Rajbhandari et al., ZeRO, arXiv
1910.02054). Hooks gather a layer's parameters just before its forward and its backward pass and let go of them
afterwards. Parameters of up to `SEGMENT_SIZE` numbers, their gradients and their slots stay whole on every rank.
"""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle
from paddle import nn

from paddlemae.train.adamw import SLOTS
from paddlemae.train.optim import SLICE, scale_down, sum_of_squares
from paddlemae.train.parallel.loss_layer import Loss
from paddlemae.train.parallel.ranks import Ranks
from paddlemae.train.parallel.zero2 import check_accelerators, quiet

SEGMENT_SIZE = 2**20  # Paddle's


class FullyShardedAdamW:
    """Paddle's AdamW for a model of whose large parameters each rank has a part; used as `ShardedAdamW`.

    Outside of a forward or backward pass a large parameter holds no numbers: see `whole`. Its layer must use it in its
    own forward pass, since that is what the hooks are on.

    Args:
        model, optimizer, ranks: as in `ShardedAdamW`.
        recompute: whether the model computes its blocks again in the backward pass. Layers are gathered when they are
            needed then, not ahead: there the layer that comes next is not the one that came next before.
        segment_size: numbers of the largest parameter that stays whole.
    Raises:
        ValueError: where Paddle can't share out, or there is nothing to share out.
    """

    def __init__(
        self,
        model: nn.Layer,
        optimizer: paddle.optimizer.AdamW,
        ranks: Ranks,
        *,
        recompute: bool = False,
        segment_size: int = SEGMENT_SIZE,
    ):
        check_accelerators("parameters", ranks)
        self.loss, self.adamw, self.ranks = Loss(model), optimizer, ranks
        trained: list[Any] = [one for one in model.parameters() if not one.stop_gradient]
        self.sliced = [one for one in trained if one.size > segment_size]
        self.unsliced = [one for one in trained if one.size <= segment_size]
        if not self.sliced:
            raise ValueError(
                f"sharding=parameters has nothing to share out in a model without a parameter of more than "
                f"{segment_size:,} numbers; use sharding=optimizer"
            )
        without_hooks = [
            id(layer)
            for layer in model.sublayers(include_self=True)
            if all(one.size <= segment_size for one in layer.parameters(include_sublayers=False))
        ]
        with quiet():
            self.layer: Any = paddle.distributed.sharding.group_sharded_parallel(
                self.loss,
                optimizer,
                "p_g_os",
                segment_size=segment_size,
                sync_comm=recompute,
                exclude_layer=without_hooks,
            )[0]

    def set_lr(self, lr: float) -> None:
        self.adamw.set_lr(lr)

    def get_lr(self) -> float:
        return self.adamw.get_lr()

    def step(self) -> None:
        """Update this rank's parts, and the small parameters; after `clip`, which has made their gradients ready."""
        self.adamw.step()

    def clear_grad(self) -> None:
        """Paddle's own fails where a step ended before its backward pass."""
        for one in self.sliced:
            one.bw_storage = None
            if one.fw_storage is not None:  # else it is whole still
                one.fw_storage.clear_gradient(False)
        for storage in self.layer._grad_storages.values():
            storage.buffer.zero_()

    @paddle.no_grad()
    def clip(self, largest_norm: float | None) -> float:
        """As `clip_gradients`, over all ranks' parts."""
        self.adamw.update_slice()
        self.adamw.update_scaler = True  # the same is not done again in `step`
        gradients = [one.fw_storage.grad for one in self.sliced], [one.grad for one in self.unsliced]
        parts, same_on_all = (sum_of_squares(each) if each else 0.0 for each in gradients)
        norm = math.sqrt(math.fsum(self.ranks.gather(parts + same_on_all * self.ranks.is_first)))
        for each in gradients:
            scale_down(each, norm, largest_norm)
        return norm

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, every rank has the whole parameters, and its parts become those of what is set.

        All ranks must come here together, but may then pass forward alone: nothing is gathered inside.
        """
        from paddle.distributed.fleet.meta_parallel.sharding import group_sharded_stage3 as paddle_stage3

        self.ranks.wait()  # collectives have less patience
        layer = self.layer
        with paddle.no_grad():
            paddle_stage3._allgather_buffer(
                self.sliced,
                layer._group,
                param2buffer_size=layer._param2buffer_size,
                use_calc_stream=True,
                task_flow=layer._task_flow,
                sync_wait=True,
            )
        order = layer._order_tracer  # of the layers in training, by which they are gathered ahead
        layer._order_tracer = OrderedDict(order=0, layer=[])
        try:
            yield
        finally:
            layer._order_tracer = order
            for parameter in self.sliced:
                parameter.use_count = 1
            with paddle.no_grad():
                paddle_stage3._release_param(self.sliced, layer._param2buffer, layer._rank, layer._task_flow)

    @paddle.no_grad()
    def state_dict(self) -> dict[str, np.ndarray]:
        """All slots, on the first rank; the others get {}, but all must come here together."""
        own, found = self.adamw.state_dict(), {}
        kept = [(one, one.name, slot) for one in self.unsliced for slot in SLOTS]
        kept += [(one, SLICE + one.name, slot) for one in self.sliced for slot in SLOTS]
        for parameter, name, slot in kept:
            value = own.get(f"{name}_{slot}_0")
            if value is None:  # before the first step
                continue
            if name != parameter.name and slot.startswith("moment"):
                value = self._gathered(value, parameter)
            if self.ranks.is_first:
                found[f"{parameter.name}_{slot}_0"] = value.numpy()
        return found

    def set_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the slots, of the large parameters this rank's parts."""
        kept = {f"{one.name}_{slot}_0" for one in self.unsliced for slot in SLOTS}
        own = {key: value for key, value in state.items() if key in kept}
        for one in self.sliced:
            for slot in SLOTS:
                value = state[f"{one.name}_{slot}_0"]
                own[f"{SLICE}{one.name}_{slot}_0"] = self._part(value, one) if slot.startswith("moment") else value
        self.adamw.set_state_dict(own)

    def _gathered(self, part: paddle.Tensor, parameter: Any) -> paddle.Tensor:
        """All ranks' parts of what a large parameter has one of a number, in its shape."""
        parts: list[paddle.Tensor] = []
        paddle.distributed.all_gather(parts, part)
        return paddle.concat(parts)[: parameter.size].reshape(parameter.shape)

    def _part(self, whole: paddle.Tensor, parameter: Any) -> paddle.Tensor:
        """This rank's part of the same: equal parts of all numbers and zeros behind them, as Paddle cuts."""
        start, stop = self.layer._param2buffer[parameter.name][self.ranks.rank]
        own = np.asarray(whole).ravel()[start:stop]
        return paddle.to_tensor(np.pad(own, (0, stop - start - own.size)))
