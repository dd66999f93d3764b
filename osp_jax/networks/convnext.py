"""ConvNeXt (Liu et al., 2022, arXiv 2201.03545), for small and large images.

Departure: no stochastic depth.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from osp_jax.networks.layers import conv2d, recorded

PATCHES = {"cifar": 1, "strided": 2, "imagenet": 4}  # side of the stem's patches, in pixels

_INIT = nn.initializers.truncated_normal(0.02)


class Block(nn.Module):
    """A depthwise 7x7 convolution, a layer norm, two dense layers, a learned scale, and a shortcut."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels, options = x.shape[-1], {"dtype": self.dtype, "kernel_init": _INIT}
        y = conv2d(channels, (7, 7), feature_group_count=channels, **options, name="depthwise")(x)
        y = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(y)
        y = nn.gelu(nn.Dense(4 * channels, **options, name="mlp1")(y), approximate=False)
        y = nn.Dense(channels, **options, name="mlp2")(recorded(self, "gelu", y))
        scale = self.param("scale", nn.initializers.constant(1e-6), (channels,))
        return x + y * scale.astype(y.dtype)


class ConvNeXt(nn.Module):
    """`stage_sizes` blocks per stage; each stage doubles the width and halves the size of the map.

    `stem`: a key of `PATCHES`. `__call__(images (batch, height, width, 3) float, train)` returns float32 logits
    `(batch, num_classes)`. Maps with an odd side are padded with zeros before they are halved.
    """

    num_classes: int
    stage_sizes: tuple[int, ...] = (3, 3, 9, 3)
    width: int = 96
    stem: str = "cifar"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        del train  # no layer depends on it

        def norm(name: str) -> nn.LayerNorm:
            return nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name=name)

        def reduced(x: jax.Array, filters: int, side: int, name: str) -> jax.Array:
            sides = (side, side)
            return nn.Conv(filters, sides, sides, dtype=self.dtype, kernel_init=_INIT, name=name)(x)

        x = norm("stem_norm")(reduced(images, self.width, PATCHES[self.stem], "stem_conv"))
        for stage, blocks in enumerate(self.stage_sizes, start=1):
            if stage > 1:
                filters = self.width * 2 ** (stage - 1)
                x = reduced(norm(f"stage{stage}_norm")(x), filters, 2, f"stage{stage}_conv")
            for i in range(1, blocks + 1):
                x = Block(self.dtype, name=f"stage{stage}_block{i}")(x)
        x = norm("norm")(x.mean(axis=(1, 2)))  # b h w c -> b c
        x = recorded(self, "features", x)
        return nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=_INIT, name="head")(x).astype(jnp.float32)
