"""Networks with statistics, and a request to a method."""

from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from configs.default import get_config
from osp_jax.data.augment import Preparation
from osp_jax.data.batches import index_batches
from osp_jax.data.sources import Dataset
from osp_jax.forward import predict_logits
from osp_jax.methods import get_method, unlearn_classes
from osp_jax.methods.parts.data import RequestData, request_data
from osp_jax.model import Model
from osp_jax.statistics import Statistics, collect_statistics
from tests.digits import trained_digits
from tests.small_networks import CLASSES, SHAPE, case


class Trained(NamedTuple):
    """What a request starts from; the images are random, since no test here asks for a good network."""

    model: Model
    statistics: Statistics


def with_statistics(name: str, keep_features: int = 20) -> Trained:
    model = case(name).model.replace(mean=(0.5,) * 3, std=(0.3,) * 3)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, *SHAPE), dtype=np.uint8)
    labels = (np.arange(20) % CLASSES).astype(np.int32)
    return Trained(model, collect_statistics(model, [(images, labels)], keep_features=keep_features))


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


def request_of(method: str, trained: Trained, forget: tuple[int, ...], variables: Any = None, **options: Any) -> Model:
    """The model after a request; `variables` replace those of `trained`."""
    model = trained.model if variables is None else trained.model.replace(variables=variables)
    given = {"statistics": trained.statistics, "rng": jax.random.key(0)}
    return unlearn_classes(get_method(method)(**options), model, forget, **given)


class Digits(NamedTuple):
    """A network trained on the digits, and what a request to it may need."""

    model: Model
    statistics: Statistics
    dataset: Dataset
    preparation: Preparation

    def data(self, forget: tuple[int, ...], **budget: Any) -> RequestData:
        """What a request to forget `forget` may see."""
        recipe = get_config()
        everything = np.arange(len(self.dataset.train.labels), dtype=np.int32)
        return request_data(self.dataset.train, everything, forget, self.preparation, recipe, **budget)

    def forget(self, method: str, forget: tuple[int, ...], **options: Any) -> tuple[Model, RequestData]:
        """(model, data) after a request."""
        data = self.data(forget)
        given = {"data": data, "statistics": self.statistics, "rng": jax.random.key(0)}
        return unlearn_classes(get_method(method)(**options), self.model, forget, **given), data

    def accuracies(self, model: Model, forget: tuple[int, ...]) -> tuple[float, float]:
        """(forget, retain) accuracy on the test images."""
        test = self.dataset.test
        logits = predict_logits(model, test, np.arange(len(test.labels)))
        right, forgotten = logits.argmax(-1) == test.labels, np.isin(test.labels, forget)
        return float(right[forgotten].mean()), float(right[~forgotten].mean())


@pytest.fixture(scope="session")
def digits() -> Digits:
    model, dataset, preparation = trained_digits()
    everything = np.arange(len(dataset.train.labels), dtype=np.int32)
    statistics = collect_statistics(model, index_batches(dataset.train, everything, 256), keep_features=500)
    return Digits(model, statistics, dataset, preparation)
