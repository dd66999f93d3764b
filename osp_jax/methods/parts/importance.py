"""Importance of each parameter for a set of images: sums over gradients of the loss, outside of any descent.

A term is a function of one batch, `(params, rest, batch, *arguments) -> pytree like params`. `params` and `rest` are as
in a loss of `descend`; `batch` has `indices` int32 `(batch,)` and `weights` float32 `(batch,)`. Like a loss, a term is
created by a cached function of its settings, so that its program compiles once.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from osp_jax.data.augment import Preparation
from osp_jax.methods.parts.data import RequestData
from osp_jax.model import Model
from osp_jax.runtime.distributed import everywhere
from osp_jax.training.descent import Forward, in_eval_mode, split_variables

Term = Callable[..., Any]


def summed(term: Term, model: Model, batches: Mapping[str, np.ndarray], *arguments: Any) -> Any:
    """Sum of `term` over the batches, slices of `batches` along the first axis; float32, a pytree like `params`."""
    add, (params, rest) = _accumulate(term), split_variables(model)
    result = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
    for i in range(len(batches["indices"])):
        result = add(result, params, rest, {name: rows[i] for name, rows in batches.items()}, *arguments)
    return everywhere(result)


def filled_batches(indices: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
    """All `indices` in order in full batches: `indices` int32 and `weights` float32, `(steps, batch)`.

    The first indices pad the last batch, with weight 0; all others have weight 1.
    """
    shape = (-(-len(indices) // batch_size), batch_size)
    weights = (np.arange(shape[0] * batch_size) < len(indices)).astype(np.float32)
    return {"indices": np.resize(indices, shape).astype(np.int32), "weights": weights.reshape(shape)}


def mean_squared_gradient(model: Model, data: RequestData, indices: np.ndarray, batch_size: int) -> Any:
    """Mean over batches of the squared gradient of a batch's mean cross-entropy, in eval mode.

    The gradient is squared after the mean over the batch; with batches of one image this is the diagonal of the
    empirical Fisher information. `indices` `(k,)` are used in order; float32, a pytree like `params`.
    """
    batches = filled_batches(indices, batch_size)
    term = loss_gradient(in_eval_mode(model), data.preparation, power=2)
    total = summed(term, model, batches, data.images, data.labels)
    return jax.tree.map(lambda leaf: leaf / len(batches["indices"]), total)


@lru_cache(maxsize=32)
def loss_gradient(forward: Forward, preparation: Preparation, *, power: int = 1) -> Term:
    """Term `(params, rest, batch, images, labels)`: the gradient of the weighted mean cross-entropy of plain images,
    each entry to the `power`. Running statistics do not change, and dropout uses one key for all batches."""

    def loss(params: Any, rest: Any, batch: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits, _ = forward(params, rest, preparation.plain(images[batch["indices"]]), jax.random.key(0))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch["indices"]])
        return losses @ batch["weights"] / batch["weights"].sum()

    def term(*given: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf**power, jax.grad(loss)(*given))

    return term


@jax.jit
def smallest(values: jax.Array, count: Any) -> jax.Array:
    """True at the `count` smallest of all `values`, in their shape; among equal values, the first."""
    order = jnp.argsort(values, axis=None)
    return jnp.zeros(values.size, bool).at[order].set(jnp.arange(values.size) < count).reshape(values.shape)


@lru_cache(maxsize=64)
def _accumulate(term: Term) -> Any:
    return jax.jit(lambda result, *given: jax.tree.map(jnp.add, result, term(*given)), donate_argnums=0)
