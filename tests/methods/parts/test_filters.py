"""Filters, their removal, and the fine-tuning around removed ones."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from osp_jax.masks import apply_mask, build_mask
from osp_jax.methods.parts.filters import filters, without_highest
from osp_jax.runtime.errors import InputError
from tests.small_networks import assert_close, case

SCORES = {"a": np.array([3.0, 1.0, 2.0]), "b": np.array([5.0, 4.0, 0.0, 3.0])}


@pytest.mark.parametrize(
    ("fraction", "scope", "gains"),
    [
        (0.3, "global", ([1, 1, 1], [0, 0, 1, 1])),
        (0.4, "global", ([0, 1, 1], [0, 0, 1, 1])),  # of two equal ones the first
        (0.0, "global", ([1, 1, 1], [0, 1, 1, 1])),  # at least one
        (0.3, "layer", ([0, 1, 1], [0, 1, 1, 1])),
        (0.5, "layer", ([0, 1, 0], [0, 0, 1, 1])),
        (1.0, "layer", ([0, 0, 0], [0, 0, 0, 0])),
    ],
)
def test_the_highest_go_of_all_layers_or_of_each(fraction, scope, gains):
    kept = without_highest(SCORES, fraction, scope)
    for name, expected in zip(SCORES, gains, strict=True):
        np.testing.assert_array_equal(kept[name], expected)


def test_in_a_residual_stream_each_convolution_has_filters_of_its_own():
    gates = case("PlainResidual").gates
    assert [group.name for group in filters(gates).groups] == [f"Conv_{i}" for i in range(5)]
    assert [group.name for group in filters(gates, "BatchNorm_1").groups] == ["Conv_1"]


def test_the_filters_of_a_stream_that_the_head_reads_are_those_of_the_last_layer_that_adds_to_it():
    assert [group.name for group in filters(case("PlainResidual").gates, "last").groups] == ["Conv_4"]


def test_without_batch_norms_a_layer_is_gated_at_its_own_kernel_and_bias():
    assert [group.name for group in filters(case("LayerNormed").gates).groups] == ["conv1", "conv2"]


def test_removing_filters_equals_a_zero_in_place_of_the_output_of_their_norm():
    module, variables, images, gates = case("PlainResidual")
    units = filters(gates)
    gains = {group.name: np.arange(group.channels) % 3 for group in units.groups}
    norms = {group.writers[0].path.split("/")[1]: gains[group.name] for group in units.groups}
    assert norms.keys() == {f"BatchNorm_{i}" for i in range(5)}

    def gate(next_fun, args, kwargs, context):
        out, path = next_fun(*args, **kwargs), "/".join(context.module.path)
        return out * (norms[path] > 0) if path in norms else out

    @jax.jit
    def gated(variables):
        with nn.intercept_methods(gate):
            return module.apply(variables, images, False)

    zeroed = {name: jnp.asarray(gain > 0, jnp.float32) for name, gain in gains.items()}
    removed = apply_mask(variables, build_mask(zeroed, units, erase=True))
    assert_close(jax.jit(lambda v: module.apply(v, images, False))(removed), gated(variables))


def test_a_network_without_filters_is_an_input_error_that_names_the_remedy():
    with pytest.raises(InputError, match="name others"):
        filters(dataclasses.replace(case("LayerNormed").gates, filters=()))
    with pytest.raises(InputError, match="choose from: BatchNorm_0, BatchNorm_1"):
        filters(case("PlainResidual").gates, "no_such_layer")
