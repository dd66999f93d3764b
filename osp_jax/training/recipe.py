"""How a config trains: optimiser, schedule, step and keys; the same for the first training and for a retraining."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from osp_jax.data.augment import Preparation, channel_moments
from osp_jax.data.stored import StoredImages
from osp_jax.networks import init_variables
from osp_jax.runtime.errors import unknown
from osp_jax.training import feature_penalties
from osp_jax.training.loss import FeaturePenalty
from osp_jax.training.orthogonality import conv_kernels, penalty
from osp_jax.training.schedules import learning_rate, piecewise
from osp_jax.training.state import TrainState, create_optimiser, create_state
from osp_jax.training.step import Step, gathering, make_batch_step

_MOST_FOR_MOMENTS = 10_000  # images that are read from files only to be counted


class Recipe(NamedTuple):
    """`rate` by step, the pure step, the state to start from, and the keys of the epochs' orders and of the steps.

    `step` takes the indices of a batch and the whole set, `batch_step` the batch itself; they are otherwise the same.
    """

    rate: optax.Schedule
    step: Step
    batch_step: Step
    start: TrainState
    order_key: jax.Array
    step_key: jax.Array


def preparation_of(config: ConfigDict, mean: tuple[float, ...], std: tuple[float, ...]) -> Preparation:
    """The normalisation, and the augmentation that `config.data` asks for."""
    data = config.data
    return Preparation(mean, std, data.pad, data.flip, data.cutout, data.pad_mode)


def image_moments(config: ConfigDict, images: Any, indices: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel for the normalisation: those of `config.data`, else of the images `indices`.

    Of images in files a sample is counted, drawn by the seed.
    """
    if config.data.mean:
        return tuple(config.data.mean), tuple(config.data.std)
    if isinstance(images, StoredImages):
        indices = np.sort(np.random.default_rng(config.seed).permutation(indices)[:_MOST_FOR_MOMENTS])
    return channel_moments(images, indices)


def make_recipe(
    config: ConfigDict, model: nn.Module, image_shape: tuple[int, int, int], preparation: Preparation, steps: int
) -> Recipe:
    """The recipe of `config` for epochs of `steps` steps; every random number follows from `config.seed`.

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
    conv_kernels(start.params, orthogonality.layers)  # a filter that matches nothing is told before the start
    jax.eval_shape(partial(penalty, name=orthogonality.penalty), start.params)  # likewise an unknown penalty
    batch_step = make_batch_step(
        model,
        optimiser,
        preparation=preparation,
        penalty=partial(penalty, name=orthogonality.penalty, layers=orthogonality.layers),
        feature_penalty=_feature_penalty(config),
        label_smoothing=settings.label_smoothing,
    )
    return Recipe(rate, gathering(batch_step), batch_step, start, order_key, step_key)


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
