"""A small run on three classes of the digits, and a network that compiles quickly."""

import jax
import numpy as np
import pytest
from flax import linen as nn
from ml_collections import ConfigDict

from configs import default
from osp_jax.data.sources import Dataset, Split, load_dataset
from osp_jax.networks import init_variables

CLASSES = 3


class SmallNet(nn.Module):
    """A convolution, a batch norm, ReLU and a head."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(4, (3, 3), use_bias=False, name="conv")(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="bn")(x))
        return nn.Dense(CLASSES, name="head")(x.mean(axis=(1, 2)))


@pytest.fixture(scope="session")
def small_net() -> SmallNet:
    return SmallNet()


@pytest.fixture(scope="session")
def small_variables(small_net) -> dict:
    return init_variables(small_net, (8, 8, 1), jax.random.key(1))


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    digits = load_dataset("digits")

    def part(split: Split, each: int) -> Split:
        chosen = np.sort(np.concatenate([np.flatnonzero(split.labels == c)[:each] for c in range(CLASSES)]))
        return Split(split.images[chosen], split.labels[chosen])

    names = digits.class_names[:CLASSES]
    return Dataset("digits", "three digits", names, part(digits.train, 24), part(digits.test, 8))


@pytest.fixture
def config() -> ConfigDict:
    """ResNet-8 with 4 channels, two epochs of two steps."""
    config = default.get_config()
    config.model.width = 4
    config.training.epochs = 2
    config.training.batch_size = 32
    return config
