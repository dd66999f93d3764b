"""Class statistics of post-ReLU channel activations, collected in one pass over the training images.

They are sums, so statistics of a union of image sets are the sum of the sets' statistics (`merged`), and those of the
retained classes follow from the rows of the retained classes.
"""

import itertools
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any

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

    `deviations` are the squares of the distances from the class's own mean, summed. In float32 they cannot be had from
    the other two where the mean is large against the spread. None in statistics that an older version stored.
    """

    sum: jax.Array
    sum_of_squares: jax.Array
    deviations: jax.Array | None = None

    def class_variance(self, count: jax.Array) -> jax.Array:
        """Over the images of each class, float32 `(classes, channels)`; `count` float32 `(classes,)`."""
        return self._deviations(count) / jnp.maximum(count, 1)[:, None]

    def variance(self, count: jax.Array) -> jax.Array:
        """Over the images of all classes, float32 `(channels,)`."""
        total = jnp.maximum(count.sum(), 1)
        means = self.sum / jnp.maximum(count, 1)[:, None]
        # From the first class that has images: where all means are alike, their differences are exact.
        shifted = jnp.where((count > 0)[:, None], means - means[jnp.argmax(count > 0)], 0)
        centre = count @ shifted / total
        return (self._deviations(count).sum(0) + count @ (shifted - centre) ** 2) / total

    def _deviations(self, count: jax.Array) -> jax.Array:
        if self.deviations is not None:
            return self.deviations
        return jnp.maximum(self.sum_of_squares - self.sum**2 / jnp.maximum(count, 1)[:, None], 0)


@struct.dataclass
class ClassStatistics:
    """Of one channel group: images `count` float32 `(classes,)`, and moments of the spatial mean and maximum."""

    count: jax.Array
    mean: Moments
    max: Moments


@struct.dataclass
class Statistics:
    """`layers`: `ClassStatistics` by the name of the channel group.

    `features` float32 `(n, features)` and `labels` int32 `(n,)`: the head's input for a sample of the images (spatial
    mean, where the head reads a map); n may be 0. `gates` tell which leaves gate which channel.

    `head`: what the head was fitted from, where it was fitted in closed form.

    `tail`: the first of the sample, as far as the last kernels (`tail.Tail.early`): arrays with a row an image; empty
    where they were not asked for. `image_shape`: `(h, w, c)`; () in statistics that an older version stored.
    """

    layers: dict[str, ClassStatistics]
    features: jax.Array
    labels: jax.Array
    gates: Gates = struct.field(pytree_node=False)
    tail: tuple[jax.Array, ...] = ()
    image_shape: tuple[int, ...] = struct.field(pytree_node=False, default=())
    head: HeadMoments | None = struct.field(pytree_node=False, default=None)

    @property
    def num_classes(self) -> int:
        return next(iter(self.layers.values())).count.shape[0]

    def classes_seen(self) -> np.ndarray:
        """The classes that the statistics have images of, int `(k,)`; not within a jitted function."""
        return np.flatnonzero(np.asarray(next(iter(self.layers.values())).count))

    def without(self, classes: Iterable[int]) -> "Statistics":
        """The statistics of the images of the other classes: sums of 0, and no stored features of `classes`."""
        classes = list(classes)
        if not classes:
            return self
        kept = np.ones(self.num_classes, np.float32)
        kept[classes] = 0
        layers = jax.tree.map(lambda sums: sums * kept.reshape(-1, *[1] * (sums.ndim - 1)), self.layers)
        rows = np.flatnonzero(~np.isin(np.asarray(self.labels), classes))
        tail = tuple(values[rows[rows < len(values)]] for values in self.tail)
        head = self.head and self.head.without(classes)
        rest = {"features": self.features[rows], "labels": self.labels[rows], "tail": tail, "head": head}
        return self.replace(layers=layers, **rest)


def layer_statistics(activations: jax.Array, labels: jax.Array, num_classes: int) -> ClassStatistics:
    """Of one batch: `activations` `(batch, ..., channels)`, post-ReLU; labels outside 0..classes-1 do not count."""
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
    """Of the images of both, which share none; jittable."""
    return jax.tree.map(jnp.add, first, increment(first, second))


def increment(total: ClassStatistics, batch: ClassStatistics) -> ClassStatistics:
    """What the images of `batch` add to the sums of `total`.

    Deviations by Chan, Golub and LeVeque (The American Statistician 1983): those within the batch, and that of the two
    means.
    """
    weight = total.count * batch.count / jnp.maximum(total.count + batch.count, 1)

    def moments(old: Moments, new: Moments) -> Moments:
        old_mean, new_mean = (
            of.sum / jnp.maximum(count, 1)[:, None] for of, count in ((old, total.count), (new, batch.count))
        )
        between = weight[:, None] * (new_mean - old_mean) ** 2
        return Moments(new.sum, new.sum_of_squares, new.deviations + between)

    return ClassStatistics(batch.count, moments(total.mean, batch.mean), moments(total.max, batch.max))


def no_images(num_classes: int, channels: int) -> ClassStatistics:
    """The sums over no image yet, float32 zeros."""

    def moments() -> Moments:
        return Moments(*(jnp.zeros((num_classes, channels)) for _ in range(3)))

    return ClassStatistics(jnp.zeros(num_classes), moments(), moments())


def compensated_add(total: Any, error: Any, term: Any) -> tuple[Any, Any]:
    """Kahan's sum on pytrees, so that float32 sums stay exact to a few ulp however many batches are added."""
    corrected = jax.tree.map(jnp.subtract, term, error)
    new_total = jax.tree.map(jnp.add, total, corrected)
    new_error = jax.tree.map(lambda new, old, added: (new - old) - added, new_total, total, corrected)
    return new_total, new_error


