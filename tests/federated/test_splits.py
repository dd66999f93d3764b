"""Divisions among clients: complete and disjoint, reproducible, and as uneven as requested."""

import numpy as np
import pytest

from osp_jax.federated.splits import Division, divided, holdings
from osp_jax.runtime.errors import InputError

LABELS = np.random.default_rng(0).integers(0, 10, 1000)


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "classes"])
def test_every_image_is_held_once_and_the_seed_decides(kind):
    division = Division(kind, clients=7)
    parts = divided(LABELS, division, 3)
    assert len(parts) == 7
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(1000))
    again, other = divided(LABELS, division, 3), divided(LABELS, division, 4)
    assert all(map(np.array_equal, parts, again))
    assert not all(map(np.array_equal, parts, other))
    assert holdings(LABELS, parts, 10).sum(0).tolist() == np.bincount(LABELS).tolist()


def test_iid_clients_are_alike_and_a_smaller_alpha_makes_them_unlike():
    def spread(kind, alpha=1.0):
        counts = holdings(LABELS, divided(LABELS, Division(kind, alpha=alpha), 0), 10)
        return (counts / counts.sum(1, keepdims=True)).std(0).mean()

    assert spread("iid") < spread("dirichlet", 1.0) < spread("dirichlet", 0.1)
    sizes = [len(part) for part in divided(LABELS, Division("iid", clients=7), 0)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("classes", [1, 2, 3, 10])
def test_each_client_has_so_many_classes_and_each_class_has_as_many_holders(classes):
    counts = holdings(LABELS, divided(LABELS, Division("classes", classes=classes), 0), 10)
    assert ((counts > 0).sum(1) == classes).all()
    assert ((counts > 0).sum(0) == classes).all()
    for column in counts.T:
        held = column[column > 0]
        assert held.max() - held.min() <= 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "random"}, "iid, dirichlet, classes"),
        ({"clients": 0}, "at least 1"),
        ({"clients": 600}, "name fewer clients"),
        ({"kind": "classes", "classes": 11}, "from 1 to 10 classes a client"),
        ({"kind": "classes", "clients": 4, "classes": 2}, "from 3 to 10 classes a client"),
        ({"kind": "dirichlet", "alpha": 0.01, "clients": 100}, "raise alpha"),
    ],
)
def test_divisions_that_cannot_be_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        divided(LABELS, Division(**changes), 0)
