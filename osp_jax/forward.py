"""The eval-mode forward pass over many images, in batches of one shape, so that it compiles once."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from osp_jax.data.augment import normalise


@lru_cache(maxsize=8)
def _jitted(model: nn.Module) -> Any:
    def logits(variables: Any, images: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
        return model.apply(variables, normalise(images, mean, std), False)

    return jax.jit(logits)


def predict_logits(
    model: nn.Module,
    variables: dict[str, Any],
    images: np.ndarray,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch_size: int = 500,
) -> np.ndarray:
    """Logits float32 `(n, classes)` of uint8 images `(n, h, w, c)`."""
    forward = _jitted(model)
    moments = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    logits = [forward(variables, batch, *moments)[:size] for batch, size in padded_batches(images, batch_size)]
    return np.concatenate([np.asarray(part) for part in logits])


def padded_batches(images: np.ndarray, batch_size: int):
    """Yields (batch, number of true images in it); the last is filled up with zeros."""
    batch_size = min(batch_size, len(images))
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        fill = batch_size - len(batch)
        padded = np.pad(batch, ((0, fill), *((0, 0),) * (batch.ndim - 1))) if fill else batch
        yield padded, len(batch)
