"""The logit of a class is put out of reach, in the head's bias."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from osp_jax.methods.parts.params import merge, pruned
from osp_jax.program.channels import Channels

# In effect minus infinity, but finite, so that losses and gradients of the masked model stay finite.
_OUT_OF_REACH = -1e9


def head_bias(channels: Channels) -> tuple[str, ...]:
    """The path of the head's bias in `params`."""
    return (*channels.head.split("/"), "bias")


def put_out_of_reach(variables: dict[str, Any], channels: Channels, classes: Sequence[int]) -> dict[str, Any]:
    """Variables with the head's bias of each class at -1e9. Raises `InputError` for a head without a bias."""
    head = pruned(variables["params"], (head_bias(channels),))
    return merge(variables, jax.tree.map(lambda bias: bias.at[np.array(classes)].set(_OUT_OF_REACH), head))


def keep_out_of_reach(variables: dict[str, Any], channels: Channels, classes: Sequence[int]) -> dict[str, Any]:
    """The same; a head without a bias is left as it is."""
    if not len(classes) or head_bias(channels) not in traverse_util.flatten_dict(variables["params"]):
        return variables
    return put_out_of_reach(variables, channels, classes)
