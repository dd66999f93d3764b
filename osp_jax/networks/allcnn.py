"""All-CNN-C (Springenberg et al., 2015, arXiv 1412.6806): convolutions only, without normalisation and dropout."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from osp_jax.networks.layers import activation, conv2d


class AllCNN(nn.Module):
    """Nine convolutions; the output is the spatial mean of the last, 1x1.

    `__call__(images (batch, height, width, 3) float, train)` returns float32 logits `(batch, num_classes)`.
    """

    num_classes: int
    width: int = 96
    dtype: Any = jnp.float32
    convolution: str = "xla"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        del train  # no layer depends on it
        w, options = self.width, {"dtype": self.dtype, "convolution": self.convolution}
        plan = [
            (w, 3, 1),
            (w, 3, 1),
            (w, 3, 2),
            (2 * w, 3, 1),
            (2 * w, 3, 1),
            (2 * w, 3, 2),
            (2 * w, 3, 1),
            (2 * w, 1, 1),
        ]
        x = images
        for i, (filters, k, strides) in enumerate(plan, start=1):
            # Without norms, the default initialisation would shrink the signal layer by layer.
            init = nn.initializers.he_normal()
            conv = conv2d(filters, (k, k), strides, **options, kernel_init=init, name=f"conv{i}")
            x = activation(self, f"relu{i}", conv(x))
        x = conv2d(self.num_classes, (1, 1), **options, name="head")(x)
        return x.mean(axis=(1, 2)).astype(jnp.float32)  # b h w c -> b c
