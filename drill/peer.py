"""Run a fixed part of a training's work, to distinguish a slower training from a slower machine."""

from __future__ import annotations

import time

import numpy as np

THREADS = 1
WARM_STEPS = 2


class Peer:
    """Loss and gradients of a recipe's own model on one fixed batch; no file is read, no weight is changed.

    Whatever else a machine does (its other cores' use of the shared cache, its clock, its host) changes this as it
    changes the training; what a training piles up over hours does not.
    """

    def __init__(self, recipe_name: str) -> None:
        from paddlemae.engine import device
        from paddlemae.recipe import load_recipe

        device.prepare("cpu", THREADS)
        import paddle

        from paddlemae.data.batches import Batch
        from paddlemae.model.mae import MaskedAutoencoder
        from paddlemae.model.shape import pair
        from paddlemae.tasks.models.build import arguments_of, describe
        from paddlemae.tasks.training.pretraining_loss import loss_function

        recipe = load_recipe("pretrain", recipe_name)
        paddle.seed(0)
        self.model = MaskedAutoencoder(**arguments_of(recipe.model))
        self.loss = loss_function(recipe, describe(self.model, (recipe.mean, recipe.std), eval_crop_ratio=1.0))
        places = np.arange(recipe.training.batch_size)
        shape = (len(places), recipe.model.channels, *pair(recipe.model.image_size))
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self.batch = Batch(images, np.zeros_like(places), places, np.zeros_like(places))
        for _ in range(WARM_STEPS):
            self.seconds()

    def seconds(self) -> float:
        """Return the seconds of CPU time that the work takes now; wall time would depend on the training's load."""
        started = time.process_time()
        self.loss(self.model, self.batch).backward()
        self.model.clear_gradients()
        return time.process_time() - started
