"""Concept erasure: refits the kernels that write the last features, so that these no longer encode the class.

Ours. Masks and projections in front of the head do not change the features, and a new head recovers the class from
them. This method removes from the features of all images the direction that discriminates the class (least-squares
concept erasure, Belrose et al., NeurIPS 2023, arXiv 2306.03819). The targets are

    f - share * d w.(f - mean),    d = mean of the class - mean,   w = S^-1 d / (d.S^-1 d),

with the mean of the retained images and the covariance S of all. Erasing the direction from retained images costs them
little, since it only serves the forgotten class, and makes the targets nearly linear in the kernels' inputs. On
forgotten images an anchor also replaces the mean: the means of the retained classes, mixed by the network's
probabilities without the image's own class, because a model that never saw the class predicts one of the others.

The kernels and the bias that write the head's input are refitted to these targets (`program/tail`, `kernel_refit`).
The last kernels cannot erase everything that a residual stream carries: with a `depth`, as many stages before the
features get targets of the same form first, from front to back. The kernels between two stages are then repaired, so
that their outputs on retained images stay the same (`kernel_repair`). No gradient steps are taken.

The head's columns are refitted to reproduce the logits of retained images (`head_refit`). The column of a forgotten
class becomes that of a class without images (`unsupported_column`): by a recipe with label smoothing, the column that
gives the class its share of the probability; by another recipe, the column that training ends with; and without a
recipe, one whose level is measured on the retained images.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.methods.parts.data import RequestData, of_each_class
from osp_jax.methods.parts.groups import forget_vector
from osp_jax.methods.parts.head import head_logits
from osp_jax.methods.parts.head_refit import refit_head
from osp_jax.methods.parts.importance import filled_batches
from osp_jax.methods.parts.kernel_refit import refit
from osp_jax.methods.parts.kernel_repair import repaired
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.moments import class_means, matmul
from osp_jax.methods.parts.options import option
from osp_jax.methods.parts.unsupported_column import (
    measured_level,
    recipe_level,
    smoothed_columns,
    unsupported_columns,
)
from osp_jax.model import Model
from osp_jax.program.tail import Tail, tails_of
from osp_jax.runtime.distributed import everywhere
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import Statistics
from osp_jax.trees import edited

ANCHORS = ("mean", "classes")


@dataclasses.dataclass(frozen=True)
class ConceptErasure(Method):
    """Refits the kernels that write the last features, so that these no longer encode the class."""

    sees: ClassVar[tuple[str, ...]] = ("retain", "forget")
    # Not `share` and `depth`: they decide what the features keep, and a comparison chooses by accuracy.
    search: ClassVar[Mapping[str, Sequence[Any]]] = {
        "forget_weight": (1.0, 3.0),
        "anchor": ANCHORS,
        "ridge": (1e-3, 1e-2),
    }

    share: float = option(1.0, "share of the class's direction to erase from retained images", low=0, high=1)
    depth: int = option(0, "stages before the last features to erase the direction from", low=0)
    keep: float = option(
        1.0,
        "share of a forgotten image's own features to keep after the erasure; 0: the anchor replaces them",
        low=0,
        high=1,
    )
    anchor: str = option(
        "classes",
        "replaces the mean for forgotten images: 'classes' mixes the class means by the network's probabilities, "
        "'mean' is that of all retained images",
        choices=ANCHORS,
    )
    forget_weight: float = option(3.0, "weight of the forgotten images, against 1 for the retained ones", low=1e-6)
    image_weight: float = option(10.0, "largest weight of a forgotten image, against a retained one", low=1e-6)
    images: int = option(1500, "retained images, the same number of each class", low=2)
    forget_images: int = option(500, "images of each class to forget", low=1)
    directions: int = option(
        128, "principal directions of a kernel's input in which it may change; 0: all of them", low=0
    )
    ridge: float = option(1e-3, "penalty on a change, relative to the mean square of a kernel's input", low=1e-9)
    rounds: int = option(2, "rounds over the kernels", low=1)
    level: float = option(
        0.0, "distance of a forgotten logit below the log-sum of the others; 0: by the recipe, or measured", low=0
    )
    batch_size: int = option(50, "images in a batch", low=1)

    def answers_from(self, statistics: Statistics) -> bool:
        """Whether the statistics replace the images of a request."""
        return bool(statistics.cached_inputs) and not self.depth

    def unlearn(
        self, model: Model, forget: tuple[int, ...], *, data: RequestData, statistics: Statistics, rng: jax.Array
    ) -> Model:
        """Returns the model with refitted last features, and a head column without support for each class."""
        vector = jnp.asarray(forget_vector(forget, statistics))
        tails, kept, labels, real = _sample(model, forget, data, statistics, self, rng)
        tail, variables = tails[-1], model.variables
        before = [_looks(variables, kept, tail) for tail in tails]
        retained, logits = real * (1 - vector[labels]), head_logits(variables, tail.head, before[-1][1])
        mixture = jax.nn.softmax(logits + jnp.where(vector > 0, -jnp.inf, 0))
        weight = forgotten_weight(real.sum() - retained.sum(), retained.sum(), self)
        new, fit = variables, partial(refit, directions=self.directions, ridge=self.ridge, rounds=self.rounds)
        for stage, (features, _) in zip(tails, before, strict=True):
            anchors = mixtures(mixture, features, retained, labels) if self.anchor == "classes" else None
            given = features, real, labels, vector, self.keep, weight, anchors
            targets, weights = erasure_targets(*given, share=self.share)
            new = repaired(variables, new, stage, kept, retained / retained.sum(), ridge=self.ridge)
            new = fit(new, stage, kept, real, targets, weights)
        inputs = _looks(new, kept, tail)[1]
        new = edited(new, refit_head(new, tail.head, inputs, logits, retained))
        given = new, tail.head, inputs
        recipe = None if self.level or data.recipe is None else data.recipe_for("ConceptErasure")
        if recipe is not None and recipe.training.get("label_smoothing", 0):
            columns = smoothed_columns(*given, weights, vector, recipe.training)
        else:
            level = self.level
            if recipe is not None:
                level = recipe_level(recipe, statistics, inputs, retained)
            elif not level:
                level = measured_level(head_logits(*given), labels, retained, vector)
            columns = unsupported_columns(*given, retained, vector, level)
        return model.replace(variables=edited(new, columns))


def _sample(
    model: Model,
    forget: tuple[int, ...],
    data: RequestData,
    statistics: Statistics,
    settings: ConceptErasure,
    rng: jax.Array,
) -> tuple[tuple[Tail, ...], list[list[jax.Array]], jax.Array, jax.Array]:
    """(the tails, their inputs by batch, labels, 0/1 weights `(batches, batch)`), from cached inputs or from images."""
    stored, keys = settings.answers_from(statistics), jax.random.split(rng)
    each = max(settings.images // len(statistics.classes_seen()), 1)
    if stored:
        labels, rows = statistics.labels, np.arange(len(statistics.cached_inputs[0]))
        host_labels = np.asarray(labels)
        gone = np.isin(host_labels[rows], forget)
        missing = set(forget) - set(host_labels[rows[gone]].tolist())
        if missing:
            raise InputError(
                f"no inputs of the last kernels are cached for class {min(missing)}; train with more "
                "statistics.cached_inputs"
            )
        wanted = ((rows[~gone], each, keys[0]), (rows[gone], settings.forget_images, keys[1]))
        chosen = np.concatenate([of_each_class(host_labels, *given) for given in wanted])
    else:
        labels = data.labels
        chosen = np.concatenate([data.retain(each, keys[0]), data.forget(settings.forget_images, keys[1])])
    batches = filled_batches(chosen, min(settings.batch_size, len(chosen)))
    tails = tails_of(model, batches["indices"].shape[1], data.images.shape[1:], settings.depth)
    if stored:
        kept = [[values[indices] for values in statistics.cached_inputs] for indices in batches["indices"]]
    else:
        moments = data.preparation.moments()
        kept = [tails[-1].early(model.variables, (data.images[indices], *moments)) for indices in batches["indices"]]
    return tails, kept, labels[batches["indices"]], jnp.asarray(batches["weights"])


def forgotten_weight(forgotten: jax.Array, retained: jax.Array, settings: ConceptErasure) -> jax.Array:
    """Weight of all `forgotten` images together, against 1 for the `retained`; both are numbers of images, 0-d.

    It is `forget_weight`, or less, so that a forgotten image counts for at most `image_weight` retained ones.
    """
    return jnp.minimum(settings.forget_weight, settings.image_weight * forgotten / jnp.maximum(retained, 1))


def erasure_targets(
    features: jax.Array,
    real: jax.Array,
    labels: jax.Array,
    vector: jax.Array,
    keep: float,
    forget_weight: jax.Array | float,
    anchors: jax.Array | None = None,
    *,
    share: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """(targets like `features`, weights `(...,)` that sum to 1 over the retained and to `forget_weight` over the rest).

    Args:
      features: `(..., channels)`.
      real: 0/1 `(...,)`, 0 for padding, which has weight 0.
      labels: int `(...,)`.
      vector: 0/1 `(classes,)`, 1 for a class to forget.
      keep: share of a forgotten image's own features to keep after the erasure.
      forget_weight: weight of all forgotten images together.
      anchors: like `features`; None: the mean over the retained.
      share: share of the forgotten classes' directions to erase from retained images and anchors.
    """
    forgotten = vector[labels]
    retained, gone = real * (1 - forgotten), real * forgotten
    shares = retained / jnp.maximum(retained.sum(), 1), gone / jnp.maximum(gone.sum(), 1)
    mean = jnp.tensordot(shares[0], features, shares[0].ndim)
    centred = (features - mean).reshape(-1, features.shape[-1])
    total = (real / real.sum()).reshape(-1, 1)
    overall = (total * centred).sum(0)
    covariance = matmul((total * centred).T, centred) - jnp.outer(overall, overall)
    covariance += 1e-4 * jnp.trace(covariance) / len(mean) * jnp.eye(len(mean))  # a dead channel has no variance
    of_class = jax.nn.one_hot(labels, len(vector)) * gone[..., None]
    sums = jnp.einsum("...k,...c->kc", of_class, features - mean)
    difference = sums / jnp.maximum(of_class.reshape(-1, len(vector)).sum(0), 1)[:, None]  # classes channels
    solved = jax.scipy.linalg.solve(covariance, difference.T, assume_a="pos")  # channels classes
    sizes = matmul(difference, solved)
    sizes += jnp.diag(jnp.where(jnp.diag(sizes) > 0, 1e-6 * jnp.diag(sizes), 1))  # 1 for a retained class

    def along(values: jax.Array) -> jax.Array:
        return jnp.linalg.solve(sizes, ((values - mean) @ solved).reshape(-1, len(vector)).T).T @ difference

    own = features - along(features).reshape(features.shape)
    kept = features - share * (features - own)
    anchor = mean if anchors is None else anchors - share * along(anchors).reshape(features.shape)
    targets = jnp.where(forgotten[..., None] > 0, keep * (own - mean) + anchor, kept)
    return targets, shares[0] + forget_weight * shares[1]


def mixtures(mixture: jax.Array, features: jax.Array, retained: jax.Array, labels: jax.Array) -> jax.Array:
    """Class means of the retained features, mixed by the probabilities `mixture`; like `features`."""
    return mixture @ class_means(features, labels, retained, mixture.shape[-1])


def _looks(variables: Any, kept: list[list[jax.Array]], tail: Tail) -> tuple[jax.Array, jax.Array]:
    """(features of a stage `(batches, batch, features)`, the stage `(batches, batch, n)`, spatially averaged)."""
    features, inputs = zip(*(_look(variables, values, tail=tail) for values in kept), strict=True)
    return jnp.stack(features), jnp.stack(inputs)


@partial(jax.jit, static_argnames="tail")
def _look(variables: Any, kept: list[jax.Array], *, tail: Tail) -> tuple[jax.Array, jax.Array]:
    ends = tail.late((variables, tail.no_shifts()), kept)
    return everywhere((ends.features, ends.inputs))
