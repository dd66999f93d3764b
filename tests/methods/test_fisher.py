"""Fisher forgetting: the information and the noise computed in a second way, and the effect on the digits."""

import jax
import numpy as np
import pytest

from osp_jax.methods import get_method
from osp_jax.methods.fisher import expected_information, noise_moments
from osp_jax.program.gates import Head
from osp_jax.runtime.errors import InputError
from osp_jax.training.descent import split_variables
from tests.methods.linear import (
    CLASSES,
    MODEL,
    assert_close,
    gradient,
    images_of,
    probabilities,
    request,
    runs,
)

SPLIT = images_of((5, 3, 4))
HEAD = Head("head/kernel", 0, 1, "head/bias")


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_information_is_expected_over_the_labels_of_each_batch_of_retained_images(batch_size):
    found = expected_information(MODEL, request(SPLIT, (1,)), batch_size)
    batches = runs(np.flatnonzero(SPLIT.labels != 1), batch_size)

    def share(batch, label):
        chance = probabilities(SPLIT, batch)[1].mean(0)[label]
        return jax.tree.map(lambda leaf: chance * leaf**2, gradient(SPLIT, batch, np.full(len(batch), label)))

    shares = [share(batch, label) for batch in batches for label in range(CLASSES)]
    assert_close(found["params"], jax.tree.map(lambda *leaves: sum(leaves) / len(batches), *shares))


def some_parameters():
    """(params, information) of a convolution, a norm and a head of 4 classes, with all magnitudes of information."""
    draw = np.random.default_rng(2)
    shapes = {"conv": {"kernel": (3, 3, 2, 5)}, "norm": {"scale": (5,)}, "head": {"kernel": (5, 4), "bias": (4,)}}
    is_shape = {"is_leaf": lambda shape: isinstance(shape, tuple)}
    params = jax.tree.map(lambda shape: draw.normal(size=shape).astype(np.float32), shapes, **is_shape)
    fisher = jax.tree.map(lambda shape: (10 ** draw.uniform(-6, 2, shape)).astype(np.float32), shapes, **is_shape)
    return params, fisher


def test_the_variance_is_the_cut_off_inverse_information_averaged_over_inputs():
    params, fisher = some_parameters()
    erased = np.array([0, 0, 1, 0], np.float32)
    means, deviations = noise_moments(params, fisher, erased, 1e-3, head=HEAD, rule="fisher_new")
    exact = jax.tree.map(lambda leaf: leaf.astype(np.float64), fisher)
    conv = 1e-3 * np.minimum(1 / (exact["conv"]["kernel"] + 1e-8), 1000).mean(2, keepdims=True)
    head = 1e-3 * np.minimum(1 / (exact["head"]["kernel"] + 1e-8), 100).mean(0, keepdims=True)
    bias = 1e-3 * np.minimum(1 / (exact["head"]["bias"] + 1e-8), 100)
    expected = {
        "conv": {"kernel": np.broadcast_to(conv, (3, 3, 2, 5))},
        "norm": {"scale": 10 * 1e-3 * np.minimum(1 / (exact["norm"]["scale"] + 1e-8), 1000)},
        "head": {
            "kernel": 10 * np.where(erased, 1e-4, np.broadcast_to(head, (5, 4))),
            "bias": 10 * np.where(erased, 1e-4, bias),
        },
    }
    assert_close(deviations, jax.tree.map(np.sqrt, expected))
    params["head"] = {name: np.where(erased, 0, leaf) for name, leaf in params["head"].items()}
    assert_close(means, params)


def test_by_the_other_rule_the_deviation_is_bounded_and_larger_for_the_bias_of_the_head():
    params, fisher = some_parameters()
    means, deviations = noise_moments(params, fisher, np.zeros(4), 1e-7, head=HEAD, rule="fisher")
    expected = jax.tree.map(lambda leaf: np.minimum(np.sqrt(1e-7 / leaf.astype(np.float64)), 1e-3), fisher)
    expected["head"]["bias"] *= 10
    assert_close(deviations, expected)
    jax.tree.map(np.testing.assert_array_equal, means, params)


def test_the_noise_is_standard_normal_in_units_of_its_deviation(digits):
    model, data = digits.forget("fisher", (3,))
    information = expected_information(digits.model, data, 32)
    erased = np.eye(10, dtype=np.float32)[3]
    params, new = (split_variables(model)[0] for model in (digits.model, model))
    head = digits.statistics.gates.head
    moments = noise_moments(params, information, erased, 1e-6, head=head, rule="fisher_new")
    units = jax.tree.map(lambda new, mean, std: np.ravel((new - mean) / std), new, *moments)
    units = np.concatenate(jax.tree.leaves(units))
    assert abs(units.mean()) < 4 / np.sqrt(len(units))
    assert abs(units.std() - 1) < 4 / np.sqrt(2 * len(units))


@pytest.mark.parametrize("forget", [(3,), (3, 8)])
def test_it_forgets_the_digits_keeps_the_others_and_sees_no_forgotten_image(digits, forget):
    model, data = digits.forget("fisher", forget)
    forgotten, retained = digits.accuracies(model, forget)
    assert forgotten < 0.1
    assert retained > digits.accuracies(digits.model, forget)[1] - 0.05
    assert set(data.seen()) == {str(c) for c in range(10) if c not in forget}


def test_without_erasing_the_row_and_with_little_noise_the_class_is_still_there(digits):
    model, _ = digits.forget("fisher", (3,), erase_row=False, alpha=1e-9)
    assert digits.accuracies(model, (3,))[0] > 0.9


def test_the_other_rule_changes_no_parameter_by_much(digits):
    model, data = digits.forget("fisher", (3,), rule="fisher")
    changes = jax.tree.map(
        lambda new, old: np.abs(new - old).max(), model.variables["params"], digits.model.variables["params"]
    )
    assert 0 < changes["head"]["kernel"] < 0.01
    assert changes["head"]["bias"] < 0.1
    assert "3" not in data.seen()


@pytest.mark.parametrize("options", [{"alpha": -1.0}, {"batch_size": 0}, {"rule": "inverse"}])
def test_a_bad_option_is_an_input_error_that_names_it(options):
    with pytest.raises(InputError, match=next(iter(options))):
        get_method("fisher")(**options)
