"""ESC: projects the main directions of the forgotten images' features out in front of the head, without training.

Lee, Park, Jeon, Hwang and Park, ESC: Erasing Space Concept for Knowledge Deletion, CVPR 2025 (arXiv 2504.02199);
defaults are those of their code (github.com/KU-VGI/ESC). The features F (features x images, not centred) of the
forgotten training images have left singular vectors U by falling singular value. With U_p all but the first p% of them,
the head reads U_p U_p^T f in place of f.

The projection is folded into the rows of the head's kernel, which gives the same logits without new parameters. The
features do not change: a probe on them still finds the class.

Departures from the code: it collects features in train mode, so that batch norms use the batch and their running
averages move to the forgotten classes (here: eval mode); with fewer images than features it drops all directions that
the images do not span (here they stay). ESC-T, which trains a mask on U, is not implemented.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from osp_jax.data.augment import Preparation
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.head import head_changes, head_of
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.moments import matmul, second_moment, sum_over_batches
from osp_jax.methods.parts.options import option
from osp_jax.model import Model
from osp_jax.program.gates import Gates, capture
from osp_jax.statistics import Statistics
from osp_jax.trees import edited


@dataclasses.dataclass(frozen=True)
class Esc(Method):
    """Projects the main directions of the forgotten images' features out in front of the head."""

    sees: ClassVar[tuple[str, ...]] = ("forget",)
    search: ClassVar[Mapping[str, Sequence[Any]]] = {"percent": (0.2, 0.5, 1.5, 3.0, 6.0, 12.0, 25.0, 50.0)}

    percent: float = option(
        1.5,
        "percentage of the directions to remove, rounded down; at least one direction is removed (ours)",
        low=0,
        high=100,
        source="unlearn.py: --p",
    )
    augment: bool = option(
        True, "augment the images as in training", source="unlearn.py: the loader of the training images"
    )
    batch_size: int = option(64, "images in a batch", low=1, source="unlearn.py: --batch_size")

    def unlearn(
        self, model: Model, forget: tuple[int, ...], *, data: RequestData, statistics: Statistics, rng: jax.Array
    ) -> Model:
        """Returns the model with a head that ignores the main directions of the forgotten images' features."""
        del forget
        preparation = data.preparation if self.augment else data.preparation.without_augmentation()
        given = {"apply": model.apply, "gates": statistics.gates, "preparation": preparation}
        function = partial(feature_moment, model.variables, data.images, **given)
        moment = sum_over_batches(function, data.forget(), self.batch_size, rng)
        kernel, bias = head_of(model.variables, statistics.gates.head)
        count = max(int(len(moment) * self.percent / 100), 1)
        changed = head_changes(model.variables, statistics.gates.head, erase_directions(kernel, moment, count), bias)
        return model.replace(variables=edited(model.variables, changed))


@partial(jax.jit, static_argnames=("apply", "gates", "preparation"))
def feature_moment(
    variables: Any,
    images: jax.Array,
    indices: jax.Array,
    weights: jax.Array,
    key: jax.Array,
    *,
    apply: Callable[[Any, jax.Array], jax.Array],
    gates: Gates,
    preparation: Preparation,
) -> jax.Array:
    """F F^T of a batch of uint8 `images[indices]`, float32 `(features, features)`; images of weight 0 do not count.

    If the head reads a map, a feature is the mean over its positions.
    """
    _, _, read = capture(apply, gates, variables, preparation.augmented(images[indices], key))
    features = read.reshape(len(weights), -1, read.shape[-1]).mean(1).astype(jnp.float32) * weights[:, None]
    return second_moment(features)


@jax.jit
def erase_directions(kernel: jax.Array, moment: jax.Array, count: jax.Array) -> jax.Array:
    """A head's kernel `(features, classes)` without its part in the first `count` eigenvectors of F F^T.

    Directions of eigenvalue 0, up to rounding, are never erased.
    """
    values, vectors = jnp.linalg.eigh(moment)  # ascending
    features = len(values)
    present = values > values[-1] * features * jnp.finfo(values.dtype).eps
    directions = vectors * (present & (jnp.arange(features) >= features - count))
    rows = kernel.reshape(features, -1).astype(jnp.float32)
    return (rows - matmul(directions, matmul(directions.T, rows))).reshape(kernel.shape).astype(kernel.dtype)
