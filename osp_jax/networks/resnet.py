"""Residual networks (He et al., 2016, arXiv 1512.03385), for small and large images."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from osp_jax.networks.layers import activation, conv2d, padding
from osp_jax.networks.norm import BatchNorm

Layer = Callable[..., Any]

STEMS = {"cifar": (3, 1), "strided": (3, 2), "imagenet": (7, 2)}  # side of the kernel, stride


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    filters: int
    strides: int
    conv: Layer
    norm: Layer
    expansion: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.filters, (3, 3), strides=self.strides, name="conv1")(x)
        y = activation(self, "relu1", self.norm(name="bn1")(y))
        y = self.conv(self.filters, (3, 3), name="conv2")(y)
        y = self.norm(name="bn2")(y)
        return activation(self, "relu2", y + _shortcut(self, x, y))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the stride is on the 3x3."""

    filters: int
    strides: int
    conv: Layer
    norm: Layer
    expansion: int = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.filters, (1, 1), name="conv1")(x)
        y = activation(self, "relu1", self.norm(name="bn1")(y))
        y = self.conv(self.filters, (3, 3), strides=self.strides, name="conv2")(y)
        y = activation(self, "relu2", self.norm(name="bn2")(y))
        y = self.conv(self.filters * self.expansion, (1, 1), name="conv3")(y)
        y = self.norm(name="bn3")(y)
        return activation(self, "relu3", y + _shortcut(self, x, y))


def _shortcut(block: BasicBlock | Bottleneck, x: jax.Array, y: jax.Array) -> jax.Array:
    if x.shape == y.shape:
        return x
    x = block.conv(y.shape[-1], (1, 1), strides=block.strides, name="conv_shortcut")(x)
    return block.norm(name="bn_shortcut")(x)


class ResNet(nn.Module):
    """`stage_sizes` blocks per stage; each stage doubles the width and halves the size of the map.

    `stem`: 'cifar' is one 3x3 convolution; 'strided' is the same with stride 2, which quarters the later work;
    'imagenet' is 7x7 with stride 2 and a max-pool.
    `__call__(images (batch, height, width, 3) float, train)` returns float32 logits `(batch, num_classes)`.
    """

    stage_sizes: tuple[int, ...]
    num_classes: int
    block: type[BasicBlock] | type[Bottleneck] = BasicBlock
    width: int = 64
    stem: str = "cifar"
    dtype: Any = jnp.float32
    convolution: str = "xla"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        norm = partial(BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)

        def conv(filters: int, kernel_size: tuple[int, int], strides: int = 1, *, name: str) -> nn.Conv:
            options = {"use_bias": False, "dtype": self.dtype, "convolution": self.convolution}
            return conv2d(filters, kernel_size, strides, **options, name=name)

        side, strides = STEMS[self.stem]
        x = conv(self.width, (side, side), strides, name="stem_conv")(images)
        x = activation(self, "stem_relu", norm(name="stem_bn")(x))
        if self.stem == "imagenet":
            x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=padding((3, 3)))
        for stage, blocks in enumerate(self.stage_sizes, start=1):
            for i in range(blocks):
                strides = 2 if stage > 1 and i == 0 else 1
                name = f"stage{stage}_block{i + 1}"
                x = self.block(self.width * 2 ** (stage - 1), strides, conv, norm, name=name)(x)
        x = x.mean(axis=(1, 2))  # b h w c -> b c
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)
