"""The changes of a request in a compact form, found by comparing two sets of variables.

For each leaf that differs, the smallest of these forms is kept:

- 'values': the new leaf.
- 'slices': the changed slices along an axis, with their new values; 'entries': the same for single entries.
- 'factor': a factor along an axis whose product with the old leaf equals the new leaf bit by bit.
- 'low rank': two matrices whose product is added; the sum equals the new leaf to float rounding.

New values are kept instead of differences, because adding a rounded difference does not always restore the new value.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from osp_jax.runtime.distributed import place
from osp_jax.trees import changed_paths, edited, pruned

KINDS = ("values", "slices", "entries", "factor", "low rank")

_SMALL = 4096  # bytes; smaller leaves are not tried as low rank
_WIDEST = 2048  # largest smaller side of a matrix that is tried as low rank
_ULPS = 2  # tolerance of a low rank, in ulp of the leaf's largest weight


@struct.dataclass
class Change:
    """The change of one leaf.

    Attributes:
      arrays: by `kind`: (values,), (index int32 `(k,)`, values), (factor,), or (first `(m, r)`, second `(r, n)`).
      kind: one of `KINDS`.
      axis: axis of slices and factors.
    """

    arrays: tuple[Any, ...]
    kind: str = struct.field(pytree_node=False)
    axis: int = struct.field(pytree_node=False, default=0)

    @property
    def nbytes(self) -> int:
        """The size of its arrays."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def is_exact(self) -> bool:
        """Whether it reproduces the new leaf bit by bit."""
        return self.kind != "low rank"


Changes = dict[str, Change]
"""By the path of the leaf."""


def find_changes(before: Any, after: Any) -> Changes:
    """The change of every leaf that differs between `before` and `after`, as NumPy arrays.

    Each has been applied once to verify that it reproduces the new leaf, bit by bit or, for a low rank, to rounding.
    """
    paths = changed_paths(before, after)
    old, new = ({path: _host(leaf) for path, leaf in pruned(of, paths).items()} for of in (before, after))
    changes = {path: find_change(old[path], new[path]) for path in paths if not _same(old[path], new[path])}
    tried = changed_leaves(before, changes)
    # A device may round a product differently than NumPy.
    return {
        path: change if not change.is_exact or _same(tried[path], new[path]) else Change((new[path],), "values")
        for path, change in changes.items()
    }


