"""Index arrays go through operations as the entries of a value do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from osp_jax.program import labels
from osp_jax.program.flat import flatten
from osp_jax.program.labels import ANY, NONE

OPERATIONS = {
    "transpose": (lambda x: x.transpose(2, 0, 1), (2, 3, 4)),
    "broadcast_in_dim": (lambda x: lax.broadcast_in_dim(x, (5, 2, 3, 4), (1, 2, 3)), (2, 1, 4)),
    "reshape: merge": (lambda x: x.reshape(2, 12, 5), (2, 3, 4, 5)),
    "reshape: split": (lambda x: x.reshape(2, 2, 3, 5), (2, 6, 5)),
    "reshape: merge and split": (lambda x: x.reshape(4, 3, 2), (2, 6, 2)),
    "reshape: ones": (lambda x: x.reshape(1, 2, 1, 3, 1), (2, 1, 3)),
    "reshape: flat": (lambda x: x.reshape(-1), (2, 1, 3)),
    "squeeze": (lambda x: x.squeeze((0, 2)), (1, 3, 1, 4)),
    "expand_dims": (lambda x: jnp.expand_dims(x, (0, 2)), (3, 4)),
    "rev": (lambda x: lax.rev(x, (0, 2)), (2, 3, 4)),
    "slice": (lambda x: x[:, 1:3], (2, 4, 3)),
    "slice with strides": (lambda x: x[:, ::2, 1::3], (2, 5, 7)),
    "slice of one": (lambda x: x[:, 0], (2, 4, 3)),
    "dynamic_slice": (lambda x: lax.dynamic_slice(x, (0, 2), (2, 3)), (2, 6)),
    "dynamic_slice past the end": (lambda x: lax.dynamic_slice(x, (0, 9), (2, 3)), (2, 6)),
    "gather": (lambda x: x[:, np.array([2, 0, 2])], (2, 4, 3)),
    "take": (lambda x: jnp.take(x, 1, axis=1), (2, 4, 3)),
    "split: first": (lambda x: jnp.split(x, [1, 3], axis=1)[0], (2, 4, 3)),
    "split: last": (lambda x: jnp.split(x, [1, 3], axis=1)[2], (2, 4, 3)),
    "copy": (jnp.copy, (2, 3)),
    "convert_element_type": (lambda x: x.astype(jnp.float16), (2, 3)),
    "moveaxis and unstack": (lambda x: jnp.moveaxis(x, 1, 0)[1], (2, 3, 4)),
    "repeat": (lambda x: jnp.repeat(x, 3, axis=1), (2, 3)),
    "tile": (lambda x: jnp.tile(x, (1, 2)), (2, 3)),
    "flip": (lambda x: x[:, ::-1], (2, 3)),
}


def index_arrays(shape, seed=0):
    """Random ones: of every pattern of axes along which the entries agree."""
    rng = np.random.default_rng(seed)
    for pattern in np.ndindex(*(2,) * len(shape)):
        sizes = [size if varies else 1 for size, varies in zip(shape, pattern, strict=True)]
        yield rng.integers(NONE, 4, sizes).astype(np.int32)


def through(function, shape, index, back=False):
    """Through each equation of a function, from its argument to its result or the other way round."""
    program = flatten(function, jnp.zeros(shape))
    values = constants(program)
    equations = program.jaxpr.eqns[::-1] if back else program.jaxpr.eqns
    known = {program.jaxpr.outvars[0] if back else program.jaxpr.invars[0]: index}
    for equation in equations:
        shapes = [atom.aval.shape for atom in equation.invars]
        read = [values.get(id(atom), getattr(atom, "val", None)) for atom in equation.invars]
        if back and any(var in known for var in equation.outvars):
            (result,) = [number for number, var in enumerate(equation.outvars) if var in known]
            name, out = equation.primitive.name, known[equation.outvars[result]]
            found = labels.backward(name, equation.params, shapes, out, result, read)
            if found is None:
                return None
            known[equation.invars[0]] = found[0]
        elif not back and any(atom is var for atom in equation.invars[:1] for var in known):
            given = [known[equation.invars[0]], *read[1:]]
            found = labels.forward(equation.primitive.name, equation.params, shapes, given)
            known |= dict(zip(equation.outvars, found, strict=True))
    return known[program.jaxpr.invars[0] if back else program.jaxpr.outvars[0]]


def constants(program):
    values = {id(var): np.asarray(value) for var, value in zip(program.jaxpr.constvars, program.consts, strict=True)}
    for equation in program.jaxpr.eqns:
        read = [values.get(id(atom), getattr(atom, "val", None)) for atom in equation.invars]
        if all(value is not None for value in read):
            found = equation.primitive.bind(*read, **equation.params)
            values[id(equation.outvars[0])] = np.asarray(found)
    return values


def moved(function, entries):
    """Entries through the function itself; numbers up to 2048 are exact in every type."""
    return np.asarray(function(jnp.asarray(entries, jnp.float32)), np.int32)


@pytest.mark.parametrize("name", OPERATIONS)
def test_forward_is_what_the_operation_does_to_the_entries(name):
    function, shape = OPERATIONS[name]
    for index in index_arrays(shape):
        found = through(function, shape, index)
        expected = moved(function, np.broadcast_to(index, shape))
        np.testing.assert_array_equal(np.broadcast_to(found, expected.shape), expected)
        np.testing.assert_array_equal(found, labels.compressed(expected))


@pytest.mark.parametrize("name", OPERATIONS)
def test_backward_is_where_each_entry_of_the_result_came_from(name):
    function, shape = OPERATIONS[name]
    places = moved(function, np.arange(np.prod(shape)).reshape(shape))
    out_shape = jax.eval_shape(function, jnp.zeros(shape)).shape
    for out in index_arrays(out_shape):
        wanted = np.full(np.prod(shape), ANY, np.int32)
        agrees = True
        for place, number in zip(places.ravel(), np.broadcast_to(out, out_shape).ravel(), strict=True):
            agrees &= wanted[place] in (ANY, number)
            wanted[place] = number
        found = through(function, shape, out, back=True)
        assert (found is not None) == agrees
        if agrees:
            np.testing.assert_array_equal(np.broadcast_to(found, shape), wanted.reshape(shape))


def test_padding_with_zeros_takes_any_gain_and_other_padding_none():
    index, config = labels.along(2, 1, 3), [(0, 0, 0), (1, 0, 0)]
    assert labels.forward("pad", {"padding_config": config}, [(2, 3), ()], [index, np.int32(ANY)])[0].tolist() == [
        [ANY, 0, 1, 2]
    ]
    assert labels.forward("pad", {"padding_config": config}, [(2, 3), ()], [index, np.int32(NONE)])[0].tolist() == [
        [NONE, 0, 1, 2]
    ]
    # Zeros around a map leave the axes on which the entries agree as they are.
    around = [(0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)]
    found = labels.forward("pad", {"padding_config": around}, [(2, 5, 5, 3), ()], [labels.along(4, 3, 3), ANY])[0]
    assert found.shape == (1, 1, 1, 3)


@pytest.mark.parametrize("config", [(1, 2, 0), (0, 0, 2), (-1, 0, 0), (1, -1, 1)])
def test_padding_backward_undoes_it(config):
    shape = (2, 4)
    function = lambda x: lax.pad(x, jnp.float32(-9), [(0, 0, 0), config])  # noqa: E731
    places = moved(function, np.arange(8).reshape(shape))
    out = np.arange(places.shape[1], dtype=np.int32)[None]
    (found, _) = labels.backward("pad", {"padding_config": [(0, 0, 0), config]}, [shape, ()], out, 0, [None, None])
    expected = np.full(4, ANY)
    for column, place in enumerate(places[0]):
        if place >= 0:
            expected[place] = out[0, column]
    np.testing.assert_array_equal(np.broadcast_to(found, shape)[0], expected)


def test_concatenation_joins_and_takes_apart():
    first, second = labels.along(2, 1, 3), np.full((1, 1), NONE, np.int32)
    params, shapes = {"dimension": 1}, [(2, 3), (2, 2)]
    (joined,) = labels.forward("concatenate", params, shapes, [first, second])
    assert joined.tolist() == [[0, 1, 2, NONE, NONE]]
    found = labels.backward("concatenate", params, shapes, joined, 0, [None, None])
    assert [index.tolist() for index in found] == [first.tolist(), second.tolist()]


def test_what_any_gain_may_scale_agrees_with_everything():
    first, second = np.array([[0, ANY, NONE]], np.int32), np.array([[0, 1, ANY]], np.int32)
    assert labels.unified(first, second).tolist() == [[0, 1, NONE]]
    assert labels.unified(first, np.array([[1, 1, NONE]], np.int32)) is None
    assert labels.compressed(np.array([[2, ANY, 2]], np.int32)).tolist() == [[2]]
    assert labels.compressed(np.array([[2, ANY, 2]], np.int32), strict=True).shape == (1, 3)
    assert labels.collapsed(np.array([[2, ANY, 1]], np.int32), [1]) is None
