"""Gradient ascent on the forgotten images (NegGrad): raises the loss that training lowered, without a bound.

A baseline of Golatkar et al. (2020, arXiv 1911.04933), as in the code of Jia et al. (2023,
github.com/OPTML-Group/Unlearn-Sparse, unlearn/GA.py; the same in Unlearn-Saliency): minus the cross-entropy of a batch,
SGD, in train mode, with the augmentation of the training. The loss is unbounded, so a large rate or many epochs ruin
the network.
"""

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import jax
import numpy as np

from osp_jax.data.augment import Preparation
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.options import option
from osp_jax.methods.parts.retain_loss import retain_loss
from osp_jax.methods.parts.unlearn_sparse import batch_size_option, momentum_option, weight_decay_option
from osp_jax.model import Model
from osp_jax.statistics import Statistics
from osp_jax.training.descent import Forward, Loss, Optimiser, descend, epoch_batches, in_train_mode


@dataclasses.dataclass(frozen=True)
class GradientAscent(Method):
    """Gradient ascent on the forgotten images."""

    sees: ClassVar[tuple[str, ...]] = ("forget",)
    search: ClassVar[Mapping[str, Any]] = {"learning_rate": (1e-4, 3e-4, 1e-3, 3e-3, 0.01), "epochs": (1, 3, 5)}
    trains: ClassVar[bool] = True

    epochs: int = option(
        5, "passes over the forgotten images", low=0, source="Unlearn-Sparse, README: --unlearn_epochs of GA"
    )
    learning_rate: float = option(
        1e-4, "learning rate of SGD, constant", low=0, source="Unlearn-Sparse, README: --unlearn_lr of GA"
    )
    batch_size: int = batch_size_option()
    momentum: float = momentum_option()
    weight_decay: float = weight_decay_option()

    def unlearn(
        self,
        model: Model,
        forget: tuple[int, ...],
        *,
        data: RequestData,
        statistics: Statistics,
        rng: jax.Array,
    ) -> Model:
        """Returns the model after `epochs` passes over the forgotten images."""
        del forget, statistics
        order_key, step_key = jax.random.split(rng)
        batches = epoch_batches(data.forget(), self.batch_size, self.epochs, order_key)
        variables = descend(
            ascent_loss(in_train_mode(model), data.preparation),
            model,
            {"indices": batches},
            np.full(len(batches), self.learning_rate),
            step_key,
            optimiser=Optimiser(momentum=self.momentum, weight_decay=self.weight_decay),
            arguments=(data.images, data.labels),
        )
        return model.replace(variables=variables)


@lru_cache(maxsize=16)
def ascent_loss(forward: Forward, preparation: Preparation) -> Loss:
    """Minus the cross-entropy of a batch of augmented images with their own labels."""
    cost = retain_loss(forward, preparation)  # the same formula, on forgotten images

    def loss(*arguments: Any) -> tuple[jax.Array, Any]:
        value, rest = cost(*arguments)
        return -value, rest

    return loss
