"""Layers shared by all networks: the recorded activation, and convolutions with symmetric padding."""

from typing import Any

import jax
from flax import linen as nn

from osp_jax.networks.cpu.convolution import conv_general_dilated


def activation(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
    """ReLU of the pre-activation `x` `(batch, ..., channels)`, recorded as by `recorded`."""
    return recorded(module, name, nn.relu(x))


def recorded(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
    """Returns `x`, and sows it as `activations/<module path>/<name>` if that collection is mutable.

    Args:
      module: the calling module, under whose path the value is stored.
      name: different from the names of submodules.
      x: output of an activation, or input of the head, `(batch, ..., channels)`.
    """
    module.sow("activations", name, x, init_fn=lambda: None, reduce_fn=lambda _, new: new)
    return x


def padding(kernel_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Symmetric padding; at stride 2, 'SAME' would pad one side only."""
    return tuple((k // 2, k // 2) for k in kernel_size)


def max_pool(x: jax.Array) -> jax.Array:
    """The maximum over 2x2 windows, `(batch, h, w, c)` -> `(batch, h // 2, w // 2, c)`; fast on CPUs."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


CONVOLUTIONS = {"xla": None, "cpu": conv_general_dilated}


def conv2d(
    filters: int, kernel_size: tuple[int, int], strides: int = 1, *, convolution: str = "xla", **options: Any
) -> nn.Conv:
    """`nn.Conv` with symmetric padding.

    Args:
      convolution: 'xla', or 'cpu' for the convolutions of `networks/cpu`, which are faster on CPUs.
    """
    own = CONVOLUTIONS[convolution]
    return nn.Conv(filters, kernel_size, strides, padding(kernel_size), conv_general_dilated=own, **options)
