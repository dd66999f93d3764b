"""Stages: values that all data from images to logits passes through, found in the program alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from osp_jax.program.stages import feature_widths, find_stages, stage_features
from osp_jax.runtime.errors import InputError

SHAPE = (8, 8, 3)


class Residual(nn.Module):
    """A stem, two residual blocks of which the second is wider, and a head."""

    @nn.compact
    def __call__(self, images):
        x = nn.relu(nn.Conv(4, (3, 3), name="stem")(images))
        self.sow("stages", "stage", x)
        for channels in (4, 6):
            inner = nn.Conv(channels, (3, 3))(nn.relu(nn.Conv(5, (3, 3))(x)))
            x = nn.relu(inner + (x if channels == 4 else nn.Conv(channels, (1, 1))(x)))
            self.sow("stages", "stage", x)
        return nn.Dense(3)(x.mean((1, 2)))


def images(count: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(count, *SHAPE)), jnp.float32)


@pytest.mark.parametrize("count", [1, 5])
def test_the_stages_of_a_residual_network_are_its_stem_and_its_blocks(count):
    module = Residual()
    variables = {"params": module.init(jax.random.key(0), images(2))["params"]}

    def apply(variables, images):
        return module.apply(variables, images)

    stages = find_stages(apply, variables, SHAPE)
    assert [stage.channels for stage in stages.found] == [4, 4, 6]
    assert feature_widths(stages) == [8, 8, 12]
    sown = module.apply(variables, images(count), mutable=["stages"])[1]["stages"]["stage"]
    found = stage_features(apply, stages, variables, images(count))
    for features, value in zip(found, sown, strict=True):
        expected = np.concatenate([value.mean((1, 2)), value.max((1, 2))], -1)
        np.testing.assert_allclose(features, expected, atol=1e-5)
    assert len(stages.last(2).found) == 2
    with pytest.raises(InputError, match=r"head\.stages is 4 and the network has 3"):
        stages.last(4)


def test_channels_in_front_of_positions_are_found_by_what_reads_them():
    kernels = [np.random.default_rng(n).normal(size=s).astype(np.float32) for n, s in enumerate([(4, 3, 3, 3), (4, 5)])]

    def apply(kernels, images):
        channels_first = jnp.transpose(images, (0, 3, 1, 2))
        maps = jax.nn.relu(jax.lax.conv(channels_first, kernels[0], (1, 1), "SAME"))
        return maps.mean((2, 3)) @ kernels[1]

    (stage,) = find_stages(apply, kernels, SHAPE).found
    assert (stage.channels, stage.axis, stage.positions) == (4, 1, 64)


def test_an_mlp_gives_the_units_of_its_layers():
    weights = [np.ones(shape, np.float32) for shape in ((192, 7), (7, 6), (6, 3))]

    def apply(weights, images):
        x = images.reshape(len(images), -1)
        for weight in weights[:-1]:
            x = jax.nn.relu(x @ weight)
        return x @ weights[-1]

    assert feature_widths(find_stages(apply, weights, SHAPE)) == [7, 6]
