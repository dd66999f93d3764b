"""The trivial bound: the logit of a forgotten class is pushed out of reach, and nothing else changes."""

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from osp_jax.activations import Statistics
from osp_jax.models.channels import Channels
from osp_jax.unlearning.osp import merge, pruned

# In effect minus infinity, but finite, so that losses and gradients of the masked model stay finite.
_OUT_OF_REACH = -1e9


@dataclasses.dataclass(frozen=True)
class Options:
    """`logit-mask` has no options."""


def check(params: Any, channels: Channels, config: Options) -> None:
    """Raises `InputError` for a head without a bias."""
    pruned(params, (_bias(channels),))


def unlearn(
    model: nn.Module,
    variables: dict[str, Any],
    forget: tuple[int, ...],
    *,
    data: Any,
    statistics: Statistics,
    config: Options,
    rng: jax.Array,
) -> dict[str, Any]:
    """Variables with the head's bias of each forgotten class at -1e9."""
    del model, data, config, rng
    head = pruned(variables["params"], (_bias(statistics.channels),))
    return merge(variables, jax.tree.map(lambda bias: bias.at[np.array(forget)].set(_OUT_OF_REACH), head))


def _bias(channels: Channels) -> tuple[str, ...]:
    return (*channels.head.split("/"), "bias")
