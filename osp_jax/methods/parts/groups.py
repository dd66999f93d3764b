"""Channel groups by name, and the leaves that a mask on them changes."""

import re
from functools import lru_cache

import numpy as np

from osp_jax.masks import build_kernel_mask, build_mask
from osp_jax.program.gates import Gates
from osp_jax.runtime.errors import InputError, shown
from osp_jax.statistics import Statistics


@lru_cache(maxsize=64)
def chosen_groups(gates: Gates, layers: str) -> tuple[str, ...]:
    """Names of the channel groups that `layers` selects: 'last', 'all', or a regular expression."""
    names = tuple(group.name for group in gates.groups)
    if layers == "all":
        return names
    if layers == "last":
        return (gates.last.name,)
    try:
        chosen = tuple(name for name in names if re.search(layers, name))
    except re.error as error:
        raise InputError(f"layers {shown(layers)} is not a regular expression: {error}") from error
    if not chosen:
        raise InputError(f"layers {shown(layers)} matches no channel group; choose from: {', '.join(names)}")
    return chosen


def forget_vector(forget: tuple[int, ...], statistics: Statistics) -> np.ndarray:
    """0/1 float32 `(classes,)`; an argument of the compiled program, so that no request recompiles it."""
    vector = np.zeros(statistics.num_classes, np.float32)
    vector[list(forget)] = 1
    return vector


@lru_cache(maxsize=64)
def masked_paths(gates: Gates, names: tuple[str, ...], place: str, erase: bool) -> tuple[str, ...]:
    """Paths of the leaves that a mask on the groups `names` changes."""
    if place == "head":
        return tuple(factor.path for factor in gates.last.readers)
    gains = {group.name: np.ones(group.channels, np.float32) for group in gates.groups if group.name in names}
    mask = build_mask(gains, gates, erase=erase) if place == "gate" else build_kernel_mask(gains, gates)
    return tuple(mask)
