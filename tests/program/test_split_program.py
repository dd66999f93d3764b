"""A split program equals the whole, and its first half does not depend on the changing parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from hypothesis import given, settings
from hypothesis import strategies as st

from osp_jax.networks import create_model, init_variables
from osp_jax.program.split_program import split_program
from osp_jax.program.tail import tail_of
from tests.small_networks import FOREIGN, assert_close, case, model_of


def halves_of(name: str, changing):
    model, variables, images, _ = case(name)
    return split_program(lambda v, x: model.apply(v, x, False), variables, images, changing)


def leaves_of(name: str) -> list[str]:
    return sorted(traverse_util.flatten_dict(case(name).variables, sep="/"))


@pytest.mark.parametrize("name", ["resnet8", "resnet50", "vgg11", "allcnn", "cifarnet", *FOREIGN])
def test_the_halves_give_the_logits_wherever_the_network_is_cut(name):
    model, variables, images, _ = case(name)
    whole = jax.jit(lambda v: model.apply(v, images, False))(variables)
    leaves = leaves_of(name)
    for changing in (leaves[-1:], leaves[:1]):
        early, late = halves_of(name, changing)
        assert_close(jax.jit(late)(variables, jax.jit(early)(variables, images)), whole, 1e-6)


@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_any_change_of_the_named_leaves_needs_the_second_half_only(data):
    name = data.draw(st.sampled_from(["resnet8", "vgg11", "cifarnet"]))
    changing = data.draw(st.sets(st.sampled_from(leaves_of(name)), min_size=1, max_size=3))
    model, variables, images, _ = case(name)
    flat = traverse_util.flatten_dict(variables, sep="/")
    other = {path: leaf + 0.1 if path in changing else leaf for path, leaf in flat.items()}
    other = traverse_util.unflatten_dict(other, sep="/")
    early, late = halves_of(name, changing)
    before = early(variables, images)
    jax.tree.map(np.testing.assert_array_equal, early(other, images), before)
    assert_close(late(other, before), model.apply(other, images, False), 1e-5)


def test_behind_the_last_features_little_is_left_to_keep():
    _, variables, images, gates = case("resnet8")
    early, _ = halves_of("resnet8", {gates.head.kernel, gates.head.bias})
    assert [value.shape for value in jax.eval_shape(early, variables, images)] == [(len(images), 16)]


def test_what_is_kept_has_a_row_an_image_where_a_convolution_takes_images_in_blocks():
    model, shape = create_model("cifarnet", 4, (16, 16, 3), width=24), (16, 16, 3)
    variables = init_variables(model, shape, jax.random.key(0))
    images = jax.ShapeDtypeStruct((6, *shape), jnp.uint8), *2 * [jax.ShapeDtypeStruct((3,), jnp.float32)]
    kept = jax.eval_shape(tail_of(model_of(model, variables), 6, shape).early, variables, images)
    assert [value.shape for value in kept] == [(6, 2, 2, 96)]


def test_nothing_may_change_or_all_and_a_tree_comes_back_as_a_tree():
    def function(variables, x):
        return {"sum": x @ variables["a"] + variables["b"]["c"], "x": x}

    variables, x = {"a": jnp.ones((3, 2)), "b": {"c": jnp.arange(2.0)}}, jnp.arange(6.0).reshape(2, 3)
    for changing in ((), ("a",), ("b/c",), ("a", "b/c")):
        early, late = split_program(function, variables, x, changing)
        jax.tree.map(np.testing.assert_array_equal, late(variables, early(variables, x)), function(variables, x))


def test_variables_may_be_any_pytree():
    def function(variables, x):
        (first, second), pair = variables
        return jnp.tanh(x @ first) @ second + pair["bias"]

    variables, x = ((jnp.ones((3, 2)), jnp.ones((2, 2))), {"bias": jnp.arange(2.0)}), jnp.arange(6.0).reshape(2, 3)
    early, late = split_program(function, variables, x, {"0/1"})
    assert [value.shape for value in early(variables, x)] == [(2, 2)]
    other = ((variables[0][0], 2 * variables[0][1]), variables[1])
    np.testing.assert_array_equal(late(other, early(variables, x)), function(other, x))
