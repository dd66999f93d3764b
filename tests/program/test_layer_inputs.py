"""A layer's rows times its kernel matrix are its output, for every kind of layer, layout, padding and network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from osp_jax.program.layer_inputs import (
    find_layers,
    input_rows,
    kernel_matrix,
    layer_inputs,
    layer_outputs,
    multiplied,
    write_matrix,
)
from osp_jax.trees import leaves_by_path
from tests.small_networks import assert_close, case, random_variables, slow_where
from tests.zoo import LARGE, ZOO, images


class OneConv(nn.Module):
    """One convolution, with a kernel neither square nor of one dilation, and whatever options it is given."""

    options: tuple[tuple[str, object], ...]
    kernel_size: tuple[int, ...] = (3, 2)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.Conv(5, self.kernel_size, name="conv", **dict(self.options))(x)


class SharedDense(nn.Module):
    """One dense layer, called twice."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        dense = nn.Dense(x.shape[-1], name="dense")
        return dense(inputs=nn.relu(dense(x)))


class Attention(nn.Module):
    """Kernels of three axes: into heads, and out of them."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=6, out_features=5, name="attention")(x)


def normal(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def linen(model, images):
    return (lambda variables, images: model.apply(variables, images, False)), random_variables(model, images)


def assert_rows_times_matrix_are_the_outputs(apply, variables, images, count=None):
    """Of every layer under jit, for another batch size than it was found with."""
    layers, leaves = find_layers(apply, variables, images[:2]), leaves_by_path(variables)
    assert count is None or len(layers) == count

    @jax.jit
    def both(variables, images):
        inputs = layer_inputs(apply, variables, images, layers)
        leaves = leaves_by_path(variables)
        rows = [input_rows(layer, read) for layer, read in zip(layers, inputs, strict=True)]
        matrices = [kernel_matrix(layer, leaves[layer.path]) for layer in layers]
        products = [row @ matrix for row, matrix in zip(rows, matrices, strict=True)]
        without_rows = [multiplied(*given) for given in zip(layers, inputs, matrices, strict=True)]
        return products, without_rows, layer_outputs(apply, variables, images, layers)

    for product, without_rows, output in zip(*both(variables, images), strict=True):
        assert_close(product.reshape(output.shape), output)
        assert_close(without_rows.reshape(output.shape), output)
    for layer in layers:
        matrix = kernel_matrix(layer, leaves[layer.path])
        assert matrix.shape == (layer.inputs, layer.outputs)
        written = write_matrix(layer, leaves[layer.path], 2 * matrix)
        np.testing.assert_array_equal(kernel_matrix(layer, written), 2 * matrix)
    return layers


@pytest.mark.parametrize("name", ["resnet8", "cifarnet", "PoolNet", "Wrapped"])
def test_the_rows_of_every_layer_times_its_kernel_are_its_output(name):
    network = case(name)
    kernels = {path for path in leaves_by_path(network.variables) if path.endswith("/kernel")}
    apply = lambda variables, images: network.module.apply(variables, images, False)  # noqa: E731
    layers = assert_rows_times_matrix_are_the_outputs(apply, network.variables, network.images)
    assert {layer.path for layer in layers} == kernels


@pytest.mark.parametrize("name", slow_where(ZOO, LARGE))
def test_so_they_are_in_networks_as_users_write_them(name):
    apply, variables = ZOO[name]()
    assert_rows_times_matrix_are_the_outputs(apply, variables, images(name, 3))


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "VALID", "strides": (2, 1)},
        {"padding": "SAME", "strides": 2},
        {"padding": "CIRCULAR"},
        {"padding": ((2, 0), (0, 1)), "kernel_dilation": (1, 2)},
        {"padding": "SAME", "strides": (1, 2), "kernel_dilation": 2, "use_bias": False},
    ],
    ids=str,
)
def test_patches_have_the_strides_the_padding_and_the_dilation_of_their_layer(options):
    images = normal(2, 8, 7, 3)
    assert_rows_times_matrix_are_the_outputs(*linen(OneConv(tuple(options.items())), images), images, count=1)


def test_a_causal_convolution_over_a_sequence_with_two_batch_axes_has_rows_too():
    images = normal(2, 3, 9, 4)
    model = OneConv((("padding", "CAUSAL"),), kernel_size=(3,))
    assert_rows_times_matrix_are_the_outputs(*linen(model, images), images, count=1)


@pytest.mark.parametrize("options", [{"feature_group_count": 5}, {"input_dilation": 2, "padding": 1}], ids=str)
def test_a_convolution_that_is_no_product_of_rows_and_kernel_is_left_out(options):
    images = normal(2, 8, 7, 5)
    assert find_layers(*linen(OneConv(tuple(options.items())), images), images) == ()


def test_a_layer_called_twice_is_there_twice():
    images = normal(2, 4)
    layers = assert_rows_times_matrix_are_the_outputs(*linen(SharedDense(), images), images, count=2)
    assert [layer.path for layer in layers] == ["params/dense/kernel"] * 2


def test_kernels_into_heads_and_out_of_them_are_matrices():
    images = normal(2, 7, 4)
    layers = assert_rows_times_matrix_are_the_outputs(*linen(Attention(), images), images, count=4)
    assert [(layer.inputs, layer.outputs) for layer in layers] == [(4, 6)] * 3 + [(6, 5)]


LAYOUTS = {
    "OIHW kernel, NCHW images": (
        lambda v, x: lax.conv_general_dilated(
            x.transpose(0, 3, 1, 2), v["w"], (1, 2), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW")
        ),
        (5, 3, 3, 2),
    ),
    "OIHW kernel under vmap": (
        lambda v, x: jax.vmap(lambda x: lax.conv(x.transpose(2, 0, 1)[None], v["w"], (2, 1), "VALID")[0])(x),
        (5, 3, 3, 2),
    ),
    "flipped kernel": (
        lambda v, x: lax.conv_general_dilated(
            x, jnp.flip(v["w"], (0, 1)), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        (3, 2, 3, 5),
    ),
    "(out, in) on the left under vmap": (lambda v, x: jax.vmap(lambda x: v["w"] @ x.ravel())(x), (5, 8 * 7 * 3)),
    "two axes contracted in another order": (lambda v, x: jnp.einsum("bhwc,cwo->bho", x, v["w"]), (3, 7, 5)),
    "cast": (lambda v, x: x.astype(jnp.bfloat16).astype(jnp.float32) @ v["w"].astype(jnp.float32), (3, 5)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_kernels_of_any_layout_are_matrices(name):
    apply, shape = LAYOUTS[name]
    layers = assert_rows_times_matrix_are_the_outputs(apply, {"w": normal(*shape)}, normal(4, 8, 7, 3, seed=2), count=1)
    assert layers[0].outputs == 5


def test_rows_come_image_after_image():
    apply, shape = LAYOUTS["OIHW kernel under vmap"]
    given = normal(4, 8, 7, 3)
    layers = find_layers(apply, {"w": normal(*shape)}, given)
    rows = [input_rows(layers[0], layer_inputs(apply, {"w": normal(*shape)}, x, layers)[0]) for x in (given, given[2:])]
    np.testing.assert_array_equal(rows[0][len(rows[0]) // 2 :], rows[1])


def test_rows_come_image_after_image_where_positions_are_in_front():
    def apply(v, x):
        x = x.reshape(len(x), -1, 3).transpose(1, 0, 2) @ v["a"].T  # position image channel
        return x.mean(0) @ v["head"].T

    variables = {"a": np.ones((4, 3), np.float32), "head": np.ones((5, 4), np.float32)}
    batch = jnp.arange(2.0)[:, None, None, None] * jnp.ones((2, 4, 4, 3))
    layers = find_layers(apply, variables, batch)
    rows = input_rows(layers[0], layer_inputs(apply, variables, batch, layers)[0])
    np.testing.assert_array_equal(rows, np.repeat([0.0, 1.0], 16)[:, None] * np.ones(3))
    np.testing.assert_array_equal(layer_outputs(apply, variables, batch, layers)[0].shape, (2, 16, 4))


def test_the_parts_of_one_leaf_are_layers_that_leave_the_rest_of_it_alone():
    def apply(variables, x):
        query, key = jnp.split(variables["qk"], 2, axis=1)
        return (x @ query) * (x @ key)

    variables, x = {"qk": normal(4, 6)}, normal(2, 4)
    first, second = assert_rows_times_matrix_are_the_outputs(apply, variables, x, count=2)
    changed = write_matrix(first, variables["qk"], jnp.zeros((4, 3)))
    assert not changed[:, :3].any()
    np.testing.assert_array_equal(changed[:, 3:], variables["qk"][:, 3:])
    np.testing.assert_array_equal(kernel_matrix(second, variables["qk"]), variables["qk"][:, 3:])


def test_a_kernel_that_is_computed_and_a_product_of_two_activations_are_no_layers():
    def apply(variables, x):
        weight = variables["w"] / jnp.linalg.norm(variables["w"])
        return (x @ weight) @ (x @ weight).T

    assert find_layers(apply, {"w": normal(4, 6)}, normal(2, 4)) == ()


def test_a_part_of_the_map_is_padded_as_the_layer_pads_the_whole():
    images = normal(2, 8, 8, 3)
    apply, variables = linen(OneConv((("strides", 2), ("padding", "SAME"))), images)
    (layer,) = find_layers(apply, variables, images)
    (part,) = find_layers(apply, variables, images[:, :5, :5])
    cut = images[:, 1:6, 2:7]
    np.testing.assert_array_equal(input_rows(layer, cut), input_rows(part, cut))


def test_a_layer_has_the_same_number_for_every_batch_size():
    network = case("resnet8")
    apply = network.model.apply
    few, many = (find_layers(apply, network.variables, normal(count, 16, 16, 3)) for count in (2, 5))
    assert [layer.number for layer in few] == [layer.number for layer in many]
