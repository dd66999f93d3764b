"""The shared part of EU-k and CF-k: the last layers, the parameters that may change, and the rate by epoch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from osp_jax.interop.function import from_function
from osp_jax.interop.linen import from_linen
from osp_jax.methods.parts.last_layers import PartlyTraining, last_leaves, leaves_in_order, restart_rates
from osp_jax.methods.parts.retain_loss import retain_loss
from osp_jax.model import Model, every_leaf, in_params
from osp_jax.networks import init_variables
from osp_jax.runtime.errors import InputError
from osp_jax.training.descent import Forward, split_variables
from osp_jax.trees import leaf_paths
from tests.methods.loss_by_hand import cross_entropy_by_hand, without_augmentation
from tests.small_networks import CLASSES, FOREIGN, MEAN, SHAPE, STD
from tests.zoo import ZOO, image_shape

IMAGE, BATCH = (8, 8, 1), np.array([5, 40, 41])


class BackToFront(nn.Module):
    """Called in another order than it is named and built in; one layer is called twice."""

    def setup(self) -> None:
        self.a_last, self.shared, self.z_first = nn.Dense(CLASSES), nn.Dense(6), nn.Dense(6)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.shared(nn.relu(self.z_first(x.reshape(x.shape[0], -1)[:, :6])))
        return self.a_last(nn.relu(self.shared(x)))


class ModeInTheCall(nn.Module):
    """A norm that is told its mode when it is called."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.BatchNorm(name="norm")(nn.Conv(4, (3, 3), name="conv")(x), use_running_average=not train)
        return nn.Dense(10, name="head")(nn.relu(x).mean((1, 2)))


def model_of(module: nn.Module, shape: tuple[int, ...]) -> Model:
    variables = init_variables(module, shape, jax.random.key(0))
    return from_linen(module, variables, mean=(0.5,), std=(0.3,), class_names=[str(c) for c in range(CLASSES)])


def last_modules(model: Model, shape: tuple[int, ...], k: int) -> set[str]:
    return {path.split("/")[1] for path in last_leaves(leaves_in_order(model, shape), k)}


def loss_of_last(digits: Any, k: int) -> tuple[Any, Any, Any]:
    """(value, rest before, rest after) of the loss that trains the last `k` layers."""
    model, train = digits.model, digits.dataset.train
    trained = last_leaves(leaves_in_order(model, IMAGE), k)
    loss = retain_loss(Forward(PartlyTraining(model.train_apply, trained), True), without_augmentation(digits))
    params, rest = split_variables(model.replace(is_parameter=lambda path: path in trained and in_params(path)))
    value, after = loss(params, rest, {"indices": BATCH}, jax.random.key(0), train.images, train.labels)
    return value, rest, after


def test_layers_are_counted_in_the_order_of_the_forward_pass():
    model = model_of(BackToFront(), SHAPE)
    kernels = [path for path, is_kernel in leaves_in_order(model, SHAPE) if is_kernel]
    assert kernels == [f"params/{name}/kernel" for name in ("z_first", "shared", "a_last")]
    assert last_modules(model, SHAPE, 2) == {"shared", "a_last"}


def test_the_order_is_the_same_where_the_network_was_traced_before():
    model = model_of(FOREIGN["Wrapped"](), SHAPE)
    first = leaves_in_order(model, SHAPE)
    model.apply(model.variables, jnp.zeros((1, *SHAPE)))
    assert leaves_in_order(model, SHAPE) == first


def test_norms_behind_the_first_trained_layer_are_trained_with_it():
    model = model_of(FOREIGN["PaddedShortcut"](), SHAPE)
    assert last_leaves(leaves_in_order(model, SHAPE), 1) == {"params/head/kernel", "params/head/bias"}
    assert last_modules(model, SHAPE, 2) == {"conv3", "bn3", "head"}
    assert "batch_stats/bn3/mean" in last_leaves(leaves_in_order(model, SHAPE), 2)


