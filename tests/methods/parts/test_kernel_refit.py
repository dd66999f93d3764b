"""Refitted kernels: derivatives by hand, and recovery of the kernels behind given features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from osp_jax.methods.parts.kernel_refit import derivatives_of, measured, refit, solve_ridge
from osp_jax.program.tail import tail_of
from osp_jax.trees import edited, leaves_by_path
from tests.program.test_tail import MOMENTS, Pooled, uint8_images, zoo_model
from tests.small_networks import SHAPE, assert_close, case, model_of, random_variables
from tests.zoo import image_shape


class ScaledBias(nn.Module):
    """A bias in front of a norm without one."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(4, (3, 3), strides=4, name="conv")(x)
        x = nn.BatchNorm(use_running_average=not train, use_bias=False, name="norm")(x)
        return nn.Dense(5, name="head")(nn.silu(x).mean((1, 2)))


class Branches(nn.Module):
    """Two branches side by side, one of them strided less and pooled."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        wide = nn.Conv(3, (3, 3), strides=2, name="wide")(x)
        narrow = nn.relu(nn.Conv(2, (1, 1), strides=4, name="narrow")(x))
        x = jnp.concatenate([nn.max_pool(nn.relu(wide), (2, 2), (2, 2)), narrow], -1)
        return nn.Dense(5, name="head")(x.mean((1, 2)))


def start(model, count=16, shape=SHAPE, batches=2):
    tail = tail_of(model, count, shape)
    kept = [tail.early(model.variables, (uint8_images(count, shape, seed), *MOMENTS)) for seed in range(batches)]
    return tail, kept


def features_of(tail, kept, variables):
    late = jax.jit(tail.late)
    return jnp.stack([late((variables, tail.no_shifts()), values).features for values in kept])


def test_ridge_regression_is_that_of_the_normal_equations(key):
    rows = jax.random.normal(key, (3, 30, 4))
    wanted = jax.random.normal(jax.random.fold_in(key, 1), (3, 30))
    spread = jnp.asarray([1.0, 0.1, 10, 1])
    gram, product = jnp.einsum("cnr,cns->crs", rows, rows), jnp.einsum("cnr,cn->cr", rows, wanted)
    found = solve_ridge(gram, product, spread, 0.5)
    for c in range(3):
        system = np.float64(gram[c]) + 0.5 * np.diag(np.float64(spread))
        np.testing.assert_allclose(found[:, c], np.linalg.solve(system, np.float64(product[c])), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["PoolNet", "FlattenedEarly"])
def test_derivatives_are_those_of_each_feature_by_its_own_channel_and_no_other_channel_counts(name):
    network = case(name)
    tail, (kept,) = start(network.model, count=2, batches=1)
    _, (found,) = derivatives_of(network.variables, kept, tail.no_shifts(), tail=tail)
    jacobian = jax.jacobian(lambda shift: tail.late((network.variables, [shift]), kept).features)(tail.no_shifts()[0])
    channels = found.shape[-1]
    whole = np.asarray(jacobian).reshape(2, channels, 2, -1, channels)  # feature by result, images and channels
    own = np.stack([whole[i, :, i] for i in range(2)])  # images, features, positions, channels
    np.testing.assert_allclose(np.einsum("ncpc->npc", own), found, atol=1e-6)
    assert not np.einsum("ncpd,cd->ncpd", own, 1 - np.eye(channels)).any()
    assert not whole[0, :, 1].any()


def test_the_factor_and_the_bias_are_those_in_front_of_the_activation():
    module = ScaledBias()
    variables = random_variables(module, np.zeros((1, *SHAPE), np.float32))
    tail, kept = start(model_of(module, variables))
    (response,) = measured(variables, tail, kept[0])
    norm = variables["params"]["norm"]["scale"] / np.sqrt(variables["batch_stats"]["norm"]["var"] + 1e-5)
    np.testing.assert_allclose(response.factor, norm, rtol=1e-4)
    assert response.bias == "params/conv/bias"
    np.testing.assert_allclose(response.bias_factor, norm, rtol=1e-4)
    assert response.positions == tuple(range(16))


def test_a_layer_scale_is_a_factor_and_no_bias():
    module = Pooled()
    variables = random_variables(module, np.zeros((1, *SHAPE), np.float32))
    tail, kept = start(model_of(module, variables))
    (response,) = measured(variables, tail, kept[0])
    np.testing.assert_allclose(response.factor, variables["params"]["scale"], rtol=1e-4)
    assert response.bias == "params/branch/bias"


def test_of_a_transformer_only_the_class_token_counts():
    model = zoo_model("vit")
    tail, kept = start(model, count=4, shape=image_shape("vit"), batches=1)
    (response,) = measured(model.variables, tail, kept[0])
    assert response.positions == (0,)


NETWORKS = {
    "resnet8": lambda: case("resnet8").model,  # two kernels write the same features
    "PoolNet": lambda: case("PoolNet").model,
    "Pooled": lambda: model_of(Pooled(), random_variables(Pooled(), np.zeros((1, *SHAPE), np.float32))),
    "ScaledBias": lambda: model_of(ScaledBias(), random_variables(ScaledBias(), np.zeros((1, *SHAPE), np.float32))),
    "Branches": lambda: model_of(Branches(), random_variables(Branches(), np.zeros((1, *SHAPE), np.float32))),
    "vit": lambda: zoo_model("vit"),
    "equinox_cnn": lambda: zoo_model("equinox_cnn"),  # kernels (outputs, inputs)
}


@pytest.mark.parametrize("name", NETWORKS)
def test_features_that_other_kernels_make_are_found_again_and_nothing_else_is_touched(name, key):
    model = NETWORKS[name]()
    shape = image_shape(name) if name in ("vit", "equinox_cnn") else SHAPE
    tail, kept = start(model, shape=shape)
    leaves = leaves_by_path(model.variables)
    paths = [writer.layer.path for writer in tail.writers]
    noise = {p: 0.2 * leaves[p].std() * jax.random.normal(key, leaves[p].shape) for p in paths}
    targets = features_of(tail, kept, edited(model.variables, {p: leaves[p] + noise[p] for p in paths}))
    before, ones = features_of(tail, kept, model.variables), jnp.ones(targets.shape[:2])
    given = {"directions": 0, "ridge": 1e-5, "rounds": 4}
    new = refit(model.variables, tail, kept, ones, targets, ones / ones.size, **given)
    after = features_of(tail, kept, new)
    assert jnp.abs(after - targets).mean() < 0.1 * jnp.abs(before - targets).mean()
    changed = {path for path, leaf in leaves_by_path(new).items() if not np.array_equal(leaf, leaves[path])}
    biases = {path for writer in tail.writers for path in writer.biases}
    assert set(paths) <= changed <= set(paths) | biases
    assert len(changed) <= 2 * len(paths)


def test_a_feature_that_has_its_target_stays():
    model = case("resnet8").model
    tail, kept = start(model)
    targets, ones = features_of(tail, kept, model.variables), jnp.ones((2, 16))
    given = {"directions": 0, "ridge": 1e-3, "rounds": 2}
    new = refit(model.variables, tail, kept, ones, targets, ones, **given)
    for path, leaf in leaves_by_path(new).items():
        assert_close(leaf, leaves_by_path(model.variables)[path], 1e-5)
