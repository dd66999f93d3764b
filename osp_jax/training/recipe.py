"""The recipe of a config: optimiser, schedule, step and keys; shared by the first training and retraining."""

import inspect
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.errors import FlaxError
from ml_collections import ConfigDict

from osp_jax.data.augment import Preparation, channel_moments
from osp_jax.data.kinds import is_text
from osp_jax.data.stored import StoredImages
from osp_jax.interop.linen import linen_module
from osp_jax.model import Model
from osp_jax.networks import init_variables
from osp_jax.runtime.errors import InputError, unknown
from osp_jax.training import feature_penalties
from osp_jax.training.loss import FeaturePenalty, train_features
from osp_jax.training.orthogonality import conv_kernels, penalty
from osp_jax.training.schedules import learning_rate, piecewise
from osp_jax.training.state import TrainState, create_optimiser, create_state
from osp_jax.training.step import Step, gathering, make_batch_step
from osp_jax.training.torch_gradient import make_torch_step

_MOST_FOR_MOMENTS = 10_000  # images that are read from files only for their moments


class Recipe(NamedTuple):
    """`rate` by step, the pure step, the initial state, and the keys of the epochs' orders and of the steps.

    `step` takes the indices of a batch and the whole set, `batch_step` the batch itself; otherwise they are the same.
    """

    rate: optax.Schedule
    step: Step
    batch_step: Step
    start: TrainState
    order_key: jax.Array
    step_key: jax.Array


def preparation_of(config: ConfigDict, mean: tuple[float, ...], std: tuple[float, ...]) -> Preparation:
    """The normalisation, and the augmentation of `config.data`."""
    data = config.data
    return Preparation(mean, std, data.pad, data.flip, data.cutout, data.pad_mode, data.get("word_dropout", 0.0))


def image_moments(config: ConfigDict, images: Any, indices: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel for the normalisation: those of `config.data`, else of the images `indices`.

    For images in files, they are computed from a sample drawn by the seed. Texts have none.
    """
    if is_text(images.shape[1:]):
        return (), ()
    if config.data.mean:
        return tuple(config.data.mean), tuple(config.data.std)
    if isinstance(images, StoredImages):
        indices = np.sort(np.random.default_rng(config.seed).permutation(indices)[:_MOST_FOR_MOMENTS])
    return channel_moments(images, indices)


def make_recipe(
    config: ConfigDict, model: nn.Module, image_shape: tuple[int, int, int], preparation: Preparation, steps: int
) -> Recipe:
    """The recipe of `config` for epochs of `steps` steps; every random number depends only on `config.seed`.

    Raises:
      InputError: an unknown schedule or penalty, or a layer filter that matches nothing.
    """
    settings, orthogonality = config.training, config.orthogonality
    key = jax.random.key(config.seed)
    init_key, order_key, step_key = (jax.random.fold_in(key, purpose) for purpose in range(3))
    rate = learning_rate(settings.schedule, settings.learning_rate, settings.epochs * steps, settings.warmup)
    optimiser = create_optimiser(
        rate, settings.momentum, settings.weight_decay, settings.norm_bias_rate, name=settings.optimiser
    )
    start = create_state(init_variables(model, image_shape, init_key), optimiser)
    conv_kernels(start.params, orthogonality.layers)  # raises early if the filter matches nothing
    jax.eval_shape(partial(penalty, name=orthogonality.penalty), start.params)  # raises early for an unknown penalty
    common = {
        "preparation": preparation,
        "penalty": partial(penalty, name=orthogonality.penalty, layers=orthogonality.layers),
        "label_smoothing": settings.label_smoothing,
    }
    feature_penalty = _feature_penalty(config)
    if settings.get("gradient", "jax") == "jax":  # workdirs of older versions lack this setting
        batch_step = make_batch_step(model, optimiser, feature_penalty=feature_penalty, **common)
    elif feature_penalty:
        raise InputError(
            "PyTorch's gradient has no penalties on features; leave training.gradient ('jax') or the penalty out"
        )
    else:
        batch_step = make_torch_step(model, optimiser, bfloat16=settings.gradient == "torch-bfloat16", **common)
    return Recipe(rate, gathering(batch_step), batch_step, start, order_key, step_key)


def trained_by_recipes(model: Model, image_shape: tuple[int, ...], what: str) -> nn.Module:
    """The module of a network that recipes can train: it is called as `(images, train)` and draws no random numbers.

    Args:
      what: the caller, for errors.

    Raises:
      InputError: the network is not such a Linen module.
    """
    module, remedy = linen_module(model), "retrain it without the class by your own recipe, or take another method"
    _, *others = inspect.signature(module.__call__).parameters.values()
    if not others or others[0].name != "train" or others[0].kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
        raise InputError(
            f"{what} trains networks that are called as (images, train), and {type(module).__name__} is not; {remedy}"
        )
    if others := set(model.variables) - {"params", "batch_stats"}:
        raise InputError(f"{what} trains 'params' and 'batch_stats', and the network has {min(others)!r}; {remedy}")
    inputs = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    fresh = jax.eval_shape(partial(model.init, image_shape=tuple(image_shape)), jax.random.key(0))
    try:
        jax.eval_shape(partial(train_features, module), fresh["params"], fresh.get("batch_stats", {}), inputs)
    except FlaxError as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{what} trains networks without dropout, and {type(module).__name__} fails ({reason}); {remedy}"
        ) from error
    return module


def _feature_penalty(config: ConfigDict) -> FeaturePenalty | None:
    name, weight = config.features.penalty, config.features.weight
    if name == "none":
        return None
    if name not in feature_penalties.PENALTIES:
        raise unknown("penalty on features", name, feature_penalties.PENALTIES)
    return lambda *given: weight * feature_penalties.PENALTIES[name](*given)


def penalty_weight(config: ConfigDict, epoch: int) -> float:
    """Weight of the orthogonality penalty in an epoch, counted from 1."""
    return config.orthogonality.weight * piecewise(config.orthogonality.schedule, epoch - 1)
