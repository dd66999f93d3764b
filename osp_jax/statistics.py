"""Class statistics of post-ReLU channel activations, collected in one pass over the training images.

They are sums: the statistics of a union of image sets are the sum of the sets' statistics (`merged`), and those of the
retained classes are the rows of these classes.
"""

import itertools
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from osp_jax.data.augment import normalise
from osp_jax.data.batches import index_batches
from osp_jax.data.kinds import stored_dtype
from osp_jax.data.sources import Split
from osp_jax.data.splits import per_class_sample
from osp_jax.model import Model
from osp_jax.program.gates import Gates, capture, gates_of
from osp_jax.program.tail import tail_of
from osp_jax.ridge.moments import HeadMoments
from osp_jax.runtime.distributed import everywhere
from osp_jax.runtime.errors import InputError

REDUCTIONS = ("mean", "max")


@struct.dataclass
class Moments:
    """`sum`, `sum_of_squares` and `deviations` over images, float32 `(classes, channels)`.

    `deviations` is the sum of squared distances from the class mean. In float32 it cannot be computed from the other
    two if the mean is large against the spread. None in statistics stored by an older version.
    """

    sum: jax.Array
    sum_of_squares: jax.Array
    deviations: jax.Array | None = None

    def class_variance(self, count: jax.Array) -> jax.Array:
        """The variance over the images of each class, float32 `(classes, channels)`; `count` float32 `(classes,)`."""
        return self._deviations(count) / jnp.maximum(count, 1)[:, None]

    def variance(self, count: jax.Array) -> jax.Array:
        """The variance over the images of all classes, float32 `(channels,)`."""
        total = jnp.maximum(count.sum(), 1)
        means = self.sum / jnp.maximum(count, 1)[:, None]
        # Relative to the first class that has images: if all means are equal, their differences are exact.
        shifted = jnp.where((count > 0)[:, None], means - means[jnp.argmax(count > 0)], 0)
        centre = count @ shifted / total
        return (self._deviations(count).sum(0) + count @ (shifted - centre) ** 2) / total

    def _deviations(self, count: jax.Array) -> jax.Array:
        if self.deviations is not None:
            return self.deviations
        return jnp.maximum(self.sum_of_squares - self.sum**2 / jnp.maximum(count, 1)[:, None], 0)


@struct.dataclass
class ClassStatistics:
    """Statistics of one channel group: `count` float32 `(classes,)`, moments of the spatial mean and maximum."""

    count: jax.Array
    mean: Moments
    max: Moments


@struct.dataclass
class Statistics:
    """Statistics of the training images that requests to forget use.

    Attributes:
      layers: `ClassStatistics` by the name of the channel group.
      features: float32 `(n, features)`, the head's input for a sample of the images (the spatial mean if the head reads
        a map); n may be 0.
      labels: int32 `(n,)`, of the sample.
      gates: maps channels to the leaves that gate them.
      cached_inputs: inputs of the last kernels (`tail.Tail.early`) for the first images of the sample, one row per
        image; empty if they were not requested.
      image_shape: `(h, w, c)`; () in statistics stored by an older version.
      head: the moments that a closed-form head was fitted to; None for a trained head.
    """

    layers: dict[str, ClassStatistics]
    features: jax.Array
    labels: jax.Array
    gates: Gates = struct.field(pytree_node=False)
    cached_inputs: tuple[jax.Array, ...] = ()
    image_shape: tuple[int, ...] = struct.field(pytree_node=False, default=())
    head: HeadMoments | None = struct.field(pytree_node=False, default=None)

    if TYPE_CHECKING:

        def replace(self, **changes: Any) -> "Statistics":
            """The statistics with other values for some fields; `struct.dataclass` defines it."""

    @property
    def num_classes(self) -> int:
        return next(iter(self.layers.values())).count.shape[0]

    def classes_seen(self) -> np.ndarray:
        """Sorted numbers of the classes that have images, int `(k,)`; not jittable."""
        return np.flatnonzero(np.asarray(next(iter(self.layers.values())).count))

    def without(self, classes: Iterable[int]) -> "Statistics":
        """Returns the statistics without the images of `classes`: sums of 0 and no stored features for them."""
        classes = list(classes)
        if not classes:
            return self
        kept = np.ones(self.num_classes, np.float32)
        kept[classes] = 0
        layers = jax.tree.map(lambda sums: sums * kept.reshape(-1, *[1] * (sums.ndim - 1)), self.layers)
        rows = np.flatnonzero(~np.isin(np.asarray(self.labels), classes))
        inputs = tuple(values[rows[rows < len(values)]] for values in self.cached_inputs)
        head = self.head and self.head.without(classes)
        rest = {"features": self.features[rows], "labels": self.labels[rows], "cached_inputs": inputs, "head": head}
        return self.replace(layers=layers, **rest)


