"""Filters, the unit of pruning methods: the channels of one convolution or dense layer, and their exact removal.

A filter is gated where its output is written, which also removes its constant behind a norm and equals removing the
input channels of the next layers. In a residual stream, each layer that adds to a channel has its own filter for it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.masks import Mask, apply_mask
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.groups import chosen_groups
from osp_jax.methods.parts.retain_loss import retain_loss
from osp_jax.model import Model
from osp_jax.program.gates import Gate, Gates
from osp_jax.program.kernels import kernel_outputs
from osp_jax.runtime.errors import InputError
from osp_jax.training.descent import Optimiser, cosine_rates, descend, epoch_batches, in_train_mode, split_variables

SCOPES = ("global", "layer")

Apply = Callable[[Any, jax.Array], jax.Array]


def filters(gates: Gates, layers: str = "all") -> Gates:
    """`gates` with one group per layer that has filters, named by the layer's path, instead of the original groups.

    `layers` selects original groups: 'last', 'all', or a regular expression on their names. A group that is gated by
    its readers gives the filters of the last layer in front of it with as many channels.
    """
    chosen = [group for group in gates.groups if group.name in chosen_groups(gates, layers)]
    found: dict[str, Gate] = {} if layers != "all" else {unit.name: unit for unit in gates.filters}
    for group in chosen:
        kernels = {kernel.path for kernel in group.kernels}
        own = [unit for unit in gates.filters if kernels & set(kernel_paths(unit))]
        before = [unit for unit in gates.filters if unit.value <= group.value and unit.channels == group.channels]
        found |= {unit.name: unit for unit in own or before[-1:]}
    if not found:
        raise InputError("none of these layers has channels of its own to prune; name others, or take another method")
    groups = sorted(found.values(), key=lambda unit: unit.value)
    return dataclasses.replace(gates, groups=tuple(groups), features=groups[-1].name)


def kernel_paths(unit: Gate) -> tuple[str, ...]:
    """The paths of the kernels that write the channels of a filter."""
    return tuple(kernel.path for kernel in unit.kernels)


def filter_outputs(model_apply: Apply, units: Gates, variables: Any, inputs: jax.Array) -> dict[str, jax.Array]:
    """Outputs of the filters' layers in eval mode, in front of any norm, `(batch, ..., channels)` by name; jittable.

    Args:
      units: as `filters` returns them.
      inputs: normalised images, `(batch, h, w, c)`.
    """
    paths = {unit.name: kernel_paths(unit)[0] for unit in units.groups}
    _, outputs = kernel_outputs(model_apply, variables, inputs, tuple(paths.values()))
    return {name: outputs[path] for name, path in paths.items()}


def without_highest(scores: Mapping[str, np.ndarray], fraction: float, scope: str) -> dict[str, np.ndarray]:
    """Gains float32 `(channels,)` by layer: 0 for the `fraction` with the highest scores, at least one; 1 for others.

    Args:
      scores: `(channels,)` by layer; among equal scores, the first are removed.
      scope: 'global': the fraction is of the channels of all layers together; 'layer': of each layer.
    """
    if scope == "layer":
        return {name: _without_highest(score, fraction) for name, score in scores.items()}
    ends = np.cumsum([len(score) for score in scores.values()])
    gains = _without_highest(np.concatenate(list(scores.values())), fraction)
    return dict(zip(scores, np.split(gains, ends[:-1]), strict=True))


def _without_highest(scores: np.ndarray, fraction: float) -> np.ndarray:
    """On the host: a few thousand numbers are not worth a compilation."""
    gains = np.ones(len(scores), np.float32)
    gains[np.argsort(-scores, kind="stable")[: max(1, round(fraction * len(scores)))]] = 0
    return gains


def fine_tune(model: Model, mask: Mask, data: RequestData, settings: Any, rng: jax.Array) -> Model:
    """Trains for `settings.epochs` over the retained images; parameters that `mask` zeroed stay 0.

    Args:
      settings: has `epochs`, `learning_rate`, `batch_size`, `momentum` (Nesterov) and `weight_decay`; the rate follows
        half a cosine from epoch to epoch.
    """
    order_key, step_key = jax.random.split(rng)
    batches = epoch_batches(data.retain(), settings.batch_size, settings.epochs, order_key)
    rates = np.repeat(cosine_rates(settings.learning_rate, settings.epochs), len(batches) // settings.epochs)
    ones = jax.tree.map(jnp.ones_like, split_variables(model)[0])
    variables = descend(
        retain_loss(in_train_mode(model), data.preparation),
        model,
        {"indices": batches},
        rates,
        step_key,
        optimiser=Optimiser(momentum=settings.momentum, nesterov=True, weight_decay=settings.weight_decay),
        arguments=(data.images, data.labels),
        mask=apply_mask(ones, mask),
    )
    return model.replace(variables=variables)
