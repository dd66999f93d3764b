"""Networks with statistics, and a request to a method."""

from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax import linen as nn

from configs.default import get_config
from osp_jax.data.augment import Preparation
from osp_jax.data.batches import index_batches
from osp_jax.data.sources import Dataset
from osp_jax.forward import predict_logits
from osp_jax.methods import get_method
from osp_jax.methods.parts.data import RequestData, request_data
from osp_jax.statistics import Statistics, collect_statistics
from tests.digits import trained_digits
from tests.small_networks import CLASSES, SHAPE, case


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
    unlearn, options_type, *_ = get_method(method)
    return unlearn(
        trained.model,
        trained.variables if variables is None else variables,
        forget,
        data=None,
        statistics=trained.statistics,
        config=options_type(**options),
        rng=jax.random.key(0),
    )


class Digits(NamedTuple):
    """A network trained on the digits, and what a request to it may need."""

    model: nn.Module
    variables: dict[str, Any]
    statistics: Statistics
    dataset: Dataset
    preparation: Preparation

    def data(self, forget: tuple[int, ...], **budget: Any) -> RequestData:
        """What a request to forget `forget` may see."""
        recipe = get_config()
        everything = np.arange(len(self.dataset.train.labels), dtype=np.int32)
        return request_data(self.dataset.train, everything, forget, self.preparation, recipe, **budget)

    def forget(self, method: str, forget: tuple[int, ...], **options: Any) -> tuple[dict[str, Any], RequestData]:
        """(variables, data) after a request."""
        unlearn, options_type, *_ = get_method(method)
        data = self.data(forget)
        given = {"data": data, "statistics": self.statistics, "config": options_type(**options)}
        return unlearn(self.model, self.variables, forget, **given, rng=jax.random.key(0)), data

    def accuracies(self, variables: dict[str, Any], forget: tuple[int, ...]) -> tuple[float, float]:
        """(forget, retain) accuracy on the test images."""
        test = self.dataset.test
        moments = {"mean": self.preparation.mean, "std": self.preparation.std}
        logits = predict_logits(self.model, variables, test, np.arange(len(test.labels)), **moments)
        right, forgotten = logits.argmax(-1) == test.labels, np.isin(test.labels, forget)
        return float(right[forgotten].mean()), float(right[~forgotten].mean())


@pytest.fixture(scope="session")
def digits() -> Digits:
    model, variables, dataset, preparation = trained_digits()
    everything = np.arange(len(dataset.train.labels), dtype=np.int32)
    statistics = collect_statistics(
        model,
        variables,
        index_batches(dataset.train, everything, 256),
        num_classes=10,
        mean=preparation.mean,
        std=preparation.std,
        keep_features=500,
    )
    return Digits(model, variables, statistics, dataset, preparation)
