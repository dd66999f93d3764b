"""How far channels specialise, and what that does for a mask: the quantities that an orthogonality penalty is for."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.masks import channel_gains, class_difference
from osp_jax.statistics import ClassStatistics


def top_class_share(statistics: ClassStatistics) -> jax.Array:
    """Share of each channel's activation that its top class owns, `(channels,)`: the largest class mean over their sum.

    1 / classes for a channel that all share alike, 1 for one that fires for a single class, NaN for a dead one.
    """
    means = statistics.mean.sum / jnp.maximum(statistics.count, 1)[:, None]
    return means.max(0) / means.sum(0)


def feature_correlation(features: np.ndarray) -> float:
    """Mean absolute correlation over images of two of the `features` `(n, channels)`; dead ones are left out."""
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
    """(forget accuracy, change of the retained accuracy) when each class in turn loses its channels more and more.

    The channels are those of `osp`, the share `amount` with the largest class difference; all are turned down by the
    same strength. The head reads the features, so gating these is all that the mask does.

    Args:
      statistics: of the group that the head reads.
      head: kernel `(channels, classes)` and bias.
      features: of the images to judge on, `(n, channels)`, with labels `(n,)`.

    Returns:
      float64 `(classes, strengths)` each.
    """
    kernel, bias = head
    classes = kernel.shape[1]

    def judged(vector: jax.Array, strength: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = class_difference(statistics, vector)
        # Of strength 1 and interpolated: a strength of its own for each call would be a program of its own.
        gains = 1 - strength * (1 - channel_gains(scores, select="fraction", amount=amount, strength="hard"))
        right = ((features * gains) @ kernel + bias).argmax(-1) == labels
        gone = vector[labels]
        return jnp.sum(right * gone) / jnp.sum(gone), jnp.sum(right * (1 - gone)) / jnp.sum(1 - gone)

    over = jax.jit(jax.vmap(jax.vmap(judged, (None, 0)), (0, None)))
    forget, retain = map(partial(np.asarray, dtype=np.float64), over(jnp.eye(classes), jnp.asarray([0.0, *strengths])))
    return forget[:, 1:], retain[:, 1:] - retain[:, :1]
