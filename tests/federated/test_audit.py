"""The images of a federated audit, and the divergence between two models' outputs, by hand."""

import numpy as np
import pytest

from osp_jax.data.dataset import Dataset, Split
from osp_jax.federated.attacks import Attack, attacked
from osp_jax.federated.audit import audit_images, figures, mean_divergence, soft_confusion
from osp_jax.federated.requests import forget_class, forget_clients, forget_samples
from tests.federated.small import small_federation


def data() -> Dataset:
    small = small_federation()
    split = Split(small.images, small.labels)
    return Dataset("digits", "three digits", ("0", "1", "2"), split, Split(small.images[:30], small.labels[:30]))


def test_equal_outputs_are_at_0_and_certain_different_ones_at_1_bit():
    certain, other = np.array([[50.0, 0, 0]]), np.array([[0, 50.0, 0]])
    assert mean_divergence(certain, certain) == 0
    assert mean_divergence(certain, other) == pytest.approx(1)
    even = np.zeros((1, 3))
    p, q = np.array([1, 0, 0]), np.full(3, 1 / 3)
    m = (p + q) / 2
    by_hand = (np.log2(1 / m[0]) + sum(q * np.log2(q / m))) / 2
    assert mean_divergence(certain, even) == pytest.approx(by_hand, abs=1e-6)
    assert mean_divergence(even, certain) == pytest.approx(by_hand, abs=1e-6)
    assert mean_divergence(np.concatenate([certain, even]), np.zeros((2, 3))) == pytest.approx(by_hand / 2, abs=1e-6)


def test_each_level_is_asked_about_what_leaves():
    dataset, clients = data(), small_federation().clients
    asked = audit_images(dataset, clients, forget_class(clients, (1,)))
    assert set(asked.forgotten.labels) == {1}
    assert set(asked.others.labels) == {0, 2}
    assert len(asked.forgotten.labels) + len(asked.others.labels) == 30
    assert len(asked.compared.labels) == 24
    request = forget_samples(clients, (0, 2), 0.5, 0)
    asked = audit_images(dataset, clients, request)
    assert len(asked.forgotten.labels) == len(asked.compared.labels) == request.forget.sum()
    assert len(asked.others.labels) == 30
    assert asked.attack is None


@pytest.mark.parametrize("kind", ["label-flip", "backdoor"])
def test_an_attack_is_asked_about_with_the_labels_that_it_wants(kind):
    dataset, clients = data(), small_federation().clients
    attack = Attack(kind, share=0.3, first=0, second=1, target=2, side=2)
    bad, poisoned = attacked(clients, (0,), attack, seed=0)
    asked = audit_images(dataset, bad, forget_clients(bad, (0,)), attack, poisoned)
    assert len(asked.forgotten.labels) == poisoned.sum() == 12
    np.testing.assert_array_equal(asked.forgotten.labels, np.asarray(bad.labels)[poisoned])
    test = dataset.test
    if kind == "label-flip":
        pair = test.labels < 2
        np.testing.assert_array_equal(asked.attack.labels, 1 - test.labels[pair])
        np.testing.assert_array_equal(asked.attack.images, test.images[pair])
    else:
        assert (asked.attack.labels == 2).all()
        assert len(asked.attack.labels) == (test.labels != 2).sum()
        assert (asked.attack.images[:, -2:, -2:] == 255).all()


def test_figures_are_shares_of_right_answers():
    dataset, clients = data(), small_federation().clients
    asked = audit_images(dataset, clients, forget_class(clients, (1,)))
    answers = {name: np.eye(3)[split.labels] * 9 for name, split in asked._asdict().items() if split is not None}
    answers["attack"] = None
    wrong = answers | {"forgotten": np.eye(3)[np.zeros(len(asked.forgotten.labels), int)]}
    assert figures(answers, asked, answers) == {
        "forgotten": 1.0,
        "others": 1.0,
        "attack": None,
        "distance": 0.0,
        "distance_others": 0.0,
    }
    assert figures(wrong, asked, answers)["forgotten"] == 0


def test_soft_confusion_sums_probabilities_by_true_class():
    small = small_federation()
    found = soft_confusion(small.model, Split(small.images, small.labels), np.arange(72))
    np.testing.assert_allclose(found.sum(1), [24, 24, 24], rtol=1e-5)
