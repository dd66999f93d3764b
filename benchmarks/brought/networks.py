"""CIFAR-10 networks of other people: Linen modules whose variables have the names of the published weights.

The architectures are those of tutorial 5 (JAX) of the UvA deep learning course,
https://github.com/phlippe/uvadlc_notebooks; the weights are those of https://github.com/phlippe/saved_models, written
by `flax.training.checkpoints`. Linen numbers submodules by class name, so the class names are part of the format.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import serialization

from osp_jax.runtime.errors import InputError, shown, unknown

MEAN = (0.49139968, 0.48215841, 0.44653091)
STD = (0.24703223, 0.24348513, 0.26158784)


class ResNetBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, with the activation after the sum (He et al. 2016, arXiv 1512.03385)."""

    channels: int
    stride: int = 1
    act_fn: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        steps = (self.stride, self.stride)
        z = nn.Conv(self.channels, (3, 3), steps, use_bias=False)(x)
        z = self.act_fn(nn.BatchNorm(not train)(z))
        z = nn.Conv(self.channels, (3, 3), use_bias=False)(z)
        z = nn.BatchNorm(not train)(z)
        if self.stride > 1:
            x = nn.Conv(self.channels, (1, 1), steps)(x)
        return self.act_fn(z + x)


class PreActResNetBlock(nn.Module):
    """Norm and activation in front of each convolution (He et al. 2016, arXiv 1603.05027)."""

    channels: int
    stride: int = 1
    act_fn: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        steps = (self.stride, self.stride)
        z = self.act_fn(nn.BatchNorm(not train)(x))
        z = nn.Conv(self.channels, (3, 3), steps, use_bias=False)(z)
        z = self.act_fn(nn.BatchNorm(not train)(z))
        z = nn.Conv(self.channels, (3, 3), use_bias=False)(z)
        if self.stride > 1:
            x = self.act_fn(nn.BatchNorm(not train)(x))
            x = nn.Conv(self.channels, (1, 1), steps, use_bias=False)(x)
        return z + x


class ResNet(nn.Module):
    """Stages of residual blocks; every stage except the first starts with a stride of 2.

    With `PreActResNetBlock` the stem has no norm, and the head reads the mean of the residual stream itself.
    """

    num_classes: int = 10
    act_fn: Callable[[jax.Array], jax.Array] = nn.relu
    block_class: type[nn.Module] = ResNetBlock
    num_blocks: Sequence[int] = (3, 3, 3)
    c_hidden: Sequence[int] = (16, 32, 64)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        x = nn.Conv(self.c_hidden[0], (3, 3), use_bias=False)(x)
        if self.block_class is ResNetBlock:
            x = self.act_fn(nn.BatchNorm(not train)(x))
        for stage, (channels, blocks) in enumerate(zip(self.c_hidden, self.num_blocks, strict=True)):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                x = self.block_class(channels, stride, self.act_fn)(x, train=train)
        return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)))


class DenseLayer(nn.Module):
    """A bottleneck whose output is appended to its input (Huang et al. 2017, arXiv 1608.06993)."""

    bn_size: int
    growth_rate: int
    act_fn: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        z = self.act_fn(nn.BatchNorm(not train)(x))
        z = nn.Conv(self.bn_size * self.growth_rate, (1, 1), use_bias=False)(z)
        z = self.act_fn(nn.BatchNorm(not train)(z))
        z = nn.Conv(self.growth_rate, (3, 3), use_bias=False)(z)
        return jnp.concatenate([x, z], axis=-1)


class DenseBlock(nn.Module):
    """A sequence of dense layers."""

    num_layers: int
    bn_size: int
    growth_rate: int
    act_fn: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        for _ in range(self.num_layers):
            x = DenseLayer(self.bn_size, self.growth_rate, self.act_fn)(x, train=train)
        return x


class TransitionLayer(nn.Module):
    """Halves the number of channels and the sides of the map."""

    channels: int
    act_fn: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        x = self.act_fn(nn.BatchNorm(not train)(x))
        x = nn.Conv(self.channels, (1, 1), use_bias=False)(x)
        return nn.avg_pool(x, (2, 2), strides=(2, 2))


class DenseNet(nn.Module):
    """DenseNet-BC for images of 32x32 pixels."""

    num_classes: int = 10
    act_fn: Callable[[jax.Array], jax.Array] = nn.relu
    num_layers: Sequence[int] = (6, 6, 6, 6)
    bn_size: int = 2
    growth_rate: int = 16

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        x = nn.Conv(self.bn_size * self.growth_rate, (3, 3))(x)
        for stage, layers in enumerate(self.num_layers):
            if stage:
                x = TransitionLayer(x.shape[-1] // 2, self.act_fn)(x, train=train)
            x = DenseBlock(layers, self.bn_size, self.growth_rate, self.act_fn)(x, train=train)
        x = self.act_fn(nn.BatchNorm(not train)(x))
        return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)))


