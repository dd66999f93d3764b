"""The forward pass over many images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from osp_jax.data.sources import Split
from osp_jax.forward import predict_logits
from osp_jax.networks import init_variables
from osp_jax.program.prefix import compute_prefix, logits_from

MEAN, STD = (0.4, 0.6), (0.2, 0.3)
SPLIT = Split(np.random.default_rng(0).integers(0, 256, (10, 4, 4, 2), np.uint8), np.zeros(10, np.int32))


class Net(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        x = nn.BatchNorm(use_running_average=not train)(images)
        return nn.Dense(3)(x.reshape(len(x), -1))


@pytest.mark.parametrize("batch_size", [1, 4, 10, 500])
@pytest.mark.parametrize("indices", [[0], [7, 2, 2, 9, 5]], ids=["one", "some"])
def test_logits_are_those_of_the_normalised_images_whatever_the_batch_size(indices, batch_size):
    variables = init_variables(Net(), (4, 4, 2), jax.random.key(0))
    indices = np.array(indices)
    pixels = jnp.asarray((SPLIT.images[indices] / 255 - MEAN) / STD, jnp.float32)
    logits = predict_logits(Net(), variables, SPLIT, indices, mean=MEAN, std=STD, batch_size=batch_size)
    assert (logits.shape, logits.dtype) == ((len(indices), 3), np.float32)
    np.testing.assert_allclose(logits, Net().apply(variables, pixels, False), rtol=1e-4, atol=1e-5)


def test_new_variables_are_not_those_of_the_call_before():
    indices, logits = np.arange(10), []
    for seed in (0, 1):
        variables = init_variables(Net(), (4, 4, 2), jax.random.key(seed))
        logits.append(predict_logits(Net(), variables, SPLIT, indices, mean=MEAN, std=STD))
    assert (logits[0] != logits[1]).all()


@pytest.mark.parametrize("batch_size", [4, 500])
def test_logits_from_a_prefix_are_those_of_the_whole_network_also_for_other_variables(batch_size):
    variables = init_variables(Net(), (4, 4, 2), jax.random.key(0))
    other = {
        **variables,
        "params": {**variables["params"], "Dense_0": {"kernel": jnp.ones((32, 3)), "bias": jnp.ones(3)}},
    }
    indices, moments = np.arange(10)[::-1], {"mean": MEAN, "std": STD, "batch_size": batch_size}
    changing = {"params/Dense_0/kernel", "params/Dense_0/bias"}
    prefix = compute_prefix(Net(), variables, SPLIT, indices, changing, **moments)
    for each in (variables, other):
        whole = predict_logits(Net(), each, SPLIT, indices, **moments)
        np.testing.assert_allclose(logits_from(prefix, each), whole, rtol=1e-5, atol=1e-6)
