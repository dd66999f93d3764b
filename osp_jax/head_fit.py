"""Fits a linear head in closed form on a frozen network, and forgets single images from the fit."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.data.augment import normalise
from osp_jax.data.batches import index_batches
from osp_jax.data.given import split_of
from osp_jax.data.sources import Split
from osp_jax.data.splits import per_class_sample
from osp_jax.interop.checks import checked_classes
from osp_jax.model import Model
from osp_jax.program.gates import Gates, gates_of, noise_images
from osp_jax.ridge.moments import HeadMoments, class_moments, features_of
from osp_jax.ridge.network import check_ridge_head, random_features_of, with_head, with_ridge_head
from osp_jax.runtime.errors import InputError, shown
from osp_jax.runtime.settings import Experiment, check
from osp_jax.statistics import ClassStatistics, Statistics, increment, layer_statistics, no_images

_ROWS = 2048  # rows of features processed at once


class Fitted(NamedTuple):
    """A model with a fitted head, and its statistics, which answer requests to forget."""

    model: Model
    statistics: Statistics


def fit_head(
    backbone: Model,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    class_names: Sequence[str],
    stages: int = 6,
    flip: bool = True,
    random_features: int = 0,
    ridge: float = 1.0,
    scale: float = 10.0,
    keep_features: bool = True,
    batch_size: int = 256,
    seed: int = 0,
) -> Fitted:
    """Fits a linear head in closed form on the features of a frozen network.

        fitted = osp_jax.fit_head(backbone, images, labels, class_names=names)
        result = osp_jax.unlearn(fitted.model, ["cat"], "exact-head", statistics=fitted.statistics)

    Args:
      backbone: a `Model` with any classes; images are normalised by its `mean` and `std`.
      images: uint8 `(n, h, w, c)`.
      labels: int `(n,)`.
      class_names: names of the head's classes, by class number.
      stages: number of last stages; the features are the means and maxima of their channels.
      flip: whether to average the features over each image and its mirror image.
      random_features: number of random ReLU features to add, drawn by `seed`.
      ridge: penalty on the squared weights, against the sum over all images.
      scale: scale of the logits; the target is `scale` for the class of an image and 0 for others.
      keep_features: whether to keep the features of each image, which `forget_images` needs.
      batch_size: images per forward pass.
      seed: seed of the random features.

    Returns:
      `model`, with the fitted head, and `statistics`, for `unlearn` and `forget_images`.

    Raises:
      InputError: images, labels or settings of another type, shape or range, or a network with fewer stages.
    """
    if not isinstance(backbone, Model):
        raise InputError(
            f"backbone is {shown(backbone)}; give a Model, as from_torch, from_linen or from_nnx return it"
        )
    given = {"stages": stages, "flip": flip, "random_features": random_features, "ridge": ridge, "scale": scale}
    given |= {"keep_features": keep_features}
    check({"head": given, "seed": seed, "statistics": {"batch_size": batch_size}}, Experiment, "")
    names = checked_classes(class_names)
    split = split_of(images, labels, len(names))
    shape, indices = split.images.shape[1:], np.arange(len(split.labels))
    options: dict[str, Any] = {name: given[name] for name in ("stages", "flip", "random_features")}
    model = with_ridge_head(backbone, shape, names, seed=seed, **options)
    values = network_features(model, split, indices, batch_size)
    return fit_features(model, values, split.labels, indices, shape, given, seed=seed)


def forget_images(model: Model, statistics: Statistics, numbers: Collection[int]) -> Fitted:
    """Returns the fit without the images `numbers`: downdates the moments and recomputes the rest from kept features.

    Args:
      model: a model with a ridge head.
      statistics: statistics of its fit, or of the previous request.
      numbers: numbers of training images, counted from 0 in the split that the head was fitted to.

    Returns:
      `model` with the new head, and its `statistics`.

    Raises:
      InputError: the model has no ridge head, no features were kept, or an image is unknown, already forgotten or the
        last of its class.
    """
    check_ridge_head(model)
    if statistics.head is None:
        raise InputError("the statistics hold no moments of the head; give the statistics that fit_head returned")
    moments = statistics.head.without_images(numbers)
    assert moments.features is not None, "without them no image can be forgotten"
    kept, sample = moments.features.compact(), len(statistics.labels)
    moments = dataclasses.replace(moments, features=kept).with_prepared()
    new = with_head(model, moments.head(), list(moments.classes))
    found = _statistics(statistics.gates, model.num_classes, kept.values, kept.labels, moments, sample, seed=0)
    return Fitted(new, found.replace(image_shape=statistics.image_shape))


def network_features(model: Model, split: Split, indices: np.ndarray, batch_size: int) -> np.ndarray:
    """Features of the images `indices` from the frozen network of a model with a ridge head, float32 `(n, f)`."""
    apply = check_ridge_head(model)
    moments = jnp.asarray(model.mean, jnp.float32), jnp.asarray(model.std, jnp.float32)

    @jax.jit
    def features(variables: Any, images: jax.Array) -> jax.Array:
        return apply.features(variables, normalise(images, *moments))

    found = [np.asarray(features(model.variables, images)) for images, _ in index_batches(split, indices, batch_size)]
    return np.concatenate(found)[: len(indices)]


def fit_features(
    model: Model,
    values: np.ndarray,
    labels: np.ndarray,
    numbers: np.ndarray,
    image_shape: tuple[int, ...],
    settings: Mapping[str, Any],
    *,
    sample: int = 4000,
    seed: int = 0,
    prepare: bool = True,
) -> Fitted:
    """Fits the head of `model` to features of images.

    Args:
      values: float32 `(n, f)`, as `network_features` returns them.
      labels: int `(n,)`.
      numbers: image numbers in the training split, int `(n,)`, without duplicates.
      settings: with `ridge`, `scale` and `keep_features`, as in `config.head`.
      sample: how many images the statistics keep features of, drawn by `seed`.
      prepare: whether to solve for the head without each class in advance.
    """
    random = random_features_of(model.variables)
    kept = features_of(numbers, labels, values) if settings["keep_features"] else None
    classes = class_moments(values, labels, random)
    moments = HeadMoments(classes, model.num_classes, settings["ridge"], settings["scale"], random, features=kept)
    moments = moments.with_prepared() if prepare else moments
    model = with_head(model, moments.head(), list(classes))
    gone = tuple(number for number in range(model.num_classes) if number not in classes)
    gates = gates_of(model.apply, model.variables, noise_images(image_shape))
    statistics = _statistics(gates, model.num_classes, values, labels, moments, sample, seed)
    return Fitted(model.replace(forgotten=gone), statistics.replace(image_shape=tuple(image_shape)))


def _statistics(
    gates: Gates, num_classes: int, values: np.ndarray, labels: np.ndarray, moments: HeadMoments, sample: int, seed: int
) -> Statistics:
    """As `statistics_over`, from features that are already computed."""
    total = no_images(num_classes, gates.last.channels)
    for start in range(0, len(labels), _ROWS):
        rows = slice(start, start + _ROWS)
        inputs = moments.expanded(values[rows])[:, :-1].astype(np.float32)
        total = _added(total, jnp.asarray(inputs), jnp.asarray(labels[rows]))
    chosen = per_class_sample(labels, np.arange(len(labels)), sample, seed) if sample else np.zeros(0, np.int32)
    features = moments.expanded(values[chosen])[:, :-1].astype(np.float32)
    kept = jnp.asarray(features), jnp.asarray(labels[chosen], jnp.int32)
    return Statistics({gates.features: total}, *kept, gates, head=moments)


@jax.jit
def _added(total: ClassStatistics, inputs: jax.Array, labels: jax.Array) -> ClassStatistics:
    batch = layer_statistics(inputs, labels, total.count.shape[0])
    return jax.tree.map(jnp.add, total, increment(total, batch))
