"""The head's column of a class without images, in closed form: the column that training without the class gives.

A head trained without positives lowers the logit of the class by its own gradient, which decreases with its
probability: with S the sum of the learning rates over one minus the momentum, the logit ends about log(1 + S |f|^2)
below the log-sum of the others, along minus the mean feature.
"""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from osp_jax.methods.parts.head import head_changes, head_logits, head_of
from osp_jax.program.gates import Head
from osp_jax.statistics import Statistics
from osp_jax.training.epoch import batch_sizes
from osp_jax.training.schedules import learning_rate


def recipe_level(recipe: ConfigDict, statistics: Statistics, inputs: jax.Array, retained: jax.Array) -> jax.Array:
    """The distance of the logit of a class without images below the log-sum of the others, log(1 + S |f|^2)."""
    training = recipe.training
    count = float(next(iter(statistics.layers.values())).count.sum())
    each = len(batch_sizes(int(count), training.batch_size, training.get("last_batch", "drop")))
    steps = max(each, 1) * training.epochs
    rate = learning_rate(training.schedule, training.learning_rate, steps, training.warmup)
    total = jnp.sum(jax.vmap(rate)(jnp.arange(steps))) / (1 - training.momentum)
    size = jnp.sum(retained * (jnp.sum(inputs**2, -1) + 1)) / retained.sum()
    return jnp.log1p(total * size)


def measured_level(logits: jax.Array, labels: jax.Array, retained: jax.Array, vector: jax.Array) -> jax.Array:
    """Like `recipe_level`, measured, for use without a recipe: the mean distance of a class's logit below the log-sum
    of the others, on retained images of other classes. It approximates a class without images, to which no image
    belongs.

    Args:
      logits: `(..., classes)`.
      labels: int `(...,)`.
      retained: 0/1 `(...,)`.
      vector: 0/1 `(classes,)`, 1 for a class to forget; these are left out.
    """
    classes = logits.shape[-1]
    kept = jnp.where(vector > 0, -jnp.inf, logits)[..., None, :]
    others = jax.scipy.special.logsumexp(jnp.where(jnp.eye(classes, dtype=bool), -jnp.inf, kept), axis=-1)
    share = retained[..., None] * (1 - jax.nn.one_hot(labels, classes)) * (vector == 0)
    below = jnp.where(share > 0, others - logits, 0)
    return jnp.maximum(jnp.sum(share * below) / jnp.maximum(share.sum(), 1), 0)


def unsupported_columns(
    variables: Any, head: Head, inputs: jax.Array, retained: jax.Array, vector: jax.Array, level: jax.Array
) -> dict[str, jax.Array]:
    """The leaves of the head, by path, with new columns for the classes of `vector`.

    They point along minus the mean of the head's `inputs` `(..., features)` on retained images, and their length puts
    the logit on average `level` below the log-sum of the others.
    """
    kernel, bias = head_of(variables, head)
    share = retained / retained.sum()
    logits = head_logits(variables, head, inputs) + jnp.where(vector > 0, -jnp.inf, 0)
    wanted = jnp.sum(share * jax.scipy.special.logsumexp(logits, axis=-1)) - level
    mean = jnp.tensordot(share, inputs, share.ndim)
    unit = wanted / (mean @ mean + (head.bias is not None))
    columns = jnp.where(vector > 0, (unit * mean)[:, None], kernel)
    return head_changes(variables, head, columns, jnp.where(vector > 0, unit, bias))
