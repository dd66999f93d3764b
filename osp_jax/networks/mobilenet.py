"""MobileNetV3-small (Howard et al., 2019, arXiv 1905.02244), for small and large images.

Departures: no dropout; running statistics have the momentum of the other networks, so that they converge in short
trainings.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from osp_jax.networks.layers import conv2d, recorded
from osp_jax.networks.norm import BatchNorm

STRIDES = {"cifar": (1, 1), "strided": (2, 1), "imagenet": (2, 2)}  # strides of the stem and of the first block


class Row(NamedTuple):
    """A line of the paper's table 2."""

    kernel: int
    hidden: int
    filters: int
    excite: bool
    act: Callable[[jax.Array], jax.Array]
    strides: int


SMALL = (
    Row(3, 16, 16, True, nn.relu, 2),
    Row(3, 72, 24, False, nn.relu, 2),
    Row(3, 88, 24, False, nn.relu, 1),
    Row(5, 96, 40, True, nn.hard_swish, 2),
    Row(5, 240, 40, True, nn.hard_swish, 1),
    Row(5, 240, 40, True, nn.hard_swish, 1),
    Row(5, 120, 48, True, nn.hard_swish, 1),
    Row(5, 144, 48, True, nn.hard_swish, 1),
    Row(5, 288, 96, True, nn.hard_swish, 2),
    Row(5, 576, 96, True, nn.hard_swish, 1),
    Row(5, 576, 96, True, nn.hard_swish, 1),
)


class InvertedResidual(nn.Module):
    """1x1, depthwise and 1x1 convolutions; a shortcut if the shape does not change."""

    row: Row
    norm: Callable[..., Any]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        row, conv, y = self.row, partial(conv2d, use_bias=False, dtype=self.dtype), x
        if row.hidden != x.shape[-1]:
            y = conv(row.hidden, (1, 1), name="expand_conv")(y)
            y = recorded(self, "expand_act", row.act(self.norm(name="expand_bn")(y)))
        sides = (row.kernel, row.kernel)
        y = conv(row.hidden, sides, row.strides, feature_group_count=row.hidden, name="depthwise_conv")(y)
        y = recorded(self, "depthwise_act", row.act(self.norm(name="depthwise_bn")(y)))
        if row.excite:
            y = SqueezeExcite(self.dtype, name="excite")(y)
        y = self.norm(name="project_bn")(conv(row.filters, (1, 1), name="project_conv")(y))
        return x + y if x.shape == y.shape else y


class SqueezeExcite(nn.Module):
    """Scales each channel by a function of all channel means, between 0 and 1."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        y = x.mean(axis=(1, 2))  # b h w c -> b c
        y = nn.relu(nn.Dense(rounded(channels / 4), dtype=self.dtype, name="squeeze")(y))
        y = nn.hard_sigmoid(nn.Dense(channels, dtype=self.dtype, name="excite")(y))
        return x * y[:, None, None]


class MobileNetV3(nn.Module):
    """The blocks `rows`, a wide 1x1 convolution, and a hidden layer before the head.

    `width` is the number of channels of the stem, 16 in the paper; all others are scaled with it and rounded to a
    multiple of 8. `stem`: a key of `STRIDES`.
    `__call__(images (batch, height, width, 3) float, train)` returns float32 logits `(batch, num_classes)`.
    """

    num_classes: int
    rows: tuple[Row, ...] = SMALL
    width: int = 16
    stem: str = "cifar"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        norm = partial(BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-3, dtype=self.dtype)
        conv, scale = partial(conv2d, use_bias=False, dtype=self.dtype), self.width / 16
        stem, first = STRIDES[self.stem]
        x = conv(rounded(self.width), (3, 3), stem, name="stem_conv")(images)
        x = recorded(self, "stem_act", nn.hard_swish(norm(name="stem_bn")(x)))
        for i, row in enumerate(self.rows, start=1):
            hidden, filters = rounded(row.hidden * scale), rounded(row.filters * scale)
            row = row._replace(hidden=hidden, filters=filters, strides=first if i == 1 else row.strides)
            x = InvertedResidual(row, norm, self.dtype, name=f"block{i}")(x)
        x = conv(6 * x.shape[-1], (1, 1), name="last_conv")(x)
        x = recorded(self, "last_act", nn.hard_swish(norm(name="last_bn")(x)))
        x = x.mean(axis=(1, 2))  # b h w c -> b c
        x = nn.Dense(rounded(1024 * scale), dtype=self.dtype, name="hidden")(x)
        x = recorded(self, "hidden_act", nn.hard_swish(x))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)


def rounded(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and at least nine tenths of `channels`, as in the paper's code."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
