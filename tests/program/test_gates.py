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
    return gains.astype(np.float32)


def masked(variables, factors, gain):
    leaves = leaves_by_path(variables)
    changes = {factor.path: np.asarray(leaves[factor.path]) * spread(factor, gain) for factor in factors}
    return edited(variables, changes)


def relative(actual, expected):
    return np.abs(np.asarray(actual) - np.asarray(expected)).max() / np.abs(np.asarray(expected)).max()


@lru_cache
def compiled(name):
    """The network itself, and with the values of all its gates scaled: `(variables)` and `(variables, scales)`."""
    apply, _, batch, gates = network(name)
    program = flatten(apply, *network(name)[1:3])

    def scaled(variables, gains):
        scale = {}
        for gate, gain in zip([*gates.groups, *gates.filters], gains, strict=True):
            rank = len(program.jaxpr.eqns[gate.value].outvars[0].aval.shape)
            gain = gain.reshape([-1 if axis == gate.axis else 1 for axis in range(rank)])
            scale[gate.value] = scale.get(gate.value, 1) * gain
        return evaluate(program, [*jax.tree.leaves(variables), batch], scale=scale)[0][0]

    return jax.jit(lambda variables: apply(variables, batch)), jax.jit(scaled)


@pytest.mark.parametrize("name", ZOO)
def test_masking_each_gate_equals_scaling_its_value(name):
    _, variables, _, gates = network(name)
    plain, scaled = compiled(name)
    every = [*gates.groups, *gates.filters]
    for number, gate in enumerate(every):
        gains = [np.ones(other.channels, np.float32) for other in every]
        gains[number] = random_gains(gate.channels, number)
        expected = scaled(variables, gains)
        assert gate.writers or gate.readers
        for factors in filter(None, (gate.writers, gate.readers)):
            assert relative(plain(masked(variables, factors, gains[number])), expected) < 1e-5


@pytest.mark.parametrize("name", ZOO)
def test_kernels_of_channels_with_gain_zero_may_be_zeroed(name):
    _, variables, _, gates = network(name)
    plain, _ = compiled(name)
    for number, gate in enumerate([*gates.groups, *gates.filters]):
        if gate.kernels:
            gain = random_gains(gate.channels, number)
            expected = plain(masked(variables, gate.writers, gain))
            erased = masked(masked(variables, gate.writers, gain), gate.kernels, (gain > 0).astype(np.float32))
            assert relative(plain(erased), expected) < 1e-5


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


@pytest.mark.parametrize("name", ["vit", "equinox_cnn"])
def test_one_image_is_captured_as_in_a_batch(name):
    apply, variables, batch, gates = network(name)
    together = jax.jit(lambda v, x: capture(apply, gates, v, x))(variables, batch)
    alone = jax.jit(lambda v, x: capture(apply, gates, v, x))(variables, batch[:1])
    for one, several in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        assert one.shape == (1, *several.shape[1:])
        np.testing.assert_allclose(one, several[:1], rtol=1e-4, atol=1e-4)
    assert find_gates(apply, variables, batch[:1]) == gates
