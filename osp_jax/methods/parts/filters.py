"""Filters, the unit of methods that prune: the channels of one convolution or dense layer, and their exact removal.

A filter is gated where its output is written, so nothing of it is left behind its norm either, which equals removing
the input channels of the next layers. In a residual stream each layer that adds to a channel has a filter for it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from osp_jax.masks import Mask, apply_mask
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.groups import chosen_groups
from osp_jax.methods.parts.retain_loss import retain_loss
from osp_jax.model import Model
from osp_jax.program.channels import ChannelGroup, Channels
from osp_jax.runtime.errors import InputError
from osp_jax.training.descent import Optimiser, cosine_rates, descend, epoch_batches, in_train_mode, split_variables

SCOPES = ("global", "layer")


def filters(channels: Channels, layers: str = "all") -> Channels:
    """`channels` with a group for each layer that has filters, named by the layer's path, instead of its own groups.

    `layers` says of which of its own groups: 'last', 'all', or a regular expression on their names.
    """
    names = chosen_groups(channels, layers)
    chosen = [group for group in channels.groups if group.name in names]
    groups = tuple(ChannelGroup(w.kernel, group.channels, (w,)) for group in chosen for w in group.writers if w.kernel)
    if not groups:
        raise InputError("none of these layers has channels of its own to prune; name others, or take another method")
    return dataclasses.replace(channels, groups=groups)


def filter_outputs(
    module: nn.Module, variables: dict[str, Any], inputs: jax.Array, paths: tuple[str, ...]
) -> dict[str, jax.Array]:
    """What the layers at `paths` put out in eval mode, `(batch, ..., channels)` by path; jittable.

    Args:
      inputs: normalised images, `(batch, h, w, c)`.
    """

    def wanted(layer: nn.Module, method: str) -> bool:
        return method == "__call__" and "/".join(layer.path) in paths

    options = {"capture_intermediates": wanted, "mutable": ["intermediates"]}
    _, recorded = module.apply(variables, inputs, False, **options)
    outputs = traverse_util.flatten_dict(recorded["intermediates"], sep="/")
    return {path: outputs[f"{path}/__call__"][0] for path in paths}


def without_highest(scores: Mapping[str, np.ndarray], fraction: float, scope: str) -> dict[str, np.ndarray]:
    """Gains float32 `(channels,)` by layer: 0 for the `fraction` that score highest, at least one; 1 for the others.

    Args:
      scores: `(channels,)` by layer; of equal ones the first go.
      scope: 'global', the fraction is of all layers' channels together, or 'layer', of each layer's.
    """
    if scope == "layer":
        return {name: _without_highest(score, fraction) for name, score in scores.items()}
    ends = np.cumsum([len(score) for score in scores.values()])
    gains = _without_highest(np.concatenate(list(scores.values())), fraction)
    return dict(zip(scores, np.split(gains, ends[:-1]), strict=True))


def _without_highest(scores: np.ndarray, fraction: float) -> np.ndarray:
    """On the host, where a few thousand numbers need no program."""
    gains = np.ones(len(scores), np.float32)
    gains[np.argsort(-scores, kind="stable")[: max(1, round(fraction * len(scores)))]] = 0
    return gains


def fine_tune(model: Model, mask: Mask, data: RequestData, settings: Any, rng: jax.Array) -> Model:
    """The model after `settings.epochs` over the retained images; parameters that `mask` made 0 stay 0.

    Args:
      settings: has `epochs`, `learning_rate`, `batch_size`, `momentum` and `weight_decay`; Nesterov's momentum, and the
        rate goes along half a cosine from epoch to epoch.
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
