"""Gradient steps on a custom loss, compared with the same steps by hand; complete batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osp_jax.interop.function import from_function
from osp_jax.interop.linen import from_linen
from osp_jax.model import in_params
from osp_jax.training.descent import (
    Optimiser,
    cosine_rates,
    cycled_batches,
    descend,
    descend_from,
    epoch_batches,
    in_eval_mode,
    in_train_mode,
    split_variables,
    train_logits,
    trajectory,
)

VARIABLES = {
    "params": {"kernel": jnp.array([[1.0, 2.0]]), "bias": jnp.array([0.5])},
    "batch_stats": {"seen": jnp.zeros(())},
}


def model_of(apply, variables, **given):
    return from_function(apply, variables, mean=(0.5,), std=(0.3,), class_names=("a", "b"), **given)


MODEL = model_of(lambda variables, images: images, VARIABLES, is_parameter=in_params)
BATCHES = {"x": np.array([1.0, 3.0, -2.0], np.float32)}
RATES = np.array([0.1, 0.2, 0.05])


def quadratic(params, rest, batch, key, target):
    """Gradients (kernel - target) * x and bias * x; counts the steps."""
    kernel, bias = params["params"]["kernel"], params["params"]["bias"]
    value = 0.5 * batch["x"] * (((kernel - target) ** 2).sum() + (bias**2).sum())
    return value, jax.tree.map(lambda seen: seen + 1, rest)


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
    result = descend(quadratic, MODEL, BATCHES, RATES, key, optimiser=optimiser, arguments=(3.0,))
    kernel, bias = by_hand(0.9, nesterov, 0.1)
    np.testing.assert_allclose(result["params"]["kernel"], kernel, rtol=1e-5)
    np.testing.assert_allclose(result["params"]["bias"], bias, rtol=1e-5)
    assert result["batch_stats"]["seen"] == 3


def test_adam_first_moves_each_parameter_by_the_rate(key):
    one = {"x": np.ones(1, np.float32)}
    given = {"optimiser": Optimiser("adam"), "arguments": (3.0,)}
    result = descend(quadratic, MODEL, one, np.array([0.01]), key, **given)
    np.testing.assert_allclose(result["params"]["kernel"], [[1.01, 2.01]], rtol=1e-5)
    np.testing.assert_allclose(result["params"]["bias"], [0.49], rtol=1e-5)


def test_a_mask_scales_every_change_decay_included(key):
    factors = {"kernel": jnp.ones((1, 2)), "bias": jnp.zeros(1)}
    mask = {"params": factors, "batch_stats": {"seen": None}}
    optimiser = Optimiser(weight_decay=0.1)
    result = descend(quadratic, MODEL, BATCHES, RATES, key, optimiser=optimiser, arguments=(3.0,), mask=mask)
    kernel, bias = by_hand(0.9, False, 0.1, factor=0.0)
    np.testing.assert_allclose(result["params"]["kernel"], kernel, rtol=1e-5)
    assert result["params"]["bias"] == bias == 0.5


def test_what_was_given_stays_as_it_was_and_no_batch_changes_nothing(key):
    before = jax.tree.map(np.array, VARIABLES)
    descend(quadratic, MODEL, BATCHES, RATES, key, optimiser=Optimiser(), arguments=(3.0,))
    jax.tree.map(np.testing.assert_array_equal, VARIABLES, before)
    none = {"x": np.zeros(0, np.float32)}
    result = descend(quadratic, MODEL, none, np.zeros(0), key, optimiser=Optimiser(), arguments=(3.0,))
    jax.tree.map(np.testing.assert_array_equal, result, before)


def test_whole_numbers_are_no_parameters_and_come_back_as_they_were(key):
    variables = {"weight": jnp.ones(3), "order": jnp.arange(3), "key": jax.random.key(3)}
    params, rest = split_variables(model_of(lambda variables, images: images, variables))
    assert (params["order"], params["key"], rest["weight"]) == (None, None, None)

    def loss(params, rest, batch, key):
        return batch["x"] * (params["weight"] * rest["order"]).sum(), rest

    model = model_of(lambda variables, images: images, variables)
    result = descend(loss, model, {"x": np.ones(1, np.float32)}, np.ones(1), key, optimiser=Optimiser())
    np.testing.assert_allclose(result["weight"], [1, 0, -1])
    np.testing.assert_array_equal(result["order"], variables["order"])
    assert result["key"].dtype == variables["key"].dtype


def test_two_trees_of_ones_own_descend_alike(key):
    given = {"optimiser": Optimiser(), "arguments": (3.0,)}
    params, rest = descend_from(quadratic, *split_variables(MODEL), BATCHES, RATES, key, **given)
    assert params["batch_stats"]["seen"] is None
    result = descend(quadratic, MODEL, BATCHES, RATES, key, **given)
    np.testing.assert_array_equal(params["params"]["kernel"], result["params"]["kernel"])
    np.testing.assert_array_equal(rest["batch_stats"]["seen"], result["batch_stats"]["seen"])


def test_a_trajectory_stops_on_the_way_that_descend_goes(key):
    given = {"optimiser": Optimiser(), "arguments": (3.0,)}
    points = trajectory(quadratic, MODEL, BATCHES, RATES, key, stops=[0, 1, 3], **given)
    found = [(steps, jax.tree.map(np.array, variables)) for steps, variables in points]
    assert [(steps, int(variables["batch_stats"]["seen"])) for steps, variables in found] == [(0, 0), (1, 1), (3, 3)]
    jax.tree.map(np.testing.assert_array_equal, found[0][1], VARIABLES)
    whole = descend(quadratic, MODEL, BATCHES, RATES, key, **given)
    jax.tree.map(np.testing.assert_array_equal, found[2][1], whole)


def test_train_mode_gives_new_statistics_and_eval_mode_leaves_them(small_net, small_variables, key):
    model = from_linen(small_net, small_variables, mean=(0.5,), std=(0.3,), class_names=("a", "b", "c"))
    images, (params, rest) = jax.random.normal(key, (4, 8, 8, 1)), split_variables(model)
    logits, after = in_train_mode(model)(params, rest, images, key)
    expected, updated = small_net.apply(small_variables, images, True, mutable=["batch_stats"])
    np.testing.assert_array_equal(logits, expected)
    jax.tree.map(np.testing.assert_array_equal, after["batch_stats"], updated["batch_stats"])
    assert jax.tree.structure(after) == jax.tree.structure(rest)
    logits, after = in_eval_mode(model)(params, rest, images, key)
    np.testing.assert_array_equal(logits, small_net.apply(small_variables, images, False))
    assert after is rest


def test_forward_passes_of_models_with_equal_functions_are_equal(small_net, small_variables):
    given = {"mean": (0.5,), "std": (0.3,), "class_names": ("a", "b", "c")}
    first, second = (from_linen(small_net.clone(), small_variables, **given) for _ in range(2))
    assert in_train_mode(first) == in_train_mode(second)
    assert hash(in_train_mode(first)) == hash(in_train_mode(second))
    assert in_train_mode(first) != in_eval_mode(first)


def test_the_network_draws_from_another_key_than_the_step_itself(key):
    def train_apply(variables, images, rng):
        return jax.random.uniform(rng, (4,)), variables

    drawn, _ = train_logits(train_apply, {"w": jnp.ones(1)}, {"w": None}, jnp.zeros((1, 2, 2, 1)), key)
    for known in (key, *jax.random.split(key), *jax.random.split(key, 3), jax.random.fold_in(key, 1)):
        assert not np.allclose(drawn, jax.random.uniform(known, (4,)))


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
