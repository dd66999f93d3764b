"""Programs from PyTorch: channels first, kernels (out, in, ...), a flat dict with dotted keys."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from osp_jax.program.candidates import module_of
from osp_jax.program.gates import find_gates

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(3, 8, 8, 3)), jnp.float32)


def draw(*shape):
    return jnp.asarray(RNG.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:]))), jnp.float32)


def conv(x, w, stride=1):
    return lax.conv_general_dilated(x, w, (stride, stride), [(1, 1), (1, 1)])


def linear(x, w, b):
    """As `addmm` computes it: beta * bias + alpha * x @ w.T."""
    return 1 * b + 1 * (x @ w.T)


def norm(v, name, x):
    """Batch norm with running statistics, as sub, mul, mul, add."""
    mean, var, scale, bias = (v[f"{name}.{key}"].reshape(-1, 1, 1) for key in ("mean", "var", "weight", "bias"))
    return (x - mean) * lax.rsqrt(var + 1e-5) * scale + bias


def norm_variables(name, channels):
    values = {"mean": draw(channels), "var": 1 + draw(channels) ** 2, "weight": 1 + draw(channels)}
    return {f"{name}.{key}": value for key, value in {**values, "bias": draw(channels)}.items()}


RESIDUAL = {
    "conv1.weight": draw(4, 3, 3, 3),
    **norm_variables("bn1", 4),
    "layer1.0.conv1.weight": draw(8, 4, 3, 3),
    **norm_variables("layer1.0.bn1", 8),
    "layer1.0.conv2.weight": draw(8, 8, 3, 3),
    **norm_variables("layer1.0.bn2", 8),
    "fc.weight": draw(5, 8),
    "fc.bias": draw(5),
}


def residual(v, images):
    """A residual block whose shortcut takes every second pixel and pads channels with zeros, as in CIFAR's ResNets."""
    x = nn.relu(norm(v, "bn1", conv(images.transpose(0, 3, 1, 2), v["conv1.weight"])))
    y = nn.relu(norm(v, "layer1.0.bn1", conv(x, v["layer1.0.conv1.weight"], 2)))
    y = norm(v, "layer1.0.bn2", conv(y, v["layer1.0.conv2.weight"]))
    x = nn.relu(y + jnp.pad(x[:, :, ::2, ::2], [(0, 0), (2, 2), (0, 0), (0, 0)]))
    return linear(x.mean((2, 3)), v["fc.weight"], v["fc.bias"])


def test_a_residual_network_is_gated_under_the_names_of_its_modules():
    gates = find_gates(residual, RESIDUAL, IMAGES)
    assert [(gate.name, gate.channels) for gate in gates.groups] == [("bn1", 4), ("layer1.0.bn1", 8), ("fc/input", 8)]
    inner = gates.groups[1]
    assert [factor.path for factor in inner.writers] == ["layer1.0.bn1.weight", "layer1.0.bn1.bias"]
    assert [(factor.path, factor.shape) for factor in inner.kernels] == [("layer1.0.conv1.weight", (8, 1, 1, 1))]
    assert [(factor.path, factor.shape) for factor in inner.readers] == [("layer1.0.conv2.weight", (1, 8, 1, 1))]
    assert [gate.name for gate in gates.filters] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]


def test_the_head_is_found_behind_factors_of_one():
    head = find_gates(residual, RESIDUAL, IMAGES).head
    assert (head.kernel, head.input_axis, head.output_axis, head.bias) == ("fc.weight", 1, 0, "fc.bias")


@pytest.mark.parametrize(
    "same", [lambda x: x * 1.0, lambda x: 1.0 * x, lambda x: x / 1, lambda x: x + 0, lambda x: 0 + x, lambda x: x - 0.0]
)
def test_operations_that_change_nothing_are_seen_through(same):
    variables = {"a.weight": draw(4, 192), "b.weight": draw(6, 4), "b.bias": draw(6), "c.weight": draw(5, 6)}

    def apply(v, images):
        x = same(nn.relu(same(images.reshape(len(images), -1) @ same(v["a.weight"]).T)))
        x = nn.gelu(same(same(x) @ v["b.weight"].T) + same(v["b.bias"]))
        return same(same(x) @ same(v["c.weight"]).T)

    gates = find_gates(apply, variables, IMAGES)
    assert [(gate.name, len(gate.writers)) for gate in gates.groups] == [("a", 1), ("c/input", 0)]
    assert [gate.name for gate in gates.filters] == ["a", "b"]
    assert (gates.head.kernel, gates.head.bias) == ("c.weight", None)


def test_attention_has_one_channel_a_head_where_heads_are_merged_with_images():
    variables = {
        "patch.weight": draw(8, 3, 4, 4),
        "in_proj_weight": draw(24, 8),
        "in_proj_bias": draw(24),
        "out_proj.weight": draw(8, 8),
        "head.weight": draw(5, 8),
    }

    def apply(v, images):
        x = lax.conv_general_dilated(images.transpose(0, 3, 1, 2), v["patch.weight"], (4, 4), "VALID")
        x = x.reshape(len(x), 8, -1).transpose(2, 0, 1)  # position image channel
        places, count, _ = x.shape
        qkv = jnp.split(x @ v["in_proj_weight"].T + v["in_proj_bias"], 3, -1)
        q, k, value = (part.reshape(places, count * 2, 4).transpose(1, 0, 2) for part in qkv)
        y = lax.batch_matmul(nn.softmax(lax.batch_matmul(q, k.transpose(0, 2, 1))), value)
        y = y.reshape(count, 2, places, 4).transpose(2, 0, 1, 3)
        y = y.reshape(places * count, 8) @ v["out_proj.weight"].T
        return y.reshape(places, count, 8)[0] @ v["head.weight"].T

    gates = find_gates(apply, variables, IMAGES)
    heads = gates.groups[1]  # behind the patches
    assert (heads.channels, [factor.path for factor in heads.writers]) == (2, ["in_proj_weight", "in_proj_bias"])
    assert heads.writers[1].index == (-1,) * 16 + (0,) * 4 + (1,) * 4  # queries and keys stay
    assert heads.readers[0].index == (0,) * 4 + (1,) * 4


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("params/block/conv/kernel", "block/conv"),
        ("layers/0/weight", "layers/0"),
        ("layer1.0.bn1.weight", "layer1.0.bn1"),
        ("fc.weight", "fc"),
        ("pos_embedding", "pos_embedding"),
    ],
)
def test_a_leaf_belongs_to_the_module_in_front_of_its_own_name(path, module):
    assert module_of(path) == module
