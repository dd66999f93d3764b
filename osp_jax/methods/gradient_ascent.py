"""Gradient ascent on the forgotten images (NegGrad): the loss that training lowered is raised, and nothing holds it.

A baseline of Golatkar et al. (2020, arXiv 1911.04933), as it is in the code of Jia et al. (2023,
github.com/OPTML-Group/Unlearn-Sparse, unlearn/GA.py; the same in Unlearn-Saliency): minus the cross-entropy of a batch,
SGD, in train mode, the images augmented as in training. The loss has no bound, so a rate or a number of epochs that is
too large ruins the network.
"""

import dataclasses
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from osp_jax.data.augment import Preparation
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.options import check_options
from osp_jax.methods.parts.retain_loss import retain_loss
from osp_jax.statistics import Statistics
from osp_jax.training.descent import Loss, Optimiser, descend, epoch_batches

SEES = ("forget",)
SEARCH = {"learning_rate": (1e-4, 3e-4, 1e-3, 3e-3, 0.01), "epochs": (1, 3, 5)}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of `gradient-ascent`."""

    epochs: int = 5  # Unlearn-Sparse, README: --unlearn_epochs of GA
    learning_rate: float = 1e-4  # Unlearn-Sparse, README: --unlearn_lr of GA; constant, as there
    batch_size: int = 256  # Unlearn-Sparse, arg_parser.py: --batch_size
    momentum: float = 0.9  # Unlearn-Sparse, arg_parser.py: --momentum
    weight_decay: float = 5e-4  # Unlearn-Sparse, arg_parser.py: --weight_decay; ours is on kernels only

    def __post_init__(self) -> None:
        ranges = {"epochs": (0, None), "learning_rate": (0, None), "batch_size": (1, None), "momentum": (0, 1)}
        check_options(self, **ranges, weight_decay=(0, None))


def unlearn(
    model: nn.Module,
    variables: dict[str, Any],
    forget: tuple[int, ...],
    *,
    data: RequestData,
    statistics: Statistics,
    config: Options,
    rng: jax.Array,
) -> dict[str, Any]:
    """Variables after `epochs` passes over the forgotten images."""
    del forget, statistics
    order_key, step_key = jax.random.split(rng)
    batches = epoch_batches(data.forget(), config.batch_size, config.epochs, order_key)
    return descend(
        ascent_loss(model, data.preparation),
        variables,
        {"indices": batches},
        np.full(len(batches), config.learning_rate),
        step_key,
        optimiser=Optimiser(momentum=config.momentum, weight_decay=config.weight_decay),
        arguments=(data.images, data.labels),
    )


@lru_cache(maxsize=16)
def ascent_loss(model: nn.Module, preparation: Preparation) -> Loss:
    """Minus the cross-entropy of a batch of augmented images with their own labels, in train mode."""
    cost = retain_loss(model, preparation)  # the same formula, here on forgotten images

    def loss(*arguments: Any) -> tuple[jax.Array, Any]:
        value, batch_stats = cost(*arguments)
        return -value, batch_stats

    return loss
