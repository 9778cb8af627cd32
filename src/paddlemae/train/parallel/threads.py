"""Gradients on CPU: threads that share a batch and the weights, and weights updated while gradients still arrive.

Of Paddle's CPU kernels only matrix products use several threads. So each thread takes its part of the batch through a
replica of the model, whose weights are the model's own memory; only gradients are separate. Once every thread has
delivered its gradient of a weight, they are added up, and with an update wanted the weight is updated then and there:
gradients of all weights are never held together. A thread that is ahead of the others does that work.

Sums are taken in the replicas' order, whichever thread is faster: results repeat bitwise for a fixed number of threads.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from paddlemae.engine import private
from paddlemae.engine.memory import little_memory, release_free_memory
from paddlemae.engine.precision import Precision, bfloat16_products, weights_for
from paddlemae.engine.safe_import import nn, paddle
from paddlemae.engine.threads import product_threads
from paddlemae.train.adamw import CpuAdamW
from paddlemae.train.parallel.loss_layer import LossFn

OPERATIONS_A_REPLICA = 5e9
MOST_SHARDS = 8  # each holds gradients and activations of its own; more cores work inside matrix products


@contextmanager
def sharded(
    model: nn.Layer,
    optimizer: CpuAdamW,
    loss_fn: LossFn,
    *,
    threads: int,
    replicas: int | None = None,
    save_memory: bool = False,
    fused: bool = False,
    precision: Precision = "float32",
) -> Iterator[Shards]:
    """Compute gradients of `loss_fn` with `threads` CPU threads, within the context.

    Args:
        model: on CPU; without randomness of its own unless there is one replica.
        optimizer: of its parameters.
        loss_fn: (model, micro-batch) -> mean loss over the images; called in several threads at once.
        threads: CPU threads, shared out among the replicas.
        replicas: how many; None is one a thread, at most `MOST_SHARDS`.
        save_memory: whether freed memory is given back at once, which costs page faults.
        fused: whether the optimizer updates each weight as soon as its gradient of a step is whole.
        precision: of products, see `engine.precision`.
    """
    count = min(threads, replicas or MOST_SHARDS)
    pool = ThreadPoolExecutor(count, "shard", paddle.set_device, (paddle.get_device(),))
    shards = Shards(model, optimizer, loss_fn, pool, count, save_memory, fused, precision)
    release_free_memory()
    with pool, product_threads(threads // count), little_memory(save_memory):
        yield shards


def worthwhile_replicas(threads: int, operations: float) -> int:
    """Return the number of replicas that pays: the interpreter runs one thread at a time.

    A rule, not a trial: a resumed run must count as the first one did. Measured on two cores: with 3e9 operations a
    micro-batch (the digits' recipe) two replicas take 1.6 times as long as one; with ViT-Tiny's 3e11 two take 32 images
    through in 1.3 s, where one thread takes 1.2 s for 16. What lies between was not tried.

    Args:
        operations: floating-point operations of a micro-batch.
    """
    return max(1, min(threads, MOST_SHARDS, int(operations / OPERATIONS_A_REPLICA)))


class Shards:
    """See `sharded`."""

    def __init__(
        self,
        model: nn.Layer,
        optimizer: Any,
        loss_fn: LossFn,
        pool: ThreadPoolExecutor,
        count: int,
        save_memory: bool,
        fused: bool,
        precision: Precision,
    ):
        self.parameters = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
        self.optimizer, self.loss_fn, self.map = optimizer, loss_fn, pool.map if count > 1 else map
        self.replicas, self.copies = [], []  # of the model, and the parameters of each
        for _ in range(count):
            replica, copies = replica_of(model, self.parameters)
            for number, parameter in enumerate(copies):
                # Paddle calls it once a backward pass, when the whole gradient is there
                private.call_after_gradient(parameter, lambda *_, number=number: self._deliver(number))
            self.replicas.append(replica)
            self.copies.append(copies)
        self._share_weights()
        self.arrived = [0] * len(self.parameters)  # replicas that have delivered
        self.save_memory, self.fused = save_memory, fused
        self.rounded = weights_for(precision)  # for all replicas
        self.whole: deque[int] = deque()  # parameters whose gradients are all there, by number
        self.working = count
        self.updates = False
        self.squares = [0.0] * len(self.parameters)  # of the gradients that weights were updated with
        self.counting = threading.Lock()

    def add(self, batch: Any, share: float, *, last: bool) -> float:
        """Add `share` times the gradient of a micro-batch's mean loss.

        Args:
            batch: a dataclass of arrays, images first.
            share: of this micro-batch in its step.
            last: whether it is the step's last one, so that weights are updated if that is fused; else gradients are
                the parameters' own afterwards.
        Returns:
            the mean loss, not multiplied. If it is not finite, no weight was updated and gradients are incomplete.
        """
        self._share_weights()
        slices = slices_of(batch, len(self.replicas))
        weights = [len(piece.images) / len(batch.images) for piece in slices]
        self.working, self.updates = len(slices), self.fused and last
        scales = [weight * share for weight in weights]
        losses = list(self.map(self._loss_and_backward, self.replicas, slices, scales))
        is_finite = all(math.isfinite(loss) for loss in losses)
        if is_finite:
            list(self.map(lambda _: self._work_off(), slices))
        else:
            self._forget()
        if self.rounded and (last or not is_finite):
            self.rounded.clear()
        if self.save_memory:
            release_free_memory()
        return sum(weight * loss for weight, loss in zip(weights, losses))

    def norm(self) -> float:
        """Return the norm of the whole gradient of the last update."""
        return math.sqrt(math.fsum(self.squares))

    def _loss_and_backward(self, replica: nn.Layer, batch: Any, scale: float) -> float:
        """Compute loss and gradients; a loss that is not finite has no backward pass, so no gradient is complete."""
        if not replica.training:  # else its layers are, too, and asking each of them takes 0.3 ms
            replica.train()
        with bfloat16_products(self.rounded):
            loss = self.loss_fn(replica, batch)
            value = float(loss.numpy())
            if self.save_memory:
                release_free_memory()
            if math.isfinite(value):
                (loss * scale).backward()
        return value

    def _deliver(self, number: int) -> None:
        """Take note of one replica's gradient of a parameter; a replica that is ahead works off what is whole."""
        with self.counting:
            self.arrived[number] += 1
            last = self.arrived[number] == self.working
            if last:
                self.arrived[number] = 0
                self.whole.append(number)
        if not last or self.working == 1:
            self._work_off()

    def _work_off(self) -> None:
        """Add up and use the gradients that are whole, as long as there are any."""
        while True:
            with self.counting:
                if not self.whole:
                    return
                number = self.whole.popleft()
            with paddle.no_grad():
                self._use(number)

    def _use(self, number: int) -> None:
        parameter, copies = self.parameters[number], [each[number] for each in self.copies[: self.working]]
        gradients = [weight.grad for weight in copies]
        if self.updates:
            before = [] if parameter.grad is None else [parameter.grad]
            self.squares[number] = self.optimizer.update(parameter, before + gradients)
            parameter.grad = None
        else:
            if parameter.grad is None:
                parameter.grad = gradients.pop(0)  # Paddle copies it
            for gradient in gradients:
                parameter.grad.add_(gradient)
        for weight in copies:
            weight.grad = None

    def _forget(self) -> None:
        """Let go of gradients that will never be whole."""
        self.arrived = [0] * len(self.parameters)
        for copies in self.copies:
            for weight in copies:
                weight.grad = None

    def _share_weights(self) -> None:
        """Lay the replicas' weights where the model's are; they have moved when someone loaded others."""
        for copies in self.copies:
            for mine, theirs in zip(self.parameters, copies):
                if not private.has_memory(theirs) or mine.data_ptr() != theirs.data_ptr():
                    private.share_memory(mine, theirs)


def replica_of(model: nn.Layer, parameters: Sequence[Any]) -> tuple[nn.Layer, list[Any]]:
    """Return (a copy of the model that shares all but these parameters, which have no memory yet; the parameters)."""
    copies = [private.parameter_without_memory(weight.shape, weight.dtype) for weight in parameters]
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    replaced = {id(weight): fresh for weight, fresh in zip(parameters, copies)}
    return copy.deepcopy(model, shared | replaced), copies


def slices_of(batch: Any, count: int) -> list[Any]:
    """Cut a dataclass of arrays along images into N of about the same size, fewer if there are fewer images."""
    images = len(batch.images)
    borders = np.linspace(0, images, min(count, images) + 1).astype(int).tolist()
    arrays = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return [
        dataclasses.replace(batch, **{name: value[start:stop] for name, value in arrays.items() if value is not None})
        for start, stop in itertools.pairwise(borders)
    ]
