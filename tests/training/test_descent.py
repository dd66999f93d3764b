"""Gradient steps on a loss of one's own, against the same steps by hand; batches that cover what they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osp_jax.training.descent import Optimiser, cosine_rates, cycled_batches, descend, epoch_batches

VARIABLES = {
    "params": {"kernel": jnp.array([[1.0, 2.0]]), "bias": jnp.array([0.5])},
    "batch_stats": {"seen": jnp.zeros(())},
}
BATCHES = {"x": np.array([1.0, 3.0, -2.0], np.float32)}
RATES = np.array([0.1, 0.2, 0.05])


def quadratic(params, batch_stats, batch, key, target):
    """Gradients (kernel - target) * x and bias * x."""
    value = 0.5 * batch["x"] * (((params["kernel"] - target) ** 2).sum() + (params["bias"] ** 2).sum())
    return value, {"seen": batch_stats["seen"] + 1}


def by_hand(momentum, nesterov, decay, factor=1.0):
    """Kernel and bias after SGD in NumPy."""
    parameters = [np.array([[1.0, 2.0]]), np.array([0.5])]
    traces = [np.zeros_like(p) for p in parameters]
    for x, rate in zip(BATCHES["x"], RATES, strict=True):
        grads = [(parameters[0] - 3) * x + decay * parameters[0], parameters[1] * x]
        traces = [momentum * t + g for t, g in zip(traces, grads, strict=True)]
        steps = [g + momentum * t if nesterov else t for t, g in zip(traces, grads, strict=True)]
        parameters = [p - rate * f * s for p, s, f in zip(parameters, steps, (1.0, factor), strict=True)]
    return parameters


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_the_one_of_the_textbook_with_decay_on_kernels_only(nesterov, key):
    optimiser = Optimiser(momentum=0.9, nesterov=nesterov, weight_decay=0.1)
    result = descend(quadratic, VARIABLES, BATCHES, RATES, key, optimiser=optimiser, arguments=(3.0,))
    kernel, bias = by_hand(0.9, nesterov, 0.1)
    np.testing.assert_allclose(result["params"]["kernel"], kernel, rtol=1e-5)
    np.testing.assert_allclose(result["params"]["bias"], bias, rtol=1e-5)
    assert result["batch_stats"]["seen"] == 3


def test_adam_first_moves_each_parameter_by_the_rate(key):
    one = {"x": np.ones(1, np.float32)}
    given = {"optimiser": Optimiser("adam"), "arguments": (3.0,)}
    result = descend(quadratic, VARIABLES, one, np.array([0.01]), key, **given)
    np.testing.assert_allclose(result["params"]["kernel"], [[1.01, 2.01]], rtol=1e-5)
    np.testing.assert_allclose(result["params"]["bias"], [0.49], rtol=1e-5)


def test_a_mask_scales_every_change_decay_included(key):
    mask = {"kernel": jnp.ones((1, 2)), "bias": jnp.zeros(1)}
    optimiser = Optimiser(weight_decay=0.1)
    result = descend(quadratic, VARIABLES, BATCHES, RATES, key, optimiser=optimiser, arguments=(3.0,), mask=mask)
    kernel, bias = by_hand(0.9, False, 0.1, factor=0.0)
    np.testing.assert_allclose(result["params"]["kernel"], kernel, rtol=1e-5)
    assert result["params"]["bias"] == bias == 0.5


def test_what_was_given_stays_as_it_was_and_no_batch_changes_nothing(key):
    before = jax.tree.map(np.array, VARIABLES)
    descend(quadratic, VARIABLES, BATCHES, RATES, key, optimiser=Optimiser(), arguments=(3.0,))
    jax.tree.map(np.testing.assert_array_equal, VARIABLES, before)
    none = {"x": np.zeros(0, np.float32)}
    result = descend(quadratic, VARIABLES, none, np.zeros(0), key, optimiser=Optimiser(), arguments=(3.0,))
    jax.tree.map(np.testing.assert_array_equal, result, before)


@given(st.integers(1, 40), st.integers(1, 16), st.integers(0, 3))
def test_an_epoch_holds_no_image_twice_and_leaves_out_less_than_a_batch(number, batch_size, epochs):
    indices = np.arange(100, 100 + number)
    batches = epoch_batches(indices, batch_size, epochs, jax.random.key(number))
    assert batches.dtype == np.int32
    assert batches.shape[1] <= batch_size
    for epoch in np.split(batches, epochs) if epochs else []:
        drawn = epoch.ravel()
        assert len(set(drawn)) == len(drawn) > number - max(batches.shape[1], 1)
        assert set(drawn) <= set(indices)


@given(st.integers(1, 40), st.integers(1, 16), st.integers(0, 9))
def test_cycled_batches_are_as_many_as_asked_for(number, batch_size, steps):
    batches = cycled_batches(np.arange(number), batch_size, steps, jax.random.key(0))
    assert batches.shape == (steps, epoch_batches(np.arange(number), batch_size, 1, jax.random.key(0)).shape[1])


def test_rates_fall_along_half_a_cosine():
    np.testing.assert_allclose(cosine_rates(0.2, 4), [0.2, 0.17071, 0.1, 0.02929], rtol=1e-4)
