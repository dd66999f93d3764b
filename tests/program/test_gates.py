"""Gates of networks of every kind: masking variables changes the logits as scaling values does."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from osp_jax.networks.resnet import ResNet
from osp_jax.program.flat import evaluate, flatten
from osp_jax.program.gates import capture, find_gates, gates_of, noise_images, spread
from osp_jax.runtime.errors import InputError
from osp_jax.trees import edited, leaves_by_path
from tests.small_networks import (
    CLASSES,
    DEEP,
    FOREIGN,
    MODELS,
    RELU_MODELS,
    SHAPE,
    ChannelsFirst,
    OtherActivation,
    SmoothLast,
    assert_close,
    captured_forward,
    case,
    model_of,
    random_variables,
    slow_where,
    sown_forward,
)
from tests.zoo import LARGE, ZOO, images


@lru_cache
def network(name):
    apply, variables = ZOO[name]()
    return apply, variables, images(name, 3), find_gates(apply, variables, images(name, 3))


def random_gains(channels, seed=0):
    rng = np.random.default_rng(seed)
    gains = rng.uniform(0, 1, channels) * (rng.uniform(size=channels) > 0.3)
    gains[rng.integers(channels)] = 0
    return gains.astype(np.float32)


def masked(variables, factors, gain):
    leaves = leaves_by_path(variables)
    changes = {factor.path: np.asarray(leaves[factor.path]) * spread(factor, gain) for factor in factors}
    return edited(variables, changes)


def relative(actual, expected):
    return np.abs(np.asarray(actual) - np.asarray(expected)).max() / np.abs(np.asarray(expected)).max()


@lru_cache
def compiled(name):
    """The network itself, and with the values of all its gates scaled: `(variables)` and `(variables, scales)`."""
    apply, _, batch, gates = network(name)
    program = flatten(apply, *network(name)[1:3])

    def scaled(variables, gains):
        scale = {}
        for gate, gain in zip([*gates.groups, *gates.filters], gains, strict=True):
            rank = len(program.jaxpr.eqns[gate.value].outvars[0].aval.shape)
            gain = gain.reshape([-1 if axis == gate.axis else 1 for axis in range(rank)])
            scale[gate.value] = scale.get(gate.value, 1) * gain
        return evaluate(program, [*jax.tree.leaves(variables), batch], scale=scale)[0][0]

    return jax.jit(lambda variables: apply(variables, batch)), jax.jit(scaled)


@pytest.mark.parametrize("name", ZOO)
def test_masking_each_gate_equals_scaling_its_value(name):
    _, variables, _, gates = network(name)
    plain, scaled = compiled(name)
    every = [*gates.groups, *gates.filters]
    for number, gate in enumerate(every):
        gains = [np.ones(other.channels, np.float32) for other in every]
        gains[number] = random_gains(gate.channels, number)
        expected = scaled(variables, gains)
        assert gate.writers or gate.readers
        for factors in filter(None, (gate.writers, gate.readers)):
            assert relative(plain(masked(variables, factors, gains[number])), expected) < 1e-5


@pytest.mark.parametrize("name", slow_where(ZOO, LARGE))
def test_kernels_of_channels_with_gain_zero_may_be_zeroed(name):
    _, variables, _, gates = network(name)
    plain, _ = compiled(name)
    for number, gate in enumerate([*gates.groups, *gates.filters]):
        if gate.kernels:
            gain = random_gains(gate.channels, number)
            expected = plain(masked(variables, gate.writers, gain))
            erased = masked(masked(variables, gate.writers, gain), gate.kernels, (gain > 0).astype(np.float32))
            assert relative(plain(erased), expected) < 1e-5


@pytest.mark.parametrize("name", slow_where(ZOO, LARGE))
def test_the_head_reads_a_group_whose_gains_its_kernel_absorbs(name):
    _, variables, _, gates = network(name)
    kernel = leaves_by_path(variables)[gates.head.kernel]
    (factor,) = gates.last.readers
    assert factor.path == gates.head.kernel
    assert kernel.shape[gates.head.input_axis] == len(factor.index)


@pytest.mark.parametrize("name", slow_where(ZOO, LARGE))
def test_the_logits_are_the_head_s_input_times_its_kernel(name):
    apply, variables, batch, gates = network(name)
    logits, values, read = jax.jit(lambda v: capture(apply, gates, v, batch))(variables)
    leaves = leaves_by_path(variables)
    kernel = jnp.squeeze(jnp.moveaxis(leaves[gates.head.kernel], gates.head.output_axis, -1))
    expected = read.mean(tuple(range(1, read.ndim - 1))) @ kernel
    expected = expected if gates.head.bias is None else expected + leaves[gates.head.bias]
    assert relative(logits, expected) < 1e-5
    assert relative(logits, jax.jit(apply)(variables, batch)) < 1e-5
    assert list(sorted(values)) == sorted(gate.name for gate in gates.groups)
    assert all(values[gate.name].shape[-1] == gate.channels for gate in gates.groups)
    assert all(len(value) == len(batch) for value in values.values())


@pytest.mark.parametrize("name", slow_where(ZOO, LARGE))
def test_names_are_unique_and_gates_are_hashable(name):
    gates = network(name)[3]
    for some in (gates.groups, gates.filters):
        assert len({gate.name for gate in some}) == len(some)
    assert hash(gates) == hash(network(name)[3])


def test_a_network_without_a_linear_head_is_refused():
    def apply(variables, x):
        return jax.nn.softmax(x.reshape(len(x), -1) @ variables["w"])

    with pytest.raises(InputError, match="no linear head"):
        find_gates(apply, {"w": jnp.ones((12, 5))}, jnp.ones((2, 2, 2, 3)))


class GroupedHead(nn.Module):
    """A head that is no product of features and kernel."""

    @nn.compact
    def __call__(self, x, train):
        return nn.Conv(6, (1, 1), feature_group_count=3, name="head")(nn.Conv(3, (1, 1))(x)).mean((1, 2))


def test_a_head_in_groups_of_features_is_refused():
    with pytest.raises(InputError, match="no linear head"):
        found_in(GroupedHead())


def test_capture_refuses_another_program():
    apply, variables, batch, gates = network("tutorial_cnn")
    with pytest.raises(InputError, match="other operations"):
        capture(lambda v, x: 2 * apply(v, x), gates, variables, batch)


# Small networks in Flax, ours and foreign ones: which leaves gate which channel.


def modules(factors) -> list[str]:
    """Of the factors' leaves, each once, in their order."""
    return list(dict.fromkeys(factor.path.removeprefix("params/").rpartition("/")[0] for factor in factors))


