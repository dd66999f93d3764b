"""Fine-tuning on the retained images alone, and waiting for the class to be forgotten.

The baseline of Golatkar et al. (2020, arXiv 1911.04933, section 6). Defaults for class-wise forgetting are those of
the code of Jia et al. (2023, github.com/OPTML-Group/Unlearn-Sparse): SGD, the images augmented as in training.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.options import check_options
from osp_jax.methods.parts.retain_loss import retain_loss
from osp_jax.statistics import Statistics
from osp_jax.training.descent import Optimiser, descend, epoch_batches

SEES = ("retain",)
SEARCH = {"learning_rate": (0.003, 0.01, 0.03, 0.1), "epochs": (5, 10)}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of `finetune`."""

    epochs: int = 10  # Unlearn-Sparse, arg_parser.py: --unlearn_epochs
    learning_rate: float = 0.01  # Unlearn-Sparse, arg_parser.py: --unlearn_lr; constant, as there
    batch_size: int = 256  # Unlearn-Sparse, arg_parser.py: --batch_size
    momentum: float = 0.9  # Unlearn-Sparse, arg_parser.py: --momentum
    weight_decay: float = 5e-4  # Unlearn-Sparse, arg_parser.py: --weight_decay; ours is on kernels only

    def __post_init__(self) -> None:
        check_options(self, epochs=(0, None), learning_rate=(0, None), batch_size=(1, None), momentum=(0, 1))
        check_options(self, weight_decay=(0, None))


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
    """Variables after `epochs` passes over the retained images."""
    del forget, statistics
    order_key, step_key = jax.random.split(rng)
    batches = epoch_batches(data.retain(), config.batch_size, config.epochs, order_key)
    return descend(
        retain_loss(model, data.preparation),
        variables,
        {"indices": batches},
        np.full(len(batches), config.learning_rate),
        step_key,
        optimiser=Optimiser(momentum=config.momentum, weight_decay=config.weight_decay),
        arguments=(data.images, data.labels),
    )
