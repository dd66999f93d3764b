"""A frozen network with a linear head on the features of its stages, as a `Model`.

The features are the means and maxima of the channels of the last stages (`program/stages`), averaged over an image and
its mirror image, and random ReLU features of them (Rahimi and Recht, NeurIPS 2007; Huang et al., Neurocomputing 2006).
The features do not depend on the images that the head is fitted to: there is no standardisation and no selection.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.data.kinds import is_text
from osp_jax.model import Model
from osp_jax.program.flat import signature
from osp_jax.program.gates import Factor, Gate, Gates, traced
from osp_jax.program.head import find_head
from osp_jax.program.stages import Stages, feature_widths, find_stages, stage_features
from osp_jax.ridge.moments import RandomFeatures
from osp_jax.runtime.errors import InputError

KERNEL, BIAS = "head/kernel", "head/bias"
"""The leaves of the head."""

OUT_OF_REACH = -1e9
"""The bias of a class without images."""


@dataclasses.dataclass(frozen=True)
class HeadApply:
    """`apply` of a model with a ridge head; `variables` are `{'backbone', 'head'}`, with random features 'random'."""

    backbone: Callable[[Any, jax.Array], jax.Array]
    stages: Stages
    flip: bool

    def features(self, variables: Any, images: jax.Array) -> jax.Array:
        """Features of normalised images from the frozen network, float32 `(batch, f)`."""
        found = self._of(variables, images)
        return (found + self._of(variables, images[:, :, ::-1])) / 2 if self.flip else found

    def __call__(self, variables: Any, images: jax.Array) -> jax.Array:
        features, random, head = self.features(variables, images), variables.get("random"), variables["head"]
        if random is not None:
            drawn = jax.nn.relu(features @ random["kernel"] + random["bias"])
            features = jnp.concatenate([features, drawn], axis=-1)
        return features @ head["kernel"] + head["bias"]

    def own_gates(self, variables: Any, image_shape: tuple[int, ...]) -> Gates:
        """The only group of channels that can be gated: the head's features."""
        program = traced(self, variables, image_shape, jnp.float32)
        number, head = find_head(program)
        operand = program.read_operand(number)
        width = operand.aval.shape[1]
        rows = Factor(KERNEL, (width, 1), tuple(range(width)))
        group = Gate("head/input", width, program.made[operand][0], 1, (), (rows,), ())
        read = (number, 1 - program.kernels[number], 1, 0)
        return Gates((group,), (), head, group.name, read, signature(program.closed))

    def _of(self, variables: Any, images: jax.Array) -> jax.Array:
        found = stage_features(self.backbone, self.stages, variables["backbone"], images)
        return jax.lax.stop_gradient(jnp.concatenate(found, axis=-1))


@dataclasses.dataclass(frozen=True)
class HeadTrainApply:
    """`train_apply`: the network in eval mode; only the head is a parameter."""

    apply: HeadApply

    def __call__(self, variables: Any, images: jax.Array, rng: jax.Array) -> tuple[jax.Array, Any]:
        del rng
        return self.apply(variables, images), variables


def in_head(path: str) -> bool:
    """Whether a leaf belongs to the head."""
    return path.startswith("head/")


def with_ridge_head(
    backbone: Model,
    image_shape: Sequence[int],
    class_names: Sequence[str],
    *,
    stages: int,
    flip: bool,
    random_features: int,
    seed: int,
) -> Model:
    """The frozen `backbone` with a head of zeros; if `backbone.variables` are shapes, all variables are.

    Args:
      stages: number of last stages to take features from.
      flip: whether to average the features over an image and its mirror image.
      random_features: number of random features to add.
      seed: seed of the random features.

    Raises:
      InputError: the network has fewer stages, or `flip` is set for texts.
    """
    shape = tuple(image_shape)
    if flip and is_text(shape):
        raise InputError("head.flip mirrors images, and the data are texts; set it to False")
    apply = HeadApply(backbone.apply, find_stages(backbone.apply, backbone.variables, shape).last(stages), flip)
    width = sum(feature_widths(apply.stages))
    variables = {
        "backbone": backbone.variables,
        "head": {
            "kernel": jnp.zeros((width + random_features, len(class_names))),
            "bias": jnp.zeros(len(class_names)),
        },
    }
    if random_features:
        random = draw_random_features(width, random_features, seed)
        variables["random"] = {"kernel": jnp.asarray(random.kernel), "bias": jnp.asarray(random.bias)}
    return Model(
        apply,
        variables,
        backbone.mean,
        backbone.std,
        tuple(class_names),
        train_apply=HeadTrainApply(apply),
        is_parameter=in_head,
    )


def draw_random_features(width: int, count: int, seed: int) -> RandomFeatures:
    """Directions of normal noise for features of magnitude about 1, and biases uniform in -1..1.

    Those of a smaller `count` are the first of those of a larger one.
    """
    directions, shifts = (np.random.default_rng([seed, purpose]) for purpose in (7, 8))
    kernel = directions.normal(size=(count, width)).T / np.sqrt(max(width, 1))
    return RandomFeatures(kernel.astype(np.float32), shifts.uniform(-1, 1, count).astype(np.float32))


def random_features_of(variables: Mapping[str, Any]) -> RandomFeatures:
    """The random features of a model's variables, on the host."""
    if "random" not in variables:
        return RandomFeatures(np.zeros((len(variables["head"]["kernel"]), 0), np.float32), np.zeros(0, np.float32))
    return RandomFeatures(*(np.asarray(variables["random"][name]) for name in ("kernel", "bias")))


def with_head(model: Model, head: np.ndarray, classes: Sequence[int]) -> Model:
    """The model with `head` `(m, classes)`, kernel and bias, for `classes`; the logit of others is out of reach."""
    known = np.isin(np.arange(model.num_classes), list(classes))
    kernel = np.where(known, head[:-1], 0).astype(np.float32)
    bias = np.where(known, head[-1], OUT_OF_REACH).astype(np.float32)
    new = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    return model.replace(variables={**model.variables, "head": new})


def check_ridge_head(model: Model) -> HeadApply:
    """Returns the `apply` of a model with a ridge head; raises `InputError` for a model without one."""
    if not isinstance(model.apply, HeadApply):
        raise InputError(
            "exact-head needs a head that was fitted in closed form on a frozen network; fit one with "
            "experiments.train --config.training.head=ridge --config.training.start_from=WORKDIR, or take another "
            "method"
        )
    return model.apply
