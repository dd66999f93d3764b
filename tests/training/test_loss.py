"""The loss by hand, and the parameters that the optimiser changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from osp_jax.training.loss import cross_entropy, training_loss
from osp_jax.training.state import create_optimiser, create_state

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 1.0, 4.0]])
LABELS = np.array([0, 2, 1])


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_of_three_images_by_hand(smoothing):
    losses = []
    for logits, label in zip(LOGITS, LABELS, strict=True):
        log_probabilities = logits - np.log(np.exp(logits).sum())
        targets = [smoothing / 3 + (1 - smoothing) * (c == label) for c in range(3)]
        losses.append(-sum(t * p for t, p in zip(targets, log_probabilities, strict=True)))
    loss = cross_entropy(jnp.float32(LOGITS), jnp.asarray(LABELS), smoothing)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-6)


def test_the_total_is_cross_entropy_plus_the_weighted_penalty(small_net, small_variables, key):
    images = jax.random.normal(key, (3, 8, 8, 1))
    logits, updated = small_net.apply(small_variables, images, True, mutable=["batch_stats"])
    total, (batch_stats, metrics) = training_loss(
        small_variables["params"],
        small_variables["batch_stats"],
        images,
        jnp.asarray(LABELS),
        jnp.float32(0.25),
        model=small_net,
        penalty=lambda params: jnp.sum(params["conv"]["kernel"] ** 2),
        label_smoothing=0.1,
    )
    squares = np.sum(np.asarray(small_variables["params"]["conv"]["kernel"]) ** 2)
    np.testing.assert_allclose(total, cross_entropy(logits, jnp.asarray(LABELS), 0.1) + 0.25 * squares, rtol=1e-6)
    np.testing.assert_allclose(metrics["penalty"], squares, rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(logits.argmax(-1) == LABELS))
    assert metrics["loss"] == total
    jax.tree.map(np.testing.assert_array_equal, batch_stats, updated["batch_stats"])


def test_weight_decay_moves_kernels_only(small_variables):
    optimiser = create_optimiser(optax.constant_schedule(0.1), 0.9, 0.01)
    state = create_state(small_variables, optimiser)
    nothing = jax.tree.map(jnp.zeros_like, state.params)
    updates, _ = optimiser.update(nothing, state.opt_state, state.params)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        leaf = path[-1].key
        kernel = small_variables["params"][path[0].key][leaf]
        # Nesterov: the first step goes by the gradient and by 0.9 times the momentum, which equals it.
        expected = -0.1 * 1.9 * 0.01 * np.asarray(kernel) if leaf == "kernel" else np.zeros(kernel.shape)
        np.testing.assert_allclose(update, expected, rtol=1e-5, err_msg=str(path))


def test_only_the_biases_of_norms_have_a_rate_of_their_own(small_variables):
    def updates(norm_bias_rate):
        optimiser = create_optimiser(optax.constant_schedule(0.1), 0.9, 0.01, norm_bias_rate)
        grads = jax.tree.map(jnp.ones_like, small_variables["params"])
        return optimiser.update(grads, optimiser.init(grads), small_variables["params"])[0]

    factors = jax.tree.map(lambda faster, usual: float((faster / usual).mean()), updates(64.0), updates(1.0))
    assert factors["bn"] == pytest.approx({"scale": 1, "bias": 64})
    assert all(factor == pytest.approx(1) for name in factors.keys() - {"bn"} for factor in factors[name].values())


def test_a_fresh_state_has_done_no_step(small_variables):
    state = create_state(small_variables, create_optimiser(optax.constant_schedule(0.1), 0.9, 0.0))
    assert (state.step.dtype, int(state.step)) == (jnp.int32, 0)
    assert state.variables["params"] is small_variables["params"]
