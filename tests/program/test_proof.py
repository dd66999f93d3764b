"""Gates that do not hold are rejected."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.program import proof
from osp_jax.program.gate import Factor
from osp_jax.program.gates import find_gates, traced
from osp_jax.runtime.errors import InputError
from tests.zoo import ZOO, images


@pytest.fixture(scope="module")
def network():
    apply, variables = ZOO["resnet18"]()
    batch = images("resnet18", 2)
    gates = find_gates(apply, variables, batch)
    return apply, variables, batch, [*gates.groups, *gates.filters]


def proved(network, gates):
    apply, variables, batch, _ = network
    return proof.proved(gates, traced(apply, variables, batch.shape[1:], batch.dtype), apply, variables, batch)


def test_true_gates_stay_as_they_are(network):
    assert proved(network, network[3]) == network[3]


@pytest.mark.parametrize("seed", range(3))
def test_of_many_gates_only_the_wrong_ones_go(network, seed):
    gates = list(network[3])
    rng = np.random.default_rng(seed)
    wrong = set(rng.choice(len(gates), 4, replace=False).tolist())
    for number in wrong:
        # A norm whose bias is forgotten, and readers that take the channels in another order.
        gate = gates[number]
        readers = tuple(dataclasses.replace(f, index=f.index[::-1]) for f in gate.readers)
        gates[number] = dataclasses.replace(gate, writers=gate.writers[:1], readers=readers, kernels=())
    found = proved(network, gates)
    assert {number for number, gate in enumerate(found) if gate is None} == wrong
    assert [gate for number, gate in enumerate(found) if number not in wrong] == [
        gate for number, gate in enumerate(network[3]) if number not in wrong
    ]


def test_a_kernel_that_makes_something_else_too_is_not_zeroed(network):
    gates = list(network[3])
    gate = gates[1]
    head = Factor("params/Dense_0/kernel", (10, 1), tuple(n % gate.channels for n in range(10)))
    gates[1] = dataclasses.replace(gate, kernels=(*gate.kernels, head))
    found = proved(network, gates)
    assert found[1] == dataclasses.replace(gate, kernels=())
    assert found[2:] == gates[2:]


def test_rounding_alone_refuses_no_gate(network, monkeypatch):
    single = proof._error

    def noisy(subject, claims, dtype):
        return single(subject, claims, dtype) + (1e-4 if dtype == jnp.float32 else 0)

    monkeypatch.setattr(proof, "_error", noisy)
    assert proved(network, network[3]) == network[3]


def test_variables_that_are_not_finite_are_refused(network):
    apply, variables, batch, gates = network
    broken = jax.tree.map(lambda leaf: leaf * np.nan, variables)
    with pytest.raises(InputError, match="finite"):
        proved((apply, broken, batch, gates), gates)
