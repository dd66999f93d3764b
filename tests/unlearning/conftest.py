"""Networks with statistics, and a request to a method."""

from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax import linen as nn

from osp_jax.activations import Statistics, collect_statistics
from osp_jax.unlearning import get_method
from tests.networks import CLASSES, SHAPE, case


class Trained(NamedTuple):
    """What a request starts from; the images are random, since no test here asks for a good network."""

    model: nn.Module
    variables: dict[str, Any]
    statistics: Statistics


def with_statistics(name: str, keep_features: int = 20) -> Trained:
    model, variables, _, _ = case(name)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, *SHAPE), dtype=np.uint8)
    labels = (np.arange(20) % CLASSES).astype(np.int32)
    moments = {"mean": (0.5, 0.5, 0.5), "std": (0.3, 0.3, 0.3)}
    batches = [(images, labels)]
    return Trained(
        model,
        variables,
        collect_statistics(model, variables, batches, num_classes=CLASSES, keep_features=keep_features, **moments),
    )


@pytest.fixture(scope="session")
def flat_mlp() -> Trained:
    return with_statistics("FlatMLP")


@pytest.fixture(scope="session")
def resnet8() -> Trained:
    return with_statistics("resnet8")


@pytest.fixture(scope="session")
def allcnn() -> Trained:
    return with_statistics("allcnn")


@pytest.fixture(scope="session")
def pool_net() -> Trained:
    return with_statistics("PoolNet")


def request_of(method: str, trained: Trained, forget: tuple[int, ...], variables: Any = None, **options) -> Any:
    """New variables; `variables` replaces those of `trained`."""
    unlearn, options_type = get_method(method)
    return unlearn(
        trained.model,
        trained.variables if variables is None else variables,
        forget,
        data=None,
        statistics=trained.statistics,
        config=options_type(**options),
        rng=jax.random.key(0),
    )
