"""The eval-mode forward pass over many images, in batches of one shape, so that it compiles once."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from osp_jax.data.augment import normalise
from osp_jax.data.batches import index_batches
from osp_jax.data.sources import Split
from osp_jax.runtime.distributed import everywhere


@lru_cache(maxsize=8)
def _jitted(model: nn.Module) -> Any:
    def logits(variables: Any, images: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
        return everywhere(model.apply(variables, normalise(images, mean, std), False))

    return jax.jit(logits)


def predict_logits(
    model: nn.Module,
    variables: dict[str, Any],
    split: Split,
    indices: np.ndarray,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch_size: int = 500,
) -> np.ndarray:
    """Logits float32 `(n, classes)` of the images `indices` `(n,)` of a split."""
    forward = _jitted(model)
    moments = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    logits = [
        np.asarray(forward(variables, images, *moments)) for images, _ in index_batches(split, indices, batch_size)
    ]
    return np.concatenate(logits)[: len(indices)]
