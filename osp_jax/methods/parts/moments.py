"""Second moments of layer inputs, R R^T for a matrix R with inputs in columns, summed over batches of images."""

from collections.abc import Callable, Iterable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from osp_jax.methods.parts.importance import filled_batches
from osp_jax.runtime.distributed import everywhere


def sum_over_batches(
    function: Callable[[np.ndarray, np.ndarray, jax.Array], Any], indices: np.ndarray, batch_size: int, rng: jax.Array
) -> Any:
    """The sum of `function(indices (batch,), weights (batch,), key)`, a pytree, over batches of `indices` `(n,)`.

    Weights, float32, are 0 for padding of the last batch, otherwise 1.
    """
    total = None
    batches = filled_batches(indices, min(batch_size, len(indices)))
    for i, batch in enumerate(zip(batches["indices"], batches["weights"], strict=True)):
        value = function(*batch, jax.random.fold_in(rng, i))
        total = value if total is None else jax.tree.map(jnp.add, total, value)
    return everywhere(total)


def tree_sum(terms: Iterable[Any]) -> Any:
    """The sum of pytrees of one structure."""
    return reduce(partial(jax.tree.map, jnp.add), terms)


def class_means(values: jax.Array, labels: jax.Array, weights: jax.Array, classes: int) -> jax.Array:
    """Means by class, `(classes, channels)`, 0 for classes without images.

    Args:
      values: `(batches, batch, channels)`. labels: int `(batches, batch)`. weights: 0/1 likewise.
    """
    one_hot = jax.nn.one_hot(labels, classes) * weights[..., None]
    return jnp.einsum("bnk,bnc->kc", one_hot, values) / jnp.maximum(one_hot.sum((0, 1)), 1)[:, None]


def second_moment(rows: jax.Array) -> jax.Array:
    """R R^T, `(inputs, inputs)`, of `rows` = R^T `(n, inputs)`; float32."""
    return matmul(rows.T, rows)


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """The product in full float32; the default precision of accelerators is lower."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
