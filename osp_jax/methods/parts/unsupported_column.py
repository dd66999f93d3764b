"""The head's column of a class without images, in closed form: where training without the class would have left it.

A head trained without positives drives the logit of the class down by its own gradient, which falls off with its
probability: with S the sum of the learning rates over one minus the momentum, the logit ends about log(1 + S |f|^2)
below the log-sum of the others, along minus the mean feature.
"""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from osp_jax.methods.parts.head import head_bias, head_kernel, head_of
from osp_jax.program.channels import Channels
from osp_jax.statistics import Statistics
from osp_jax.training.epoch import batch_sizes
from osp_jax.training.schedules import learning_rate
from osp_jax.trees import leaves_by_path


def recipe_level(recipe: ConfigDict, statistics: Statistics, inputs: jax.Array, retained: jax.Array) -> jax.Array:
    """How far below the log-sum of the others the logit of a class without images ends, log(1 + S |f|^2)."""
    training = recipe.training
    count = float(next(iter(statistics.layers.values())).count.sum())
    each = len(batch_sizes(int(count), training.batch_size, training.get("last_batch", "drop")))
    steps = max(each, 1) * training.epochs
    rate = learning_rate(training.schedule, training.learning_rate, steps, training.warmup)
    total = jnp.sum(jax.vmap(rate)(jnp.arange(steps))) / (1 - training.momentum)
    size = jnp.sum(retained * (jnp.sum(inputs**2, -1) + 1)) / retained.sum()
    return jnp.log1p(total * size)


def unsupported_columns(
    variables: Any, channels: Channels, inputs: jax.Array, retained: jax.Array, vector: jax.Array, level: jax.Array
) -> dict[str, jax.Array]:
    """The leaves of the head, by path, with columns for the classes of `vector` along minus the mean of its `inputs`
    `(..., features)` on retained images, so long that their logit is on average `level` below the log-sum of the
    others."""
    leaves = leaves_by_path(variables)
    kernel, bias = head_of(variables, channels)
    share = retained / retained.sum()
    logits = inputs @ kernel + bias + jnp.where(vector > 0, -jnp.inf, 0)
    wanted = jnp.sum(share * jax.scipy.special.logsumexp(logits, axis=-1)) - level
    mean = jnp.tensordot(share, inputs, share.ndim)
    has_bias = head_bias(channels) in leaves
    unit = wanted / (mean @ mean + has_bias)
    new = jnp.where(vector > 0, (unit * mean)[:, None], kernel)
    changed = {head_kernel(channels): new.reshape(leaves[head_kernel(channels)].shape)}
    return changed | ({head_bias(channels): jnp.where(vector > 0, unit, bias)} if has_bias else {})