def sides(gates) -> dict[str, tuple[list[str], list[str]]]:
    """(modules that write, modules that read) by group."""
    return {group.name: (modules(group.writers), modules(group.readers)) for group in gates.groups}


def found_in(module):
    """The gates of a Linen module with random variables."""
    variables = random_variables(module, np.zeros((1, *SHAPE), np.float32))
    return find_gates(model_of(module, variables).apply, variables, jnp.asarray(noise_images(SHAPE)))


def test_what_a_block_reads_and_writes_inside_is_gated_at_its_norms_and_a_stream_where_it_is_read():
    assert sides(case("resnet8").gates) == {
        "stem_bn": (["stem_bn"], []),  # behind the ReLU, where the first block and its shortcut read it
        "stage1_block1/bn1": (["stage1_block1/bn1"], ["stage1_block1/conv2"]),
        "stage2_block1/conv1/input": ([], ["stage2_block1/conv1", "stage2_block1/conv_shortcut"]),
        "stage2_block1/bn1": (["stage2_block1/bn1"], ["stage2_block1/conv2"]),
        "stage2_block1/bn_shortcut": (
            ["stage2_block1/bn2", "stage2_block1/bn_shortcut"],
            ["stage3_block1/conv1", "stage3_block1/conv_shortcut"],
        ),
        "stage3_block1/bn1": (["stage3_block1/bn1"], ["stage3_block1/conv2"]),
        "stage3_block1/bn_shortcut": (["stage3_block1/bn2", "stage3_block1/bn_shortcut"], ["head"]),
    }


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_a_stream_that_later_blocks_add_to_is_gated_at_the_head_alone(stem):
    gates = found_in(ResNet((2, 2), CLASSES, width=4, stem=stem))
    found = sides(gates)
    inner = {f"stage{s}_block{b}/bn1" for s in (1, 2) for b in (1, 2)}
    assert inner <= found.keys()
    assert all(found[name] == ([name], [name.replace("bn1", "conv2")]) for name in inner)
    assert found["stage2_block1/bn_shortcut"] == (["stage2_block1/bn2", "stage2_block1/bn_shortcut"], [])
    assert found["head/input"] == ([], ["head"])
    assert gates.features == "head/input"


def test_a_bottleneck_stage_starts_a_stream_of_its_own():
    found = sides(case("resnet50").gates)
    assert found["stem_bn"] == (["stem_bn"], ["stage1_block1/conv1", "stage1_block1/conv_shortcut"])
    assert found["stage1_block1/bn_shortcut"] == (["stage1_block1/bn3", "stage1_block1/bn_shortcut"], [])
    assert "stage1_block3/bn3" not in found


@pytest.mark.parametrize("name", slow_where([name for name in RELU_MODELS if name != "allcnn"], DEEP))
def test_the_filters_of_every_convolution_are_gated_at_its_batch_norm(name):
    gates, paths = case(name).gates, leaves_by_path(case(name).variables)
    kernels = {path for path in paths if path.endswith("kernel") and path != gates.head.kernel}
    assert {kernel.path for unit in gates.filters for kernel in unit.kernels} == kernels
    for unit in gates.filters:
        norm = unit.name.replace("conv", "bn")
        assert [factor.path for factor in unit.writers] == [f"params/{norm}/scale", f"params/{norm}/bias"]
        assert [kernel.path for kernel in unit.kernels] == [f"params/{unit.name}/kernel"]


