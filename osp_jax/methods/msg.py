"""MSG, masked small gradients: redraws and trains the weights on which forgotten and retained images agree.

One of the two best methods in Cadet et al.: Deep Unlearn, arXiv 2410.01276, for random images; here as in its code
(github.com/xcadet/deepunlearn, munl/unlearning/kgltop2.py). It computes, in train mode, the gradient of the retained
images' loss (on as many images, drawn at random, as are forgotten) minus that of the forgotten images' loss. In each
2-D convolution, the `fraction` of weights where its magnitude is smallest is redrawn, normal with variance 2 / fan-out.
It then fine-tunes on the retained images without augmentation; the convolutions' other weights learn at a tenth of the
rate, which rises and falls linearly, epoch by epoch.

Departures: in their code the batches of the first gradient change the running statistics, which fine-tuning replaces
anyway, and weight decay is not slowed down with the gradient.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.data.draws import host_generator
from osp_jax.methods.parts.convolutions import convolution_kernels, possible_kernels
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.importance import filled_batches, loss_gradient, smallest, summed
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.options import option
from osp_jax.methods.parts.retain_loss import retain_loss
from osp_jax.model import Model
from osp_jax.program.kernels import KernelAxes
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import Statistics
from osp_jax.training.descent import Optimiser, descend, epoch_batches, in_train_mode, split_variables
from osp_jax.trees import combine, edited, leaves_by_path


@dataclasses.dataclass(frozen=True)
class Msg(Method):
    """Redraws weights with small gradients, then fine-tunes."""

    sees: ClassVar[tuple[str, ...]] = ("retain", "forget")
    search: ClassVar[Mapping[str, Any]] = {
        "learning_rate": (0.001, 0.003, 0.01, 0.03, 0.1),
        "fraction": (0.1, 0.3, 0.5),
        "epochs": (5, 10),
    }
    trains: ClassVar[bool] = True

    fraction: float = option(
        0.3, "share of each convolution's weights to redraw", low=0, high=1, source="kgltop2.py: init_rate"
    )
    kept_rate: float = option(
        0.1, "factor on the gradient of the convolutions' other weights", low=0, source="kgltop2.py"
    )
    epochs: int = option(5, "passes over the retained images", low=0, source="kgltop2.py: num_epochs")
    learning_rate: float = option(0.001, "highest learning rate of SGD", low=0, source="kgltop2.py")
    batch_size: int = option(64, "images in a batch", low=1, source="kgltop2.py: batch_size")
    momentum: float = option(0.9, "momentum of SGD", low=0, high=1, source="kgltop2.py: momentum")
    weight_decay: float = option(5e-4, "weight decay, on kernels only (ours)", low=0, source="kgltop2.py: weight_decay")
    augment: bool = option(False, "augment the images as in training", source="munl/settings.py: default_loaders")

    def check(self, model: Model, channels: Any) -> None:
        """Raises `InputError` if the network has no 2-D convolution."""
        del channels
        if not possible_kernels(model):
            raise _no_convolutions()

    def unlearn(
        self,
        model: Model,
        forget: tuple[int, ...],
        *,
        data: RequestData,
        statistics: Statistics,
        rng: jax.Array,
    ) -> Model:
        """Returns the model after the reset and `epochs` passes over the retained images."""
        del forget, statistics
        kernels = convolution_kernels(model, data.images.shape[1:])
        if not kernels:
            raise _no_convolutions()
        draw_key, reset_key, order_key, step_key = jax.random.split(rng, 4)
        gradient = gradient_difference(model, data, self.batch_size, draw_key)
        params, rest = split_variables(model)
        params, mask = reset(params, gradient, kernels, self.fraction, self.kept_rate, reset_key)
        batches = epoch_batches(data.retain(), self.batch_size, self.epochs, order_key)
        preparation = data.preparation if self.augment else data.preparation.without_augmentation()
        variables = descend(
            retain_loss(in_train_mode(model), preparation),
            model.replace(variables=combine(params, rest)),
            {"indices": batches},
            np.repeat(epoch_rates(self.learning_rate, self.epochs), len(batches) // max(self.epochs, 1)),
            step_key,
            optimiser=Optimiser(momentum=self.momentum, weight_decay=self.weight_decay),
            arguments=(data.images, data.labels),
            mask=mask,
        )
        return model.replace(variables=variables)


def gradient_difference(model: Model, data: RequestData, batch_size: int, rng: jax.Array) -> Any:
    """Sum of the batch gradients of retained images minus that of the forgotten ones, a pytree like `params`."""
    forgotten, draw = data.forget(), host_generator(rng)
    sides = draw.permutation(data.retain())[: len(forgotten)], draw.permutation(forgotten)
    term = loss_gradient(in_train_mode(model), data.preparation)
    sums = [summed(term, model, filled_batches(side, batch_size), data.images, data.labels) for side in sides]
    return jax.tree.map(jnp.subtract, *sums)


def reset(
    params: Any, gradient: Any, kernels: Mapping[str, KernelAxes], fraction: float, kept_rate: float, rng: jax.Array
) -> tuple[Any, Any]:
    """(new params, factors on their later updates), pytrees like `params`. `kernels`: those of convolutions."""
    flat, gradients, masks = leaves_by_path(params), leaves_by_path(gradient), {}
    draw = host_generator(rng)
    for path, axes in kernels.items():
        kernel = flat[path]
        fan_out = kernel.size // math.prod(kernel.shape[axis] for axis in axes.inputs)
        fresh = draw.standard_normal(kernel.shape, np.float32) * np.float32(np.sqrt(2 / fan_out))
        count = round(fraction * kernel.size)
        flat[path], masks[path] = _reset_kernel(kernel, fresh, gradients[path], count, kept_rate)
    return edited(params, flat), edited(jax.tree.map(jnp.ones_like, params), masks)


def epoch_rates(peak: float, epochs: int) -> np.ndarray:
    """The rate of each epoch, float64 `(epochs,)`: rises to `peak` in the first half, then falls towards 0."""
    number, rise = np.arange(1, epochs + 1), (epochs + 1) // 2
    return peak * np.where(number <= rise, number / max(rise, 1), (epochs + 1 - number) / (epochs + 1 - rise))


def _no_convolutions() -> InputError:
    return InputError("msg resets weights of 2-D convolutions and the network has none; choose another method")


@jax.jit
def _reset_kernel(kernel: jax.Array, fresh: jax.Array, gradient: jax.Array, count: Any, kept_rate: Any) -> Any:
    chosen = smallest(jnp.abs(gradient), count)
    return jnp.where(chosen, fresh, kernel), jnp.where(chosen, 1.0, kept_rate).astype(kernel.dtype)
