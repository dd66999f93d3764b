"""The batch norm with its own gradient equals Flax's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from osp_jax.networks.norm import BatchNorm
from tests.trees import relative


def passes(norm: nn.Module, x: jax.Array, gradient: jax.Array, train: bool):
    """(values, new statistics, gradients of the parameters, of x) from other parameters than the first."""
    variables = norm.init(jax.random.key(0), x, use_running_average=False)
    variables = jax.tree.map(lambda leaf: leaf + jnp.linspace(0.5, 1, leaf.size), variables)

    def apply(params, x):
        given = {**variables, "params": params}
        return norm.apply(given, x, use_running_average=not train, mutable=["batch_stats"])

    y, back, new = jax.vjp(apply, variables["params"], x, has_aux=True)
    return y, new, *back(gradient)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**30), st.sampled_from([(1, 1), (4, 5)]), st.floats(-3, 3), st.booleans())
def test_values_statistics_and_gradients_are_those_of_flax(seed, shape, mean, train):
    batch, channels = shape
    draw = np.random.default_rng(seed)
    x, gradient = (jnp.asarray(draw.normal(at, 1, (batch, 4, 3, channels)), jnp.float32) for at in (mean, 0))
    ours, theirs = (passes(kind(momentum=0.9), x, gradient, train) for kind in (BatchNorm, nn.BatchNorm))
    for mine, its in zip(jax.tree.leaves(ours[:2]), jax.tree.leaves(theirs[:2]), strict=True):
        np.testing.assert_array_equal(mine, its)
    np.testing.assert_allclose(ours[3], theirs[3], rtol=1e-4, atol=1e-5)
    assert relative(ours[2], theirs[2]) < 1e-5


@pytest.mark.parametrize("options", [{"axis": 1}, {"use_scale": False}, {"use_fast_variance": False}])
def test_what_it_does_not_take_is_left_to_flax(options):
    x = jax.random.normal(jax.random.key(1), (4, 5, 6, 3))
    ours, theirs = (passes(kind(**options), x, x, True) for kind in (BatchNorm, nn.BatchNorm))
    for mine, its in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(mine, its)


def test_half_precision_is_kept_and_its_statistics_are_in_full():
    x = jax.random.normal(jax.random.key(1), (8, 5, 6, 3)).astype(jnp.bfloat16)
    gradient = jax.random.normal(jax.random.key(2), x.shape).astype(jnp.bfloat16)
    ours, theirs = (passes(kind(dtype=jnp.bfloat16), x, gradient, True) for kind in (BatchNorm, nn.BatchNorm))
    assert [leaf.dtype for leaf in jax.tree.leaves(ours)] == [leaf.dtype for leaf in jax.tree.leaves(theirs)]
    assert relative(ours[3].astype(jnp.float32), theirs[3].astype(jnp.float32)) < 0.01
