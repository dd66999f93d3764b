"""The head's column of a class without images: the column that training without the class gives.

A head trained without positives lowers the logit of the class by its own gradient, which decreases with its
probability: with S the sum of the learning rates over one minus the momentum, the logit ends about log(1 + S |f|^2)
below the log-sum of the others, along minus the mean feature (`unsupported_columns`).

Label smoothing s gives each of k classes at least the probability s / k on each image, the class without images too.
Its column then minimises a convex loss, the cross-entropy to s / k plus the recipe's weight decay, and Newton's method
finds the minimum (`smoothed_columns`).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from osp_jax.methods.parts.head import head_changes, head_logits, head_of
from osp_jax.methods.parts.moments import matmul
from osp_jax.program.gates import Head
from osp_jax.statistics import Statistics
from osp_jax.training.epoch import batch_sizes
from osp_jax.training.schedules import learning_rate

_STEPS = 20  # of Newton's method, which needs about 5
_LENGTHS = np.append(0.5 ** np.arange(12, dtype=np.float32), 0)  # tried in each step; the best is taken


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


def smoothed_columns(
    variables: Any,
    head: Head,
    inputs: jax.Array,
    weights: jax.Array,
    vector: jax.Array,
    training: ConfigDict,
) -> dict[str, jax.Array]:
    """The leaves of the head, by path, with the columns that label smoothing gives the classes of `vector`.

    They minimise the weighted mean, over the images, of the cross-entropy to smoothed labels of other classes, plus
    `weight_decay` / 2 times the square of their kernels. The other columns are held.

    Args:
      inputs: of the head, `(..., features)`.
      weights: of the images, `(...,)`.
      vector: 0/1 `(classes,)`, 1 for a class to forget.
      training: `training` of the recipe; its `label_smoothing` is above 0.
    """
    kernel, bias = head_of(variables, head)
    logits = head_logits(variables, head, inputs) + jnp.where(vector > 0, -jnp.inf, 0)
    # The classes get the same column, so that a logit log(number) higher stands for all of them.
    number = vector.sum()
    others = jax.scipy.special.logsumexp(logits, axis=-1).reshape(-1) - jnp.log(number)
    share, decay = number * training.label_smoothing / len(vector), number * training.weight_decay
    rows = inputs.reshape(len(others), -1)
    column = _smoothed(rows, others, weights, share, decay, without_bias=head.bias is None)
    columns = jnp.where(vector > 0, column[:-1, None], kernel)
    return head_changes(variables, head, columns, jnp.where(vector > 0, column[-1], bias))


@partial(jax.jit, static_argnames="without_bias")
def _smoothed(
    inputs: jax.Array, others: jax.Array, weights: jax.Array, share: jax.Array, decay: jax.Array, *, without_bias: bool
) -> jax.Array:
    """The column and its bias `(features + 1,)`, the bias last; see `smoothed_columns`."""
    rows = jnp.concatenate([inputs, jnp.full((len(inputs), 1), 1.0 - without_bias)], -1)
    parts = weights.reshape(-1) / weights.sum()
    decays = decay * jnp.ones(rows.shape[-1]).at[-1].set(0)

    def loss(column: jax.Array) -> jax.Array:
        below = matmul(rows, column) - others
        return parts @ (jax.nn.softplus(below) - share * below) + 0.5 * decays @ column**2

    def solved(slopes: jax.Array, gradient: jax.Array) -> jax.Array:
        gram = matmul((rows * (parts * slopes)[:, None]).T, rows) + jnp.diag(decays)
        gram += 1e-6 * jnp.trace(gram) / len(gram) * jnp.eye(len(gram))  # a dead feature has no curvature
        return jnp.linalg.solve(gram, gradient)

    def newton(_: int, column: jax.Array) -> jax.Array:
        found = jax.nn.sigmoid(matmul(rows, column) - others)
        gradient = matmul(rows.T, parts * (found - share)) + decays * column
        direction = solved(found * (1 - found), gradient)
        tried = column - _LENGTHS[:, None] * direction
        return tried[jnp.argmin(jax.vmap(loss)(tried))]

    slope = share * (1 - share)
    wanted = others + jnp.log(share / (1 - share))
    start = solved(jnp.full(len(rows), slope), matmul(rows.T, parts * slope * wanted))
    return jax.lax.fori_loop(0, _STEPS, newton, start)


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
