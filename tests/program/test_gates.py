"""Gates of networks of every kind: masked variables do to the logits what scaled values do."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.program.flat import evaluate, flatten
from osp_jax.program.gates import capture, find_gates, spread
from osp_jax.runtime.errors import InputError
from osp_jax.trees import edited, leaves_by_path
from tests.zoo import ZOO, images


@lru_cache
def network(name):
    apply, variables = ZOO[name]()
    return apply, variables, images(name, 3), find_gates(apply, variables, images(name, 3))


def random_gains(channels, seed=0):
    rng = np.random.default_rng(seed)
    gains = rng.uniform(0, 1, channels) * (rng.uniform(size=channels) > 0.3)
    gains[rng.integers(channels)] = 0
    return jnp.asarray(gains, jnp.float32)


def masked(variables, factors, gain):
    leaves = leaves_by_path(variables)
    return edited(variables, {factor.path: leaves[factor.path] * spread(factor, gain) for factor in factors})


def relative(actual, expected):
    return np.abs(np.asarray(actual) - np.asarray(expected)).max() / np.abs(np.asarray(expected)).max()


@pytest.mark.parametrize("name", ZOO)
def test_masking_each_gate_equals_scaling_its_value(name):
    apply, variables, batch, gates = network(name)
    program = flatten(apply, variables, batch)
    every = [*gates.groups, *gates.filters]
    gains = [random_gains(gate.channels, seed) for seed, gate in enumerate(every)]

    @jax.jit
    def both(variables):
        errors = []
        for gate, gain in zip(every[:: max(1, len(every) // 6)], gains[:: max(1, len(every) // 6)], strict=True):
            rank = len(program.jaxpr.eqns[gate.value].outvars[0].aval.shape)
            scale = {gate.value: gain.reshape([-1 if axis == gate.axis else 1 for axis in range(rank)])}
            (expected,), _ = evaluate(program, [*jax.tree.leaves(variables), batch], scale=scale)
            for factors in (gate.writers, gate.readers):
                actual = apply(masked(variables, factors, gain), batch) if factors else expected
                errors.append(jnp.abs(actual - expected).max() / jnp.abs(expected).max())
        return jnp.stack(errors)

    np.testing.assert_array_less(both(variables), 2e-5)


@pytest.mark.parametrize("name", ZOO)
def test_the_head_reads_a_group_whose_gains_its_kernel_absorbs(name):
    _, variables, _, gates = network(name)
    kernel = leaves_by_path(variables)[gates.head.kernel]
    (factor,) = gates.last.readers
    assert factor.path == gates.head.kernel
    assert kernel.shape[gates.head.input_axis] == len(factor.index)


@pytest.mark.parametrize("name", ZOO)
def test_the_logits_are_the_head_s_input_times_its_kernel(name):
    apply, variables, batch, gates = network(name)
    logits, values, read = jax.jit(lambda v: capture(apply, gates, v, batch))(variables)
    leaves = leaves_by_path(variables)
    kernel = jnp.squeeze(jnp.moveaxis(leaves[gates.head.kernel], gates.head.output_axis, -1))
    expected = read.mean(tuple(range(1, read.ndim - 1))) @ kernel
    expected = expected if gates.head.bias is None else expected + leaves[gates.head.bias]
    assert relative(logits, expected) < 1e-5
    assert relative(logits, jax.jit(apply)(variables, batch)) < 1e-5
    assert list(sorted(values)) == sorted(gate.name for gate in gates.groups)
    assert all(values[gate.name].shape[-1] == gate.channels for gate in gates.groups)
    assert all(len(value) == len(batch) for value in values.values())


@pytest.mark.parametrize("name", ZOO)
def test_names_are_unique_and_gates_are_hashable(name):
    gates = network(name)[3]
    for some in (gates.groups, gates.filters):
        assert len({gate.name for gate in some}) == len(some)
    assert hash(gates) == hash(network(name)[3])


def test_a_network_without_a_linear_head_is_refused():
    def apply(variables, x):
        return jax.nn.softmax(x.reshape(len(x), -1) @ variables["w"])

    with pytest.raises(InputError, match="no linear head"):
        find_gates(apply, {"w": jnp.ones((12, 5))}, jnp.ones((2, 2, 2, 3)))


def test_capture_refuses_another_program():
    apply, variables, batch, gates = network("tutorial_cnn")
    with pytest.raises(InputError, match="other operations"):
        capture(lambda v, x: 2 * apply(v, x), gates, variables, batch)
