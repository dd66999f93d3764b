"""The CPU convolution, compared with the definition and XLA's."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from osp_jax.networks.cpu import convolution, winograd
from osp_jax.networks.cpu.convolution import conv_general_dilated
from tests.small_networks import assert_close

NUMBERS = ("NHWC", "HWIO", "NHWC")


def xla(inputs, kernel, strides, padding, **options):
    return lax.conv_general_dilated(inputs, kernel, strides, padding, dimension_numbers=NUMBERS, **options)


def by_definition(inputs, kernel, strides, padding):
    """A matrix product for each position of the kernel."""
    x = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
    sizes = [(side - k) // stride for side, k, stride in zip(x.shape[1:3], kernel.shape, strides, strict=False)]

    def shifted(i, j):
        rows, columns = (
            slice(start, start + stride * size + 1, stride)
            for start, stride, size in zip((i, j), strides, sizes, strict=True)
        )
        return x[:, rows, columns] @ kernel[i, j]

    return sum(shifted(i, j) for i in range(kernel.shape[0]) for j in range(kernel.shape[1]))


def value_and_gradients(conv, inputs, kernel, weights, strides, padding, **options):
    """Output, and the gradients of a random linear function of it."""

    def loss(inputs, kernel):
        out = conv(inputs, kernel, strides, padding, **options)
        return (out.astype(jnp.float32) * weights).sum(), out

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(inputs, kernel)
    return out, *gradients


def normal(rng, *shape, dtype=jnp.float32):
    return jnp.asarray(rng.normal(size=shape), dtype)


@st.composite
def problems(draw):
    """(input shape, kernel shape, strides, padding, positions a block); the output has at least one position."""
    batch, channels, filters = (draw(st.integers(1, 6)) for _ in range(3))
    k_h, k_w = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    # XLA's input gradient is wrong on CPUs where an edge is padded by a side of the kernel or more (jaxlib 0.10.2).
    padding = tuple((draw(st.integers(0, min(2, k - 1))), draw(st.integers(0, min(2, k - 1)))) for k in (k_h, k_w))
    height, width = (draw(st.integers(max(1, k - sum(pads)), 6)) for k, pads in zip((k_h, k_w), padding, strict=True))
    # XLA's CPU compiler aborts on the input gradient of some where a side of the kernel is its stride (jaxlib 0.10.2).
    strides = tuple(draw(st.integers(1, 3).filter(lambda s, k=k: s != k or k == 1)) for k in (k_h, k_w))
    # Few positions a block, so that a batch takes several blocks, also where it is not a multiple of them.
    block = draw(st.sampled_from([1, 30, 4096]))
    return (batch, height, width, channels), (k_h, k_w, channels, filters), strides, padding, block


@settings(deadline=None, max_examples=12)
@given(problems(), st.integers(0, 99))
def test_output_and_gradients_are_those_of_the_definition(problem, seed):
    shape, kernel_shape, strides, padding, block = problem
    rng = np.random.default_rng(seed)
    inputs, kernel = normal(rng, *shape), normal(rng, *kernel_shape)
    weights = normal(rng, *jax.eval_shape(lambda x, k: xla(x, k, strides, padding), inputs, kernel).shape)
    expected = value_and_gradients(by_definition, inputs, kernel, weights, strides, padding)
    with mock.patch.object(convolution, "_BLOCK", block):
        ours = value_and_gradients(conv_general_dilated, inputs, kernel, weights, strides, padding)
    for actual, wanted in zip(ours, expected, strict=True):
        assert_close(actual, wanted)


def test_the_kernel_gradient_does_not_depend_on_the_block(monkeypatch):
    rng = np.random.default_rng(0)
    inputs, gradient = normal(rng, 7, 6, 5, 3), normal(rng, 7, 3, 3, 4)
    gradients = []
    for block in (1, 20, 10_000):  # 1, 1 (7 is prime) and 7 images at a time
        monkeypatch.setattr(convolution, "_BLOCK", block)
        patch_gradient = convolution.blocked_kernel_gradient
        gradients.append(patch_gradient(inputs, gradient, (3, 3, 3, 4), (2, 2), ((1, 1), (1, 1))))
    assert_close(gradients[1], gradients[0])
    assert_close(gradients[2], gradients[0])


@settings(deadline=None, max_examples=6)
@given(st.sampled_from([((1, 1, 2), (1, 3)), ((3, 4, 2), (5, 2))]), st.sampled_from([1, 4096]), st.integers(0, 99))
def test_winograd_s_algorithm_gives_output_and_gradients_of_the_definition(shapes, block, seed):
    (batch, height, width), channels = shapes
    rng = np.random.default_rng(seed)
    inputs, kernel = normal(rng, batch, 2 * height, 2 * width, channels[0]), normal(rng, 3, 3, *channels)
    weights, pads = normal(rng, batch, 2 * height, 2 * width, channels[1]), ((1, 1), (1, 1))
    expected = value_and_gradients(by_definition, inputs, kernel, weights, (1, 1), pads)
    with mock.patch.object(convolution, "_CHANNELS", 1), mock.patch.object(winograd, "_BLOCK", block):
        ours = value_and_gradients(conv_general_dilated, inputs, kernel, weights, (1, 1), pads)
    assert_close(ours[0], winograd.convolve(inputs, kernel), 1e-6)
    for actual, wanted in zip(ours, expected, strict=True):
        assert_close(actual, wanted)


@pytest.mark.parametrize(
    ("side", "channels", "kernel_size", "strides", "pad", "dtype", "chosen"),
    [
        (8, 64, 3, 1, 1, jnp.float32, True),
        (7, 64, 3, 1, 1, jnp.float32, False),  # tiles are two pixels wide
        (8, 8, 3, 1, 1, jnp.float32, False),
        (8, 64, 1, 1, 0, jnp.float32, False),
        (8, 64, 3, 2, 1, jnp.float32, False),
        (8, 64, 3, 1, 0, jnp.float32, False),
        (8, 64, 3, 1, 1, jnp.bfloat16, False),
    ],
)
def test_winograd_s_algorithm_takes_what_it_can_and_where_it_pays(
    side, channels, kernel_size, strides, pad, dtype, chosen, monkeypatch
):
    calls = []
    monkeypatch.setattr(winograd, "convolve", lambda x, k: calls.append(1) or xla(x, k, (1, 1), ((1, 1), (1, 1))))
    inputs, kernel = jnp.zeros((2, side, side, channels), dtype), jnp.zeros((kernel_size,) * 2 + (channels,) * 2, dtype)
    conv_general_dilated(inputs, kernel, (strides,) * 2, ((pad, pad),) * 2)
    assert bool(calls) == chosen


def test_gradients_under_vmap_over_images_and_kernels_are_those_of_xla():
    rng = np.random.default_rng(0)
    inputs, kernel, weights = normal(rng, 3, 2, 5, 5, 2), normal(rng, 3, 3, 3, 2, 4), normal(rng, 3, 2, 5, 5, 4)
    pads = ((1, 1), (1, 1))

    def batched(conv):
        return jax.jit(jax.vmap(lambda x, k, w: value_and_gradients(conv, x, k, w, (1, 1), pads)))(
            inputs, kernel, weights
        )

    for actual, expected in zip(batched(conv_general_dilated), batched(xla), strict=True):
        assert_close(actual, expected)


def test_bfloat16_gradients_keep_the_type_and_agree_to_its_precision():
    rng = np.random.default_rng(0)
    inputs, kernel = normal(rng, 4, 6, 6, 3, dtype=jnp.bfloat16), normal(rng, 3, 3, 3, 4, dtype=jnp.bfloat16)
    weights, pads = normal(rng, 4, 6, 6, 4), ((1, 1), (1, 1))
    ours = value_and_gradients(conv_general_dilated, inputs, kernel, weights, (1, 1), pads)
    exact = [x.astype(jnp.float32) for x in (inputs, kernel)]
    for actual, expected in zip(ours, value_and_gradients(xla, *exact, weights, (1, 1), pads), strict=True):
        assert actual.dtype == jnp.bfloat16
        assert_close(actual.astype(jnp.float32), expected, 0.02)


@pytest.mark.parametrize(
    ("padding", "options", "in_features"),
    [
        (((1, 1), (1, 1)), {"feature_group_count": 2}, 2),
        (((2, 2), (2, 2)), {"rhs_dilation": (2, 2)}, 4),
        (((1, 1), (1, 1)), {"lhs_dilation": (2, 2)}, 4),
        ("SAME", {}, 4),
    ],
    ids=["grouped", "dilated", "transposed", "padding by name"],
)
def test_what_is_not_plain_is_passed_on_to_xla(padding, options, in_features):
    rng = np.random.default_rng(0)
    inputs, kernel = normal(rng, 2, 6, 6, 4), normal(rng, 3, 3, in_features, 6)
    weights = normal(rng, *jax.eval_shape(lambda x, k: xla(x, k, (1, 1), padding, **options), inputs, kernel).shape)
    expected = value_and_gradients(xla, inputs, kernel, weights, (1, 1), padding, **options)
    ours = value_and_gradients(
        conv_general_dilated, inputs, kernel, weights, (1, 1), padding, dimension_numbers=NUMBERS, **options
    )
    for actual, reference in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(actual, reference)
