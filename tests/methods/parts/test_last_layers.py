"""What EU-k and CF-k share: which layers are the last, what a step may change, and the rate by epoch."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from osp_jax.methods.parts.last_layers import last_layers_loss, last_modules, modules_in_order, restart_rates, select
from osp_jax.networks import init_variables, variable_shapes
from tests.methods.loss_by_hand import cross_entropy_by_hand, without_augmentation
from tests.small_networks import CLASSES, FOREIGN, SHAPE

IMAGE = (8, 8, 1)


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


def test_layers_are_counted_in_the_order_of_the_forward_pass():
    assert [path for path, _ in modules_in_order(BackToFront(), SHAPE)] == [("z_first",), ("shared",), ("a_last",)]
    assert last_modules(BackToFront(), SHAPE, 2) == {("shared",), ("a_last",)}


def test_norms_behind_the_first_trained_layer_are_trained_with_it():
    model = FOREIGN["PaddedShortcut"]()
    assert last_modules(model, SHAPE, 1) == {("head",)}
    assert last_modules(model, SHAPE, 2) == {("conv3",), ("bn3",), ("head",)}


@pytest.mark.parametrize("name", FOREIGN)
def test_every_leaf_of_any_network_belongs_to_a_layer(name):
    model = FOREIGN[name]()
    layers = sum(has_kernel for _, has_kernel in modules_in_order(model, SHAPE))
    shapes = variable_shapes(model, SHAPE)
    for tree in shapes.values():
        assert jax.tree.structure(select(tree, last_modules(model, SHAPE, layers))) == jax.tree.structure(tree)


def test_the_loss_of_the_head_alone_is_the_cross_entropy_by_the_running_statistics(digits):
    train, batch = digits.dataset.train, np.array([5, 40, 41])
    head = last_modules(digits.model, IMAGE, 1)
    start = (select(digits.variables[name], head) for name in ("params", "batch_stats"))
    given = {"indices": batch}, jax.random.key(0), digits.variables, train.images, train.labels
    value, batch_stats = last_layers_loss(digits.model, without_augmentation(digits), head)(*start, *given)
    np.testing.assert_allclose(value, cross_entropy_by_hand(digits, batch, train=False), rtol=1e-3, atol=1e-6)
    assert batch_stats == {}


def test_the_loss_of_all_layers_is_the_cross_entropy_in_train_mode(digits):
    train, batch = digits.dataset.train, np.array([5, 40, 41])
    layers = last_modules(digits.model, IMAGE, 4)
    given = {"indices": batch}, jax.random.key(0), digits.variables, train.images, train.labels
    loss = last_layers_loss(digits.model, without_augmentation(digits), layers)
    value, batch_stats = loss(digits.variables["params"], digits.variables["batch_stats"], *given)
    np.testing.assert_allclose(value, cross_entropy_by_hand(digits, batch, train=True), rtol=1e-4)
    assert set(batch_stats) == {"bn1", "bn2", "bn3"}


def test_a_frozen_norm_keeps_its_statistics_also_where_the_call_tells_the_mode(digits):
    model, train = ModeInTheCall(), digits.dataset.train
    variables = init_variables(model, IMAGE, jax.random.key(0))
    head = last_modules(model, IMAGE, 1)
    loss = last_layers_loss(model, digits.preparation, head)
    given = {"indices": np.arange(8)}, jax.random.key(0), variables, train.images, train.labels
    value, batch_stats = loss(select(variables["params"], head), {}, *given)
    assert np.isfinite(value)
    assert batch_stats == {}


def test_the_rate_restarts_after_1_3_and_7_epochs():
    rates = restart_rates(2.0, 0.5, 7)
    np.testing.assert_allclose(rates[[0, 1, 3]], 2.0)
    np.testing.assert_allclose(rates[[2, 5]], 1.5)
    assert (np.diff(rates[3:]) < 0).all()
    assert rates.min() >= 1.0
    assert restart_rates(2.0, 0.5, 0).shape == (0,)
