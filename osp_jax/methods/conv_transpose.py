"""Convolution Transpose: transposes every convolution filter, then fine-tunes on retained images.

An entry of the NeurIPS 2023 unlearning competition, and one of the two winners of Cadet et al., "Deep Unlearn:
Benchmarking Machine Unlearning for Image Classification", arXiv 2410.01276 (CT). As in their code
(github.com/xcadet/deepunlearn, unlearning/kgltop5.py), the height and the width of every convolution kernel are
swapped, without random choices; then SGD descends the cross-entropy of retained images without augmentation, at a rate
that follows a cosine from epoch to epoch.

Ours: kernels that are not square stay unchanged; their code would change the shape of the feature map behind them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from osp_jax.methods.parts.convolutions import convolution_kernels, possible_kernels
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.options import option
from osp_jax.methods.parts.retain_loss import retain_loss
from osp_jax.model import Model
from osp_jax.program.kernels import KernelAxes
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import Statistics
from osp_jax.training.descent import Optimiser, cosine_rates, descend, epoch_batches, in_train_mode, split_variables
from osp_jax.trees import combine, edited, leaves_by_path


@dataclasses.dataclass(frozen=True)
class ConvTranspose(Method):
    """Transposes every convolution filter, then fine-tunes on retained images."""

    sees: ClassVar[tuple[str, ...]] = ("retain",)
    search: ClassVar[Mapping[str, Any]] = {"learning_rate": (0.001, 0.003, 0.01, 0.03, 0.1), "epochs": (1, 3, 5, 10)}
    trains: ClassVar[bool] = True

    epochs: int = option(
        3, "passes over the retained images", low=0, source="deepunlearn, unlearning/kgltop5.py: ORIGINAL_NUM_EPOCHS"
    )
    learning_rate: float = option(
        0.001,
        "learning rate of the first epoch; falls along a cosine from epoch to epoch",
        low=0,
        source="deepunlearn, unlearning/kgltop5.py: ORIGINAL_LR",
    )
    batch_size: int = option(
        64, "images in a batch", low=1, source="deepunlearn, unlearning/kgltop5.py: ORIGINAL_BATCH_SIZE"
    )
    momentum: float = option(
        0.9, "momentum of SGD", low=0, high=1, source="deepunlearn, unlearning/kgltop5.py: ORIGINAL_MOMENTUM"
    )
    weight_decay: float = option(
        5e-4,
        "weight decay, on kernels only (ours)",
        low=0,
        source="deepunlearn, unlearning/kgltop5.py: ORIGINAL_WEIGHT_DECAY",
    )
    augment: bool = option(
        False, "augment the images as in training", source="deepunlearn, settings.py: default_loaders"
    )

    def check(self, model: Model, channels: Any) -> None:
        """Raises `InputError` if the network has no kernel that transposing changes."""
        del channels
        shapes = [leaf.shape for leaf in possible_kernels(model).values()]
        if not any(shape[0] == shape[1] > 1 or shape[2] == shape[3] > 1 for shape in shapes):  # h w i o, or o i h w
            raise _no_kernel()

    def unlearn(
        self,
        model: Model,
        forget: tuple[int, ...],
        *,
        data: RequestData,
        statistics: Statistics,
        rng: jax.Array,
    ) -> Model:
        """Returns the model with transposed filters after `epochs` passes over the retained images."""
        del forget, statistics
        kernels = convolution_kernels(model, data.images.shape[1:])
        if not _square(model.variables, kernels):
            raise _no_kernel()
        params, rest = split_variables(model)
        order_key, step_key = jax.random.split(rng)
        batches = epoch_batches(data.retain(), self.batch_size, self.epochs, order_key)
        preparation = data.preparation if self.augment else data.preparation.without_augmentation()
        variables = descend(
            retain_loss(in_train_mode(model), preparation),
            model.replace(variables=combine(transposed(params, kernels), rest)),
            {"indices": batches},
            np.repeat(cosine_rates(self.learning_rate, self.epochs), len(batches) // max(self.epochs, 1)),
            step_key,
            optimiser=Optimiser(momentum=self.momentum, weight_decay=self.weight_decay),
            arguments=(data.images, data.labels),
        )
        return model.replace(variables=variables)


def transposed(params: Any, kernels: Mapping[str, KernelAxes]) -> Any:
    """`params` with height and width of every square convolution kernel in `kernels` swapped."""
    leaves, square = leaves_by_path(params), _square(params, kernels)
    return edited(params, {path: leaves[path].swapaxes(*window) for path, window in square.items()})


def _square(params: Any, kernels: Mapping[str, KernelAxes]) -> dict[str, tuple[int, int]]:
    """The spatial axes of each square kernel above 1x1, by path."""
    leaves, found = leaves_by_path(params), {}
    for path, (_, _, (height, width)) in kernels.items():
        if height is not None and width is not None and leaves[path].shape[height] == leaves[path].shape[width]:
            found[path] = height, width
    return found


def _no_kernel() -> InputError:
    return InputError("the network has no square convolution kernel above 1x1 to transpose; take another method")
