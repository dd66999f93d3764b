"""The moments that a ridge head is fitted to: second moments of each class, in float64 on the host.

With z the features of an image and a 1, the matrix of a class is `sum z z'` over its images: its last row has the sums
of the features, and its last entry the number of images. The head solves `(sum over classes + ridge) W = targets`, with
the last row of a class as its column of targets: 1 for an image of the class and 0 otherwise. (Targets of +1 and -1
give the same predictions: the intercept has no ridge, so the solution is affine in the targets.)

Forgetting a class leaves out its matrix; forgetting images subtracts theirs. The result equals a fit without them, up
to float64 rounding.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cached_property

import numpy as np

from osp_jax.ridge import cholesky
from osp_jax.runtime.errors import InputError

_ROWS = 2048  # rows of features expanded at once


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of images, so that single images can be forgotten without access to them.

    Attributes:
      numbers: image numbers in the training split, int `(k,)`, increasing.
      labels: int `(k,)`.
      table: float32 `(n, f)`, features of the network, including images that were left out since `compact`.
      places: rows of the images in `table`, int `(k,)`.
    """

    numbers: np.ndarray
    labels: np.ndarray
    table: np.ndarray
    places: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """float32 `(k, f)`."""
        return self.table[self.places]

    def keep(self, rows: np.ndarray) -> "Features":
        """The features of the images `rows`, an index array or bool; nothing is copied."""
        return Features(self.numbers[rows], self.labels[rows], self.table, self.places[rows])

    def compact(self) -> "Features":
        """Drops the rows of images that were left out."""
        return features_of(self.numbers, self.labels, self.values)


def features_of(numbers: np.ndarray, labels: np.ndarray, values: np.ndarray) -> Features:
    """`Features` of images in any order."""
    order = np.argsort(numbers)
    return Features(numbers[order], labels[order], values, order)


