"""The rows that a kernel multiplies, times the kernel as a matrix, are what the program computes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from osp_jax.program.flat import evaluate, flatten
from osp_jax.program.reads import as_matrix, find_reads, from_matrix, layer_reads, read_rows
from osp_jax.trees import leaves_by_path
from tests.zoo import ZOO, images

# The kernels that multiply something else than vectors or patches: depthwise and grouped convolutions.
LEFT_OUT = {"mobilenet_v2": 4, "mobilenet_v3": 3, "efficientnet": 3, "convnext": 4}


def errors(apply, reads, variables, batch):
    """For each read the largest difference from the program's own output, relative to it."""
    program = flatten(apply, variables, batch)
    numbers = [read.equation for read in reads]
    _, outputs = evaluate(program, [*jax.tree.leaves(variables), batch], keep=numbers)
    logits, values = layer_reads(apply, reads, variables, batch)
    found = [jnp.abs(logits - apply(variables, batch)).max()]
    for read, value in zip(reads, values, strict=True):
        product = read_rows(read, value) @ as_matrix(read, leaves_by_path(variables)[read.kernel])
        expected = features_last(outputs[read.equation], program.jaxpr.eqns[read.equation], read)
        found.append(jnp.abs(product - expected.reshape(product.shape)).max() / jnp.abs(expected).max())
    return jnp.stack(found)


def features_last(output, equation, read):
    if equation.primitive.name == "conv_general_dilated":
        batch, feature, *spatial = equation.params["dimension_numbers"].out_spec
        return output.transpose(batch, *spatial, feature)
    rank = len(equation.invars[1 - read.operand].aval.shape) - len(read.contracted)  # the kernel's own axes
    return output if read.operand == 0 else jnp.moveaxis(output, range(rank), range(-rank, 0))


@pytest.mark.parametrize("name", ZOO)
def test_rows_times_kernel_are_the_products_of_every_layer(name):
    apply, variables = ZOO[name]()
    batch = images(name, 2)
    reads = find_reads(apply, variables, batch.shape[1:])
    kernels = [path for path in leaves_by_path(variables) if path.endswith(("kernel", "weight")) or name == "plain_mlp"]
    if name not in ("equinox_cnn", "plain_mlp"):  # where not every weight is a kernel
        assert len({read.kernel for read in reads}) == len(kernels) - LEFT_OUT.get(name, 0)
    assert jax.jit(partial(errors, apply, reads))(variables, batch).max() < 1e-5


def conv(x, w, **options):
    options = {"strides": (1, 1), "padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC"), **options}
    return lax.conv_general_dilated(x, w, options.pop("strides"), options.pop("padding"), **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strides": (2, 1)},
        {"padding": "VALID"},
        {"padding": ((2, 0), (1, 3))},
        {"rhs_dilation": (2, 3)},
        {"strides": (2, 2), "padding": ((1, 0), (0, 1)), "rhs_dilation": (1, 2)},
    ],
    ids=str,
)
def test_patches_are_those_of_the_convolution(options):
    batch = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 9, 3)), jnp.float32)
    variables = {"w": jax.random.normal(jax.random.key(0), (3, 2, 3, 5))}

    def apply(variables, x):
        return conv(x, variables["w"], **options).mean((1, 2))

    (read,) = find_reads(apply, variables, batch.shape[1:])
    assert errors(apply, [read], variables, batch).max() < 1e-5


@pytest.mark.parametrize(
    ("spec", "layout"), [("OIHW", lambda w: w.transpose(3, 2, 0, 1)), ("IHWO", lambda w: w.transpose(2, 0, 1, 3))]
)
def test_a_kernel_in_another_layout_has_rows_in_its_own_order(spec, layout):
    batch = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 6, 3)), jnp.float32)
    kernel = jax.random.normal(jax.random.key(0), (3, 2, 3, 5))
    variables = {"w": layout(kernel)}

    def apply(variables, x):
        return conv(x, variables["w"], dimension_numbers=("NHWC", spec, "NHWC")).mean((1, 2))

    (read,) = find_reads(apply, variables, batch.shape[1:])
    assert errors(apply, [read], variables, batch).max() < 1e-5
    matrix = as_matrix(read, variables["w"])
    np.testing.assert_array_equal(from_matrix(read, matrix, variables["w"]), variables["w"])
    np.testing.assert_array_equal(matrix, np.moveaxis(variables["w"], spec.index("O"), -1).reshape(-1, 5))


def test_a_dense_kernel_of_outputs_by_inputs_and_one_shared_by_two_calls():
    variables = {
        "a": jax.random.normal(jax.random.key(0), (12, 12)),
        "b": jax.random.normal(jax.random.key(1), (5, 12)),
    }

    def apply(variables, x):
        x = x.reshape(len(x), -1)
        x = nn.relu(nn.relu(x @ variables["a"]) @ variables["a"])
        return x @ variables["b"].T

    batch = jax.random.normal(jax.random.key(2), (3, 2, 2, 3))
    reads = find_reads(apply, variables, (2, 2, 3))
    assert [(read.kernel, read.inputs, read.outputs) for read in reads] == [
        ("a", (0,), (1,)),
        ("a", (0,), (1,)),
        ("b", (1,), (0,)),
    ]
    assert errors(apply, reads, variables, batch).max() < 1e-5


def test_kernels_that_are_computed_are_left_out():
    def apply(variables, x):
        return x.reshape(len(x), -1) @ (variables["a"] * variables["s"])

    variables = {"a": jnp.ones((12, 5)), "s": jnp.ones(5)}
    assert find_reads(apply, variables, (2, 2, 3)) == ()
