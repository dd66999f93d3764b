"""Rules for gains, operation by operation, in networks that are plain functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from osp_jax.program.gates import capture, find_gates
from osp_jax.runtime.errors import InputError

SHAPE = (8, 8, 3)
RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(3, *SHAPE)), jnp.float32)


def draw(*shape):
    return jnp.asarray(RNG.normal(size=shape) / np.sqrt(max(1, np.prod(shape[:-1]))), jnp.float32)


def flat(x):
    return x.reshape(len(x), -1)


def conv(x, w, padding="SAME", **options):
    return lax.conv_general_dilated(x, w, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)


def groups(apply, variables):
    """By name of each group the paths of its writers and of its readers."""
    gates = find_gates(apply, variables, IMAGES)
    return {
        gate.name: ([factor.path for factor in gate.writers], [factor.path for factor in gate.readers])
        for gate in gates.groups
    }


HOMOGENEOUS = {
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,
    "identity": lambda x: x,
    "maximum with zero": lambda x: jnp.maximum(x, 0),
    "maximum with itself": lambda x: jnp.maximum(x, 0.1 * x),
    "minimum": lambda x: -jnp.minimum(-x, 0),
    "clip from below": lambda x: jnp.clip(x, 0),
    "where": lambda x: jnp.where(x > 0, x, 0.1 * x),
    "where, slopes": lambda x: jnp.where(x >= 0, 1, 0.2) * x,
    "select": lambda x: lax.select(x > 0, x, jnp.zeros_like(x)),
    "times a mask": lambda x: x * (x > 0),
    "absolute value": lambda x: (x + jnp.abs(x)) / 2,
    "relu under jit": lambda x: jax.jit(lambda y: nn.relu(y))(x),
    "relu under checkpoint": lambda x: jax.checkpoint(lambda y: nn.relu(y))(x),
    "constant mask": lambda x: nn.relu(x) * jnp.arange(6.0),
    "stop_gradient": lambda x: lax.stop_gradient(nn.relu(x)),
}
OTHERS = {
    "relu6": nn.relu6,
    "clip": lambda x: jnp.clip(x, 0, 6),
    "gelu": nn.gelu,
    "silu": nn.silu,
    "sigmoid": nn.sigmoid,
    "tanh": jnp.tanh,
    "elu": nn.elu,
    "hard_swish": nn.hard_swish,
    "square": jnp.square,
    "product with itself": lambda x: x * x,
    "shifted relu": lambda x: jnp.maximum(x, -0.1),
    "shifted threshold": lambda x: jnp.where(x > 0.1, x, 0),
    "softmax": nn.softmax,
    "normalised": lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True),
    "standardised": lambda x: jax.nn.standardize(x, axis=-1),
}
MLP = {"one": {"w": draw(192, 6), "b": draw(6)}, "two": {"w": draw(6, 5), "b": draw(5)}}


def mlp(activation):
    return lambda v, x: activation(flat(x) @ v["one"]["w"] + v["one"]["b"]) @ v["two"]["w"] + v["two"]["b"]


@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_writers_carry_gains_through_positively_homogeneous_activations(name):
    assert groups(mlp(HOMOGENEOUS[name]), MLP) == {"one": (["one/w", "one/b"], ["two/w"])}


@pytest.mark.parametrize("name", OTHERS)
def test_other_activations_leave_the_gains_to_the_readers(name):
    assert groups(mlp(OTHERS[name]), MLP) == {"two/input": ([], ["two/w"])}


ATTENTION = {
    "patch": {"w": draw(4, 4, 3, 8), "b": draw(8)},
    "token": draw(1, 1, 8),
    "position": draw(1, 5, 8),
    "norm": {"scale": draw(8), "bias": draw(8)},
    "qkv": {"w": draw(8, 24), "b": draw(24)},
    "out": {"w": draw(8, 8), "b": draw(8)},
    "head": {"w": draw(8, 5), "b": draw(5)},
}


def attention(split, attend):
    """A block with one matrix for queries, keys and values, and two heads; the head reads the class token."""

    def apply(v, x):
        x = lax.conv_general_dilated(x, v["patch"]["w"], (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = (x + v["patch"]["b"]).reshape(len(x), -1, 8)
        x = jnp.concatenate([jnp.broadcast_to(v["token"], (len(x), 1, 8)), x], 1) + v["position"]
        y = jax.nn.standardize(x, axis=-1) * v["norm"]["scale"] + v["norm"]["bias"]
        y = attend(*split(y @ v["qkv"]["w"] + v["qkv"]["b"])).reshape(x.shape)
        x = x + y @ v["out"]["w"] + v["out"]["b"]
        return x[:, 0] @ v["head"]["w"] + v["head"]["b"]

    return apply


def by_axis(qkv):
    return jnp.moveaxis(qkv.reshape(*qkv.shape[:2], 3, 2, 4), 2, 0)


def by_columns(qkv):
    return [part.reshape(*qkv.shape[:2], 2, 4) for part in jnp.split(qkv, 3, -1)]


def by_einsum(q, k, v):
    return jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k)), v)


@pytest.mark.parametrize("split", [by_axis, by_columns])
@pytest.mark.parametrize("attend", [by_einsum, jax.nn.dot_product_attention, nn.dot_product_attention])
def test_attention_has_one_channel_a_head(split, attend):
    gates = find_gates(attention(split, attend), ATTENTION, IMAGES)
    assert [(gate.name, gate.channels) for gate in gates.groups] == [("norm", 8), ("qkv", 2), ("head/input", 8)]
    heads = gates.groups[1]
    assert [factor.path for factor in heads.writers] == ["qkv/w", "qkv/b"]
    assert heads.writers[1].index == (-1,) * 16 + (0,) * 4 + (1,) * 4  # queries and keys stay
    assert heads.readers[0].index == (0,) * 4 + (1,) * 4
    assert gates.last.writers == ()  # the stream is written by several, and read on the way


def test_a_group_shared_by_several_readers_is_gated_in_all_of_them():
    variables = {"a": draw(192, 6), "b": draw(6, 4), "c": draw(6, 4), "head": draw(4, 5)}

    def apply(v, x):
        x = nn.gelu(flat(x) @ v["a"])
        return nn.gelu(x @ v["b"] + x @ v["c"]) @ v["head"]

    assert groups(apply, variables) == {"b/input": ([], ["b", "c"]), "head/input": ([], ["head"])}


def test_a_value_that_something_else_reads_too_is_not_gated_at_its_readers():
    variables = {"a": draw(192, 6), "b": draw(6, 6), "head": draw(6, 5)}

    def apply(v, x):
        x = nn.relu(flat(x) @ v["a"])
        return (x + nn.gelu(x @ v["b"])) @ v["head"]

    assert groups(apply, variables) == {"a": (["a"], []), "head/input": ([], ["head"])}


def test_a_shared_kernel_carries_no_gains_of_one_call():
    variables = {"a": draw(192, 6), "s": draw(6, 6), "head": draw(6, 5)}

    def apply(v, x):
        return nn.relu(nn.relu(nn.relu(flat(x) @ v["a"]) @ v["s"]) @ v["s"]) @ v["head"]

    assert groups(apply, variables) == {"a": (["a"], []), "head/input": ([], ["head"])}


def test_a_gated_linear_unit_is_gated_in_its_linear_half():
    variables = {"gate": draw(192, 6), "up": draw(192, 6), "head": draw(6, 5)}

    def apply(v, x):
        return (nn.silu(flat(x) @ v["gate"]) * (flat(x) @ v["up"])) @ v["head"]

    assert groups(apply, variables) == {"up": (["up"], ["head"])}


def test_norms_are_gated_at_scale_and_bias_and_their_kernels_zeroed_only_where_channels_stay_apart():
    variables = {
        "conv": {"w": draw(3, 3, 3, 6), "b": draw(6)},
        "bn": {"scale": draw(6), "bias": draw(6), "mean": draw(6), "var": draw(6) ** 2},
        "next": {"w": draw(1, 1, 6, 4)},
        "ln": {"scale": draw(4), "bias": draw(4)},
        "head": {"w": draw(4, 5)},
    }

    def apply(v, x):
        x = conv(x, v["conv"]["w"]) + v["conv"]["b"]
        x = (x - v["bn"]["mean"]) * (lax.rsqrt(v["bn"]["var"] + 1e-5) * v["bn"]["scale"]) + v["bn"]["bias"]
        x = conv(nn.relu(x), v["next"]["w"])
        x = jax.nn.standardize(x, axis=-1) * v["ln"]["scale"] + v["ln"]["bias"]
        return nn.relu(x).mean((1, 2)) @ v["head"]["w"]

    gates = find_gates(apply, variables, IMAGES)
    assert [[factor.path for factor in gate.writers] for gate in gates.groups] == [
        ["bn/scale", "bn/bias"],
        ["ln/scale", "ln/bias"],
    ]
    assert [[factor.path for factor in gate.kernels] for gate in gates.groups] == [["conv/w"], []]
    # A filter is the output behind the affine operations, or behind as many of them as keep channels apart.
    assert [(gate.name, [factor.path for factor in gate.writers]) for gate in gates.filters] == [
        ("conv", ["bn/scale", "bn/bias"]),
        ("next", ["next/w"]),
    ]


def test_a_norm_without_scale_leaves_the_gains_to_the_readers():
    def apply(v, x):
        return nn.relu(jax.nn.standardize(flat(x) @ v["a"], axis=-1)) @ v["head"]

    assert groups(apply, {"a": draw(192, 6), "head": draw(6, 5)}) == {"head/input": ([], ["head"])}


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: nn.max_pool(x, (3, 3), (2, 2), "SAME"),
        lambda x: nn.avg_pool(x, (3, 3), (2, 2), "SAME", count_include_pad=False),
        lambda x: x.reshape(len(x), 4, 2, 4, 2, 6).mean((2, 4)),
        lambda x: jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))[:, ::2, 1:-1:2],
    ],
)
def test_a_flattened_map_is_gated_by_channel_where_it_is_made(pool):
    variables = {"conv": {"w": draw(3, 3, 3, 6), "b": draw(6)}, "head": {"w": draw(96, 5)}}

    def apply(v, x):
        return flat(pool(nn.relu(conv(x, v["conv"]["w"]) + v["conv"]["b"]))) @ v["head"]["w"]

    gates = find_gates(apply, variables, IMAGES)
    (gate,) = gates.groups
    assert (gate.name, gate.channels, gate.readers[0].index) == ("conv", 6, tuple(range(6)) * 16)
    _, values, read = capture(apply, gates, variables, IMAGES)
    assert values["conv"].shape[-1] == 6
    assert read.shape == (3, 96)


def test_grouped_convolutions_and_shuffled_channels():
    variables = {"a": draw(3, 3, 3, 6), "b": draw(3, 3, 2, 9), "d": draw(3, 3, 1, 9), "head": draw(9, 5)}

    def apply(v, x):
        x = nn.relu(conv(x, v["a"]))
        x = jnp.swapaxes(x.reshape(*x.shape[:3], 2, 3), 3, 4).reshape(x.shape)
        x = nn.relu(conv(x, v["b"], feature_group_count=3))
        x = nn.relu(conv(x, v["d"], feature_group_count=9))
        return x.mean((1, 2)) @ v["head"]

    gates = find_gates(apply, variables, IMAGES)
    assert [gate.name for gate in gates.groups] == ["a", "b", "d"]
    (factor,) = gates.groups[0].readers
    assert factor.shape == (1, 1, 2, 9)
    assert factor.index == (0,) * 3 + (1,) * 3 + (2,) * 3 + (3,) * 3 + (4,) * 3 + (5,) * 3
    assert gates.groups[1].readers[0].shape == (1, 1, 1, 9)


@pytest.mark.parametrize(
    ("head", "shape"),
    [
        (lambda x, w: x.mean((1, 2)) @ w, (6, 5)),
        (lambda x, w: x.mean((1, 2)) @ w.T, (5, 6)),
        (lambda x, w: conv(x, w).mean((1, 2)), (1, 1, 6, 5)),
        (lambda x, w: flat(conv(x.mean((1, 2), keepdims=True), w)), (1, 1, 6, 5)),
        (lambda x, w: jax.vmap(lambda y: w @ y)(x.mean((1, 2))), (5, 6)),
    ],
)
def test_a_head_is_a_dense_layer_or_a_convolution_of_any_layout(head, shape):
    def apply(v, x):
        return head(nn.relu(conv(x, v["a"])), v["head"]["w"]) + v["head"]["b"]

    gates = find_gates(apply, {"a": draw(1, 1, 3, 6), "head": {"w": draw(*shape), "b": draw(5)}}, IMAGES)
    assert (gates.head.kernel, gates.head.bias) == ("head/w", "head/b")
    assert (shape[gates.head.input_axis], shape[gates.head.output_axis]) == (6, 5)
    assert gates.features == "a"


@pytest.mark.parametrize(
    "head",
    [
        lambda x, w: nn.softmax(x @ w),
        lambda x, w: x @ w / 2,
        lambda x, w: x @ (w / jnp.linalg.norm(w, axis=0)),
        lambda x, w: x @ w + 2 * x @ w,
        lambda x, w: jnp.tanh(x @ w),
    ],
)
def test_logits_that_are_no_product_are_refused(head):
    with pytest.raises(InputError, match="linear head"):
        find_gates(lambda v, x: head(nn.relu(flat(x) @ v["a"]), v["w"]), {"a": draw(192, 6), "w": draw(6, 5)}, IMAGES)


def test_logits_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="finite"):
        find_gates(mlp(nn.relu), jax.tree.map(lambda leaf: leaf * np.nan, MLP), IMAGES)


def test_a_function_that_returns_more_than_logits_is_refused():
    with pytest.raises(InputError, match="logits"):
        find_gates(lambda v, x: (flat(x) @ v, x), draw(192, 5), IMAGES)


def test_a_loop_is_passed_by():
    variables = {"a": draw(192, 6), "s": draw(3, 6, 6), "head": draw(6, 5)}

    def apply(v, x):
        x, _ = lax.scan(lambda x, w: (nn.relu(x @ w), None), nn.relu(flat(x) @ v["a"]), v["s"])
        return x @ v["head"]

    assert groups(apply, variables) == {"head/input": ([], ["head"])}


def test_one_hidden_unit_is_one_channel():
    variables = {"a": draw(192, 1), "head": draw(1, 5)}
    assert groups(lambda v, x: nn.relu(flat(x) @ v["a"]) @ v["head"], variables) == {"a": (["a"], ["head"])}


def test_a_linear_model_is_gated_at_its_inputs():
    gates = find_gates(lambda v, x: flat(x) @ v, draw(192, 5), IMAGES)
    assert (gates.last.channels, gates.last.writers) == (192, ())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_network_that_computes_in_another_type_is_proved_in_float32(dtype):
    variables = {"a": draw(3, 3, 3, 6), "b": draw(6, 4), "head": draw(4, 5)}

    def apply(v, x):
        v = jax.tree.map(lambda leaf: leaf.astype(dtype), v)
        x = nn.relu(conv(x.astype(dtype), v["a"])).mean((1, 2))
        return (nn.gelu(x @ v["b"]) @ v["head"]).astype(jnp.float32)

    assert groups(apply, variables) == {"a": (["a"], ["b"]), "head/input": ([], ["head"])}
    stored = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
    assert groups(apply, stored) == groups(apply, variables)