def layer_statistics(activations: jax.Array, labels: jax.Array, num_classes: int) -> ClassStatistics:
    """Statistics of one batch.

    Args:
      activations: `(batch, ..., channels)`, post-ReLU.
      labels: int `(batch,)`; labels outside 0..classes-1 are ignored.
    """
    flat = activations.astype(jnp.float32).reshape(activations.shape[0], -1, activations.shape[-1])  # b (h w) c
    one_hot = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)

    count = one_hot.sum(0)
    total = partial(jnp.matmul, one_hot.T, precision=jax.lax.Precision.HIGHEST)

    def moments(values: jax.Array) -> Moments:  # b c -> classes c
        sums = total(values)
        means = sums / jnp.maximum(count, 1)[:, None]
        own = jnp.matmul(one_hot, means, precision=jax.lax.Precision.HIGHEST)
        return Moments(sums, total(values**2), total((values - own) ** 2))

    return ClassStatistics(count, moments(flat.mean(1)), moments(flat.max(1)))


def merged(first: ClassStatistics, second: ClassStatistics) -> ClassStatistics:
    """Statistics of the union of two disjoint sets of images; jittable."""
    return jax.tree.map(jnp.add, first, increment(first, second))


def increment(total: ClassStatistics, batch: ClassStatistics) -> ClassStatistics:
    """The amount by which the images of `batch` change the sums of `total`.

    Deviations follow Chan, Golub and LeVeque (The American Statistician 1983): those within the batch plus that between
    the two means.
    """
    weight = total.count * batch.count / jnp.maximum(total.count + batch.count, 1)

    def moments(old: Moments, new: Moments) -> Moments:
        old_mean, new_mean = (
            of.sum / jnp.maximum(count, 1)[:, None] for of, count in ((old, total.count), (new, batch.count))
        )
        between = weight[:, None] * (new_mean - old_mean) ** 2
        return Moments(new.sum, new.sum_of_squares, new._deviations(batch.count) + between)

    return ClassStatistics(batch.count, moments(total.mean, batch.mean), moments(total.max, batch.max))


def no_images(num_classes: int, channels: int) -> ClassStatistics:
    """Statistics of no images: float32 zeros."""

    def moments() -> Moments:
        return Moments(*(jnp.zeros((num_classes, channels)) for _ in range(3)))

    return ClassStatistics(jnp.zeros(num_classes), moments(), moments())


def compensated_add(total: Any, error: Any, term: Any) -> tuple[Any, Any]:
    """Kahan summation on pytrees: float32 sums stay exact to a few ulp for any number of batches."""
    corrected = jax.tree.map(jnp.subtract, term, error)
    new_total = jax.tree.map(jnp.add, total, corrected)
    new_error = jax.tree.map(lambda new, old, added: (new - old) - added, new_total, total, corrected)
    return new_total, new_error


