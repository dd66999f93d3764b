"""The logit of a class is put out of reach, in the head's bias."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from osp_jax.methods.parts.head import head_bias
from osp_jax.program.channels import Channels
from osp_jax.trees import edited, leaf_paths, pruned

# In effect minus infinity, but finite, so that losses and gradients of the masked model stay finite.
_OUT_OF_REACH = -1e9


def put_out_of_reach(variables: Any, channels: Channels, classes: Sequence[int]) -> Any:
    """Variables with the head's bias of each class at -1e9. Raises `InputError` for a head without a bias."""
    head = pruned(variables, (head_bias(channels),))
    return edited(variables, {path: bias.at[np.array(classes)].set(_OUT_OF_REACH) for path, bias in head.items()})


def keep_out_of_reach(variables: Any, channels: Channels, classes: Sequence[int]) -> Any:
    """The same; a head without a bias is left as it is."""
    if not len(classes) or head_bias(channels) not in leaf_paths(variables):
        return variables
    return put_out_of_reach(variables, channels, classes)