def collect_statistics(
    model: Model,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    keep_features: int = 0,
    keep_tails: int = 0,
) -> Statistics:
    """Streams batches through the network once; memory does not grow with their number.

    Args:
      batches: (uint8 images `(batch, h, w, c)`, int labels `(batch,)`), all of one batch size; a label of -1 marks
        an image that only fills a batch up.
      keep_features: the features of the first so many images are kept.
      keep_tails: and of the first so many of these what is known in front of the last kernels.

    Raises:
      InputError: images that are not uint8, no channel can be gated, or tails are asked for where no kernel
        alone writes the last features.
    """
    moments = jnp.asarray(model.mean, jnp.float32), jnp.asarray(model.std, jnp.float32)
    batches = iter(batches)
    first = next(batches)
    if first[0].dtype != stored_dtype(first[0].shape[1:]):
        raise InputError(f"images are {first[0].dtype}; give uint8 values from 0 to 255, they are normalised here")
    gates = gates_of(model.apply, model.variables, normalise(first[0][:8], *moments))
    add = adder(model.apply, gates, model.num_classes)
    total = {group.name: no_images(model.num_classes, group.channels) for group in gates.groups}
    error, features, kept_labels, tails = total, [], [], []
    early = tail_of(model, len(first[1]), first[0].shape[1:]).early if keep_tails else None
    for images, labels in itertools.chain([first], batches):
        total, error, batch_features = add(model.variables, total, error, images, labels, *moments)
        if sum(map(len, kept_labels)) < keep_features:
            true = np.flatnonzero(labels >= 0)
            features.append(np.asarray(batch_features)[true])
            kept_labels.append(labels[true])
            if sum(len(values[0]) for values in tails) < keep_tails:
                tails.append([np.asarray(values)[true] for values in early(model.variables, (images, *moments))])
    width = features[0].shape[1] if features else 0
    features = np.concatenate([np.zeros((0, width), np.float32), *features])[:keep_features]
    kept_labels = np.concatenate([np.zeros(0, np.int32), *kept_labels])[:keep_features]
    tail = tuple(jnp.asarray(np.concatenate(values)[:keep_tails]) for values in zip(*tails, strict=True))
    kept = jnp.asarray(features), jnp.asarray(kept_labels, jnp.int32)
    return Statistics(total, *kept, gates, tail, first[0].shape[1:])


def statistics_over(model: Model, split: Split, indices: np.ndarray, settings: Any, seed: int) -> Statistics:
    """`collect_statistics` of the images `indices` `(n,)` of a split, with features of a sample that `seed` draws.

    Args:
      settings: with `features`, the size of the sample, `tails` and `batch_size`, as in the config's `statistics`.
    """
    sample = per_class_sample(split.labels, indices, settings["features"], seed=seed)
    order = np.concatenate([sample, np.setdiff1d(indices, sample)])
    batches = index_batches(split, order, settings["batch_size"])
    # Workdirs of before there were tails have no such setting.
    tails = min(settings.get("tails", 0), len(sample))
    return collect_statistics(model, batches, keep_features=len(sample), keep_tails=tails)


@lru_cache(maxsize=8)
def adder(apply: Callable[[Any, jax.Array], jax.Array], gates: Gates, num_classes: int) -> Any:
    """The jitted step that adds a batch's statistics to the sums so far; it gives the batch's features, too."""

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
