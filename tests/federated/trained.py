"""The digits, divided among five clients, and a network that knows them."""

from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.federated import ClientData, Exchange, stacked_clients
from osp_jax.federated.editing import Situation
from osp_jax.federated.simulator import asking
from osp_jax.federated.splits import Division, divided
from osp_jax.model import Model
from tests.digits import TrainedDigits, trained_digits


class Federation(NamedTuple):
    digits: TrainedDigits
    clients: ClientData
    situation: Situation


@lru_cache(maxsize=1)
def digits_federation() -> Federation:
    """As if all clients had sent the global model in the last round."""
    digits = trained_digits()
    train = digits.dataset.train
    parts = divided(train.labels, Division("dirichlet", clients=5, alpha=0.3, least=30), 0)
    clients = stacked_clients(train.images, train.labels, parts)
    variables = digits.model.variables
    updates = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], 5, 0), variables)
    counts = np.array([len(part) for part in parts], np.float32)
    last = Exchange(variables, tuple(range(5)), updates, counts, {})
    situation = Situation(digits.model, train.images.shape[1:], asking(clients), last, jax.random.key(0))
    return Federation(digits, clients, situation)


def accuracies(model: Model, digits: TrainedDigits, number: int) -> tuple[float, float]:
    """On the test images of class `number`, and on the others."""
    test = digits.dataset.test
    right = np.argmax(model.apply(model.variables, digits.preparation.plain(test.images)), axis=1) == test.labels
    return float(right[test.labels == number].mean()), float(right[test.labels != number].mean())
