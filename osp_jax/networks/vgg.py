"""VGG with batch normalisation (Simonyan and Zisserman, 2015, arXiv 1409.1556), with one dense layer as its head.

The two hidden dense layers of the ImageNet original are left out, as is usual for small images.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from osp_jax.networks.layers import activation, conv2d, max_pool
from osp_jax.networks.norm import BatchNorm


class VGG(nn.Module):
    """`stages[i]` convolutions of width `width * 2**i` (at most `8 * width`), then a max-pool, five times.

    `__call__(images (batch, height, width, 3) float, train)` returns float32 logits `(batch, num_classes)`.
    A map of one pixel is not pooled further, so that images under 32 pixels work too.
    """

    stages: tuple[int, ...]
    num_classes: int
    width: int = 64
    dtype: Any = jnp.float32
    convolution: str = "xla"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        x = images
        for stage, convolutions in enumerate(self.stages, start=1):
            for i in range(1, convolutions + 1):
                filters = self.width * min(2 ** (stage - 1), 8)
                options = {"use_bias": False, "dtype": self.dtype, "convolution": self.convolution}
                x = conv2d(filters, (3, 3), **options, name=f"conv{stage}_{i}")(x)
                x = BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, name=f"bn{stage}_{i}")(x)
                x = activation(self, f"relu{stage}_{i}", x)
            if min(x.shape[1:3]) > 1:
                x = max_pool(x)
        x = x.mean(axis=(1, 2))  # b h w c -> b c
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)