class InceptionBlock(nn.Module):
    """Four parallel branches (Szegedy et al. 2015, arXiv 1409.4842), each convolution with a batch norm.

    As in the tutorial, the fourth branch has no pooling: the output of its max-pool is not used.
    """

    reduced: Sequence[int]  # channels in front of the 3x3 and the 5x5 convolution
    channels: Sequence[int]  # outputs of the branches 1x1, 3x3, 5x5 and the fourth
    act_fn: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        def convolved(inputs: jax.Array, channels: int, size: int) -> jax.Array:
            z = nn.Conv(channels, (size, size), use_bias=False)(inputs)
            return self.act_fn(nn.BatchNorm(not train)(z))

        one = convolved(x, self.channels[0], 1)
        three = convolved(convolved(x, self.reduced[0], 1), self.channels[1], 3)
        five = convolved(convolved(x, self.reduced[1], 1), self.channels[2], 5)
        fourth = convolved(x, self.channels[3], 1)
        return jnp.concatenate([one, three, five, fourth], axis=-1)


class GoogleNet(nn.Module):
    """Inception blocks in three stages, with a 3x3 max-pool of stride 2 between stages."""

    num_classes: int = 10
    act_fn: Callable[[jax.Array], jax.Array] = nn.relu
    stem: int = 64
    # By stage and block: (reduced, channels) of an `InceptionBlock`.
    stages: Sequence[Sequence[tuple[Sequence[int], Sequence[int]]]] = (
        (((32, 16), (16, 32, 8, 8)), ((32, 16), (24, 48, 12, 12))),
        (
            ((32, 16), (24, 48, 12, 12)),
            ((32, 16), (16, 48, 16, 16)),
            ((32, 16), (16, 48, 16, 16)),
            ((32, 16), (32, 48, 24, 24)),
        ),
        (((48, 16), (32, 64, 16, 16)), ((48, 16), (32, 64, 16, 16))),
    )

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        x = nn.Conv(self.stem, (3, 3), use_bias=False)(x)
        x = self.act_fn(nn.BatchNorm(not train)(x))
        for stage, blocks in enumerate(self.stages):
            if stage:
                x = nn.max_pool(x, (3, 3), strides=(2, 2))
            for reduced, channels in blocks:
                x = InceptionBlock(reduced, channels, self.act_fn)(x, train=train)
        return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)))


@dataclasses.dataclass(frozen=True)
class Brought:
    """A network and the file of its weights; `accuracy` is its test accuracy on CIFAR-10."""

    module: nn.Module
    file: str
    accuracy: float


NETWORKS = {
    "resnet": Brought(ResNet(), "cifar10_resnet_flax.msgpack", 0.9100),
    "densenet": Brought(DenseNet(), "cifar10_densenet_flax.msgpack", 0.9043),
}


def load(name: str, models_dir: Path) -> tuple[nn.Module, dict[str, Any]]:
    """(module, variables) of the network `name` of `NETWORKS`; its file is in the folder `models_dir`.

    Raises:
      InputError: an unknown name; a file that is missing, damaged, or belongs to another network.
    """
    if name not in NETWORKS:
        raise unknown("network", name, NETWORKS)
    module = NETWORKS[name].module
    return module, read_variables(models_dir / NETWORKS[name].file, module)


def read_variables(path: Path, module: nn.Module) -> dict[str, Any]:
    """{'params', 'batch_stats'}, float32, from a msgpack file that Flax wrote.

    Raises:
      InputError: the file is missing, damaged, or belongs to another network than `module`.
    """
    try:
        variables = serialization.msgpack_restore(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{shown(path)} does not exist; download {path.name} and give its folder") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{shown(path)} cannot be read as Flax's msgpack ({error}); download it again") from error
    wanted = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    if not _same_shapes(variables, wanted):
        raise InputError(f"{shown(path)} holds the weights of another network than {type(module).__name__}")
    return jax.tree.map(jnp.asarray, variables)


def _same_shapes(variables: Any, wanted: Any) -> bool:
    return jax.tree.structure(variables) == jax.tree.structure(wanted) and all(
        isinstance(leaf, np.ndarray) and leaf.shape == other.shape
        for leaf, other in zip(jax.tree.leaves(variables), jax.tree.leaves(wanted), strict=True)
    )
