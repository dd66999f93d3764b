"""Puts the logit of a class out of reach by the bias of the head."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from osp_jax.program.gates import Gates
from osp_jax.runtime.errors import InputError
from osp_jax.trees import edited, pruned

# Effectively minus infinity, but finite, so that losses and gradients of the masked model stay finite.
_OUT_OF_REACH = -1e9


def put_out_of_reach(variables: Any, gates: Gates, classes: Sequence[int]) -> Any:
    """Variables with the head's bias of each class at -1e9. Raises `InputError` for a head without a bias."""
    check_bias(gates)
    (bias,) = pruned(variables, (gates.head.bias,)).values()
    new = bias.reshape(-1).at[np.array(classes)].set(_OUT_OF_REACH).reshape(bias.shape)
    return edited(variables, {gates.head.bias: new})


def keep_out_of_reach(variables: Any, gates: Gates, classes: Sequence[int]) -> Any:
    """Like `put_out_of_reach`, but leaves a head without a bias unchanged."""
    if not len(classes) or gates.head.bias is None:
        return variables
    return put_out_of_reach(variables, gates, classes)


def check_bias(gates: Gates) -> None:
    """Raises `InputError` for a head without a bias."""
    if gates.head.bias is None:
        raise InputError(f"the head {gates.head.kernel} has no bias to put out of reach; take another method")
