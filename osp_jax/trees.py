"""Leaves of a pytree by path: the only module that names, extracts and replaces leaves.

A path is the text of the keys from the root to a leaf, joined by '/': 'params/head/kernel' in Linen variables,
'layers/0/weight' in a pytree of dataclasses and lists.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from osp_jax.runtime.errors import InputError


def leaf_paths(tree: Any) -> tuple[str, ...]:
    """The path of every leaf, in the order of `jax.tree.leaves`."""
    return _paths(jax.tree.structure(tree))


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """Every leaf by its path."""
    leaves, structure = jax.tree.flatten(tree)
    return dict(zip(_paths(structure), leaves, strict=True))


def pruned(tree: Any, paths: Collection[str]) -> dict[str, Any]:
    """The leaves at `paths`, by path.

    Raises:
      InputError: `tree` has no leaf at a path.
    """
    leaves = leaves_by_path(tree)
    _check_paths(paths, leaves)
    return {path: leaves[path] for path in paths}


def edited(tree: Any, changes: Mapping[str, Any]) -> Any:
    """Returns `tree` with the leaves of `changes`, given by path; all other leaves are passed through unchanged.

    Raises:
      InputError: `tree` has no leaf at a path.
    """
    leaves, structure = jax.tree.flatten(tree)
    paths = _paths(structure)
    _check_paths(changes, paths)
    new = [changes.get(path, leaf) for path, leaf in zip(paths, leaves, strict=True)]
    return jax.tree.unflatten(structure, new)


def partition(tree: Any, chosen: Callable[[str], bool]) -> tuple[Any, Any]:
    """Splits `tree` into two trees of its structure: leaves whose path is `chosen`, and the others; None elsewhere."""
    first = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf if chosen(_text(path)) else None, tree)
    second = jax.tree_util.tree_map_with_path(lambda path, leaf: None if chosen(_text(path)) else leaf, tree)
    return first, second


def combine(first: Any, second: Any) -> Any:
    """Merges the two trees that `partition` returns."""
    return jax.tree.map(lambda a, b: b if a is None else a, first, second, is_leaf=lambda leaf: leaf is None)


def changed_paths(before: Any, after: Any) -> tuple[str, ...]:
    """The paths of the leaves that are different objects in `before` and `after`, in leaf order."""
    old, new = leaves_by_path(before), leaves_by_path(after)
    return tuple(path for path, leaf in old.items() if new[path] is not leaf)


def differing_paths(before: Any, after: Sequence[Any]) -> tuple[str, ...]:
    """The paths of the leaves whose values differ between `before` and any of the trees `after`, in leaf order."""

    def differs(old: Any, new: Any) -> bool:
        return old is not new and not np.array_equal(np.asarray(old), np.asarray(new))

    leaves = [leaves_by_path(each) for each in after]
    return tuple(
        path for path, old in leaves_by_path(before).items() if any(differs(old, each[path]) for each in leaves)
    )


@lru_cache(maxsize=64)
def _paths(structure: Any) -> tuple[str, ...]:
    """Cached by structure, because it dominates the time of a warm request."""
    numbered = jax.tree.unflatten(structure, range(structure.num_leaves))
    return tuple(_text(path) for path, _ in jax.tree_util.tree_leaves_with_path(numbered))


def _text(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _check_paths(paths: Collection[str], known: Collection[str]) -> None:
    known = set(known)
    missing = next((path for path in paths if path not in known), None)
    if missing is not None:
        raise InputError(f"the statistics do not fit the network: there is no {missing}; collect them again")
