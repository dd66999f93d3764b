"""Three clients with 72 digits of three classes, unevenly, and a network that compiles quickly."""

from functools import lru_cache
from typing import NamedTuple

import jax
import numpy as np

from osp_jax.data.augment import channel_moments
from osp_jax.data.sources import load_dataset
from osp_jax.federated import ClientData, stacked_clients
from osp_jax.interop.linen import from_linen
from osp_jax.model import Model
from osp_jax.networks import init_variables
from tests.training.conftest import CLASSES, SmallNet

SIZES = (40, 22, 10)


class Small(NamedTuple):
    """`parts`: the indices of each client's images."""

    model: Model
    clients: ClientData
    images: np.ndarray
    labels: np.ndarray
    parts: list[np.ndarray]


@lru_cache(maxsize=1)
def small_federation() -> Small:
    train = load_dataset("digits").train
    chosen = np.concatenate([np.flatnonzero(train.labels == c)[:24] for c in range(CLASSES)])
    chosen = np.random.default_rng(0).permutation(chosen)
    images, labels = train.images[chosen], train.labels[chosen]
    mean, std = channel_moments(images)
    variables = init_variables(SmallNet(), (8, 8, 1), jax.random.key(1))
    model = from_linen(SmallNet(), variables, mean=mean, std=std, class_names=("0", "1", "2"))
    parts = np.split(np.arange(len(chosen)), np.cumsum(SIZES)[:-1])
    return Small(model, stacked_clients(images, labels, parts), images, labels, parts)


def assert_close(first, second, atol: float = 1e-6) -> None:
    """All leaves of two pytrees, to `atol` relative to values of about 1."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol), first, second)


def assert_equal(first, second) -> None:
    """All leaves of two pytrees, bit by bit."""
    jax.tree.map(np.testing.assert_array_equal, first, second)
