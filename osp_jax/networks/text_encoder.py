"""A transformer encoder for text: token and position embeddings, encoder blocks, the mean over real tokens, a norm.

The blocks are those of Vaswani et al. (2017, arXiv 1706.03762), pre-norm as in `vit.py`. The mean over tokens after the
blocks contains the mean of the embeddings, a bag of words, which small sets of texts teach best (Joulin et al., 2017,
arXiv 1607.01759); the norm after it equalises long and short texts. There is no dropout: words are dropped from the
batches instead (`data.word_dropout`).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from osp_jax.data.kinds import PAD
from osp_jax.networks.layers import recorded
from osp_jax.networks.vit import EncoderBlock, usual_heads


class TextEncoder(nn.Module):
    """`layers` encoder blocks of `width` channels over the embeddings of `vocabulary` tokens.

    `__call__(ids (batch, length) float, train)` returns float32 logits `(batch, num_classes)`. The ids are whole
    numbers, exact in float32; padding (id 0) is neither attended to nor part of the mean.

    `heads`: attention heads, a divisor of `width`; 0 is one per 64 channels. `mlp`: hidden channels of the perceptron;
    0 is twice `width`.
    """

    num_classes: int
    vocabulary: int = 20_000
    width: int = 128
    layers: int = 2
    heads: int = 0
    mlp: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: jax.Array, train: bool) -> jax.Array:
        del train  # no layer depends on it
        ids = jnp.clip(ids, 0, self.vocabulary - 1).astype(jnp.int32)
        real = ids != PAD
        scale = nn.initializers.normal(0.02)
        table = self.param("embedding", scale, (self.vocabulary, self.width))
        positions = self.param("positions", scale, (1, ids.shape[1], self.width))
        x = (table[ids] + positions).astype(self.dtype)
        heads = self.heads or usual_heads(self.width)
        for i in range(1, self.layers + 1):
            x = EncoderBlock(heads, self.mlp or 2 * self.width, self.dtype, name=f"block{i}")(x, real[:, None, None])
        weights = real[..., None].astype(x.dtype)
        x = (x * weights).sum(1) / jnp.maximum(weights.sum(1), 1)
        x = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x)
        x = recorded(self, "features", x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)
