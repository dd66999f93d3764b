"""The layouts of kernels in their leaves, in programs of any convention."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from osp_jax.program.kernels import KernelAxes, kernel_axes

SHAPE = (8, 8, 3)


def test_kernels_of_flax_have_their_outputs_last():
    def apply(v, x):
        x = nn.relu(lax.conv_general_dilated(x, v["a"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
        return x.mean((1, 2)) @ v["b"]

    variables = {"a": jnp.ones((3, 1, 3, 6)), "b": jnp.ones((6, 5))}
    found = kernel_axes(apply, variables, SHAPE)
    assert found == {"a": KernelAxes((2,), (3,), (0, None)), "b": KernelAxes((0,), (1,), ())}


def test_kernels_of_pytorch_have_their_outputs_first():
    def apply(v, x):
        x = lax.conv_general_dilated(x.transpose(0, 3, 1, 2), v["a.weight"], (1, 1), "SAME")
        x = lax.conv_general_dilated(nn.relu(x), v["depthwise.weight"], (1, 1), "SAME", feature_group_count=6)
        return x.mean((2, 3)) @ (1.0 * v["b.weight"].T) + v["b.bias"]

    shapes = {"a.weight": (6, 3, 3, 3), "depthwise.weight": (6, 1, 3, 3), "b.weight": (5, 6), "b.bias": (5,)}
    found = kernel_axes(apply, {path: jnp.ones(shape) for path, shape in shapes.items()}, SHAPE)
    assert found == {
        "a.weight": KernelAxes((1,), (0,), (2, 3)),
        "b.weight": KernelAxes((1,), (0,), ()),
        "depthwise.weight": KernelAxes((), (0,), (2, 3)),
    }


def test_a_kernel_of_several_heads_has_several_axes_of_outputs():
    def apply(v, x):
        return jnp.einsum("bn,nhd->bhd", x.reshape(len(x), -1), v["query"]).reshape(len(x), -1) @ v["head"]

    found = kernel_axes(apply, {"query": np.ones((192, 2, 4)), "head": np.ones((8, 5))}, SHAPE)
    assert found["query"] == KernelAxes((0,), (1, 2), ())


def test_computed_kernels_and_parts_of_leaves_are_left_out():
    def apply(v, x):
        x = nn.relu(x.reshape(len(x), -1) @ (v["a"] / jnp.linalg.norm(v["a"])))
        return nn.relu(x @ v["both"][0]) @ v["both"][1]

    assert kernel_axes(apply, {"a": np.ones((192, 5)), "both": np.ones((2, 5, 5))}, SHAPE) == {}
