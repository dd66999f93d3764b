"""Boundary expanding: the loss by hand, the pruning, and the effect on the class."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from osp_jax.data.augment import Preparation
from osp_jax.interop.linen import from_linen
from osp_jax.methods.boundary_expand import BoundaryExpand, shadow_loss, shadow_output
from osp_jax.program.gates import find_gates, noise_images
from osp_jax.runtime.errors import InputError
from osp_jax.training.descent import in_train_mode, split_variables

SMALL = {"learning_rate": 1e-4, "train": False}
PLAIN = Preparation((0.4, 0.5), (0.2, 0.3))


class Ending(nn.Module):
    """A convolution with a bias, and a head of the given kind."""

    head: Any

    @nn.compact
    def __call__(self, images, train):
        x = self.head(nn.relu(nn.Conv(5, (1, 1), name="conv")(images)))
        return x.mean((1, 2))


def model_of(module):
    variables = module.init(jax.random.key(0), jnp.zeros((1, 3, 3, 2)), False)
    return from_linen(module, variables, mean=PLAIN.mean, std=PLAIN.std, class_names=list("abcd"))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("layer", [nn.Dense(4, name="head"), nn.Conv(4, (1, 1), name="head")])
def test_the_loss_is_the_cross_entropy_with_the_added_class(layer, use_bias):
    rng, batch = np.random.default_rng(0), {"indices": np.array([0, 3, 4])}
    images = rng.integers(0, 256, (6, 3, 3, 2), dtype=np.uint8)
    model = model_of(Ending(layer.clone(use_bias=use_bias)))
    gates = find_gates(model.apply, model.variables, jnp.asarray(noise_images((3, 3, 2))))
    shadow = shadow_output(model.variables, gates, jax.random.key(1))
    assert shadow.keys() == ({"kernel", "bias"} if use_bias else {"kernel"})
    shadow = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shadow)
    params, rest = split_variables(model)
    loss = shadow_loss(in_train_mode(model), PLAIN, gates, 4)
    value, _ = loss((params, shadow), rest, batch, jax.random.key(0), images)
    inputs = ((images[batch["indices"]] / 255 - [0.4, 0.5]) / [0.2, 0.3]).reshape(3, 9, 2)
    conv = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model.variables["params"]["conv"])
    hidden = np.maximum(inputs @ conv["kernel"].reshape(2, 5) + conv["bias"], 0).mean(1)
    head = model.variables["params"]["head"]
    kernel = np.append(np.float64(head["kernel"]).reshape(5, 4), shadow["kernel"][:, None], axis=1)
    logits = hidden @ kernel + (np.append(head["bias"], shadow["bias"]) if use_bias else 0)
    expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[:, 4])
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("forget", [(3,), pytest.param((3, 7), marks=pytest.mark.slow)])
def test_it_forgets_keeps_most_of_the_others_and_sees_forgotten_images_alone(digits, forget):
    before = digits.accuracies(digits.model, forget)
    model, data = digits.forget("boundary-expand", forget, **SMALL)
    after = digits.accuracies(model, forget)
    assert before[0] > 0.9
    assert after[0] < 0.2
    assert after[1] > before[1] - 0.25
    assert set(data.seen()) == set(map(str, forget))
    assert jax.tree.map(np.shape, model.variables) == jax.tree.map(np.shape, digits.model.variables)


def test_without_an_epoch_the_network_is_what_it_was(digits):
    model, _ = digits.forget("boundary-expand", (3,), epochs=0)
    jax.tree.map(np.testing.assert_array_equal, model.variables, digits.model.variables)


@pytest.mark.parametrize("bad", [{"momentum": 2}, {"epochs": -1}, {"batch_size": 0}])
def test_a_setting_that_cannot_be_used_is_an_input_error(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        BoundaryExpand(**bad)
