"""Poisoned images: their number, their clients, and their changes."""

import numpy as np
import pytest

from osp_jax.federated.attacks import Attack, attacked, confused_pair, triggered
from osp_jax.runtime.errors import InputError
from tests.federated.small import small_federation


def test_swapped_labels_are_those_of_the_pair_and_images_stay():
    clients = small_federation().clients
    attack = Attack("label-flip", share=0.3, first=0, second=2)
    bad, poisoned = attacked(clients, (0, 2), attack, seed=1)
    before, after = np.asarray(clients.labels), np.asarray(bad.labels)
    np.testing.assert_array_equal(bad.images, clients.images)
    np.testing.assert_array_equal(after != before, poisoned)
    assert poisoned.sum(1).tolist() == [12, 0, 3]  # 30% of 40 and of 10
    assert set(zip(before[poisoned].tolist(), after[poisoned].tolist(), strict=True)) == {(0, 2), (2, 0)}


def test_no_more_labels_are_swapped_than_the_client_has_of_the_pair():
    clients = small_federation().clients
    _, poisoned = attacked(clients, (1,), Attack("label-flip", share=1.0, first=0, second=1), seed=0)
    there = clients.present[1] & np.isin(clients.labels[1], (0, 1))
    np.testing.assert_array_equal(poisoned[1], there)


def test_the_trigger_is_in_the_corner_and_means_the_target():
    clients = small_federation().clients
    bad, poisoned = attacked(clients, (0,), Attack("backdoor", share=0.25, target=1, side=2), seed=1)
    assert poisoned.sum() == 10
    assert (np.asarray(bad.labels)[poisoned] == 1).all()
    assert (np.asarray(clients.labels)[poisoned] != 1).all()
    images, before = np.asarray(bad.images), np.asarray(clients.images)
    assert (images[poisoned][:, -2:, -2:] == 255).all()
    np.testing.assert_array_equal(images[poisoned][:, :-2], before[poisoned][:, :-2])
    np.testing.assert_array_equal(images[~poisoned], before[~poisoned])
    np.testing.assert_array_equal(np.asarray(bad.labels)[~poisoned], np.asarray(clients.labels)[~poisoned])


def test_the_seed_decides_and_a_client_is_poisoned_alike_whoever_else_is():
    clients, attack = small_federation().clients, Attack("backdoor", share=0.5)
    first, alone, other = (attacked(clients, ids, attack, seed)[1] for ids, seed in (((0, 1), 5), ((1,), 5), ((1,), 6)))
    np.testing.assert_array_equal(first[1], alone[1])
    assert (alone != other).any()


def test_the_most_confused_pair_counts_both_directions():
    assert confused_pair(np.array([[50, 4, 0], [3, 40, 6], [0, 0, 60]])) == (0, 1)


def test_attacks_that_cannot_be_are_refused():
    clients = small_federation().clients
    with pytest.raises(InputError, match="there is no client 3"):
        attacked(clients, (3,), Attack(), 0)
    with pytest.raises(InputError, match="name two"):
        Attack(first=1, second=1)
    with pytest.raises(InputError, match="label-flip, backdoor"):
        Attack("noise")
    with pytest.raises(InputError, match="does not fit images of 8x8"):
        triggered(np.zeros((1, 8, 8, 1), np.uint8), 9)
