"""A function and its flat program compute the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from osp_jax.networks.cpu.convolution import conv_general_dilated
from osp_jax.program.flat import evaluate, flatten, signature

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)


@jax.custom_vjp
def doubled(x):
    return 2 * x


doubled.defvjp(lambda x: (2 * x, None), lambda _, gradient: (2 * gradient,))

FUNCTIONS = {
    "jit in jit": lambda x: jax.jit(lambda y: jax.jit(jnp.sin)(y) + 1)(x),
    "one function twice": lambda x: nn.relu(nn.relu(x) - 1),
    "custom_jvp": nn.relu6,
    "custom_vjp": doubled,
    "checkpoint": jax.checkpoint(lambda x: jnp.tanh(x) * x),
    "scan": lambda x: lax.scan(lambda c, y: (c + y, c * y), jnp.zeros(6), x)[1],
    "while": lambda x: lax.while_loop(lambda c: c.sum() < 100, lambda c: c + jnp.abs(x), x),
    "cond": lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x),
    "reduction by a function": lambda x: lax.reduce(x, np.float32(0), lambda a, b: a + b, (1,)),
    "split": lambda x: jnp.split(x, [1, 4], axis=1)[1],
    "constants": lambda x: x @ jnp.arange(12.0).reshape(6, 2) + np.ones(2, np.float32),
    "argument twice": lambda x: x * x,
    "no operation": lambda x: x,
    "a constant result": lambda x: jnp.ones(3),
    "sorting": lambda x: jnp.sort(x, axis=1)[:, ::-1],
    "integers": lambda x: x[:, jnp.argmax(x, axis=1)],
    "mixed types": lambda x: (x.astype(jnp.bfloat16) @ jnp.ones((6, 3), jnp.bfloat16)).astype(jnp.float32),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_evaluation_gives_what_the_function_gives(name):
    function = FUNCTIONS[name]
    program = flatten(function, X)
    expected = function(X)
    for result in (evaluate(program, [X])[0][0], jax.jit(lambda x: evaluate(program, [x])[0][0])(X)):
        assert jnp.asarray(result).dtype == expected.dtype
        np.testing.assert_allclose(result, expected, rtol=1e-2 if name == "mixed types" else 1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_evaluation_in_another_type_gives_the_same_as_far_as_types_allow(name, dtype):
    function = FUNCTIONS[name]
    program = flatten(function, X)
    with jax.enable_x64(dtype == jnp.float64):
        (result,), _ = evaluate(program, [X], dtype=dtype)
    np.testing.assert_allclose(np.asarray(result, np.float32), function(X), rtol=2e-2, atol=2e-2)


def test_calls_are_inlined_and_control_flow_is_not():
    def names(name):
        return [equation.primitive.name for equation in flatten(FUNCTIONS[name], X).jaxpr.eqns]

    assert names("jit in jit") == ["sin", "add"]
    assert names("one function twice") == ["max", "sub", "max"]
    assert names("custom_vjp") == ["mul"]
    assert "split" not in names("split")
    assert "scan" in names("scan")
    assert "while" in names("while")


def test_what_no_output_depends_on_is_left_out():
    program = flatten(lambda x: (jnp.exp(x), jnp.sin(x))[1], X)
    assert [equation.primitive.name for equation in program.jaxpr.eqns] == ["sin"]


def test_first_outputs_and_operands_are_kept_and_scaled():
    program = flatten(lambda x: jnp.exp(jnp.sin(x) + 1), X)
    scale = {0: jnp.arange(6.0)}
    (result,), kept = evaluate(program, [X], keep=[0, (2, 0)], scale=scale)
    np.testing.assert_allclose(kept[0], jnp.sin(X) * jnp.arange(6.0))
    np.testing.assert_allclose(kept[2, 0], kept[0] + 1)
    np.testing.assert_allclose(result, jnp.exp(kept[2, 0]), rtol=1e-6)


def test_the_signature_depends_on_the_operations_and_not_on_the_batch():
    function = FUNCTIONS["one function twice"]
    assert signature(flatten(function, X)) == signature(flatten(function, X[:2]))
    assert signature(flatten(function, X)) != signature(flatten(lambda x: function(x) + 1, X))


def test_a_fast_convolution_with_a_loop_stays_one_equation():
    x, w = jnp.ones((2, 8, 8, 32)), jax.random.normal(jax.random.key(0), (3, 3, 32, 32))

    def apply(x, w):
        return conv_general_dilated(x, w, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))

    program = flatten(apply, x, w)
    assert len(program.jaxpr.eqns) == 1
    np.testing.assert_allclose(evaluate(program, [x, w])[0][0], apply(x, w), rtol=1e-5, atol=1e-4)
