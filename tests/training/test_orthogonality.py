"""Orthogonality penalties against NumPy in float64, written from the equations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from osp_jax.runtime.errors import InputError
from osp_jax.training.orthogonality import PENALTIES, conv_kernels, gram_error, gram_errors, penalty

WIDE = (3, 3, 2, 4)  # C_out < C_in * k * k
TALL = (1, 1, 3, 8)  # C_out > C_in * k * k
SHAPES = [WIDE, TALL, (3, 3, 1, 9), (1, 1, 4, 4), (3, 3, 4, 6)]


def random_kernel(shape, seed=0, scale=0.5):
    return np.random.default_rng(seed).normal(0, scale, shape)


def rows_of(kernel):
    return kernel.reshape(-1, kernel.shape[-1]).T


def orthonormal(shape):
    """A kernel whose matrix has all its singular values equal to 1."""
    left, _, right = np.linalg.svd(rows_of(random_kernel(shape)), full_matrices=False)
    return (left @ right).T.reshape(shape)


def residual_eigenvalues(kernel):
    """Of the smaller Gram matrix minus identity: squared singular values minus 1."""
    return np.linalg.svd(rows_of(kernel), compute_uv=False) ** 2 - 1


def by_hand(name, kernel):
    filters, inputs = rows_of(kernel).shape
    eigenvalues = residual_eigenvalues(kernel)
    if name == "none":
        return 0.0
    if name == "so":
        return (eigenvalues**2).sum()
    if name == "dso":  # the larger Gram matrix has zero eigenvalues besides, each of which is 1 off the identity
        return 2 * (eigenvalues**2).sum() + abs(filters - inputs)
    if name == "srip":
        return two_products(kernel)
    return self_convolution(kernel)


def two_products(kernel):
    w = rows_of(kernel)
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    residual = gram - np.eye(len(gram))
    direction = residual @ np.asarray(jax.random.uniform(jax.random.key(0), gram.shape[:1]), np.float64)
    return np.sum((residual @ (direction / np.linalg.norm(direction))) ** 2)


def self_convolution(kernel):
    k, _, inputs, filters = kernel.shape
    if k == 1:
        return np.sqrt((residual_eigenvalues(kernel) ** 2).sum())
    total = 0.0
    for p in range(filters):
        for q in range(filters):
            for dy in range(-(k // 2), k // 2 + 1):
                for dx in range(-(k // 2), k // 2 + 1):
                    value = -float(p == q and dy == dx == 0)
                    for y in range(k):
                        for x in range(k):
                            if 0 <= y + dy < k and 0 <= x + dx < k:
                                for c in range(inputs):
                                    value += kernel[y + dy, x + dx, c, p] * kernel[y, x, c, q]
                    total += value**2
    return np.sqrt(total)


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_penalty_is_what_its_equation_says(name, shape):
    kernel = random_kernel(shape)
    np.testing.assert_allclose(PENALTIES[name](jnp.float32(kernel)), by_hand(name, kernel), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_srip_is_the_squared_spectral_norm_where_one_direction_dominates(shape):
    left, values, right = np.linalg.svd(rows_of(random_kernel(shape)), full_matrices=False)
    kernel = ((left * np.where(np.arange(len(values)) == 0, 5.0, 1.1)) @ right).T.reshape(shape)
    largest = np.abs(residual_eigenvalues(kernel)).max()
    np.testing.assert_allclose(PENALTIES["srip"](jnp.float32(kernel)), largest**2, rtol=1e-2)


@pytest.mark.parametrize("shape", [WIDE, TALL], ids=["fewer filters", "more filters"])
def test_orthonormal_kernels_cost_nothing(shape):
    kernel = jnp.float32(orthonormal(shape))
    assert gram_error(kernel) < 1e-5
    assert PENALTIES["so"](kernel) < 1e-9
    assert PENALTIES["srip"](kernel) < 1e-9


def test_a_kernel_that_is_an_orthonormal_map_of_each_pixel_costs_nothing_in_ocnn():
    kernel = np.zeros((3, 3, 4, 4))
    kernel[1, 1] = orthonormal((1, 1, 4, 4))
    assert PENALTIES["ocnn"](jnp.float32(kernel)) < 1e-5
    assert PENALTIES["ocnn"](jnp.float32(orthonormal((1, 1, 4, 4)))) < 1e-5


def test_ocnn_sees_the_overlap_of_shifted_kernels_that_the_gram_matrix_does_not():
    kernel = np.zeros((3, 3, 1, 1))
    kernel[1, 0], kernel[1, 1] = 0.6, 0.8
    assert PENALTIES["so"](jnp.float32(kernel)) < 1e-9
    np.testing.assert_allclose(PENALTIES["ocnn"](jnp.float32(kernel)), np.sqrt(2) * 0.48, rtol=1e-5)


@pytest.mark.parametrize("name", PENALTIES)
def test_gradients_are_finite_at_an_orthonormal_kernel(name):
    centre = np.zeros((3, 3, 4, 4))
    centre[1, 1] = np.eye(4)
    for kernel in (centre, np.eye(4)[None, None], orthonormal(WIDE), orthonormal(TALL)):
        assert np.isfinite(jax.jit(jax.grad(PENALTIES[name]))(jnp.float32(kernel))).all()


PARAMS = {
    "stem": {"kernel": np.float32(random_kernel(WIDE))},
    "stage1": {"conv": {"kernel": np.float32(random_kernel((3, 3, 4, 4), seed=1)), "bias": np.ones(4)}},
    "head": {"kernel": np.float32(random_kernel((4, 3), seed=2)), "bias": np.ones(3)},
}


def test_the_penalty_of_a_network_is_the_sum_over_its_convolutions():
    total = by_hand("so", PARAMS["stem"]["kernel"]) + by_hand("so", PARAMS["stage1"]["conv"]["kernel"])
    np.testing.assert_allclose(penalty(PARAMS, "so"), total, rtol=1e-5)
    assert set(gram_errors(PARAMS)) == {"stem", "stage1/conv"}
    errors = residual_eigenvalues(PARAMS["stem"]["kernel"])
    np.testing.assert_allclose(gram_errors(PARAMS)["stem"], np.linalg.norm(errors), rtol=1e-5)


def test_the_layer_filter_chooses_by_path():
    assert set(conv_kernels(PARAMS, "stage")) == {"stage1/conv"}
    assert set(conv_kernels(PARAMS, "^st")) == {"stem", "stage1/conv"}
    by_filter = penalty(PARAMS, "so", "^stem$")
    np.testing.assert_allclose(by_filter, by_hand("so", PARAMS["stem"]["kernel"]), rtol=1e-5)


def test_a_network_without_convolutions_has_no_penalty():
    assert penalty({"head": PARAMS["head"]}, "so") == 0


def test_an_unknown_penalty_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"unknown orthogonality penalty 'soft'; choose one of: none, so, dso"):
        penalty(PARAMS, "soft")


@pytest.mark.parametrize(("layers", "message"), [("(", "is not a regular expression"), ("stage9", "matches none of")])
def test_a_layer_filter_that_cannot_be_used_is_refused(layers, message):
    with pytest.raises(InputError, match=message):
        penalty(PARAMS, "so", layers)


@pytest.mark.parametrize("name", ["so", "dso", "srip", "ocnn"])
def test_descent_on_the_penalty_alone_makes_filters_more_orthogonal(name):
    kernel = jnp.float32(random_kernel((3, 3, 3, 6), scale=0.3))
    optimiser = optax.sgd(0.01)

    @jax.jit
    def step(kernel, _):
        updates, _ = optimiser.update(jax.grad(PENALTIES[name])(kernel), optimiser.init(kernel))
        return optax.apply_updates(kernel, updates), None

    after, _ = jax.lax.scan(step, kernel, None, length=100)
    assert gram_error(after) < 0.5 * gram_error(kernel)
