"""A small network that learns the digits in seconds, with all classes or without some."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from osp_jax.data.augment import Preparation, channel_moments
from osp_jax.data.sources import Dataset, load_dataset
from osp_jax.models import init_variables
from osp_jax.models.layers import conv2d
from osp_jax.training.descent import Optimiser, cosine_rates, descend, epoch_batches
from osp_jax.unlearning.finetune import retain_loss


class DigitsNet(nn.Module):
    """Three convolutions with batch norm and a head: compiles in a second and learns the digits."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        x = images
        for i, (filters, strides) in enumerate(((8, 1), (16, 2), (32, 1)), start=1):
            x = conv2d(filters, (3, 3), strides, use_bias=False, name=f"conv{i}")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"bn{i}")(x))
        return nn.Dense(10, name="head")(x.mean(axis=(1, 2)))


def trained_digits(
    exclude: Sequence[int] = (), images: int | None = None, epochs: int = 12, pad: int = 1
) -> tuple[nn.Module, dict[str, Any], Dataset, Preparation]:
    """Model, variables, data and normalisation; trained on the first `images` training images without `exclude`."""
    dataset = load_dataset("digits")
    preparation = Preparation(*channel_moments(dataset.train.images), pad=pad)
    model, labels = DigitsNet(), dataset.train.labels[:images]
    kept = np.flatnonzero(~np.isin(labels, list(exclude))).astype(np.int32)
    batches = epoch_batches(kept, 64, epochs, jax.random.key(1))
    variables = descend(
        retain_loss(model, preparation),
        init_variables(model, dataset.image_shape, jax.random.key(0)),
        {"indices": batches},
        cosine_rates(0.1, len(batches)),
        jax.random.key(2),
        optimiser=Optimiser(nesterov=True),
        arguments=(dataset.train.images, dataset.train.labels),
    )
    return model, variables, dataset, preparation
