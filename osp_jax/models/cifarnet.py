"""A shallow convolutional network for 32-pixel images that trains fast (after airbench94's, Jordan, 2024, arXiv
2404.00498): each stage pools right behind its first convolution, so that little is computed on large maps.

Departures: ReLU instead of GELU, since a gain on a channel must pass the activation; a learned 3x3 stem instead of
frozen whitening filters, which are made of training images; the mean instead of the maximum over the last map.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from osp_jax.models.layers import activation, conv2d, max_pool


class CifarNet(nn.Module):
    """A stem and three stages of two convolutions, of `width`, `4 * width` and `4 * width` channels.

    `__call__(images (batch, height, width, 3) float, train)` gives float32 logits `(batch, num_classes)`. The stem has
    24 channels, as airbench94's. Height and width are at least 8.
    """

    num_classes: int
    width: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        def conv(x: jax.Array, filters: int, name: str) -> jax.Array:
            return conv2d(filters, (3, 3), use_bias=False, dtype=self.dtype, name=f"{name}_conv")(x)

        def norm_and_relu(x: jax.Array, name: str) -> jax.Array:
            x = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, name=f"{name}_bn")(x)
            return activation(self, f"{name}_relu", x)

        x = norm_and_relu(conv(images, 24, "stem"), "stem")
        for stage, filters in enumerate((self.width, 4 * self.width, 4 * self.width), start=1):
            first, second = f"stage{stage}_1", f"stage{stage}_2"
            x = norm_and_relu(max_pool(conv(x, filters, first)), first)
            x = norm_and_relu(conv(x, filters, second), second)
        x = x.mean(axis=(1, 2))  # b h w c -> b c
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)
