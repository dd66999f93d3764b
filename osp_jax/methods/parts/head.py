"""The head of a network: the layer that gives the logits."""

from typing import Any

import jax
import jax.numpy as jnp

from osp_jax.methods.parts.params import pruned
from osp_jax.program.channels import Channels


def head_of(params: Any, channels: Channels) -> tuple[jax.Array, jax.Array]:
    """(kernel `(features, classes)`, bias `(classes,)`, zeros where there is none) of the head."""
    path = tuple(channels.head.split("/"))
    pruned(params, ((*path, "kernel"),))  # raises where the statistics are of another network
    for name in path:
        params = params[name]
    kernel = params["kernel"].reshape(-1, params["kernel"].shape[-1])  # a 1x1 convolution is a dense layer too
    return kernel, params.get("bias", jnp.zeros(kernel.shape[-1], kernel.dtype))
