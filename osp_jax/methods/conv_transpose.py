"""Convolution Transpose: every filter is mirrored along its diagonal, and the network fine-tuned on retained images.

An entry of the NeurIPS 2023 unlearning competition, and one of the two winners of Cadet et al., "Deep Unlearn:
Benchmarking Machine Unlearning for Image Classification", arXiv 2410.01276 (CT), whose code is followed
(github.com/xcadet/deepunlearn, unlearning/kgltop5.py). There the height and the width of every convolution's kernel are
swapped, none is left out and nothing is random; then SGD on the cross-entropy of retained images without augmentation,
the rate on a cosine from epoch to epoch.

Ours: kernels that are not square stay as they are, where their code would change the shape of the map behind them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from osp_jax.methods.parts.convolutions import convolution_kernels
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.options import check_options
from osp_jax.methods.parts.retain_loss import retain_loss
from osp_jax.model import Model
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import Statistics
from osp_jax.training.descent import Optimiser, cosine_rates, descend, epoch_batches, in_train_mode, split_variables
from osp_jax.trees import combine, edited


@dataclasses.dataclass(frozen=True)
class ConvTranspose(Method):
    """Every convolution's filters mirrored along their diagonal, then fine-tuning on retained images."""

    sees: ClassVar[tuple[str, ...]] = ("retain",)
    search: ClassVar[Mapping[str, Any]] = {"learning_rate": (0.001, 0.003, 0.01, 0.03, 0.1), "epochs": (1, 3, 5, 10)}
    trains: ClassVar[bool] = True

    epochs: int = 3  # deepunlearn, unlearning/kgltop5.py: ORIGINAL_NUM_EPOCHS
    learning_rate: float = 0.001  # deepunlearn, unlearning/kgltop5.py: ORIGINAL_LR; of the first epoch
    batch_size: int = 64  # deepunlearn, unlearning/kgltop5.py: ORIGINAL_BATCH_SIZE
    momentum: float = 0.9  # deepunlearn, unlearning/kgltop5.py: ORIGINAL_MOMENTUM
    weight_decay: float = 5e-4  # deepunlearn, unlearning/kgltop5.py: ORIGINAL_WEIGHT_DECAY; ours is on kernels only
    augment: bool = False  # deepunlearn, settings.py: default_loaders

    def __post_init__(self) -> None:
        ranges = {"epochs": (0, None), "learning_rate": (0, None), "batch_size": (1, None), "momentum": (0, 1)}
        check_options(self, **ranges, weight_decay=(0, None))

    def check(self, model: Model, channels: Any) -> None:
        """Raises `InputError` for a network in which transposing changes no kernel."""
        del channels
        if not any(kernel.shape[0] > 1 for kernel in _square_kernels(split_variables(model)[0]).values()):
            raise InputError("the network has no square convolution kernel above 1x1 to transpose; take another method")

    def unlearn(
        self,
        model: Model,
        forget: tuple[int, ...],
        *,
        data: RequestData,
        statistics: Statistics,
        rng: jax.Array,
    ) -> Model:
        """The model with mirrored filters after `epochs` passes over the retained images."""
        del forget
        self.check(model, statistics.gates)
        params, rest = split_variables(model)
        order_key, step_key = jax.random.split(rng)
        batches = epoch_batches(data.retain(), self.batch_size, self.epochs, order_key)
        preparation = data.preparation if self.augment else data.preparation.without_augmentation()
        variables = descend(
            retain_loss(in_train_mode(model), preparation),
            model.replace(variables=combine(transposed(params), rest)),
            {"indices": batches},
            np.repeat(cosine_rates(self.learning_rate, self.epochs), len(batches) // max(self.epochs, 1)),
            step_key,
            optimiser=Optimiser(momentum=self.momentum, weight_decay=self.weight_decay),
            arguments=(data.images, data.labels),
        )
        return model.replace(variables=variables)


def transposed(params: Any) -> Any:
    """`params` with height and width of every square convolution kernel (h, w, in, out) swapped."""
    return edited(params, {path: kernel.swapaxes(0, 1) for path, kernel in _square_kernels(params).items()})


def _square_kernels(params: Any) -> dict[str, jax.Array]:
    return {path: leaf for path, leaf in convolution_kernels(params).items() if leaf.shape[0] == leaf.shape[1]}
