"""The head's column of a class without images, in closed form: where training without the class would have left it.

A head trained without positives drives the logit of the class down by its own gradient, which falls off with its
probability: with S the sum of the learning rates over one minus the momentum, the logit ends about log(1 + S |f|^2)
below the log-sum of the others, along minus the mean feature.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from ml_collections import ConfigDict

from osp_jax.methods.parts.head import head_of
from osp_jax.program.channels import Channels
from osp_jax.statistics import Statistics
from osp_jax.training.epoch import batch_sizes
from osp_jax.training.schedules import learning_rate


def recipe_level(recipe: Any, statistics: Statistics, inputs: jax.Array, retained: jax.Array) -> jax.Array:
    """How far below the log-sum of the others the logit of a class without images ends, log(1 + S |f|^2)."""
    training = ConfigDict(recipe).training
    count = float(next(iter(statistics.layers.values())).count.sum())
    each = len(batch_sizes(int(count), training.batch_size, training.get("last_batch", "drop")))
    steps = max(each, 1) * training.epochs
    rate = learning_rate(training.schedule, training.learning_rate, steps, training.warmup)
    total = jnp.sum(jax.vmap(rate)(jnp.arange(steps))) / (1 - training.momentum)
    size = jnp.sum(retained * (jnp.sum(inputs**2, -1) + 1)) / retained.sum()
    return jnp.log1p(total * size)


def unsupported_columns(
    params: Any, channels: Channels, inputs: jax.Array, retained: jax.Array, vector: jax.Array, level: jax.Array
) -> dict[str, Any]:
    """The head, pruned, with columns for the classes of `vector` along minus the mean of its `inputs` `(..., features)`
    on retained images, so long that their logit is on average `level` below the log-sum of the others."""
    path = (*channels.head.split("/"), "kernel")
    flat = traverse_util.flatten_dict(params)
    kernel, bias = head_of(params, channels)
    share = retained / retained.sum()
    logits = inputs @ kernel + bias + jnp.where(vector > 0, -jnp.inf, 0)
    wanted = jnp.sum(share * jax.scipy.special.logsumexp(logits, axis=-1)) - level
    mean = jnp.tensordot(share, inputs, share.ndim)
    has_bias = (*path[:-1], "bias") in flat
    unit = wanted / (mean @ mean + has_bias)
    new = {path: jnp.where(vector > 0, (unit * mean)[:, None], kernel).reshape(flat[path].shape)}
    if has_bias:
        new[(*path[:-1], "bias")] = jnp.where(vector > 0, unit, bias)
    return traverse_util.unflatten_dict(new)
