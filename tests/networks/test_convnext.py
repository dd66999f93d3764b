"""ConvNeXt: torchvision's size, stems, and the initial function of a block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.networks import count_parameters, create_model, init_variables, variable_shapes
from osp_jax.networks.convnext import Block, ConvNeXt
from tests.small_networks import CLASSES, sown
from tests.zoo import randomised


def test_the_parameter_count_is_torchvision_s():
    shape = 224, 224, 3
    assert count_parameters(variable_shapes(create_model("convnext_tiny", 1000, shape), shape)) == 28_589_128


@pytest.mark.parametrize(
    ("side", "stem", "patch", "last"),
    [(224, "auto", 4, 7), (32, "auto", 1, 4), (32, "strided", 2, 2), (8, "strided", 2, 1), (28, "cifar", 1, 4)],
)
def test_the_stem_follows_the_image_size_and_each_stage_halves_the_map(side, stem, patch, last):
    shape = side, side, 3
    model = create_model("convnext_tiny", CLASSES, shape, width=4, stem=stem)
    variables = variable_shapes(model, shape)
    assert variables["params"]["stem_conv"]["kernel"].shape == (patch, patch, 3, 4)
    given = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    logits, recorded = jax.eval_shape(lambda v, x: sown(model, v, x), variables, given)
    assert logits.shape == (2, CLASSES)
    assert recorded["stage4_block3/gelu"].shape == (2, last, last, 4 * 4 * 8)


def test_a_fresh_block_hardly_changes_its_input(key):
    x = jax.random.normal(key, (2, 8, 8, 4))
    block = Block(jnp.float32)
    y = block.apply(block.init(key, x), x)
    assert 0 < np.abs(y - x).max() < 1e-4


def test_nothing_is_random_in_either_mode(key):
    model = ConvNeXt(CLASSES, stage_sizes=(1, 1), width=4)
    images = jax.random.normal(key, (3, 8, 8, 3))
    variables = randomised(variable_shapes(model, images.shape[1:]))
    still, training = (jax.jit(lambda v, t=train: model.apply(v, images, t))(variables) for train in (False, True))
    np.testing.assert_array_equal(still, training)
    assert init_variables(model, (8, 8, 3), key)["batch_stats"] == {}
