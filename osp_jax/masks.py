"""Soft masks: from channel scores to gains, from gains to factors on parameters, and their product with these.

A mask is a dict from the path of a parameter to its factor, which broadcasts against it: `(channels,)` over the last
axis, or `(features, 1)` over the rows of a dense kernel. Masks compose by multiplication, in any order.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from osp_jax.program.channels import ChannelGroup, Channels
from osp_jax.runtime.errors import InputError, unknown
from osp_jax.statistics import ClassStatistics
from osp_jax.trees import edited, leaves_by_path, pruned

Mask = dict[str, jax.Array]

SELECTIONS = ("fraction", "top-k", "threshold")
STRENGTHS = ("rank", "hard", "constant")


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


def channel_gains(
    scores: jax.Array, *, select: str = "fraction", amount: float = 0.25, strength: str = "rank", constant: float = 0.5
) -> jax.Array:
    """Gains in [0, 1], `(channels,)`: 1 for a channel that is not selected, 1 - strength for one that is.

    Args:
      scores: `(channels,)`; the highest are selected, ties by position.
      select: 'fraction' (the top `amount` of the channels, at least one), 'top-k' (the top `amount`), or
        'threshold' (those that score above `amount`).
      strength: 'rank' is max(0.5, 1 - r / k) for the r-th of k selected channels (OSP as reimplemented from its
        formulas); 'hard' is 1; 'constant' is `constant`.

    Raises:
      InputError: an unknown rule, or an amount or constant outside its range.
    """
    channels = scores.shape[-1]
    if select == "threshold":
        k, chosen = channels, scores > amount
    elif select in SELECTIONS:
        if not 0 <= amount <= (1 if select == "fraction" else channels):
            raise InputError(f"amount {amount} is out of range for selection by {select} among {channels} channels")
        k = max(1, round(amount * channels)) if select == "fraction" else int(amount)
        chosen = None
    else:
        raise unknown("selection", select, SELECTIONS)
    # Sorting only the k best is many times faster than sorting all, and a warm request is little else.
    best = jax.lax.top_k(scores, k)[1]
    rank = jnp.full(channels, channels + 1).at[best].set(jnp.arange(1, k + 1))
    chosen = rank <= k if chosen is None else chosen
    if strength == "rank":
        strengths = jnp.maximum(0.5, 1 - rank / jnp.maximum(chosen.sum(), 1))
    elif strength == "hard":
        strengths = jnp.ones(channels)
    elif strength == "constant":
        if not 0 <= constant <= 1:
            raise InputError(f"a constant strength of {constant} is not between 0 and 1")
        strengths = jnp.full(channels, constant)
    else:
        raise unknown("strength", strength, STRENGTHS)
    return jnp.where(chosen, 1 - strengths, 1.0)


def build_mask(gains: Mapping[str, jax.Array], channels: Channels, *, erase: bool = False) -> Mask:
    """The mask that gates channels where they are produced, in every writer of their group.

    Args:
      gains: `(channels,)` in [0, 1] by group name; groups not named are left alone.
      erase: also zeroes the kernels that make channels of gain 0: their weights are gone, the outputs unchanged.
    """
    mask = {}
    for group in _groups(gains, channels):
        gain = gains[group.name]
        for writer in group.writers:
            mask |= {f"params/{writer.path}/{leaf}": gain for leaf in writer.leaves}
            if erase and writer.kernel not in ("", writer.path):
                mask[f"params/{writer.kernel}/kernel"] = (gain > 0).astype(gain.dtype)
    return mask


def build_kernel_mask(gains: Mapping[str, jax.Array], channels: Channels) -> Mask:
    """The literal reading of 'scale the kernel', for comparison: in front of a batch norm it does not gate."""
    writers = [(gains[group.name], writer) for group in _groups(gains, channels) for writer in group.writers]
    return {f"params/{writer.kernel}/kernel": gain for gain, writer in writers if writer.kernel}


def build_head_mask(gain: jax.Array, channels: Channels, variables: Any) -> Mask:
    """Folds the gains of the last group into the rows of the head's kernel; the features themselves stay.

    Args:
      gain: `(channels,)` of the last group.
    """
    path = f"params/{channels.head}/kernel"
    kernel = pruned(variables, (path,))[path]
    # A head that reads a flattened map sees each channel once a position, channels fastest.
    return {path: jnp.tile(gain, kernel.shape[-2] // gain.shape[0])[:, None]}


def apply_mask(variables: Any, mask: Mask) -> Any:
    """`variables`, any pytree, with every masked leaf multiplied by its factor; pure, jittable, vmappable over masks.

    Raises:
      InputError: the mask names a leaf that is not there, or a factor does not broadcast to the shape of its leaf.
    """
    leaves = leaves_by_path(variables)
    missing = sorted(mask.keys() - leaves.keys())
    if missing:
        raise InputError(f"the mask does not fit the parameters: there is no {missing[0]}; build it anew")
    return edited(variables, {path: _product(path, leaves[path], factor) for path, factor in mask.items()})


def compose_masks(first: Mask, second: Mask) -> Mask:
    """The mask whose application equals applying both, in either order."""
    return first | second | {path: first[path] * second[path] for path in first.keys() & second.keys()}


def _product(path: str, leaf: jax.Array, factor: jax.Array) -> jax.Array:
    try:
        fits = jnp.broadcast_shapes(factor.shape, leaf.shape) == leaf.shape
    except ValueError:
        fits = False
    if not fits:
        shapes = f"{tuple(factor.shape)} against {tuple(leaf.shape)}"
        raise InputError(f"the mask does not fit the parameters: {path} is {shapes}; build it anew")
    return leaf * factor.astype(leaf.dtype)


def _groups(gains: Mapping[str, jax.Array], channels: Channels) -> list[ChannelGroup]:
    unknown_names = gains.keys() - {group.name for group in channels.groups}
    if unknown_names:
        raise unknown("channel group", min(unknown_names), [group.name for group in channels.groups])
    return [group for group in channels.groups if group.name in gains]
