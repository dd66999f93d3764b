"""Penalties on features: their values by hand, and the effect of training with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.training.feature_penalties import PENALTIES

LABELS = jnp.asarray([0, 0, 1, 1])
APART = jnp.asarray([[1.0, 0, 2], [3, 0, 2], [0, 1, 0], [0, 5, 0]])  # no channel of two classes
ALIKE = jnp.asarray([[1.0, 2], [3, 4], [1, 2], [3, 4]])


@pytest.mark.parametrize("name", ["class-means", "ownership"])
def test_channels_of_one_class_each_cost_nothing(name):
    np.testing.assert_allclose(PENALTIES[name](APART, LABELS, 3), 0, atol=1e-5)


def test_classes_with_the_same_means_cost_the_most():
    np.testing.assert_allclose(PENALTIES["class-means"](ALIKE, LABELS, 2), 1, rtol=1e-4)
    np.testing.assert_allclose(PENALTIES["ownership"](ALIKE, LABELS, 2), 0.5, rtol=1e-4)


def test_decorrelation_is_the_mean_squared_correlation_whatever_the_scale(key):
    features = jax.random.uniform(key, (50, 4)) * jnp.asarray([1, 10, 100, 1000])
    expected = np.corrcoef(np.asarray(features, np.float64).T) ** 2
    expected = (expected.sum() - 4) / 12
    np.testing.assert_allclose(PENALTIES["decorrelation"](features, jnp.zeros(50, int), 1), expected, rtol=1e-3)


@pytest.mark.parametrize("name", PENALTIES)
def test_a_batch_without_contrast_has_a_finite_gradient(name):
    gradient = jax.grad(PENALTIES[name])(jnp.zeros((4, 3)), jnp.zeros(4, int), 2)
    assert bool(jnp.isfinite(gradient).all())


@pytest.mark.parametrize("name", PENALTIES)
def test_a_step_against_the_gradient_lowers_it(name, key):
    features = jax.random.uniform(key, (12, 5)) + 0.1
    labels = jnp.arange(12) % 3
    value, gradient = jax.value_and_grad(PENALTIES[name])(features, labels, 3)
    assert float(PENALTIES[name](features - 1e-2 * gradient, labels, 3)) < float(value)
