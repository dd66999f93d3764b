"""Penalties on the features in front of the head, all with one signature: features, labels -> scalar.

Orthogonal kernels decorrelate features only if the inputs are white. These penalties act on the features: the spatial
means of the last activations, `(batch, channels)`, never below 0.

- `decorrelation`: mean squared correlation of two channels over the batch (Cogswell et al., ICLR 2016, arXiv
  1511.06068, penalise covariances; correlations, ours, do not fall when features shrink).
- `class-means`: mean squared cosine between the mean features of two classes. Non-negative means that are orthogonal
  share no channel (ours).
- `ownership`: one minus the largest class mean of a channel over the sum of its class means; the mean over channels
  (ours, after the class specificity that a mask needs).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

_EPSILON = 1e-6


def decorrelation(features: jax.Array, labels: jax.Array, classes: int) -> jax.Array:
    del labels, classes
    centred = features - features.mean(0)
    scaled = centred * jax.lax.rsqrt(jnp.mean(centred**2, 0) + _EPSILON)
    correlation = scaled.T @ scaled / len(features)
    return _off_diagonal(correlation**2, jnp.ones(correlation.shape[0]))


def class_means(features: jax.Array, labels: jax.Array, classes: int) -> jax.Array:
    means, present = _means(features, labels, classes)
    unit = means * jax.lax.rsqrt(jnp.sum(means**2, -1, keepdims=True) + _EPSILON)
    return _off_diagonal((unit @ unit.T) ** 2, present)


def ownership(features: jax.Array, labels: jax.Array, classes: int) -> jax.Array:
    means, _ = _means(features, labels, classes)
    return 1 - jnp.mean(means.max(0) / (means.sum(0) + _EPSILON))


PENALTIES: dict[str, Callable[[jax.Array, jax.Array, int], jax.Array]] = {
    "decorrelation": decorrelation,
    "class-means": class_means,
    "ownership": ownership,
}


def _means(features: jax.Array, labels: jax.Array, classes: int) -> tuple[jax.Array, jax.Array]:
    """(mean features by class, 0 for a class without images in the batch; 0/1 whether it has some)."""
    one_hot = jax.nn.one_hot(labels, classes)
    count = one_hot.sum(0)
    return one_hot.T @ features / jnp.maximum(count, 1)[:, None], (count > 0).astype(features.dtype)


def _off_diagonal(values: jax.Array, present: jax.Array) -> jax.Array:
    """The mean of `values` `(n, n)` over pairs of distinct `present` entries; 0 if there is none."""
    pairs = jnp.outer(present, present) * (1 - jnp.eye(len(present)))
    return jnp.sum(values * pairs) / jnp.maximum(pairs.sum(), 1)
