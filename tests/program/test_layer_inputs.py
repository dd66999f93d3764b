"""A layer's rows times its kernel are its output, for every kind of layer, padding and network."""

from functools import partial

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from osp_jax.program.layer_inputs import input_rows, layer_inputs
from tests.small_networks import assert_close, case, random_variables


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


def products_and_outputs(model, variables, images):
    """By module path, call by call: rows times kernel plus bias, and what Flax itself records as the output."""
    kinds, params = (nn.Dense, nn.Conv), traverse_util.flatten_dict(variables["params"])

    def product(path, layer):
        kernel, bias = (params.get((*path.split("/"), leaf)) for leaf in ("kernel", "bias"))
        return input_rows(layer) @ kernel.reshape(-1, kernel.shape[-1]) + (0 if bias is None else bias)

    _, state = model.apply(
        variables, images, False, capture_intermediates=lambda m, _: isinstance(m, kinds), mutable=["intermediates"]
    )
    outputs = {
        "/".join(path[:-1]): values for path, values in traverse_util.flatten_dict(state["intermediates"]).items()
    }
    layers = layer_inputs(model, variables, images)
    return {path: [product(path, layer) for layer in calls] for path, calls in layers.items()}, outputs


def assert_rows_times_kernel_is_the_output(model, images, variables=None):
    variables = variables or random_variables(model, images)
    products, outputs = jax.jit(partial(products_and_outputs, model))(variables, images)
    assert products.keys() == outputs.keys()
    for path, expected in outputs.items():
        for product, output in zip(products[path], expected, strict=True):
            assert_close(product.reshape(output.shape), output)


def normal(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", ["resnet8", "PoolNet", "Wrapped"])
def test_the_rows_of_every_layer_times_its_kernel_are_its_output(name):
    network = case(name)
    assert_rows_times_kernel_is_the_output(network.module, network.images, network.variables)


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
    assert_rows_times_kernel_is_the_output(OneConv(tuple(options.items())), normal(2, 8, 7, 3))


def test_a_causal_convolution_over_a_sequence_with_two_batch_axes_has_rows_too():
    model = OneConv((("padding", "CAUSAL"),), kernel_size=(3,))
    assert_rows_times_kernel_is_the_output(model, normal(2, 3, 9, 4))


@pytest.mark.parametrize("options", [{"feature_group_count": 5}, {"input_dilation": 2, "padding": 1}], ids=str)
def test_a_convolution_that_is_no_product_of_rows_and_kernel_is_left_out(options):
    model, images = OneConv(tuple(options.items())), normal(2, 8, 7, 5)
    found = jax.eval_shape(partial(layer_inputs, model), random_variables(model, images), images)
    assert found == {}


def test_a_layer_called_twice_has_two_inputs():
    model, images = SharedDense(), normal(2, 4)
    found = jax.eval_shape(partial(layer_inputs, model), random_variables(model, images), images)
    assert len(found["dense"]) == 2
    assert_rows_times_kernel_is_the_output(model, images)
