"""Specificity of channels, and its effect on masks: the quantities that an orthogonality penalty aims to change."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.masks import channel_gains, class_difference
from osp_jax.statistics import ClassStatistics


def top_class_share(statistics: ClassStatistics) -> jax.Array:
    """The largest class mean of each channel over the sum of its class means, `(channels,)`.

    1 / classes for a channel that is equally active for all classes, 1 for a single class, NaN for a dead channel.
    """
    means = statistics.mean.sum / jnp.maximum(statistics.count, 1)[:, None]
    return means.max(0) / means.sum(0)


def feature_correlation(features: np.ndarray) -> float:
    """Mean absolute correlation over images between pairs of `features` `(n, channels)`, without dead ones."""
    alive = np.asarray(features, np.float64)[:, np.std(features, axis=0) > 0]
    correlation = np.abs(np.corrcoef(alive.T))
    return float((correlation.sum() - len(correlation)) / (len(correlation) * (len(correlation) - 1)))


def tradeoff(
    statistics: ClassStatistics,
    head: tuple[jax.Array, jax.Array],
    features: jax.Array,
    labels: jax.Array,
    *,
    amount: float,
    strengths: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """(forget accuracy, change of the retained accuracy) as the channels of each class are scaled down.

    The channels are those of `osp`: the share `amount` with the largest class difference; all are scaled by the same
    strength. The head reads the features, so gating these is the whole effect of the mask.

    Args:
      statistics: statistics of the group that the head reads.
      head: kernel `(channels, classes)` and bias.
      features: features of evaluation images, `(n, channels)`, with labels `(n,)`.

    Returns:
      float64 `(classes, strengths)` each.
    """
    kernel, bias = head
    classes = kernel.shape[1]

    def judged(vector: jax.Array, strength: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = class_difference(statistics, vector)
        # At strength 1, then interpolated: a different strength in each call would compile another program.
        gains = 1 - strength * (1 - channel_gains(scores, select="fraction", amount=amount, strength="hard"))
        right = ((features * gains) @ kernel + bias).argmax(-1) == labels
        gone = vector[labels]
        return jnp.sum(right * gone) / jnp.sum(gone), jnp.sum(right * (1 - gone)) / jnp.sum(1 - gone)

    over = jax.jit(jax.vmap(jax.vmap(judged, (None, 0)), (0, None)))
    forget, retain = map(partial(np.asarray, dtype=np.float64), over(jnp.eye(classes), jnp.asarray([0.0, *strengths])))
    return forget[:, 1:], retain[:, 1:] - retain[:, :1]
