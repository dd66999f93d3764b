"""The training images that a method may use, and a record of those it used.

Nothing is copied: a method gets index arrays and gathers images on the device inside its jitted step.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from osp_jax.data.augment import Preparation
from osp_jax.data.draws import host_generator
from osp_jax.data.sources import Split
from osp_jax.data.stored import StoredImages
from osp_jax.runtime.distributed import place
from osp_jax.runtime.errors import InputError

SIDES = ("retain", "forget")


@dataclasses.dataclass
class RequestData:
    """The training images of one request to forget.

    `images` uint8 `(n, h, w, c)` and `labels` int32 `(n,)` are the whole training split, on the device. A method must
    read them only at the indices that `retain` and `forget` return. `recipe` is the config of the original's training,
    or None if it is unknown. `forgotten` are the classes to forget.
    """

    images: jax.Array
    labels: jax.Array
    preparation: Preparation
    recipe: Mapping[str, Any] | None
    forgotten: tuple[int, ...]
    _host_labels: np.ndarray
    _allowed: dict[str, np.ndarray]
    _seen: np.ndarray

    def retain(self, per_class: int | None = None, rng: jax.Array | None = None) -> np.ndarray:
        """Indices int32 `(k,)` of retained images: all within the budget, or at most `per_class` of each class.

        Without `rng`, these are the first in the order of the data set, otherwise a random draw.
        """
        return self._take("retain", per_class, rng)

    def forget(self, per_class: int | None = None, rng: jax.Array | None = None) -> np.ndarray:
        """Like `retain`, for images of the classes to forget."""
        return self._take("forget", per_class, rng)

    def without(self, classes: Sequence[int]) -> "RequestData":
        """The data without the images of `classes`; images taken from the result also count as seen here."""
        kept = {s: i[~np.isin(self._host_labels[i], list(classes))] for s, i in self._allowed.items()}
        return dataclasses.replace(self, _allowed=kept)

    def recipe_for(self, method: str) -> ConfigDict:
        """Returns the recipe for the method of this name. Raises `InputError` if there is none."""
        if self.recipe is None:
            raise InputError(
                f"{method} needs the recipe of the original; give it as data.recipe, or take another method"
            )
        return ConfigDict(self.recipe)

    def seen(self) -> dict[str, int]:
        """How many distinct images of each class (its number, as text) were taken so far."""
        classes, counts = np.unique(self._host_labels[self._seen], return_counts=True)
        return {str(c): int(n) for c, n in zip(classes, counts, strict=True)}

    def _take(self, side: str, per_class: int | None, rng: jax.Array | None) -> np.ndarray:
        indices = self._allowed[side]
        if not len(indices):
            raise InputError(
                f"the method needs {side} examples and the data budget allows none; raise {side}_per_class"
            )
        if per_class is not None:
            indices = of_each_class(self._host_labels, indices, per_class, rng)
        self._seen[indices] = True
        return indices


def request_data(
    split: Split,
    indices: np.ndarray,
    forget: Sequence[int],
    preparation: Preparation,
    recipe: Mapping[str, Any] | None,
    *,
    retain_per_class: int | None = None,
    forget_per_class: int | None = None,
    on_device: tuple[jax.Array, jax.Array] | None = None,
) -> RequestData:
    """The images `indices` of a training split that a request to forget the classes `forget` may use.

    Args:
      retain_per_class, forget_per_class: data budget, in images per class; None: all, 0: none.
      on_device: `(images, labels)` of the split, if they are already on the device.
    """
    if min(retain_per_class or 0, forget_per_class or 0) < 0:
        raise InputError("a data budget is below 0; give a number of examples of each class, or none for all")
    forgotten = np.isin(split.labels[indices], list(forget))
    allowed = {"retain": indices[~forgotten], "forget": indices[forgotten]}
    for side, budget in zip(SIDES, (retain_per_class, forget_per_class), strict=True):
        if budget is not None:
            allowed[side] = of_each_class(split.labels, allowed[side], budget)
    if on_device is None and isinstance(split.images, StoredImages):
        # Of images in files, only those in the budget are read; they become the whole split.
        read = np.sort(np.concatenate(list(allowed.values())))
        split = Split(split.images[read], split.labels[read])
        allowed = {side: np.searchsorted(read, indices).astype(np.int32) for side, indices in allowed.items()}
    images, labels = on_device or place((split.images, split.labels))
    seen = np.zeros(len(split.labels), bool)
    return RequestData(images, labels, preparation, recipe, tuple(forget), split.labels, allowed, seen)


def of_each_class(labels: np.ndarray, indices: np.ndarray, per_class: int, rng: jax.Array | None = None) -> np.ndarray:
    """At most `per_class` of `indices` `(k,)` of each class, int32, sorted: the first, or a random draw if `rng`."""
    if rng is not None:
        indices = host_generator(rng).permutation(indices)
    chosen = [indices[labels[indices] == c][:per_class] for c in np.unique(labels[indices])]
    return np.sort(np.concatenate([np.zeros(0, np.int32), *chosen])).astype(np.int32)