def test_without_norms_kernel_and_bias_of_every_convolution_but_the_head_gate():
    gates = case("allcnn").gates
    expected = [[f"params/conv{i}/kernel", f"params/conv{i}/bias"] for i in range(1, 9)]
    assert [[factor.path for factor in group.writers] for group in gates.groups] == expected
    assert [[kernel.path for kernel in group.kernels] for group in gates.groups] == [paths[:1] for paths in expected]


@pytest.mark.parametrize("name", slow_where([*MODELS, *FOREIGN], DEEP))
def test_every_channel_has_its_gain_on_every_leaf_that_gates_it(name):
    leaves = leaves_by_path(case(name).variables)
    for gate in (*case(name).gates.groups, *case(name).gates.filters):
        assert gate.factors
        for factor in (*gate.writers, *gate.readers, *gate.kernels):
            assert np.broadcast_shapes(factor.shape, leaves[factor.path].shape) == leaves[factor.path].shape
            assert {*factor.index} - {-1} == {*range(gate.channels)}


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("resnet8", "head"),
        ("vgg11", "head"),
        ("allcnn", "head"),
        ("vit", "head"),
        ("FlatMLP", "Dense_2"),
        ("PoolNet", "Dense_0"),
        ("Nested", "classify"),
    ],
)
def test_the_head_is_the_module_that_gives_the_logits(name, module):
    head = case(name).gates.head
    assert (head.kernel, head.bias) == (f"params/{module}/kernel", f"params/{module}/bias")
    shape = leaves_by_path(case(name).variables)[head.kernel].shape
    assert shape[head.output_axis] == CLASSES


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("FlatMLP", {"Dense_0": ["Dense_0"], "Dense_1": ["Dense_1"]}),
        ("PoolNet", {"Conv_0": ["Conv_0"], "Conv_1": ["Conv_1"]}),
        # The stream of BatchNorm_0, 2 and 4 is gated where it starts, and where the head reads it.
        ("PlainResidual", {**{f"BatchNorm_{i}": [f"BatchNorm_{i}"] for i in (0, 1, 3)}, "Dense_0/input": []}),
        # The stream is read by norms before any ReLU, so that no factor on its writers would gate it.
        ("PreActivation", {path: [path] for path in ("bn1a", "bn1b", "bn2a", "bn2b", "bn_last")}),
        ("LayerNormed", {"norm1": ["norm1"], "norm2": ["norm2"]}),
        ("PaddedShortcut", {"bn1": ["bn1"], "bn2": ["bn2"], "head/input": []}),
        # A row of the head for each position: its channels are those of the flattened map.
        ("FlattenedEarly", {"conv1": ["conv1"], "head/input": []}),
        ("Nested", {path: [path] for path in ("near/first/layers_0", "near/norm", "far/first/layers_0", "far/norm")}),
        (
            "Wrapped",
            {
                path: [path]
                for path in (
                    "rematerialised/first/layers_0",
                    "rematerialised/norm",
                    "compiled/first/layers_0",
                    "compiled/norm",
                )
            },
        ),
    ],
)
def test_channels_of_a_network_that_was_not_written_for_us_are_found(name, expected):
    assert {group.name: modules(group.writers) for group in case(name).gates.groups} == expected


@pytest.mark.parametrize("name", ["FlatMLP", "PoolNet", "PlainResidual", "PreActivation", "Nested", "Wrapped"])
def test_capture_returns_the_network_s_own_logits_and_the_head_s_input(name):
    variables, gates = case(name).variables, case(name).gates
    logits, values, head_input = captured_forward(name)(variables)
    assert_close(logits, sown_forward(name)(variables)[0], 1e-6)
    leaves = leaves_by_path(variables)
    assert_close(head_input @ leaves[gates.head.kernel] + leaves[gates.head.bias], logits, 1e-6)
    for group in gates.groups:  # behind the ReLU
        assert values[group.name].shape[-1] == group.channels
        assert values[group.name].min() == 0 < values[group.name].max()


@pytest.mark.parametrize("activation", [nn.sigmoid, nn.tanh, nn.gelu])
def test_behind_an_activation_that_is_no_relu_the_gains_stand_at_the_readers(activation):
    gates = found_in(OtherActivation(activation))
    assert sides(gates) == {"Dense_1/input": ([], ["Dense_1"])}
    assert gates.last.channels == 6


def test_a_smooth_activation_in_front_of_the_head_leaves_the_groups_below_as_they_are():
    assert sides(found_in(SmoothLast())) == {"hidden": (["hidden"], ["smooth"]), "head/input": ([], ["head"])}


def test_positions_are_not_taken_for_channels_where_there_are_as_many():
    """Channels on the second axis of b c h w, 16 of each."""
    gates = found_in(ChannelsFirst())
    assert [(gate.channels, gate.axis) for gate in gates.groups] == [(16, 1)]
    assert modules(gates.last.writers) == ["BatchNorm_0"]


def test_gates_are_found_once_for_a_function_and_shapes():
    network, other = case("FlatMLP"), case("PoolNet")
    again = gates_of(network.model.apply, jax.tree.map(lambda leaf: leaf + 1, network.variables), network.images[:1])
    assert again is network.gates
    assert gates_of(other.model.apply, other.variables, other.images) is other.gates != network.gates