def collect_statistics(
    model: Model,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    keep_features: int = 0,
    cached_inputs: int = 0,
) -> Statistics:
    """Streams batches through the network once; memory use does not depend on their number.

    Args:
      batches: (uint8 images `(batch, h, w, c)`, int labels `(batch,)`), all of one batch size; the label -1 marks
        padding.
      keep_features: how many of the first images to keep features of.
      cached_inputs: how many of these to keep the inputs of the last kernels of.

    Raises:
      InputError: images are not uint8, no channel can be gated, or `cached_inputs` is above 0 and no kernel alone
        writes the last features.
    """
    moments = jnp.asarray(model.mean, jnp.float32), jnp.asarray(model.std, jnp.float32)
    batches = iter(batches)
    first = next(batches)
    if first[0].dtype != stored_dtype(first[0].shape[1:]):
        raise InputError(f"images are {first[0].dtype}; give uint8 values from 0 to 255, without normalisation")
    gates = gates_of(model.apply, model.variables, normalise(first[0][:8], *moments))
    add = adder(model.apply, gates, model.num_classes)
    total = {group.name: no_images(model.num_classes, group.channels) for group in gates.groups}
    error = total
    features: list[np.ndarray] = []
    kept_labels: list[np.ndarray] = []
    inputs: list[list[np.ndarray]] = []
    early = tail_of(model, len(first[1]), first[0].shape[1:]).early if cached_inputs else None
    for images, labels in itertools.chain([first], batches):
        total, error, batch_features = add(model.variables, total, error, images, labels, *moments)
        if sum(map(len, kept_labels)) < keep_features:
            true = np.flatnonzero(labels >= 0)
            features.append(np.asarray(batch_features)[true])
            kept_labels.append(labels[true])
            if early is not None and sum(len(values[0]) for values in inputs) < cached_inputs:
                inputs.append([np.asarray(values)[true] for values in early(model.variables, (images, *moments))])
    width = features[0].shape[1] if features else 0
    kept_features = np.concatenate([np.zeros((0, width), np.float32), *features])[:keep_features]
    their_labels = np.concatenate([np.zeros(0, np.int32), *kept_labels])[:keep_features]
    cached = tuple(jnp.asarray(np.concatenate(values)[:cached_inputs]) for values in zip(*inputs, strict=True))
    kept = jnp.asarray(kept_features), jnp.asarray(their_labels, jnp.int32)
    return Statistics(total, *kept, gates, cached, first[0].shape[1:])


def statistics_over(model: Model, split: Split, indices: np.ndarray, settings: Any, seed: int) -> Statistics:
    """`collect_statistics` on the images `indices` `(n,)` of a split; `seed` draws the sample whose features are kept.

    Args:
      settings: with `features` (the size of the sample), `cached_inputs` and `batch_size`, as in `config.statistics`.
    """
    sample = per_class_sample(split.labels, indices, settings["features"], seed=seed)
    order = np.concatenate([sample, np.setdiff1d(indices, sample)])
    batches = index_batches(split, order, settings["batch_size"])
    cached_inputs = min(settings.get("cached_inputs", 0), len(sample))
    return collect_statistics(model, batches, keep_features=len(sample), cached_inputs=cached_inputs)


@lru_cache(maxsize=8)
def adder(apply: Callable[[Any, jax.Array], jax.Array], gates: Gates, num_classes: int) -> Any:
    """The jitted step that adds a batch to the running sums and returns its features."""

    @jax.jit
    def add(
        variables: Any,
        total: Any,
        error: Any,
        images: jax.Array,
        labels: jax.Array,
        mean: jax.Array,
        std: jax.Array,
    ) -> Any:
        _, activations, head_input = capture(apply, gates, variables, normalise(images, mean, std))
        layers = {
            name: increment(total[name], layer_statistics(value, labels, num_classes))
            for name, value in activations.items()
        }
        if head_input.ndim > 2:
            head_input = head_input.mean(axis=tuple(range(1, head_input.ndim - 1)))  # b h w c -> b c
        return everywhere((*compensated_add(total, error, layers), head_input.astype(jnp.float32)))

    return add
