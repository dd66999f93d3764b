"""MSG, masked small gradients: weights on which forgotten and retained images agree are drawn anew and trained.

One of the two best methods in Cadet et al.: Deep Unlearn, arXiv 2410.01276, for random images; here as in its code
(github.com/xcadet/deepunlearn, munl/unlearning/kgltop2.py). The gradient of the retained images' loss (as many images,
drawn at random, as are forgotten) minus the forgotten images' is taken in train mode; in each 2-D convolution the
`fraction` of weights where it is smallest in size is drawn anew, normal with variance 2 / fan-out. Then fine-tuning on
the retained images without augmentation, in which the convolutions' other weights learn at a tenth of the rate; the
rate rises and falls again linearly, epoch by epoch.

Deviations: there the batches of the first gradient change the running statistics, which fine-tuning replaces anyway;
there weight decay is not slowed down with the gradient.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from osp_jax.data.draws import host_generator
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.importance import filled_batches, loss_gradient, smallest, summed
from osp_jax.methods.parts.options import check_options
from osp_jax.methods.parts.retain_loss import retain_loss
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import Statistics
from osp_jax.training.descent import Optimiser, descend, epoch_batches

SEES = ("retain", "forget")
SEARCH = {"learning_rate": (0.001, 0.003, 0.01, 0.03, 0.1), "fraction": (0.1, 0.3, 0.5), "epochs": (5, 10)}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of `msg`; unless told otherwise from deepunlearn, munl/unlearning/kgltop2.py."""

    fraction: float = 0.3  # init_rate
    kept_rate: float = 0.1  # factor on the gradient of the convolutions' weights that are kept
    epochs: int = 5  # num_epochs
    learning_rate: float = 0.001  # peak
    batch_size: int = 64  # batch_size
    momentum: float = 0.9  # momentum
    weight_decay: float = 5e-4  # weight_decay; ours is on kernels only
    augment: bool = False  # munl/settings.py, default_loaders: the images as in testing

    def __post_init__(self) -> None:
        check_options(
            self,
            fraction=(0, 1),
            kept_rate=(0, None),
            epochs=(0, None),
            learning_rate=(0, None),
            batch_size=(1, None),
            momentum=(0, 1),
            weight_decay=(0, None),
        )


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
    """Variables after the reset and `epochs` passes over the retained images."""
    del forget, statistics
    draw_key, reset_key, order_key, step_key = jax.random.split(rng, 4)
    gradient = gradient_difference(model, variables, data, config.batch_size, draw_key)
    params, mask = reset(variables["params"], gradient, config.fraction, config.kept_rate, reset_key)
    batches = epoch_batches(data.retain(), config.batch_size, config.epochs, order_key)
    preparation = data.preparation if config.augment else data.preparation.without_augmentation()
    return descend(
        retain_loss(model, preparation),
        {**variables, "params": params},
        {"indices": batches},
        np.repeat(epoch_rates(config.learning_rate, config.epochs), len(batches) // max(config.epochs, 1)),
        step_key,
        optimiser=Optimiser(momentum=config.momentum, weight_decay=config.weight_decay),
        arguments=(data.images, data.labels),
        mask=mask,
    )


def check(params: Any, channels: Any, config: Any) -> None:
    """Raises `InputError` for a network without 2-D convolutions."""
    del channels, config
    _convolutions(params)


def gradient_difference(
    model: nn.Module, variables: dict[str, Any], data: RequestData, batch_size: int, rng: jax.Array
) -> Any:
    """Sum of the batch gradients of retained images minus that of the forgotten ones, a pytree like `params`."""
    forgotten, draw = data.forget(), host_generator(rng)
    sides = draw.permutation(data.retain())[: len(forgotten)], draw.permutation(forgotten)
    term = loss_gradient(model, data.preparation, train=True)
    sums = [summed(term, variables, filled_batches(side, batch_size), data.images, data.labels) for side in sides]
    return jax.tree.map(jnp.subtract, *sums)


def reset(params: Any, gradient: Any, fraction: float, kept_rate: float, rng: jax.Array) -> tuple[Any, Any]:
    """(new params, factors on their later changes), pytrees like `params`; see above."""
    paths, flat = _convolutions(params), traverse_util.flatten_dict(params)
    gradients = traverse_util.flatten_dict(gradient)
    masks = {path: jnp.ones_like(leaf) for path, leaf in flat.items()}
    draw = host_generator(rng)
    for path in paths:
        kernel = flat[path]
        fan_out = kernel.size // kernel.shape[-2]
        fresh = draw.standard_normal(kernel.shape, np.float32) * np.float32(np.sqrt(2 / fan_out))
        count = round(fraction * kernel.size)
        flat[path], masks[path] = _reset_kernel(kernel, fresh, gradients[path], count, kept_rate)
    return traverse_util.unflatten_dict(flat), traverse_util.unflatten_dict(masks)


def epoch_rates(peak: float, epochs: int) -> np.ndarray:
    """The rate of each epoch, float64 `(epochs,)`: up to `peak` in the first half, down towards 0 after the last."""
    number, rise = np.arange(1, epochs + 1), (epochs + 1) // 2
    return peak * np.where(number <= rise, number / max(rise, 1), (epochs + 1 - number) / (epochs + 1 - rise))


def _convolutions(params: Any) -> list[tuple[str, ...]]:
    """Paths of the kernels of 2-D convolutions."""
    flat = traverse_util.flatten_dict(params)
    paths = [path for path, leaf in flat.items() if path[-1] == "kernel" and leaf.ndim == 4]
    if not paths:
        raise InputError("msg resets weights of 2-D convolutions and the network has none; choose another method")
    return paths


@jax.jit
def _reset_kernel(kernel: jax.Array, fresh: jax.Array, gradient: jax.Array, count: Any, kept_rate: Any) -> Any:
    chosen = smallest(jnp.abs(gradient), count)
    return jnp.where(chosen, fresh, kernel), jnp.where(chosen, 1.0, kept_rate).astype(kernel.dtype)
