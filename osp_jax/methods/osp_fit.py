"""OSP with fitted factors: fits per-channel gains of the last features, without retraining.

Ours, not the paper's. The head is affine in the last features f, so with gains g in [0, 1] the logits are
(f * g) @ W + b: a model small enough to fit on a stored sample of features in a fraction of a second. The loss has two
terms. On forgotten images, every forgotten logit falls below the best retained one by a margin (a hinge). On retained
images, the output among the retained classes stays the same (Kullback-Leibler divergence from the original softmax
without the forgotten classes). The network's weights are multiplied by the gains and take no gradient steps.

In a network with few features or few classes, a forgotten class can win by its bias once its features are scaled down;
and if features have both signs, as in many Transformers, gains affect all classes alike. If gains alone leave the class
recognised or reduce the accuracy on other classes, they are fitted again together with a reduction of the class's bias
in the head.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from osp_jax.masks import apply_mask, build_head_mask, build_mask
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.groups import forget_vector, masked_paths
from osp_jax.methods.parts.head import feature_channels, head_of
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.options import option
from osp_jax.model import Model
from osp_jax.program.gates import Gates
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import ClassStatistics, Statistics
from osp_jax.trees import edited, pruned

SOURCES = ("features", "statistics")
PLACES = ("gate", "head")
_FALL = 10.0  # logits per unit of a fall, which takes steps of the same size as a gain


@dataclasses.dataclass(frozen=True)
class OspFit(Method):
    """Fits gains of the last features on stored features; uses no images.

    The defaults were chosen on validation images (`docs/architecture.md`).
    """

    search: ClassVar[Mapping[str, Sequence[Any]]] = {"margin": (0.5, 1.0, 2.0), "forget_weight": (0.5, 1.0, 2.0)}

    source: str = option(
        "features", "fit on the stored 'features', or on draws from the class 'statistics'", choices=SOURCES
    )
    margin: float = option(1.0, "logits by which a forgotten class must fall below the best retained one", low=0)
    forget_weight: float = option(1.0, "weight of the hinge, against 1 for the divergence", low=0)
    steps: int = option(200, "steps of Adam", low=0)
    learning_rate: float = option(0.05, "initial learning rate of Adam; falls along a cosine", low=0)
    draws: int = option(400, "draws of each class with source=statistics", low=1)
    place: str = option(
        "gate",
        "location of the gain: 'gate' where the features are written, 'head' in the rows of the head",
        choices=PLACES,
    )
    erase: bool = option(False, "also zero the kernels of fully masked channels")
    allowed: float = option(
        0.01,
        "share of the stored images that gains alone may leave recognised, or lose of the other classes",
        low=0,
        high=1,
    )

    def check(self, model: Model, gates: Gates) -> None:
        """Raises `InputError` if the head does not read channels that can be gated."""
        pruned(model.variables, masked_paths(gates, (gates.last.name,), self.place, self.erase))

    def unlearn(
        self, model: Model, forget: tuple[int, ...], *, data: RequestData | None, statistics: Statistics, rng: jax.Array
    ) -> Model:
        """Returns the model with its last features gated by fitted gains and, if these do not suffice, a lower bias of
        the forgotten classes; uses nothing but the statistics."""
        del data
        name = statistics.gates.last.name
        features, labels = fitting_sample(statistics, self, rng)
        head = head_of(model.variables, statistics.gates.head)
        if features.shape[1] != head[0].shape[0]:
            raise InputError("the head reads a map, and the statistics have no positions; use source=features")
        paths = masked_paths(statistics.gates, (name,), self.place, self.erase)
        masked = pruned(model.variables, paths)
        vector = forget_vector(forget, statistics)
        given = {"gates": statistics.gates, "settings": self}
        new, falls = _fitted_product(masked, head, features, labels, vector, **given)
        variables = edited(model.variables, new)
        if falls.any():
            path = statistics.gates.head.bias
            bias = pruned(variables, (path,))[path]
            variables = edited(variables, {path: (bias - falls.reshape(bias.shape)).astype(bias.dtype)})
        return model.replace(variables=variables)


def fitting_sample(statistics: Statistics, settings: OspFit, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(features float32 `(n, features)`, labels int32 `(n,)`) that the gains are fitted on.

    Raises:
      InputError: an unknown source, or no features were stored.
    """
    if settings.source == "features":
        if not statistics.features.shape[0]:
            raise InputError(
                "no features are stored; train with config.statistics.features=4000, or use source=statistics"
            )
        return statistics.features, statistics.labels
    last = statistics.layers[statistics.gates.last.name]
    return draw_features(last, rng, settings.draws)


def draw_features(statistics: ClassStatistics, rng: jax.Array, draws: int) -> tuple[jax.Array, jax.Array]:
    """Draws `draws` features per class from independent normals with the class's moments of the spatial mean.

    They are clipped at 0 if all means are positive, as behind a ReLU. A class without images gets the label -1.
    """
    count = jnp.maximum(statistics.count, 1)[:, None]
    mean = statistics.mean.sum / count
    deviation = jnp.sqrt(statistics.mean.class_variance(statistics.count))
    noise = jax.random.normal(rng, (draws, *mean.shape))
    features = mean + deviation * noise  # draws classes channels
    features = jnp.where(jnp.min(mean) >= 0, jnp.maximum(features, 0), features)
    labels = jnp.where(statistics.count > 0, jnp.arange(mean.shape[0]), -1)
    return features.reshape(-1, mean.shape[1]), jnp.tile(labels, draws)


