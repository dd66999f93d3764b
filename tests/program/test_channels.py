"""Which parameters gate which channel, found in our networks and in foreign ones."""

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from osp_jax.networks.resnet import ResNet
from osp_jax.program.channels import capture, find_channels
from osp_jax.runtime.errors import InputError
from tests.small_networks import (
    CLASSES,
    FOREIGN,
    MODELS,
    SHAPE,
    ChannelsFirst,
    OtherActivation,
    assert_close,
    case,
    random_variables,
)


def writers(channels) -> dict[str, list[str]]:
    return {group.name: [writer.path for writer in group.writers] for group in channels.groups}


def leaves(case_) -> dict[str, list[str]]:
    """Names of the parameters of each module by its path."""
    found: dict[str, list[str]] = {}
    for *path, leaf in traverse_util.flatten_dict(case_.variables["params"]):
        found.setdefault("/".join(path), []).append(leaf)
    return found


def test_a_stream_with_an_identity_shortcut_is_one_group_with_the_stem():
    assert writers(case("resnet8").channels) == {
        "stage1_block1/bn1": ["stage1_block1/bn1"],
        "stage1_block1/bn2": ["stem_bn", "stage1_block1/bn2"],
        "stage2_block1/bn1": ["stage2_block1/bn1"],
        "stage2_block1/bn_shortcut": ["stage2_block1/bn2", "stage2_block1/bn_shortcut"],
        "stage3_block1/bn1": ["stage3_block1/bn1"],
        "stage3_block1/bn_shortcut": ["stage3_block1/bn2", "stage3_block1/bn_shortcut"],
    }


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_all_blocks_of_a_stage_write_one_stream(stem):
    model = ResNet((2, 2), CLASSES, width=4, stem=stem)
    images = jax.ShapeDtypeStruct((1, *SHAPE), np.float32)
    assert writers(find_channels(model, random_variables(model, images), images)) == {
        "stage1_block1/bn1": ["stage1_block1/bn1"],
        "stage1_block2/bn1": ["stage1_block2/bn1"],
        "stage1_block2/bn2": ["stem_bn", "stage1_block1/bn2", "stage1_block2/bn2"],
        "stage2_block1/bn1": ["stage2_block1/bn1"],
        "stage2_block2/bn1": ["stage2_block2/bn1"],
        "stage2_block2/bn2": ["stage2_block1/bn2", "stage2_block1/bn_shortcut", "stage2_block2/bn2"],
    }


def test_a_bottleneck_stage_starts_a_stream_of_its_own():
    found = writers(case("resnet50").channels)
    assert found["stem_bn"] == ["stem_bn"]  # the first stage widens, so its shortcut is a convolution
    assert found["stage1_block3/bn3"] == [
        "stage1_block1/bn3",
        "stage1_block1/bn_shortcut",
        "stage1_block2/bn3",
        "stage1_block3/bn3",
    ]


@pytest.mark.parametrize("name", [name for name in MODELS if name != "allcnn"])
def test_the_writers_are_all_batch_norms_each_once(name):
    norms = [path for path, names in leaves(case(name)).items() if "scale" in names]
    found = [writer for group in case(name).channels.groups for writer in group.writers]
    assert sorted(writer.path for writer in found) == sorted(norms)
    assert {writer.leaves for writer in found} == {("scale", "bias")}
    assert all(writer.kernel == writer.path.replace("bn", "conv") for writer in found)


def test_without_norms_kernel_and_bias_of_every_convolution_but_the_head_gate():
    found = [(w.path, w.leaves, w.kernel) for group in case("allcnn").channels.groups for w in group.writers]
    assert found == [(f"conv{i}", ("kernel", "bias"), f"conv{i}") for i in range(1, 9)]


@pytest.mark.parametrize("name", [*MODELS, *FOREIGN])
def test_a_group_has_as_many_channels_as_every_parameter_that_gates_it(name):
    network = case(name)
    params = traverse_util.flatten_dict(network.variables["params"], sep="/")
    for group in network.channels.groups:
        for writer in group.writers:
            assert {params[f"{writer.path}/{leaf}"].shape[-1] for leaf in writer.leaves} == {group.channels}


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet8", "head"),
        ("vgg11", "head"),
        ("allcnn", "head"),
        ("FlatMLP", "Dense_2"),
        ("PoolNet", "Dense_0"),
        ("Nested", "classify"),
    ],
)
def test_the_head_is_the_module_that_gives_the_logits(name, head):
    assert case(name).channels.head == head


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("FlatMLP", {"Dense_0": ["Dense_0"], "Dense_1": ["Dense_1"]}),
        ("PoolNet", {"Conv_0": ["Conv_0"], "Conv_1": ["Conv_1"]}),
        (
            "PlainResidual",
            {
                "BatchNorm_1": ["BatchNorm_1"],
                "BatchNorm_3": ["BatchNorm_3"],
                "BatchNorm_4": ["BatchNorm_0", "BatchNorm_2", "BatchNorm_4"],
            },
        ),
        # The stream is read by norms before any ReLU, so that no factor on its writers would gate it.
        ("PreActivation", {path: [path] for path in ("bn1a", "bn1b", "bn2a", "bn2b", "bn_last")}),
        ("LayerNormed", {"norm1": ["norm1"], "norm2": ["norm2"]}),
        (
            "Nested",
            {path: [path] for path in ("near/first/layers_0", "near/norm", "far/first/layers_0", "far/norm")},
        ),
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
    assert writers(case(name).channels) == expected


@pytest.mark.parametrize("name", ["FlatMLP", "PoolNet", "PlainResidual", "PreActivation", "Nested", "Wrapped"])
def test_capture_returns_the_network_s_own_logits_and_the_head_s_input(name):
    model, variables, images, channels = case(name)
    logits, activations, head_input = jax.jit(lambda v: capture(model, v, images, channels))(variables)
    assert_close(logits, model.apply(variables, images, False), 1e-6)
    head = variables["params"][channels.head]
    assert_close(head_input @ head["kernel"] + head["bias"], logits, 1e-6)
    for group in channels.groups:
        assert activations[group.name].shape[-1] == group.channels
        assert activations[group.name].min() == 0 < activations[group.name].max()


@pytest.mark.parametrize(
    ("activation", "operation"), [(nn.sigmoid, "logistic"), (nn.tanh, "tanh"), (nn.gelu, "integer_pow|tanh|erf")]
)
def test_a_network_without_relu_is_an_input_error_that_names_the_operation(activation, operation):
    model = OtherActivation(activation)
    images = jax.ShapeDtypeStruct((1, *SHAPE), np.float32)
    with pytest.raises(InputError, match=operation):
        find_channels(model, random_variables(model, images), images)


def test_positions_on_the_last_axis_are_not_taken_for_channels():
    images = jax.ShapeDtypeStruct((1, *SHAPE), np.float32)
    with pytest.raises(InputError):
        find_channels(ChannelsFirst(), random_variables(ChannelsFirst(), images), images)