@dataclasses.dataclass(frozen=True)
class RandomFeatures:
    """`max(0, values @ kernel + bias)`: `kernel` float32 `(f, r)`, `bias` float32 `(r,)`; r may be 0."""

    kernel: np.ndarray
    bias: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class HeadMoments:
    """The moments of a head, with related data.

    Attributes:
      classes: float64 `(m, m)` by class number, with `m` the number of features plus one; only known classes.
      num_classes: number of logits of the head, including those of other classes.
      ridge: penalty on every weight except the intercepts.
      scale: scale of the logits, a factor on the targets 0 and 1.
      random: maps the network's features to additional features of the head.
      prepared: by class number, the head float64 `(m, classes)` without that class.
      features: features of the images behind the moments; None: not kept, so that no single image can be forgotten.
    """

    classes: Mapping[int, np.ndarray]
    num_classes: int
    ridge: float
    scale: float
    random: RandomFeatures
    prepared: Mapping[int, np.ndarray] = dataclasses.field(default_factory=dict)
    features: Features | None = None

    @cached_property
    def total(self) -> np.ndarray:
        """The sum over the classes, float64 `(m, m)`."""
        matrices = iter(self.classes.values())
        total = np.array(next(matrices))
        for matrix in matrices:
            total += matrix
        return total

    @cached_property
    def factor(self) -> np.ndarray:
        """The Cholesky factor of `total` with its ridge."""
        return cholesky.factor(self.total, self.ridge)

    def counts(self) -> dict[int, int]:
        """The number of images of each class."""
        return {number: round(matrix[-1, -1]) for number, matrix in self.classes.items()}

    def head(self) -> np.ndarray:
        """Kernel and, in the last row, bias: float64 `(m, classes)`, 0 for classes without moments."""
        return cholesky.solved(self.factor, self._targets())

    def head_without(self, classes: Sequence[int], prepared: bool = True) -> np.ndarray:
        """The head of a fit without `classes`: the prepared one for a single class, otherwise a new solution."""
        if prepared and len(classes) == 1 and classes[0] in self.prepared:
            return self.prepared[classes[0]]
        total = self.total.copy()
        for number in classes:
            total -= self.classes[number]
        return cholesky.solved(cholesky.factor(total, self.ridge), self._targets(classes))

    def without(self, classes: Collection[int]) -> "HeadMoments":
        """The moments of the other classes; drops everything that depends on `classes`."""
        gone = set(classes) & set(self.classes)
        if not gone:
            return self
        kept = {number: matrix for number, matrix in self.classes.items() if number not in gone}
        features = self.features and self.features.keep(~np.isin(self.features.labels, sorted(gone))).compact()
        return dataclasses.replace(self, classes=kept, features=features, prepared={})

    def without_images(self, numbers: Collection[int]) -> "HeadMoments":
        """The moments of the other images, with a downdated factor if that is less work than a new one.

        The features of forgotten images stay in memory in `features.table` until `features.compact`.

        Args:
          numbers: numbers of training images, without duplicates.

        Raises:
          InputError: no features are kept; an image is not among those that the head was fitted to, or was already
            forgotten; or all images of a class would be forgotten.
        """
        rows = self.rows_of(numbers)
        features, changed = self.features, dict(self.classes)
        expanded = self.expanded(features.table[features.places[rows]])
        for number in np.unique(features.labels[rows]):
            own = expanded[features.labels[rows] == number]
            changed[int(number)] = changed[int(number)] - own.T @ own
        kept = np.ones(len(features.numbers), bool)
        kept[rows] = False
        new = dataclasses.replace(self, classes=changed, features=features.keep(kept), prepared={})
        if 8 * len(rows) < len(self.factor):
            # If only these rows span a direction, rounding may leave no factor; it is then recomputed when needed.
            with suppress(np.linalg.LinAlgError):
                new.__dict__["factor"] = cholesky.downdated(self.factor, expanded)
        return new

    def rows_of(self, numbers: Collection[int]) -> np.ndarray:
        """The rows of `features` of the images `numbers`, int `(k,)`; `InputError` as `without_images`."""
        if self.features is None:
            raise InputError(
                "no features of single images are kept; fit the head again with --config.head.keep_features, or "
                "forget whole classes"
            )
        numbers = np.asarray(list(numbers))
        if not len(numbers):
            raise InputError("no image to forget; give the number of at least one")
        if numbers.dtype.kind not in "iu":
            raise InputError("numbers of images are no integers; give integers from 0")
        if len(np.unique(numbers)) < len(numbers):
            raise InputError("an image is given twice; give each number once")
        known = self.features.numbers
        rows = np.searchsorted(known, numbers).clip(0, len(known) - 1)
        if (wrong := known[rows] != numbers).any():
            raise InputError(
                f"image {numbers[wrong][0]} was not among the images that the head was fitted to, or is already "
                "forgotten; give numbers of other training images"
            )
        counts = self.counts()
        for number, taken in zip(*np.unique(self.features.labels[rows], return_counts=True), strict=True):
            if taken >= counts[int(number)]:
                raise InputError(f"all images of class {number} would be forgotten; forget the class (--forget)")
        return rows

    def expanded(self, values: np.ndarray) -> np.ndarray:
        """float64 `(k, m)` from the network's features `(k, f)`: these, their random features, and 1."""
        return expanded(values, self.random)

    def with_prepared(self) -> "HeadMoments":
        """Adds the heads for requests for single classes, if there is more than one class."""
        if len(self.classes) < 2:
            return self
        heads = {number: self.head_without([number], prepared=False) for number in self.classes}
        new = dataclasses.replace(self, prepared=heads)
        new.__dict__.update({name: value for name, value in self.__dict__.items() if name in ("total", "factor")})
        return new

    def _targets(self, without: Sequence[int] = ()) -> np.ndarray:
        targets = np.zeros((next(iter(self.classes.values())).shape[0], self.num_classes))
        for number, matrix in self.classes.items():
            if number not in without:
                targets[:, number] = self.scale * matrix[-1]
        return targets


def expanded(values: np.ndarray, random: RandomFeatures) -> np.ndarray:
    """As `HeadMoments.expanded`."""
    values = np.asarray(values, np.float64)
    drawn = np.maximum(values @ random.kernel.astype(np.float64) + random.bias, 0)
    return np.concatenate([values, drawn, np.ones((len(values), 1))], axis=1)


def class_moments(values: np.ndarray, labels: np.ndarray, random: RandomFeatures) -> dict[int, np.ndarray]:
    """`HeadMoments.classes` of images, by class number: `values` float32 `(k, f)`, `labels` int `(k,)`."""
    found = {}
    for number in np.unique(labels):
        own = values[labels == number]
        total = 0.0
        for start in range(0, len(own), _ROWS):
            rows = expanded(own[start : start + _ROWS], random)
            total = total + rows.T @ rows
        found[int(number)] = total
    return found
