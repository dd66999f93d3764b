"""The optimisers: the parameters that decay, and resumed runs of AdamW."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from osp_jax.networks.convnext import Block
from osp_jax.runtime.errors import InputError, Stopped
from osp_jax.training.loop import train
from osp_jax.training.state import create_optimiser, is_kernel

RATE = optax.constant_schedule(0.1)


def update(optimiser, params, gradient):
    gradients = jax.tree.map(lambda leaf: jnp.full(leaf.shape, gradient), params)
    return optimiser.update(gradients, optimiser.init(params), params)[0]


def test_biases_of_attention_and_scales_of_channels_are_no_kernels(key):
    attention = nn.MultiHeadDotProductAttention(2)
    params = jax.eval_shape(attention.init, key, jnp.ones((1, 3, 8)))["params"]
    assert {leaf.ndim for name in params for leaf in jax.tree.leaves(params[name]["bias"])} == {1, 2}
    assert is_kernel(params) == {name: {"kernel": True, "bias": False} for name in ("query", "key", "value", "out")}
    block = is_kernel(jax.eval_shape(Block(jnp.float32).init, key, jnp.ones((1, 8, 8, 4)))["params"])
    assert block["scale"] is False
    assert block["norm"] == {"scale": False, "bias": False}
    assert block["depthwise"] == {"kernel": True, "bias": False}


def test_adamw_takes_the_decay_off_kernels_only_by_the_learning_rate(small_variables):
    params = small_variables["params"]
    updates = update(create_optimiser(RATE, 0.9, 0.01, name="adamw"), params, 0.0)
    expected = jax.tree.map(lambda kernel, leaf: -0.1 * 0.01 * leaf * kernel, is_kernel(params), params)
    jax.tree.map(lambda found, wanted: np.testing.assert_allclose(found, wanted, rtol=1e-5), updates, expected)


def test_adamw_s_first_step_is_the_learning_rate_whatever_the_gradient_and_norm_biases_have_their_own(small_variables):
    optimiser = create_optimiser(RATE, 0.9, 0.0, 8.0, name="adamw")
    for gradient in (1e-3, 10.0):
        updates = update(optimiser, small_variables["params"], gradient)
        np.testing.assert_allclose(updates["bn"]["bias"], -0.8, rtol=1e-4)
        np.testing.assert_allclose(updates["bn"]["scale"], -0.1, rtol=1e-4)
        np.testing.assert_allclose(updates["head"]["kernel"], -0.1, rtol=1e-4)


def test_momentum_is_the_decay_of_adamw_s_first_moment():
    def second(momentum):
        optimiser, params = create_optimiser(RATE, momentum, 0.0, name="adamw"), {"kernel": jnp.ones((1, 1))}
        _, state = optimiser.update({"kernel": jnp.ones((1, 1))}, optimiser.init(params), params)
        return float(optimiser.update({"kernel": jnp.zeros((1, 1))}, state, params)[0]["kernel"][0, 0])

    # By hand: m = b(1-b) / (1-b^2), v = 0.999 * 0.001 / (1 - 0.999^2).
    for momentum in (0.5, 0.9):
        first = momentum * (1 - momentum) / (1 - momentum**2)
        np.testing.assert_allclose(second(momentum), -0.1 * first / (0.999 * 0.001 / (1 - 0.999**2)) ** 0.5, rtol=1e-3)


def test_sgd_s_state_is_the_one_that_older_checkpoints_hold(small_variables):
    params = small_variables["params"]
    before = optax.chain(
        optax.add_decayed_weights(1e-4, mask=is_kernel), optax.sgd(RATE, momentum=0.9, nesterov=True)
    ).init(params)
    assert jax.tree.structure(create_optimiser(RATE, 0.9, 1e-4).init(params)) == jax.tree.structure(before)


def test_an_unknown_optimiser_is_an_input_error_that_lists_the_choices():
    with pytest.raises(InputError, match=r"training.optimiser.*sgd.*adamw"):
        create_optimiser(RATE, 0.9, 0.0, name="lion")


@pytest.mark.slow
def test_a_run_of_adamw_that_was_stopped_goes_on_to_the_same_end(config, dataset, tmp_path, monkeypatch):
    def stop(*given):
        raise Stopped("after an epoch")

    config.training.optimiser = "adamw"
    config.training.learning_rate = 1e-3
    whole = train(config, dataset, tmp_path / "whole")
    monkeypatch.setattr("osp_jax.training.loop._say", stop)
    with pytest.raises(Stopped):
        train(config, dataset, tmp_path / "stopped")
    monkeypatch.undo()
    jax.tree.map(np.testing.assert_array_equal, train(config, dataset, tmp_path / "stopped"), whole)
