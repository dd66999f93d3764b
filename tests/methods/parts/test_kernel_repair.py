"""Repaired kernels restore their outputs on the weighted images."""

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.methods.parts.kernel_repair import repaired
from osp_jax.program.tail import tails_of
from osp_jax.trees import edited, leaves_by_path
from tests.program.test_tail import MOMENTS, uint8_images
from tests.small_networks import SHAPE, case


def test_a_kernel_between_two_stages_gives_again_what_it_gave_on_images_that_count(key):
    model = case("resnet8").model
    _, tail = tails_of(model, 16, SHAPE, 1)
    kept = [tail.early(model.variables, (uint8_images(16, SHAPE, seed), *MOMENTS)) for seed in range(3)]
    (inner,) = tail.front
    leaf = leaves_by_path(model.variables)[inner.layer.path]
    other = edited(model.variables, {inner.layer.path: leaf + leaf.std() * jax.random.normal(key, leaf.shape)})
    weights = jnp.ones((3, 16)).at[2].set(0) / 32
    found = repaired(model.variables, other, tail, kept, weights, ridge=1e-6)

    def wrong(variables, number):
        results = [
            tail.late((v, tail.no_shifts()), kept[number]).front_outputs[0] for v in (model.variables, variables)
        ]
        return float(jnp.abs(results[0] - results[1]).mean())

    assert wrong(found, 0) < 0.02 * wrong(other, 0)
    without_last = repaired(model.variables, other, tail, kept[:2], weights[:2], ridge=1e-6)
    for one, same in zip(*map(jax.tree.leaves, (found, without_last)), strict=True):
        np.testing.assert_array_equal(one, same)
