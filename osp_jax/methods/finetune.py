"""Fine-tuning on the retained images alone, during which the network may forget the class.

The baseline of Golatkar et al. (2020, arXiv 1911.04933, section 6). Defaults for class-wise forgetting are those of
the code of Jia et al. (2023, github.com/OPTML-Group/Unlearn-Sparse): SGD, the images augmented as in training.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.options import option
from osp_jax.methods.parts.retain_loss import retain_loss
from osp_jax.methods.parts.unlearn_sparse import batch_size_option, momentum_option, weight_decay_option
from osp_jax.model import Model
from osp_jax.statistics import Statistics
from osp_jax.training.descent import Optimiser, descend, epoch_batches, in_train_mode


@dataclasses.dataclass(frozen=True)
class Finetune(Method):
    """Fine-tuning on the retained images alone."""

    sees: ClassVar[tuple[str, ...]] = ("retain",)
    search: ClassVar[Mapping[str, Any]] = {"learning_rate": (0.003, 0.01, 0.03, 0.1), "epochs": (5, 10)}
    trains: ClassVar[bool] = True

    epochs: int = option(
        10, "passes over the retained images", low=0, source="Unlearn-Sparse, arg_parser.py: --unlearn_epochs"
    )
    learning_rate: float = option(
        0.01, "learning rate of SGD, constant", low=0, source="Unlearn-Sparse, arg_parser.py: --unlearn_lr"
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
        """Returns the model after `epochs` passes over the retained images."""
        del forget, statistics
        order_key, step_key = jax.random.split(rng)
        batches = epoch_batches(data.retain(), self.batch_size, self.epochs, order_key)
        variables = descend(
            retain_loss(in_train_mode(model), data.preparation),
            model,
            {"indices": batches},
            np.full(len(batches), self.learning_rate),
            step_key,
            optimiser=Optimiser(momentum=self.momentum, weight_decay=self.weight_decay),
            arguments=(data.images, data.labels),
        )
        return model.replace(variables=variables)
