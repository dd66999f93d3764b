"""The networks: shapes, sizes, precision, and recorded values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from osp_jax.networks import MODELS, count_parameters, create_model, init_variables
from osp_jax.networks.cifarnet import cosine_kernel, identity_kernel
from osp_jax.networks.layers import max_pool
from osp_jax.runtime.errors import InputError
from tests.small_networks import (
    CLASSES,
    DEEP,
    RELU_MODELS,
    SHAPE,
    assert_close,
    captured_forward,
    case,
    relu_after,
    shapes,
    slow_where,
    sown,
    sown_forward,
)

IMAGES = jax.ShapeDtypeStruct((2, *SHAPE), jnp.float32)


def parameters(name: str, classes: int = 10, image_shape: tuple[int, int, int] = (32, 32, 3), **options) -> int:
    model = create_model(name, classes, image_shape, **options)
    return count_parameters(shapes(model, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_parameters_are_float32_and_the_computation_is_in_the_given_type(name, dtype):
    model = create_model(name, CLASSES, SHAPE, width=4, dtype=dtype)
    variables = shapes(model, IMAGES)
    logits, recorded = jax.eval_shape(lambda v, x: sown(model, v, x), variables, IMAGES)
    assert (logits.shape, logits.dtype) == ((2, CLASSES), jnp.float32)
    kept = jax.tree.leaves((variables["params"], variables.get("batch_stats", {})))
    assert {leaf.dtype for leaf in kept} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in recorded.values()} == {jnp.dtype(dtype)}


def test_bfloat16_gives_nearly_the_logits_of_float32():
    _, variables, images, _ = case("resnet8")

    def logits(dtype: str) -> jax.Array:
        model = create_model("resnet8", CLASSES, SHAPE, width=4, dtype=dtype)
        return jax.jit(lambda variables: model.apply(variables, images, False))(variables)

    assert_close(logits("bfloat16"), logits("float32"), 0.1)
    assert not np.array_equal(logits("bfloat16"), logits("float32"))


# Counts published for the same architectures: torchvision for ImageNet, the usual CIFAR implementations otherwise
# (for VGG less their convolution biases, for resnet20 with projection shortcuts).
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet8", 78_042),
        ("resnet10", 4_903_242),
        ("resnet18", 11_173_962),
        ("resnet20", 272_474),
        ("resnet34", 21_282_122),
        ("resnet50", 23_520_842),
        ("vgg11", 9_231_114 - 2_752),
        ("vgg16", 14_728_266 - 4_224),
        ("allcnn", 1_369_738),
        # By hand: nine places of a kernel times the products of channels, two numbers a norm, and the head.
        ("cifarnet", 9 * (3 * 24 + 24 * 64 + 64**2 + 64 * 256 + 3 * 256**2) + 2 * (24 + 2 * 64 + 4 * 256) + 2570),
    ],
)
def test_parameter_counts_are_the_published_ones(name, count):
    assert parameters(name) == count


@pytest.mark.parametrize(("name", "count"), [("resnet18", 11_689_512), ("resnet50", 25_557_032)])
def test_parameter_counts_at_imagenet_size_are_torchvisions(name, count):
    assert parameters(name, 1000, (224, 224, 3)) == count


@pytest.mark.parametrize(("side", "kernel"), [(32, 3), (64, 3), (65, 7)])
def test_the_automatic_stem_follows_the_image_size(side, kernel):
    model = create_model("resnet8", 2, (side, side, 3), width=4)
    variables = shapes(model, jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))
    assert variables["params"]["stem_conv"]["kernel"].shape == (kernel, kernel, 3, 4)


def test_the_imagenet_stem_quarters_the_map_and_the_cifar_stem_keeps_it():
    for stem, side in [("imagenet", 4), ("cifar", 16)]:
        model = create_model("resnet8", 2, SHAPE, width=4, stem=stem)
        _, recorded = jax.eval_shape(lambda v, x, m=model: sown(m, v, x), shapes(model, IMAGES), IMAGES)
        assert recorded["stage1_block1/relu2"].shape == (2, side, side, 4)


@pytest.mark.parametrize(
    ("arguments", "choices"),
    [
        ({"name": "resnet7"}, ["resnet8", "allcnn"]),
        ({"dtype": "float16"}, ["float32", "bfloat16"]),
        ({"stem": "big"}, ["auto", "cifar", "imagenet"]),
        ({"width": -1}, ["width"]),
    ],
)
def test_an_unknown_choice_is_an_input_error_that_lists_the_choices(arguments, choices):
    with pytest.raises(InputError) as error:
        create_model(**{"name": "resnet8", "num_classes": 2, "image_shape": SHAPE, **arguments})
    assert all(choice in str(error.value) for choice in choices)


@pytest.mark.parametrize("name", ["resnet8", "allcnn"])
def test_initialised_variables_have_the_model_s_shapes_and_give_finite_logits(name, key):
    model = create_model(name, CLASSES, SHAPE, width=4)
    variables = init_variables(model, SHAPE, key)
    expected = shapes(model, IMAGES)
    assert jax.tree.map(jnp.shape, variables["params"]) == jax.tree.map(jnp.shape, expected["params"])
    assert jax.tree.map(jnp.shape, variables["batch_stats"]) == jax.tree.map(jnp.shape, expected.get("batch_stats", {}))
    assert np.isfinite(jax.jit(lambda v: model.apply(v, jnp.ones((2, *SHAPE)), False))(variables)).all()


@pytest.mark.parametrize("name", slow_where(RELU_MODELS, DEEP))
def test_captured_activations_are_the_recorded_ones(name):
    variables, gates = case(name).variables, case(name).gates
    logits, recorded = sown_forward(name)(variables)
    captured_logits, captured, head_input = captured_forward(name)(variables)
    assert_close(captured_logits, logits, 1e-6)
    assert captured.keys() == {group.name for group in gates.groups}
    for group, value in captured.items():
        assert_close(value, recorded[relu_after(group, recorded)], 1e-6)
    last = captured[gates.features]
    assert_close(head_input, last if name == "allcnn" else last.mean((1, 2)), 1e-6)


@given(
    st.sampled_from([(2, 2, 2, 1), (1, 4, 7, 3), (3, 5, 6, 2)]).flatmap(
        lambda shape: hnp.arrays(np.float32, shape, elements=st.integers(-9, 9).map(float))
    )
)
@settings(deadline=None, max_examples=30)
def test_the_pool_is_flax_s_and_a_gradient_of_one_goes_to_the_largest_of_each_window(x):
    pooled = max_pool(jnp.asarray(x))
    np.testing.assert_array_equal(pooled, nn.max_pool(jnp.asarray(x), (2, 2), (2, 2)))
    gradient = np.asarray(jax.grad(lambda x: max_pool(x).sum())(jnp.asarray(x)))
    np.testing.assert_allclose(gradient.sum(), pooled.size, rtol=1e-5)
    height, width = (side // 2 * 2 for side in x.shape[1:3])
    largest = np.repeat(np.repeat(pooled, 2, 1), 2, 2)
    assert not gradient[:, :height, :width][x[:, :height, :width] < largest].any()


def test_cifarnet_starts_from_the_image_s_own_patterns_and_passes_channels_on(key):
    stem = np.asarray(cosine_kernel(key, (3, 3, 3, 24)))
    patterns = stem[..., :12].reshape(27, 12)
    np.testing.assert_allclose(patterns.T @ patterns, np.eye(12), atol=1e-6)
    np.testing.assert_array_equal(stem[..., 12:], -stem[..., :12])
    np.testing.assert_allclose(patterns[:, 0], 27**-0.5, rtol=1e-6)  # the mean of the patch comes first
    with pytest.raises(ValueError, match="patterns"):
        cosine_kernel(key, (1, 1, 3, 8))
    x = jax.random.normal(key, (2, 6, 6, 4))
    for filters in (3, 4, 6):
        kernel = identity_kernel(key, (3, 3, 4, filters))
        y = nn.Conv(filters, (3, 3), use_bias=False).apply({"params": {"kernel": kernel}}, x)
        same = min(4, filters)
        np.testing.assert_allclose(y[..., :same], x[..., :same], atol=1e-6)
        assert same == filters or y[..., same:].std() > 0
