"""A gate: a value of a network with a channel axis, and the leaves that can carry the gains of its channels."""

import dataclasses
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Factor:
    """Maps the gains of channels to the entries of a leaf.

    Attributes:
      path: path of the leaf in the variables.
      shape: broadcasts against the leaf, same rank.
      index: flat, one number per entry of `shape`: the channel whose gain scales it; -1: none.
    """

    path: str
    shape: tuple[int, ...]
    index: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Gate:
    """The channels of a value, and the leaves that can carry their gains.

    Attributes:
      name: path of the module that writes the channels last, or of the first that reads them and '/input'.
      channels: number of channels.
      value: number of the equation in the flat program whose first output is gated.
      axis: its channel axis.
      writers: leaves whose scaling equals scaling the value; () if that is not exact.
      readers: leaves that absorb the gains at each read of the value; () if some read cannot.
      kernels: leaves that compute only these channels, so that they may be zeroed with them.
      batch_axis: the axis of the value that indexes images.
    """

    name: str
    channels: int
    value: int
    axis: int
    writers: tuple[Factor, ...]
    readers: tuple[Factor, ...]
    kernels: tuple[Factor, ...]
    batch_axis: int = 0

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The factors of a mask: the writers if possible, else the readers."""
        return self.writers or self.readers


@dataclasses.dataclass(frozen=True)
class Head:
    """The leaves that compute the logits, features @ kernel + bias, and the axes of the kernel."""

    kernel: str
    input_axis: int
    output_axis: int
    bias: str | None


@dataclasses.dataclass(frozen=True)
class Gates:
    """The gates of a network; hashable.

    Attributes:
      groups: from input to output, each verified.
      filters: one per kernel, where possible: its output behind the affine operations that follow it, gated at its own
        writers.
      head: the leaves of the linear head.
      features: name of the group that the head reads, which always has readers.
      read: the head's input: number of the head's equation, its operand, its feature axis, its batch axis.
      program: digest of the flat program that the numbers refer to.
    """

    groups: tuple[Gate, ...]
    filters: tuple[Gate, ...]
    head: Head
    features: str
    read: tuple[int, int, int, int]
    program: str

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Cached, because every call of a program in which gates are static needs it."""
        return hash((self.groups, self.filters, self.head, self.features, self.read, self.program))

    @property
    def last(self) -> Gate:
        """The group that the head reads."""
        return next(group for group in self.groups if group.name == self.features)


def spread(factor: Factor, gain: Any) -> Any:
    """The factor on a leaf for gains `(channels,)`: float32, of the shape of `factor`."""
    index = np.asarray(factor.index).reshape(factor.shape)
    array = np if isinstance(gain, np.ndarray) else jnp
    return array.where(index >= 0, gain[np.maximum(index, 0)], 1.0).astype(np.float32)
