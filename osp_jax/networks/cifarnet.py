"""A shallow convolutional network for 32-pixel images that trains fast (after airbench94, Jordan, 2024, arXiv
2404.00498): each stage pools right after its first convolution, so that little is computed on large maps.

Departures: ReLU instead of GELU, since a gain on a channel must commute with the activation; a learned stem initialised
with cosine patterns instead of frozen whitening filters, which depend on training images; the mean instead of the
maximum over the last map.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from osp_jax.networks.layers import activation, conv2d, max_pool
from osp_jax.networks.norm import BatchNorm


class CifarNet(nn.Module):
    """A stem and three stages of two convolutions, of `width`, `4 * width` and `4 * width` channels.

    `__call__(images (batch, height, width, 3) float, train)` returns float32 logits `(batch, num_classes)`. The stem
    has 24 channels, as in airbench94. Height and width must be at least 8.
    """

    num_classes: int
    width: int = 64
    dtype: Any = jnp.float32
    convolution: str = "xla"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        def conv(x: jax.Array, filters: int, name: str, init: Any = identity_kernel) -> jax.Array:
            options = {"use_bias": False, "dtype": self.dtype, "kernel_init": init, "convolution": self.convolution}
            return conv2d(filters, (3, 3), **options, name=f"{name}_conv")(x)

        def norm_and_relu(x: jax.Array, name: str) -> jax.Array:
            x = BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, name=f"{name}_bn")(x)
            return activation(self, f"{name}_relu", x)

        x = norm_and_relu(conv(images, 24, "stem", cosine_kernel), "stem")
        for stage, filters in enumerate((self.width, 4 * self.width, 4 * self.width), start=1):
            first, second = f"stage{stage}_1", f"stage{stage}_2"
            x = norm_and_relu(max_pool(conv(x, filters, first)), first)
            x = norm_and_relu(conv(x, filters, second), second)
        x = x.mean(axis=(1, 2))  # b h w c -> b c
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)


def identity_kernel(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """A kernel `(h, w, in, out)` whose first outputs are the inputs, and whose others are random (airbench94's)."""
    h, w, inputs, outputs = shape
    same = jnp.arange(min(inputs, outputs))
    kernel = nn.initializers.lecun_normal()(key, shape, dtype).at[..., same].set(0)
    return kernel.at[h // 2, w // 2, same, same].set(1)


def cosine_kernel(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """The smoothest cosine patterns of a patch, half of the outputs, and their negatives; `(h, w, in, out)`.

    On natural images they are almost uncorrelated. Differences between colours rank as less smooth than those between
    neighbours.
    """
    del key
    h, w, inputs, outputs = shape
    half = -(-outputs // 2)
    if half > h * w * inputs:
        raise ValueError(f"a patch of {h * w * inputs} values has no {half} patterns")
    patterns = np.einsum("ih,jw,kc->ijkhwc", _cosines(h), _cosines(w), _cosines(inputs)).reshape(-1, h, w, inputs)
    roughness = np.add.outer(np.add.outer(np.arange(h), np.arange(w)), 1.5 * np.arange(inputs)).ravel()
    chosen = patterns[np.argsort(roughness, kind="stable")[:half]].transpose(1, 2, 3, 0)
    return jnp.asarray(np.concatenate([chosen, -chosen], -1)[..., :outputs], dtype)


def _cosines(n: int) -> np.ndarray:
    """The orthonormal cosine basis, one frequency per row."""
    frequency, place = np.mgrid[:n, :n]
    basis = np.cos(np.pi * frequency * (2 * place + 1) / (2 * n))
    return basis / np.linalg.norm(basis, axis=1, keepdims=True)
