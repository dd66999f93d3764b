"""L1-sparse: fine-tunes on the retained images with an L1 penalty, which shrinks weights that only the class needs.

Jia et al., "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023, arXiv 2304.04934 (l1-sparse MU), as in their
code (github.com/OPTML-Group/Unlearn-Sparse, unlearn/FT.py, FT_l1): cross-entropy plus a weight times the sum of
the absolute values of all parameters, including biases and norms. The weight falls linearly over the epochs,

    alpha * (1 - epoch / (epochs - no_l1_epochs)),  epoch = 0, 1, ...

and is 0 in the last `no_l1_epochs`. (If `no_l1_epochs` equals `epochs`, their code keeps it at alpha; this is not
supported.) No threshold is applied.
"""

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.data.augment import Preparation
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.options import check_options, option
from osp_jax.methods.parts.retain_loss import retain_loss
from osp_jax.methods.parts.unlearn_sparse import batch_size_option, momentum_option, weight_decay_option
from osp_jax.model import Model
from osp_jax.statistics import Statistics
from osp_jax.training.descent import Forward, Loss, Optimiser, descend, epoch_batches, in_train_mode


@dataclasses.dataclass(frozen=True)
class L1Sparse(Method):
    """Fine-tuning on the retained images with an L1 penalty on all parameters."""

    sees: ClassVar[tuple[str, ...]] = ("retain",)
    search: ClassVar[Mapping[str, Any]] = {
        "alpha": (1e-5, 1e-4, 3e-4, 1e-3),
        "learning_rate": (0.01, 0.03, 0.1),
        "epochs": (5, 10),
    }
    trains: ClassVar[bool] = True

    # We could not find the authors' value for class-wise forgetting: their parser's 0.2 is shared with other methods,
    # and their README gives none.
    alpha: float = option(
        1e-4,
        "weight of the L1 penalty in the first epoch",
        low=0,
        source="JingWu321/Scissorhands, a public run of the authors' code on a class of SVHN",
    )
    no_l1_epochs: int = option(
        0,
        "last epochs without the penalty; fewer than `epochs`",
        low=0,
        source="Unlearn-Sparse, arg_parser.py: --no-l1-epochs",
    )
    epochs: int = option(
        10, "passes over the retained images", low=0, source="Unlearn-Sparse, README: --unlearn_epochs of l1-sparse"
    )
    learning_rate: float = option(
        0.01, "learning rate of SGD, constant", low=0, source="Unlearn-Sparse, README: --unlearn_lr of l1-sparse"
    )
    batch_size: int = batch_size_option()
    momentum: float = momentum_option()
    weight_decay: float = weight_decay_option()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, no_l1_epochs=(0, max(self.epochs - 1, 0)))

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
        weights = penalty_weights(self.alpha, self.epochs, self.no_l1_epochs)
        variables = descend(
            sparse_loss(in_train_mode(model), data.preparation),
            model,
            {"indices": batches, "penalty": np.repeat(weights, len(batches) // max(self.epochs, 1))},
            np.full(len(batches), self.learning_rate),
            step_key,
            optimiser=Optimiser(momentum=self.momentum, weight_decay=self.weight_decay),
            arguments=(data.images, data.labels),
        )
        return model.replace(variables=variables)


def penalty_weights(alpha: float, epochs: int, no_l1_epochs: int) -> np.ndarray:
    """The weight of the penalty in each epoch, float32 `(epochs,)`."""
    falling = 1 - np.arange(epochs) / max(epochs - no_l1_epochs, 1)
    return (alpha * np.maximum(falling, 0)).astype(np.float32)


@lru_cache(maxsize=16)
def sparse_loss(forward: Forward, preparation: Preparation) -> Loss:
    """`retain_loss` plus `batch["penalty"]` times the sum of the absolute values of all parameters."""
    cost = retain_loss(forward, preparation)

    def loss(params: Any, rest: Any, batch: Any, *arguments: Any) -> tuple[jax.Array, Any]:
        value, rest = cost(params, rest, batch, *arguments)
        size = sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(params))
        return value + batch["penalty"] * size, rest

    return loss