@pytest.mark.parametrize("name", FOREIGN)
def test_every_leaf_of_any_network_belongs_to_a_layer(name):
    model = model_of(FOREIGN[name](), SHAPE)
    order = leaves_in_order(model, SHAPE)
    layers = sum(is_kernel for _, is_kernel in order)
    assert last_leaves(order, layers) == set(leaf_paths(model.variables))


def test_the_loss_of_the_head_alone_is_the_cross_entropy_by_the_running_statistics(digits):
    value, rest, after = loss_of_last(digits, 1)
    np.testing.assert_allclose(value, cross_entropy_by_hand(digits, BATCH, train=False), rtol=1e-3, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, after, rest)


def test_the_loss_of_all_layers_is_the_cross_entropy_in_train_mode(digits):
    value, rest, after = loss_of_last(digits, 4)
    np.testing.assert_allclose(value, cross_entropy_by_hand(digits, BATCH, train=True), rtol=1e-4)
    assert not any(jax.tree.leaves(jax.tree.map(np.array_equal, after, rest)))


def test_a_frozen_norm_keeps_its_statistics_also_where_the_call_tells_the_mode(digits):
    value, rest, after = loss_of_last(digits._replace(model=model_of(ModeInTheCall(), IMAGE)), 1)
    assert np.isfinite(value)
    jax.tree.map(np.testing.assert_array_equal, after, rest)


def test_kernels_are_counted_in_networks_that_are_no_linen_modules():
    apply, variables = ZOO["equinox_cnn"]()
    model = from_function(apply, variables, mean=MEAN, std=STD, class_names=list("abcde"))
    order = leaves_in_order(model, SHAPE)
    assert [path for path, is_kernel in order if is_kernel] == [f"layers/{n}/weight" for n in (0, 2, 3, 4)]
    assert last_leaves(order, 1) == {"layers/4/weight", "layers/4/bias"}
    assert len(last_leaves(order, 4)) == len(leaf_paths(variables))


@pytest.mark.parametrize("name", ["vit", "convnext", "nnx_vit"])
def test_embeddings_and_scales_are_no_layers(name):
    apply, variables = ZOO[name]()
    is_parameter = in_params if name != "nnx_vit" else every_leaf
    model = from_function(apply, variables, mean=MEAN, std=STD, class_names=list("abcde"), is_parameter=is_parameter)
    kernels = [path for path, is_kernel in leaves_in_order(model, image_shape(name)) if is_kernel]
    assert {path.rpartition("/")[2] for path in kernels} == {"kernel"}


def test_what_is_frozen_keeps_its_statistics_also_where_nothing_tells_it_from_the_rest():
    def train_apply(variables, images, rng):
        return images.mean((1, 2)) @ variables["weight"], {**variables, "mean": variables["mean"] + 1, "seen": images}

    variables = {"weight": jnp.ones((3, 2)), "mean": jnp.zeros(3), "seen": jnp.zeros((4, 3))}
    _, new = PartlyTraining(train_apply, frozenset({"weight", "seen"}))(variables, jnp.ones((4, 1, 1, 3)), None)
    assert not new["mean"].any()
    assert new["seen"].all()


def test_more_layers_than_there_are_is_an_input_error(digits):
    with pytest.raises(InputError, match="option k is 5 and the network has 4 layers"):
        digits.forget("cfk", (3,), k=5, epochs=1)


def test_the_rate_restarts_after_1_3_and_7_epochs():
    rates = restart_rates(2.0, 0.5, 7)
    np.testing.assert_allclose(rates[[0, 1, 3]], 2.0)
    np.testing.assert_allclose(rates[[2, 5]], 1.5)
    assert (np.diff(rates[3:]) < 0).all()
    assert rates.min() >= 1.0
    assert restart_rates(2.0, 0.5, 0).shape == (0,)
