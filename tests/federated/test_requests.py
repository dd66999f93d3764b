"""The images of requests at each level."""

import numpy as np
import pytest

from osp_jax.federated.requests import forget_class, forget_clients, forget_samples
from osp_jax.runtime.errors import InputError
from tests.federated.small import SIZES, small_federation


def test_what_leaves_and_what_stays_are_all_images():
    clients = small_federation().clients
    for request in (
        forget_class(clients, (1,)),
        forget_clients(clients, (2,)),
        forget_samples(clients, (0, 1), 0.5, seed=0),
    ):
        gone, left = request.forgotten(clients).present, request.retained(clients).present
        assert not (gone & left).any()
        np.testing.assert_array_equal(gone | left, clients.present)


def test_each_level_names_its_images():
    clients = small_federation().clients
    labels = np.asarray(clients.labels)
    gone = forget_class(clients, (1,)).forgotten(clients).present
    assert gone.sum() == 24
    assert (labels[gone] == 1).all()
    assert forget_clients(clients, (0, 2)).forgotten(clients).present.sum(1).tolist() == [SIZES[0], 0, SIZES[2]]
    assert forget_samples(clients, (0, 1), 0.5, seed=0).forget.sum(1).tolist() == [20, 11, 0]


@pytest.mark.parametrize(
    ("request_of", "words"),
    [
        (lambda clients: forget_class(clients, (5,)), "nothing to forget"),
        (lambda clients: forget_class(clients, (0, 1, 2)), "leave some"),
        (lambda clients: forget_clients(clients, (0, 1, 2)), "leave some"),
        (lambda clients: forget_clients(clients, (7,)), "there is no client 7"),
        (lambda clients: forget_clients(clients, ()), "nothing to forget"),
    ],
)
def test_requests_that_cannot_be_are_refused(request_of, words):
    with pytest.raises(InputError, match=words):
        request_of(small_federation().clients)
