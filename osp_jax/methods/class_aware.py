"""Class-aware filter scores for unlearning: removes filters that forgotten classes need and few others do.

The score is that of Jiang et al., "Class-Aware Pruning for Efficient Neural Networks", DATE 2024, arXiv 2312.05875, as
in their code (github.com/HWAI-TUDa/Class-Aware-Pruning, utils/vgg16_cifar10_score_utils.py). A filter counts at a
position of an image if |activation * gradient of the cross-entropy|, the Taylor estimate of the effect of its removal,
is above a threshold there. A class's need for a filter is the mean of these counts over images of the class, at the
position of the largest mean: a number from 0 to 1. Their method sums it over classes (before the maximum) and prunes,
for compression, the filters that few classes need.

The rule is ours: the score of a filter is the largest need among the forgotten classes minus the mean (or largest) need
among the retained ones, and the fraction of filters with the highest scores is removed. The rule's defaults and the
optional fine-tuning are ours too, and the gradient is that of each image's own loss instead of a batch mean, which
makes no difference at a threshold of 0.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from osp_jax.data.augment import Preparation
from osp_jax.masks import apply_mask, build_mask
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.filters import SCOPES, Apply, filters, fine_tune, kernel_paths, without_highest
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.moments import sum_over_batches
from osp_jax.methods.parts.options import option
from osp_jax.model import Model
from osp_jax.program.gates import Gates
from osp_jax.program.kernels import kernel_outputs
from osp_jax.statistics import Statistics
from osp_jax.trees import pruned


@dataclasses.dataclass(frozen=True)
class ClassAware(Method):
    """Removes filters that forgotten classes need and few others do, with optional fine-tuning.

    "Code" is github.com/HWAI-TUDa/Class-Aware-Pruning.
    """

    sees: ClassVar[tuple[str, ...]] = ("retain", "forget")
    search: ClassVar[Mapping[str, Sequence[Any]]] = {
        "fraction": (0.05, 0.1, 0.2, 0.3),
        "threshold": (1e-50, 1e-5, 1e-4, 1e-3),
        "against": ("mean", "max"),
    }

    fraction: float = option(
        0.2, "share of the filters to remove", low=0, high=1, source="ours; we could not find the paper's share"
    )
    layers: str = option(
        "last",
        "channel groups: the 'last', 'all' (which the authors score), or a regular expression on group names",
        source="ours",
    )
    scope: str = option(
        "global", "apply the fraction to all filters together, or to each layer", choices=SCOPES, source="ours"
    )
    against: str = option(
        "mean",
        "need of the retained classes to subtract: their mean, or the largest, which keeps a filter that any of them "
        "needs",
        choices=("mean", "max"),
        source="ours",
    )
    per_class: int = option(
        10, "images of each class, drawn at random", low=1, source="the authors' code: 5000 // 500 for CIFAR-10"
    )
    threshold: float = option(
        1e-50,
        "a filter counts above this; 1e-50 is 0 in float32, so any value but 0 counts",
        low=0,
        source="the authors' code",
    )
    epochs: int = option(0, "epochs of fine-tuning on retained images", low=0, source="ours; the authors retrain")
    learning_rate: float = option(0.01, "learning rate of the fine-tuning", low=0, source="the authors' code")
    batch_size: int = option(256, "images in a batch", low=1, source="the authors' code, utils/cifar10_loader.py")
    momentum: float = option(0.9, "momentum of SGD", low=0, high=1, source="the authors' code")
    weight_decay: float = option(5e-4, "weight decay, on kernels only (ours)", low=0, source="the authors' code")

    @property
    def trains(self) -> bool:
        return self.epochs > 0

    def check(self, model: Model, gates: Gates) -> None:
        """Raises `InputError` for a network without a filter in the chosen layers."""
        del model
        filters(gates, self.layers)

    def unlearn(
        self, model: Model, forget: tuple[int, ...], *, data: RequestData, statistics: Statistics, rng: jax.Array
    ) -> Model:
        """Returns the model without the filters that the forgotten classes need more than the retained ones."""
        draw_key, tune_key = jax.random.split(rng)
        units = filters(statistics.gates, self.layers)
        pruned(model.variables, [path for unit in units.groups for path in kernel_paths(unit)])  # raises if absent
        indices = np.concatenate([data.retain(self.per_class, draw_key), data.forget(self.per_class, draw_key)])
        needs = class_needs(model, units, data, indices, self.threshold)
        gains = without_highest(forget_scores(needs, forget, self.against), self.fraction, self.scope)
        mask = build_mask(gains, units, erase=True)
        new = model.replace(variables=apply_mask(model.variables, mask))
        return fine_tune(new, mask, data, self, tune_key) if self.epochs else new


def forget_scores(
    needs: Mapping[int, Mapping[str, np.ndarray]], forget: tuple[int, ...], against: str
) -> dict[str, np.ndarray]:
    """How much more the forgotten classes need each filter than the retained ones do, `(channels,)` by layer."""
    reduce = {"mean": np.mean, "max": np.max}[against]
    forgotten = [needs[c] for c in needs if c in forget]
    retained = [needs[c] for c in needs if c not in forget]
    return {
        path: np.max([need[path] for need in forgotten], axis=0) - reduce([need[path] for need in retained], axis=0)
        for path in forgotten[0]
    }


def class_needs(
    model: Model, units: Gates, data: RequestData, indices: np.ndarray, threshold: float
) -> dict[int, dict[str, np.ndarray]]:
    """Each class's need for each filter, by class and layer: float32 `(channels,)`, from 0 to 1.

    Args:
      units: the filters, as `filters` returns them.
      indices: int32 `(n,)`, images of these classes.
    """
    labels = np.asarray(data.labels[indices])
    counts = _position_counts(model.apply, data.preparation, units)
    given = model.variables, data.images, data.labels, np.float32(threshold)
    needs = {}
    for c in np.unique(labels).tolist():
        of_class = indices[labels == c]
        total = sum_over_batches(lambda *batch: counts(*given, *batch), of_class, 256, jax.random.key(0))
        needs[c] = {path: np.asarray(value).max(axis=0) / len(of_class) for path, value in total.items()}
    return needs


@lru_cache(maxsize=16)
def _position_counts(apply: Apply, preparation: Preparation, units: Gates) -> Any:
    """Compiled function: in how many images of a batch each filter counts, float32 `(positions, channels)` by layer."""
    paths = {kernel_paths(unit)[0]: unit.name for unit in units.groups}

    def loss(factors: dict[str, jax.Array], variables: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        logits, _ = kernel_outputs(apply, variables, inputs, (), factors)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()

    @jax.jit
    def counts(
        variables: Any, images: Any, labels: Any, threshold: Any, indices: Any, weights: jax.Array, key: jax.Array
    ) -> dict[str, jax.Array]:
        del key
        inputs = preparation.plain(images[indices])
        _, outputs = jax.eval_shape(lambda: kernel_outputs(apply, variables, inputs, tuple(paths)))
        ones = jax.tree.map(lambda output: jnp.ones(output.shape, output.dtype), outputs)
        # The derivative by a factor on the output is output * gradient, the Taylor term at each position.
        terms = jax.grad(loss)(ones, variables, inputs, labels[indices])
        above = {paths[path]: (jnp.abs(term) > threshold).astype(jnp.float32) for path, term in terms.items()}
        flat = jax.tree.map(lambda value: value.reshape(len(value), -1, value.shape[-1]), above)  # b h w c -> b (h w) c
        return jax.tree.map(lambda value: jnp.tensordot(weights, value, 1), flat)

    return counts
