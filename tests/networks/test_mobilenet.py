"""MobileNetV3-small: torchvision's size, strides, widths, and its two modes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.networks import count_parameters, create_model, variable_shapes
from osp_jax.networks.mobilenet import SMALL, MobileNetV3, rounded
from tests.small_networks import CLASSES, sown
from tests.zoo import randomised


def test_the_parameter_count_is_torchvision_s():
    shape = 224, 224, 3
    assert count_parameters(variable_shapes(create_model("mobilenet_v3_small", 1000, shape), shape)) == 2_542_856


@pytest.mark.parametrize(
    ("side", "stem", "last"), [(224, "auto", 7), (32, "auto", 4), (32, "strided", 2), (8, "auto", 1)]
)
def test_the_strides_follow_the_image_size(side, stem, last):
    shape = side, side, 3
    model = create_model("mobilenet_v3_small", CLASSES, shape, stem=stem)
    given = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    logits, recorded = jax.eval_shape(lambda v, x: sown(model, v, x), variable_shapes(model, shape), given)
    assert logits.shape == (2, CLASSES)
    assert recorded["last_act"].shape == (2, last, last, 576)


def test_channels_are_multiples_of_eight_near_the_ones_asked_for():
    # By hand from the paper's code: 0.75 and 0.5 of its widths; 12 goes up, since 8 would lose a third of it.
    assert [rounded(0.75 * channels) for channels in (16, 24, 40, 48, 96)] == [16, 24, 32, 40, 72]
    assert [rounded(0.5 * channels) for channels in (16, 24, 40, 48, 96)] == [8, 16, 24, 24, 48]


def test_statistics_of_the_batch_are_used_in_training_only_and_nothing_is_random(key):
    model = MobileNetV3(CLASSES, rows=SMALL[:3], width=4)
    images = jax.random.normal(key, (4, 8, 8, 3))
    variables = randomised(variable_shapes(model, images.shape[1:]))
    still = jax.jit(lambda v, images: model.apply(v, images, False))
    np.testing.assert_allclose(still(variables, images)[:2], still(variables, images[:2]), rtol=1e-4, atol=1e-4)
    train = jax.jit(lambda v: model.apply(v, images, True, mutable=["batch_stats"]))
    logits, updated = train(variables)
    np.testing.assert_array_equal(logits, train(variables)[0])
    assert jax.tree.structure(dict(updated)) == jax.tree.structure({"batch_stats": variables["batch_stats"]})
    assert np.abs(logits - still(variables, images)).max() > 1e-3
