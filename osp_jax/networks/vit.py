"""Vision transformers (Dosovitskiy et al., 2021, arXiv 2010.11929): patches, a class token, pre-norm encoder blocks.

Departure: no dropout.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from osp_jax.networks.layers import recorded

_HEAD_CHANNELS = 64  # per attention head, in every size of the paper


class EncoderBlock(nn.Module):
    """Self-attention and a two-layer perceptron, each behind a layer norm and with a shortcut.

    `__call__(tokens (batch, tokens, width), mask)` returns the same shape. `mask`: bool, broadcast to
    `(batch, heads, tokens, tokens)`, the tokens that each one attends to; None: all.
    """

    heads: int
    mlp: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        y = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm1")(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads, dtype=self.dtype, name="attention")(y, y, mask=mask)
        y = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm2")(x)
        y = nn.gelu(nn.Dense(self.mlp, dtype=self.dtype, name="mlp1")(y), approximate=False)
        return x + nn.Dense(x.shape[-1], dtype=self.dtype, name="mlp2")(recorded(self, "gelu", y))


class ViT(nn.Module):
    """`layers` encoder blocks of `width` channels over patches of `patch` x `patch` pixels.

    `__call__(images (batch, height, width, 3) float, train)` returns float32 logits `(batch, num_classes)`. Images
    whose sides are no multiple of `patch` are padded with zeros.

    `heads`: attention heads, a divisor of `width`; 0 is one per 64 channels. `mlp`: hidden channels of the perceptron;
    0 is four times `width`.
    """

    num_classes: int
    patch: int = 4
    width: int = 192
    layers: int = 6
    heads: int = 0
    mlp: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        del train  # no layer depends on it
        sides = (self.patch, self.patch)
        x = nn.Conv(self.width, sides, sides, dtype=self.dtype, name="patches")(images)
        x = x.reshape(x.shape[0], -1, self.width)  # b h w c -> b (h w) c
        token = self.param("token", nn.initializers.zeros, (1, 1, self.width))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, self.width)).astype(x.dtype), x], axis=1)
        positions = self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        x = x + positions.astype(x.dtype)
        heads = self.heads or usual_heads(self.width)
        for i in range(1, self.layers + 1):
            x = EncoderBlock(heads, self.mlp or 4 * self.width, self.dtype, name=f"block{i}")(x)
        x = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x[:, 0])
        x = recorded(self, "features", x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)


def usual_heads(width: int) -> int:
    """One attention head per 64 channels; if that does not divide `width`, the next smaller divisor."""
    return max(heads for heads in range(1, max(width // _HEAD_CHANNELS, 1) + 1) if width % heads == 0)
