"""Adapters call modules in the right way and return them unchanged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import osp_jax
from osp_jax.runtime.errors import InputError

GIVEN = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "class_names": ("a", "b", "c")}
IMAGES = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))


class Body(nn.Module):
    train: bool

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=not self.train)(nn.Conv(4, (3, 3))(x))
        x = nn.Dropout(0.5, deterministic=not self.train)(nn.relu(x))
        return nn.Dense(3)(x.mean((1, 2)))


class Nothing(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Body(False, name="body")(x)


class Train(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return Body(train, name="body")(x)


class TrainKeyword(nn.Module):
    @nn.compact
    def __call__(self, x, *, training=True):
        return Body(training, name="body")(x)


class Deterministic(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=False, scale=1.0):
        return Body(not deterministic, name="body")(x) * scale


class RunningAverage(nn.Module):
    @nn.compact
    def __call__(self, x, use_running_average: bool):
        return Body(not use_running_average, name="body")(x)


class AsField(nn.Module):
    deterministic: bool = False

    @nn.compact
    def __call__(self, x):
        return Body(not self.deterministic, name="body")(x)


def variables_of_body():
    variables = Body(False).init(jax.random.key(1), IMAGES)
    variables = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.arange(leaf.size).reshape(leaf.shape), variables)
    return {name: {"body": tree} for name, tree in variables.items()}


@pytest.mark.parametrize("kind", [Nothing, Train, TrainKeyword, Deterministic, RunningAverage, AsField])
def test_a_linen_module_is_told_that_it_does_not_train(kind):
    variables = variables_of_body()
    expected = Nothing().apply(variables, IMAGES)

    model = osp_jax.from_linen(kind(), variables, **GIVEN)

    np.testing.assert_allclose(model.apply(model.variables, IMAGES), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", [Train, TrainKeyword, Deterministic, RunningAverage, AsField])
def test_a_linen_module_is_told_that_it_trains(kind):
    model = osp_jax.from_linen(kind(), variables_of_body(), **GIVEN)

    logits, after = model.train_apply(model.variables, IMAGES, jax.random.key(2))
    others, _ = model.train_apply(model.variables, IMAGES, jax.random.key(3))

    assert not np.allclose(logits, others), "dropout does not follow the key"
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), model.variables, after)
    assert all(jax.tree.leaves(changed["batch_stats"]))
    assert not any(jax.tree.leaves(changed["params"]))


def test_models_of_equal_modules_share_their_programs():
    first, second = (osp_jax.from_linen(Train(), variables_of_body(), **GIVEN) for _ in range(2))

    assert first.apply == second.apply
    assert hash(first.apply) == hash(second.apply)
    assert first.apply != osp_jax.from_linen(Deterministic(), variables_of_body(), **GIVEN).apply


def test_a_module_with_a_list_among_its_fields_is_taken():
    class Listed(nn.Module):
        sizes: list

        @nn.compact
        def __call__(self, x):
            return Body(False, name="body")(x)

    model = osp_jax.from_linen(Listed([1, 2]), variables_of_body(), **GIVEN)

    assert jax.jit(model.apply)(model.variables, IMAGES).shape == (4, 3)


def test_an_argument_of_unknown_meaning_is_refused():
    class Strange(nn.Module):
        @nn.compact
        def __call__(self, x, temperature):
            return Body(False, name="body")(x) / temperature

    with pytest.raises(InputError, match=r"Strange needs an argument 'temperature'.*from_function"):
        osp_jax.from_linen(Strange(), variables_of_body(), **GIVEN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": (0.5, 0.5)}, "mean has 2 values and std 3"),
        ({"std": (0.2, 0.2, 0.0)}, "std above 0"),
        ({"mean": "dark"}, "a number for each image channel"),
        ({"class_names": "abc"}, "a list of texts"),
        ({"class_names": ("a", "a", "b")}, "different texts"),
    ],
)
def test_what_cannot_be_used_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        osp_jax.from_linen(Train(), variables_of_body(), **{**GIVEN, **changes})


class Network(nnx.Module):
    def __init__(self, rngs):
        self.conv, self.norm = nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
        self.drop, self.head = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.drop(nnx.relu(self.norm(self.conv(x)))).mean((1, 2)))


def test_an_nnx_module_comes_back_with_its_variables():
    module = Network(nnx.Rngs(0))
    model = osp_jax.from_nnx(module, **GIVEN)
    changed = model.replace(variables=jax.tree.map(lambda leaf: leaf + 0.1, model.variables))

    back = osp_jax.to_nnx(changed)

    np.testing.assert_allclose(back(IMAGES), changed.apply(changed.variables, IMAGES), rtol=1e-6)
    assert not np.allclose(back(IMAGES), model.apply(model.variables, IMAGES))
    module.eval()
    np.testing.assert_allclose(module(IMAGES), model.apply(model.variables, IMAGES), rtol=1e-6)


def test_an_nnx_module_trains():
    model = osp_jax.from_nnx(Network(nnx.Rngs(0)), **GIVEN)

    step = jax.jit(model.train_apply)
    logits, after = step(model.variables, IMAGES, jax.random.key(2))
    others, _ = step(model.variables, IMAGES, jax.random.key(3))

    assert not np.allclose(logits, others), "dropout does not follow the key"
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), model.variables, after)
    assert all(jax.tree.leaves(changed["batch_stats"]))
    assert not any(jax.tree.leaves(changed["params"]))


def test_a_function_needs_arrays_alone():
    with pytest.raises(InputError, match="a pytree of arrays alone"):
        osp_jax.from_function(lambda tree, images: images, {"a": 1.0}, **GIVEN)
