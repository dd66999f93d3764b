"""The head of a network: the layer that gives the logits."""

from typing import Any

import jax
import jax.numpy as jnp

from osp_jax.program.channels import Channels
from osp_jax.trees import leaves_by_path, pruned


def head_kernel(channels: Channels) -> str:
    """The path of the head's kernel."""
    return f"params/{channels.head}/kernel"


def head_bias(channels: Channels) -> str:
    """The path of the head's bias, which not every head has."""
    return f"params/{channels.head}/bias"


def head_of(variables: Any, channels: Channels) -> tuple[jax.Array, jax.Array]:
    """(kernel `(features, classes)`, bias `(classes,)`, zeros where there is none) of the head.

    Raises:
      InputError: the statistics that `channels` are of are those of another network.
    """
    (kernel,) = pruned(variables, (head_kernel(channels),)).values()
    kernel = kernel.reshape(-1, kernel.shape[-1])  # a 1x1 convolution is a dense layer too
    bias = leaves_by_path(variables).get(head_bias(channels))
    return kernel, jnp.zeros(kernel.shape[-1], kernel.dtype) if bias is None else bias
