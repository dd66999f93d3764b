"""How much a channel belongs to the classes to forget: class difference of its mean activation.

The signed difference (mean over forgotten images - mean over retained images) is the score of OSP (arXiv 2506.19891)
as the one public reimplementation from its formulas reads it; the variants are ours and are named where they are used.
"""

import jax
import jax.numpy as jnp

from osp_jax.activations import ClassStatistics


def class_difference(
    statistics: ClassStatistics,
    forget: jax.Array,
    *,
    reduction: str = "max",
    standardised: bool = False,
    against: str = "mean",
) -> jax.Array:
    """Score of each channel, float32 `(channels,)`; high where the forgotten classes own the channel.

    Args:
      statistics: of one channel group.
      forget: 0/1 float `(classes,)`, 1 for a class to forget; jittable, so that one program serves every request.
      reduction: 'mean' or 'max', over the positions of a map, within an image.
      standardised: divides by the channel's standard deviation over all images.
      against: 'mean', the mean over all retained images, or 'max', the largest class mean among retained classes.
    """
    moments = getattr(statistics, reduction)
    keep = 1 - forget
    forget_mean = (forget @ moments.sum) / jnp.maximum(forget @ statistics.count, 1)
    if against == "mean":
        retain_mean = (keep @ moments.sum) / jnp.maximum(keep @ statistics.count, 1)
    else:
        class_means = moments.sum / jnp.maximum(statistics.count, 1)[:, None]
        seen_and_kept = (keep * statistics.count > 0)[:, None]
        retain_mean = jnp.where(seen_and_kept, class_means, 0).max(axis=0)  # post-ReLU means are never below 0
    score = forget_mean - retain_mean
    if standardised:
        variance = moments.variance(statistics.count)
        score = jnp.where(variance > 0, score / jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)
    return score