def fit_gains(
    features: jax.Array,
    labels: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    forget: jax.Array,
    channels: np.ndarray,
    settings: OspFit,
    with_bias: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Gains in [0, 1], `(channels,)`, by projected Adam from all ones, and falls of the bias, `(classes,)`.

    Falls of the forgotten classes are at least 0 and minimise the same loss; without `with_bias` they are 0.

    Args:
      features: `(n, features)`.
      labels: int `(n,)`; -1 is neither retained nor forgotten.
      kernel, bias: of the head, `(features, classes)` and `(classes,)`.
      forget: 0/1 `(classes,)`.
      channels: the channel of each feature, int `(features,)`, static.
      with_bias: whether the bias may fall.
    """
    fitted = forget * with_bias
    forgotten = (labels >= 0) * forget[labels]
    retained = (labels >= 0) * (1 - forget[labels])
    without = jnp.where(forget > 0, -jnp.inf, 0)
    target = jax.nn.softmax(features @ kernel + bias + without)
    # n * entropy of the target does not depend on the gains; it makes the loss a divergence.
    entropy = jax.scipy.special.entr(target).sum(-1)

    def loss(parameters: tuple[jax.Array, jax.Array]) -> jax.Array:
        gains, falls = parameters
        logits = (features * gains[channels]) @ kernel + bias - _FALL * fitted * falls
        divergence = -(target * jax.nn.log_softmax(logits)).sum(-1) - entropy
        excess = _largest(logits, forget > 0) - _largest(logits, forget == 0)
        hinge = jax.nn.relu(settings.margin + excess)
        kept = retained @ divergence / jnp.maximum(retained.sum(), 1)
        return kept + settings.forget_weight * (forgotten @ hinge) / jnp.maximum(forgotten.sum(), 1)

    adam = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, max(settings.steps, 1)))

    def step(carry: Any, _: None) -> tuple[Any, None]:
        parameters, state = carry
        updates, state = adam.update(jax.grad(loss)(parameters), state)
        gains, falls = optax.apply_updates(parameters, updates)
        return ((jnp.clip(gains, 0, 1), jnp.maximum(falls, 0)), state), None

    start = jnp.ones(int(channels.max()) + 1), jnp.zeros(len(bias))
    ((gains, falls), _), _ = jax.lax.scan(step, (start, adam.init(start)), length=settings.steps)
    return gains, _FALL * fitted * falls


def _largest(logits: jax.Array, among: jax.Array) -> jax.Array:
    """The largest logit of the classes `among`, bool `(classes,)`: `(n, classes)` -> `(n,)`.

    JAX's gradient of `max` compares the logits with their maximum. Where a compiler computes them twice with different
    rounding, no logit equals it and the gradient is NaN, which `argmax` avoids.
    """
    largest = jnp.where(among, jax.lax.stop_gradient(logits), -jnp.inf).argmax(-1)
    return (logits * jax.nn.one_hot(largest, logits.shape[-1])).sum(-1)


def gains_suffice(
    before: jax.Array, after: jax.Array, labels: jax.Array, forget: jax.Array, settings: OspFit
) -> jax.Array:
    """Whether at most `allowed` of the forgotten images are still recognised, and at most that share of others is lost.

    Args:
      before, after: logits without and with the gains, `(n, classes)`.
      labels: int `(n,)`; -1 is neither retained nor forgotten.
      forget: 0/1 `(classes,)`.
    """
    forgotten = (labels >= 0) & (forget[labels] > 0)
    retained = (labels >= 0) & (forget[labels] == 0)
    recognised = (forgotten & (forget[after.argmax(-1)] > 0)).sum() / jnp.maximum(forgotten.sum(), 1)
    right = [(retained & (logits.argmax(-1) == labels)).sum() for logits in (before, after)]
    lost = (right[0] - right[1]) / jnp.maximum(retained.sum(), 1)
    return (recognised <= settings.allowed) & (lost <= settings.allowed)


@partial(jax.jit, static_argnames=("gates", "settings"))
def _fitted_product(
    masked: Any, head: Any, features: jax.Array, labels: jax.Array, vector: Any, *, gates: Gates, settings: OspFit
) -> tuple[Any, jax.Array]:
    group, (kernel, bias), channels = gates.last, head, feature_channels(gates)

    def logits(gains: jax.Array, falls: jax.Array) -> jax.Array:
        return (features * gains[channels]) @ kernel + bias - falls

    fit = partial(fit_gains, features, labels, kernel, bias, vector, channels, settings)
    gains, falls = fit()
    if gates.head.bias is not None:
        suffice = gains_suffice(features @ kernel + bias, logits(gains, falls), labels, vector, settings)
        gains, falls = jax.lax.cond(suffice, lambda: (gains, falls), lambda: fit(with_bias=True))
    if settings.place == "gate":
        mask = build_mask({group.name: gains}, gates, erase=settings.erase)
    else:
        mask = build_head_mask(gains, gates)
    return apply_mask(masked, mask), falls
