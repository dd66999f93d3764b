"""The eval-mode forward pass over many images, in batches of one shape, so that it compiles once."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.data.augment import normalise
from osp_jax.data.batches import index_batches
from osp_jax.data.sources import Split
from osp_jax.model import Model
from osp_jax.runtime.distributed import everywhere


@lru_cache(maxsize=8)
def _jitted(apply: Callable[[Any, jax.Array], jax.Array]) -> Any:
    def logits(variables: Any, images: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
        return everywhere(apply(variables, normalise(images, mean, std)))

    return jax.jit(logits)


def predict_logits(model: Model, split: Split, indices: np.ndarray, batch_size: int = 500) -> np.ndarray:
    """Logits float32 `(n, classes)` of the images `indices` `(n,)` of a split."""
    forward = _jitted(model.apply)
    moments = jnp.asarray(model.mean, jnp.float32), jnp.asarray(model.std, jnp.float32)
    batches = index_batches(split, indices, batch_size)
    logits = [np.asarray(forward(model.variables, images, *moments)) for images, _ in batches]
    return np.concatenate(logits)[: len(indices)]
