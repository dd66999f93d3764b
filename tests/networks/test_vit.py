"""Vision transformers: torchvision's size, tokens, and attention heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.networks import count_parameters, create_model, variable_shapes
from osp_jax.networks.vit import ViT, usual_heads
from tests.small_networks import CLASSES
from tests.zoo import randomised


@pytest.fixture(scope="module")
def small():
    """(model, variables, images): two blocks of 8 channels over patches of 4x4 pixels."""
    model = ViT(CLASSES, width=8, layers=2, heads=2, mlp=12)
    images = jax.random.normal(jax.random.key(0), (3, 16, 16, 3))
    return model, randomised(variable_shapes(model, images.shape[1:])), images


def test_the_parameter_count_is_torchvision_s():
    shape = 224, 224, 3
    assert count_parameters(variable_shapes(create_model("vit_b16", 1000, shape), shape)) == 86_567_656


@pytest.mark.parametrize(("side", "tokens"), [(8, 5), (16, 17), (18, 26)])
def test_every_patch_is_a_token_also_one_that_reaches_over_the_edge(side, tokens):
    shapes = variable_shapes(create_model("vit", CLASSES, (side, side, 3), width=8), (side, side, 3))
    assert shapes["params"]["positions"].shape == (1, tokens, 8)
    assert shapes["batch_stats"] == {}


def test_nothing_is_random_in_either_mode(small):
    model, variables, images = small
    still, training = (jax.jit(lambda v, t=train: model.apply(v, images, t))(variables) for train in (False, True))
    assert still.shape == (3, CLASSES)
    np.testing.assert_array_equal(still, training)


def test_every_patch_reaches_the_logits_and_its_place_matters(small):
    model, variables, images = small
    apply = jax.jit(lambda images: model.apply(variables, images, False))
    gradient = jax.grad(lambda images: apply(images).sum())(images)
    assert np.all(np.abs(gradient).max((0, 3)) > 0)
    assert np.abs(apply(images) - apply(jnp.roll(images, 4, axis=1))).max() > 1e-3


def test_heads_divide_the_width_and_are_those_of_the_published_sizes():
    assert [usual_heads(width) for width in (192, 384, 768, 1024)] == [3, 6, 12, 16]
    assert all(width % usual_heads(width) == 0 for width in range(1, 400))
