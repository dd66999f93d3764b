"""Soft masks: channel scores -> gains -> factors on parameters -> masked parameters.

A mask is a dict from the path of a parameter to its factor, which broadcasts against it: `(channels,)` over the last
axis, or `(features, 1)` over the rows of a dense kernel. Masks compose by multiplication, in any order.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.program.gates import Factor, Gate, Gates, spread
from osp_jax.runtime.errors import InputError, unknown
from osp_jax.statistics import ClassStatistics
from osp_jax.trees import edited, leaves_by_path

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
    """The score of each channel, float32 `(channels,)`; high for channels specific to the classes to forget.

    Args:
      statistics: statistics of one channel group.
      forget: 0/1 float `(classes,)`, 1 for a class to forget; may be traced, so that one program serves every request.
      reduction: 'mean' or 'max' over the positions of a feature map.
      standardised: whether to divide by the channel's standard deviation over all images.
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
        retain_mean = jnp.where(seen_and_kept, class_means, -jnp.inf).max(axis=0)
        retain_mean = jnp.where(jnp.isfinite(retain_mean), retain_mean, 0)  # no other class has images
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
      scores: `(channels,)`; the highest are selected, and ties are broken by position.
      select: 'fraction' (the top `amount` of the channels, at least one), 'top-k' (the top `amount`), or
        'threshold' (those that score above `amount`).
      strength: 'rank' is max(0.5, 1 - r / k) for the r-th of k selected channels (OSP, as reimplemented from its
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
    # Sorting only the k best is many times faster than sorting all, and dominates the time of a warm request.
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


def build_mask(gains: Mapping[str, jax.Array], gates: Gates, *, erase: bool = False) -> Mask:
    """The mask that applies gains to channels, at the factors of their groups.

    Args:
      gains: `(channels,)` in [0, 1] by group name; other groups stay unchanged.
      erase: whether to also zero the kernels that write channels of gain 0, which leaves the outputs unchanged.
    """
    factors = []
    for group in _groups(gains, gates):
        gain = gains[group.name]
        factors += [(factor, gain) for factor in group.factors]
        if erase:
            own = {factor.path for factor in group.factors}
            factors += [(kernel, (gain > 0).astype(gain.dtype)) for kernel in group.kernels if kernel.path not in own]
    return _mask(factors)


def build_kernel_mask(gains: Mapping[str, jax.Array], gates: Gates) -> Mask:
    """A mask on kernels only, for comparison; in front of a batch norm it does not gate the channel."""
    groups = _groups(gains, gates)
    return _mask([(kernel, gains[group.name]) for group in groups for kernel in group.kernels])


def build_head_mask(gain: jax.Array, gates: Gates) -> Mask:
    """Folds the gains of the last group into the rows of the head's kernel; the features stay unchanged.

    Args:
      gain: `(channels,)`, of the last group.
    """
    return _mask([(factor, gain) for factor in gates.last.readers])


def apply_mask(variables: Any, mask: Mask) -> Any:
    """Multiplies every masked leaf of the pytree `variables` by its factor; pure, jittable, vmappable over masks.

    Raises:
      InputError: `variables` has no leaf at a path of the mask, or a factor does not broadcast to its leaf.
    """
    leaves = leaves_by_path(variables)
    missing = sorted(mask.keys() - leaves.keys())
    if missing:
        raise InputError(f"the mask does not fit the parameters: there is no {missing[0]}; build it again")
    return edited(variables, {path: _product(path, leaves[path], factor) for path, factor in mask.items()})


def compose_masks(first: Mask, second: Mask) -> Mask:
    """The product of two masks; applying it equals applying both, in any order."""
    return first | second | {path: first[path] * second[path] for path in first.keys() & second.keys()}


def _product(path: str, leaf: jax.Array, factor: jax.Array) -> jax.Array:
    try:
        fits = jnp.broadcast_shapes(factor.shape, leaf.shape) == leaf.shape
    except ValueError:
        fits = False
    if not fits:
        shapes = f"{tuple(factor.shape)} against {tuple(leaf.shape)}"
        raise InputError(f"the mask does not fit the parameters: {path} is {shapes}; build it again")
    return leaf * factor.astype(leaf.dtype)


def gains_between(before: Any, after: Any, gate: Gate) -> np.ndarray | None:
    """The gains `(channels,)`, float64, of the mask on `gate` that maps the variables `before` to `after`.

    A channel whose leaves are all 0 has the gain 1. Returns None if no such mask exists, or if nothing changed.
    """
    old, new = leaves_by_path(before), leaves_by_path(after)
    if all(old[factor.path] is new[factor.path] for factor in gate.factors):
        return None
    found = np.full(gate.channels, np.nan)
    for factor in gate.factors:
        first, second = (np.asarray(leaves[factor.path], np.float64) for leaves in (old, new))
        index = np.broadcast_to(np.reshape(factor.index, factor.shape), first.shape)
        if not np.array_equal(first[index < 0], second[index < 0]):
            return None
        there = (index >= 0) & (first != 0)
        if np.any(second[(index >= 0) & (first == 0)]):
            return None
        ratio, channel = second[there] / first[there], index[there]
        sums, counts = (np.bincount(channel, weights, gate.channels) for weights in (ratio, None))
        with np.errstate(invalid="ignore"):
            means = sums / counts
        means = np.where(counts > 0, means, np.nan)
        if not np.allclose(ratio, means[channel], rtol=1e-3, atol=1e-6):
            return None
        both = ~np.isnan(found) & ~np.isnan(means)
        if not np.allclose(found[both], means[both], rtol=1e-3, atol=1e-6):
            return None
        found = np.where(np.isnan(found), means, found)
    return np.where(np.isnan(found), 1.0, found)


def _mask(factors: Iterable[tuple[Factor, jax.Array]]) -> Mask:
    mask: Mask = {}
    for factor, gain in factors:
        mask = compose_masks(mask, {factor.path: spread(factor, gain)})
    return mask


def _groups(gains: Mapping[str, jax.Array], gates: Gates) -> list[Gate]:
    unknown_names = gains.keys() - {group.name for group in gates.groups}
    if unknown_names:
        raise unknown("channel group", min(unknown_names), [group.name for group in gates.groups])
    return [group for group in gates.groups if group.name in gains]
