"""The head's inputs before and after a request, from stored data: what a change of the network does to its features.

Stored features show a change of the head and of gains on the features; cached inputs of the last kernels also show a
change of these kernels.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from osp_jax.methods.parts.head import feature_channels, head_leaves
from osp_jax.model import Model
from osp_jax.program.gates import Factor, Gates
from osp_jax.program.tail import tail_of
from osp_jax.statistics import Statistics
from osp_jax.trees import differing_paths, leaves_by_path, pruned

_BATCH = 256


class StoredFeatures(NamedTuple):
    """Inputs of the head `(n, f)` of both models, float32, labels `(n,)`, and their source."""

    before: np.ndarray
    after: np.ndarray
    labels: np.ndarray
    source: str


def stored_features(
    before: Model, after: Model, statistics: Statistics | None, most: int | None = None
) -> StoredFeatures | None:
    """The head's inputs for the stored sample, in both models; None if the stored data do not show the change.

    Args:
      most: number of images with cached inputs to use, a random draw; None: all.
    """
    changed = differing_paths(before.variables, [after.variables])
    # Masked models keep the statistics of the network before the mask, whose features differ from theirs.
    # On a frozen backbone the features never change.
    frozen = statistics is not None and statistics.head is not None
    stored = None if before.forgotten and not frozen else statistics
    return _kept_features(before, after, changed, stored) or _features_of_inputs(before, after, changed, stored, most)


def _kept_features(
    before: Model, after: Model, changed: Collection[str], statistics: Statistics | None
) -> StoredFeatures | None:
    """From stored features; None if anything changed but the head and gains on the features."""
    if statistics is None or not len(statistics.labels):
        return None
    head = statistics.gates.head
    inner = [path for path in changed if path not in head_leaves(head)]
    gains = _gains(before, after, inner, _places(statistics.gates, before)) if inner else 1.0
    if gains is None:
        return None
    features = np.asarray(statistics.features, np.float32)
    return StoredFeatures(features, features * gains, np.asarray(statistics.labels), "features")


def _features_of_inputs(
    before: Model, after: Model, changed: Collection[str], statistics: Statistics | None, most: int | None
) -> StoredFeatures | None:
    """From cached inputs of the last kernels; None if there are none, or if the change reaches further."""
    if statistics is None or not statistics.cached_inputs or not statistics.image_shape:
        return None
    # The sample is in random order.
    count, head = min(len(statistics.cached_inputs[0]), most or len(statistics.cached_inputs[0])), statistics.gates.head
    batch = min(_BATCH, count)
    late, reached = _late(before, batch, statistics.image_shape)
    if not set(changed) <= {*head_leaves(head), *reached}:
        return None
    rows = np.arange(-(-count // batch) * batch).reshape(-1, batch) % count  # pads the last batch

    def features(model: Model) -> np.ndarray:
        parts = [late(model.variables, [values[chosen] for values in statistics.cached_inputs]) for chosen in rows]
        return np.concatenate(parts)[:count]

    old = np.asarray(statistics.features[:count], np.float32)  # the first of the sample have cached inputs
    return StoredFeatures(old, features(after), np.asarray(statistics.labels[:count]), "cached inputs")


# Gains on the features, recovered from the leaves that write them


def _gains(before: Model, after: Model, changed: Collection[str], places: "_Places") -> np.ndarray | None:
    """Gains `(f,)` on the features that reproduce the change of the leaves `changed`; None if there are none."""
    if not set(changed) <= {*places.scaled, *places.erased}:
        return None
    paths = [*places.scaled, *(path for path in places.erased if path in changed)]
    old, new = (jax.device_get(pruned(model.variables, paths)) for model in (before, after))
    products, squares = np.zeros(places.channels), np.zeros(places.channels)
    for path, index in places.scaled.items():
        channel = np.broadcast_to(index, old[path].shape).ravel()
        entries = [leaf[path].ravel()[channel >= 0].astype(float) for leaf in (old, new)]
        for sums, other in ((products, entries[1]), (squares, entries[0])):
            sums += np.bincount(channel[channel >= 0], entries[0] * other, places.channels)
    gains = np.where(squares > 0, products / np.where(squares > 0, squares, 1), 1.0)
    if not (np.isfinite(gains).all() and (gains >= 0).all()):  # an activation commutes with no other gain
        return None
    erasing = (gains > 0).astype(float)
    expected = [(path, index, gains) for path, index in places.scaled.items()]
    expected += [(path, index, erasing) for path, index in places.erased.items() if path in paths]
    for path, index, factors in expected:
        wanted = old[path] * np.where(index >= 0, factors[np.maximum(index, 0)], 1)
        if not np.allclose(new[path], wanted, rtol=1e-4, atol=1e-6 * np.abs(old[path]).max(initial=0)):
            return None
    return np.where(places.features >= 0, gains[np.maximum(places.features, 0)], 1).astype(np.float32)


class _Places(NamedTuple):
    """The leaves that write what the head reads.

    `channels`: their number; `features` int `(f,)`: the channel of each feature. `scaled` and `erased`: by path of a
    leaf, the channel of each entry, broadcastable; a gain multiplies the first, and a gain of 0 may zero the second.
    -1: no channel.
    """

    channels: int
    features: np.ndarray
    scaled: dict[str, np.ndarray]
    erased: dict[str, np.ndarray]


def _places(gates: Gates, model: Model) -> _Places:
    group, leaves = gates.last, leaves_by_path(model.variables)

    def indices(factors: Sequence[Factor]) -> dict[str, np.ndarray]:
        return {factor.path: np.reshape(factor.index, factor.shape) for factor in factors if factor.path in leaves}

    scaled = indices(group.writers)
    erased = {path: index for path, index in indices(group.kernels).items() if path not in scaled}
    return _Places(group.channels, feature_channels(gates), scaled, erased)


def _late(
    model: Model, batch: int, image_shape: tuple[int, ...]
) -> tuple[Callable[[Any, list[jax.Array]], np.ndarray], set[str]]:
    """(function `(variables, cached inputs) -> features (batch, f)`, paths of the leaves that only it reads)."""
    tail = tail_of(model, batch, image_shape)
    paths = {writer.layer.path for writer in tail.writers}
    paths |= {path for writer in tail.writers for path in writer.biases}

    def features(variables: Any, kept: list[jax.Array]) -> np.ndarray:
        return np.asarray(tail.late((variables, tail.no_shifts()), kept).inputs, np.float32)

    return features, paths
