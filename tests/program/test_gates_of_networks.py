"""The groups of the networks that the library ships."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.networks import MODELS, create_model
from osp_jax.program.gates import find_gates
from tests.small_networks import DEEP, slow_where

SHAPE = (16, 16, 3)


@lru_cache
def gates_of(name, **options):
    model = create_model(name, 5, SHAPE, width=4, **options)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, *SHAPE)), jnp.float32)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.1, 1, leaf.shape) * rng.choice([-1, 1], leaf.shape), leaf.dtype), shapes
    )
    if "batch_stats" in variables:
        variables["batch_stats"] = jax.tree.map(jnp.abs, variables["batch_stats"])
    return find_gates(lambda variables, x: model.apply(variables, x, False), variables, images)


def modules(factors):
    return list(dict.fromkeys(factor.path.removeprefix("params/").rsplit("/", 1)[0] for factor in factors))


def test_the_features_of_a_deep_residual_network_are_gated_at_the_head():
    gates = gates_of("resnet50")
    assert gates.features == "head/input"
    assert (gates.last.writers, modules(gates.last.readers)) == ((), ["head"])


@pytest.mark.parametrize("name", ["vgg11", "cifarnet"])
def test_without_shortcuts_every_norm_is_a_group_that_either_side_can_carry(name):
    gates = gates_of(name)
    assert all(modules(gate.writers) == [gate.name] and gate.readers for gate in gates.groups)
    assert [modules(gate.kernels) for gate in gates.groups] == [[gate.name] for gate in gates.filters]


def test_without_norms_the_kernels_are_the_writers():
    gates = gates_of("allcnn")
    assert [gate.name for gate in gates.groups] == [f"conv{i}" for i in range(1, 9)]
    assert all(modules(gate.kernels) == modules(gate.writers) == [gate.name] for gate in gates.groups)


@pytest.mark.parametrize("name", slow_where(MODELS, DEEP))
def test_every_kernel_but_the_head_s_has_a_filter_with_writers_and_its_kernel(name):
    gates = gates_of(name)
    assert gates.filters
    for gate in gates.filters:
        assert gate.writers
        assert not gate.readers
        assert gate.name in modules(gate.kernels)
    assert gates.head.kernel == "params/head/kernel"


@pytest.mark.parametrize("name", ["resnet8", "vgg11"])
def test_a_network_in_bfloat16_has_the_gates_of_that_in_float32(name):
    def described(gates):
        return [(gate.name, gate.factors, gate.kernels) for gate in (*gates.groups, *gates.filters)]

    assert described(gates_of(name, dtype="bfloat16")) == described(gates_of(name))