def find_change(old: np.ndarray, new: np.ndarray) -> Change:
    """The smallest form of the change from `old` to `new`, of the same shape."""
    found = [Change((new,), "values")]
    if old.shape == new.shape and old.dtype == new.dtype and old.ndim:
        differs = _bits(old) != _bits(new)
        index = np.flatnonzero(differs).astype(np.int32)
        found.append(Change((index, new.reshape(-1)[index]), "entries"))
        for axis in range(old.ndim) if old.ndim > 1 else ():
            others = tuple(other for other in range(old.ndim) if other != axis)
            index = np.flatnonzero(differs.any(others)).astype(np.int32)
            found.append(Change((index, np.take(new, index, axis)), "slices", axis))
            if old.dtype.kind == "f" and (factor := _factor(old, new, axis)) is not None:
                found.append(Change((factor,), "factor", axis))
    best = min(found, key=lambda change: change.nbytes)
    if best.nbytes > _SMALL and old.ndim > 1 and old.dtype.kind == "f":
        return _low_rank(old, new, best.nbytes // 2) or best
    return best


def applied(variables: Any, changes: Mapping[str, Change], *, donate: bool = False) -> Any:
    """Returns `variables` with the changed leaves; all others are passed through unchanged.

    Args:
      changes: as `ready` returns them.
      donate: whether the new leaves may reuse the memory of the old ones, which then become unusable.
    """
    old = pruned(variables, changes.keys())
    return edited(variables, (_donating if donate else new_leaves)(old, changes))


def changed_leaves(variables: Any, changes: Mapping[str, Change]) -> dict[str, np.ndarray]:
    """The new leaves by path, on the host."""
    found = new_leaves(pruned(variables, changes.keys()), ready(changes))
    return {path: _host(leaf) for path, leaf in found.items()}


def ready(changes: Mapping[str, Change]) -> Changes:
    """Puts the changes on the device, in shapes shared by the changes of many classes, so that they share a program."""
    return {path: _padded(change) for path, change in changes.items()}


def _new_leaves(old: Mapping[str, jax.Array], changes: Mapping[str, Change]) -> dict[str, jax.Array]:
    return {path: _new_leaf(old[path], change) for path, change in changes.items()}


new_leaves = jax.jit(_new_leaves)
_donating = jax.jit(_new_leaves, donate_argnums=0)


def _new_leaf(old: jax.Array, change: Change) -> jax.Array:
    first, *rest = change.arrays
    if change.kind == "values":
        return first
    if change.kind == "entries":
        return old.reshape(-1).at[first].set(rest[0]).reshape(old.shape)
    if change.kind == "slices":
        return old.at[(slice(None),) * change.axis + (first,)].set(rest[0])
    if change.kind == "factor":
        return old * first.reshape([-1 if axis == change.axis else 1 for axis in range(old.ndim)])
    product = jnp.matmul(first, rest[0], precision=jax.lax.Precision.HIGHEST)
    return old + product.reshape(old.shape)


def _padded(change: Change) -> Change:
    """Puts a change on the device; pads an index to a power of two with its first entry, which is written again."""
    arrays = change.arrays
    if change.kind in ("slices", "entries"):
        index, values = arrays
        axis = change.axis if change.kind == "slices" else 0
        fill = np.zeros((1 << max(len(index) - 1, 0).bit_length()) - len(index), np.int32)
        arrays = np.append(index, index[fill]), np.concatenate([values, np.take(values, fill, axis)], axis)
    return change.replace(arrays=place(arrays))


# The forms


def _host(leaf: Any) -> np.ndarray:
    return np.asarray(jax.device_get(leaf))


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two leaves are equal bit by bit."""
    alike = (one.shape, one.dtype) == (other.shape, other.dtype)
    return alike and np.array_equal(_bits(one), _bits(other))


def _bits(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, order="C").view(f"u{array.itemsize}")


def _factor(old: np.ndarray, new: np.ndarray, axis: int) -> np.ndarray | None:
    """The factor along `axis` that maps `old` to `new` bit by bit; None if there is none."""
    first, second = (np.moveaxis(leaf, axis, 0).reshape(leaf.shape[axis], -1) for leaf in (old, new))
    wide = first.astype(np.float64)
    squares = (wide**2).sum(1)
    with np.errstate(all="ignore"):
        guess = np.where(squares > 0, (wide * second).sum(1) / np.where(squares > 0, squares, 1), 1).astype(old.dtype)
        found, fits = guess, np.zeros(len(guess), bool)
        for near in (guess, np.nextafter(guess, np.inf), np.nextafter(guess, -np.inf)):
            here = (_bits(first * near[:, None]) == _bits(second)).all(1)
            found = np.where(here & ~fits, near, found).astype(old.dtype)
            fits |= here
    return found if fits.all() else None


def _low_rank(old: np.ndarray, new: np.ndarray, most: int) -> Change | None:
    """A change of at most `most` bytes that is exact to float rounding; None if there is none."""
    difference = new.astype(np.float64) - old
    tolerance = _ULPS * np.finfo(old.dtype).eps * np.abs(new).max()
    for shape in dict.fromkeys(((-1, old.shape[-1]), (old.shape[0], -1))):
        matrix = difference.reshape(shape)
        rank = most // (old.itemsize * sum(matrix.shape))
        if not rank or not np.isfinite(matrix).all() or min(matrix.shape) > _WIDEST:
            continue
        left, scale, right = np.linalg.svd(matrix, full_matrices=False)
        roots = np.sqrt(scale)
        factors = (left * roots).astype(old.dtype), (roots[:, None] * right).astype(old.dtype)
        fits = partial(_reproduces, old.reshape(matrix.shape), new.reshape(matrix.shape), factors, tolerance)
        if not fits(rank := min(rank, len(scale))):
            continue
        low = 0
        while rank - low > 1:  # `low` is too low, `rank` suffices
            middle = (low + rank) // 2
            low, rank = (low, middle) if fits(middle) else (middle, rank)
        first, second = (np.ascontiguousarray(factor) for factor in (factors[0][:, :rank], factors[1][:rank]))
        return Change((first, second), "low rank")
    return None


def _reproduces(old: np.ndarray, new: np.ndarray, factors: Any, tolerance: float, rank: int) -> bool:
    return bool(np.abs(old + factors[0][:, :rank] @ factors[1][:rank] - new).max() <= tolerance)
