"""The head of a network: the linear layer that computes the logits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.program.gates import Gates, Head
from osp_jax.trees import pruned


def head_leaves(head: Head) -> tuple[str, ...]:
    """The paths of the head's kernel and, if it has one, its bias."""
    return (head.kernel,) if head.bias is None else (head.kernel, head.bias)


def head_of(variables: Any, head: Head) -> tuple[jax.Array, jax.Array]:
    """(kernel `(features, classes)`, bias `(classes,)`) of the head; zeros if it has no bias.

    Raises:
      InputError: `head` belongs to another network.
    """
    leaves = pruned(variables, head_leaves(head))
    kernel = jnp.moveaxis(leaves[head.kernel], (head.input_axis, head.output_axis), (-2, -1))
    kernel = kernel.reshape(kernel.shape[-2:])  # a 1x1 convolution is a dense layer
    bias = jnp.zeros(kernel.shape[-1], kernel.dtype) if head.bias is None else leaves[head.bias].reshape(-1)
    return kernel, bias


def head_logits(variables: Any, head: Head, inputs: jax.Array) -> jax.Array:
    """Logits `(..., classes)` for inputs of the head `(..., features)`."""
    kernel, bias = head_of(variables, head)
    return inputs @ kernel + bias


def head_changes(variables: Any, head: Head, kernel: jax.Array, bias: jax.Array) -> dict[str, jax.Array]:
    """The leaves, by path, that set the head to this kernel and bias, in the layout of `head_of`.

    `bias` is ignored if the head has none.
    """
    leaves = pruned(variables, head_leaves(head))
    old = leaves[head.kernel]
    axes = (head.input_axis, head.output_axis)
    moved = jnp.moveaxis(old, axes, (-2, -1))
    new = {head.kernel: jnp.moveaxis(kernel.reshape(moved.shape), (-2, -1), axes).astype(old.dtype)}
    if head.bias is not None:
        new[head.bias] = bias.reshape(leaves[head.bias].shape).astype(leaves[head.bias].dtype)
    return new


def feature_channels(gates: Gates) -> np.ndarray:
    """The channel of the last group that each feature of the head belongs to, int `(features,)`."""
    head = gates.head
    (factor,) = gates.last.readers
    index = np.reshape(factor.index, factor.shape)
    return np.moveaxis(index, head.input_axis, 0).reshape(index.shape[head.input_axis], -1)[:, 0]
