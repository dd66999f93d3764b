"""SalUn: the parameters that its mask frees, those that stay, and the effect on the digits."""

import jax
import numpy as np
import pytest

from osp_jax.methods import get_method, salun
from osp_jax.methods.random_label import RandomLabel
from osp_jax.runtime.errors import InputError
from tests.methods.linear import MODEL, STATISTICS, VARIABLES, gradient, images_of, request

SPLIT = images_of((5, 3, 4))
TINY = {"epochs": 5, "learning_rate": 0.03, "batch_size": 64}


def test_the_mask_is_one_at_the_largest_entries_over_all_parameters():
    gradients = {"a": np.array([[0.1, -9.0], [3.0, 0.0]]), "b": np.array([-2.0, 5.0])}
    mask = salun.saliency_mask(gradients, 0.5)
    assert np.array(mask["a"]).tolist() == [[0, 1], [1, 0]]
    assert np.array(mask["b"]).tolist() == [0, 1]
    assert {leaf.dtype for leaf in jax.tree.leaves(mask)} == {np.dtype("float32")}


def test_free_are_the_parameters_with_the_largest_gradient_of_the_forgotten_images():
    data, method = request(SPLIT, (2,)), salun.Salun(epochs=1, learning_rate=0.1, batch_size=12, fraction=1 / 3)
    model = method.unlearn(MODEL, (2,), data=data, statistics=STATISTICS, rng=jax.random.key(0))
    new = model.variables["params"]["head"]
    forgotten = np.flatnonzero(SPLIT.labels == 2)
    by_hand = gradient(SPLIT, forgotten, SPLIT.labels[forgotten])["head"]
    size = np.abs(np.concatenate([by_hand["bias"], by_hand["kernel"].ravel()]))
    old = VARIABLES["params"]["head"]
    changed = np.concatenate([new["bias"] != old["bias"], (new["kernel"] != old["kernel"]).ravel()])
    np.testing.assert_array_equal(changed, size >= np.sort(size)[-7])


@pytest.mark.parametrize("forget", [(3,), pytest.param((3, 8), marks=pytest.mark.slow)])
def test_it_forgets_the_digits_and_leaves_half_of_the_parameters_exactly(digits, forget):
    model, data = digits.forget("salun", forget, **TINY)
    forgotten, retained = digits.accuracies(model, forget)
    assert forgotten < 0.1
    assert retained > digits.accuracies(digits.model, forget)[1] - 0.05
    assert sum(data.seen().values()) == len(digits.dataset.train.labels)
    same = jax.tree.map(np.equal, model.variables["params"], digits.model.variables["params"])
    assert np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(same)]).mean() == pytest.approx(0.5, abs=0.01)


def test_with_all_parameters_free_it_is_random_label(digits):
    assert salun.Salun(fraction=1.0).learning_rate == RandomLabel().learning_rate
    full, _ = digits.forget("salun", (3,), **TINY, fraction=1.0)
    plain, _ = digits.forget("random-label", (3,), **TINY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), full.variables, plain.variables)


@pytest.mark.parametrize("options", [{"fraction": 1.1}, {"fraction": -0.1}, {"labels": "wrong"}, {"batch_size": 0}])
def test_a_bad_option_is_an_input_error_that_names_it(options):
    with pytest.raises(InputError, match=next(iter(options))):
        get_method("salun")(**options)
