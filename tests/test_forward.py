"""The forward pass over many images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from osp_jax.data.sources import Split
from osp_jax.forward import predict_logits
from osp_jax.interop.linen import from_linen
from osp_jax.networks import init_variables
from osp_jax.program.prefix import compute_prefix, logits_from
from osp_jax.trees import edited

MEAN, STD = (0.4, 0.6), (0.2, 0.3)
SPLIT = Split(np.random.default_rng(0).integers(0, 256, (10, 4, 4, 2), np.uint8), np.zeros(10, np.int32))


class Net(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        x = nn.BatchNorm(use_running_average=not train)(images)
        return nn.Dense(3)(x.reshape(len(x), -1))


def model(seed: int = 0):
    variables = init_variables(Net(), (4, 4, 2), jax.random.key(seed))
    return from_linen(Net(), variables, mean=MEAN, std=STD, class_names=["a", "b", "c"])


@pytest.mark.parametrize("batch_size", [1, 4, 10, 500])
@pytest.mark.parametrize("indices", [[0], [7, 2, 2, 9, 5]], ids=["one", "some"])
def test_logits_are_those_of_the_normalised_images_whatever_the_batch_size(indices, batch_size):
    indices = np.array(indices)
    pixels = jnp.asarray((SPLIT.images[indices] / 255 - MEAN) / STD, jnp.float32)
    logits = predict_logits(model(), SPLIT, indices, batch_size)
    assert (logits.shape, logits.dtype) == ((len(indices), 3), np.float32)
    np.testing.assert_allclose(logits, Net().apply(model().variables, pixels, False), rtol=1e-4, atol=1e-5)


def test_new_variables_are_not_those_of_the_call_before():
    first, second = (predict_logits(model(seed), SPLIT, np.arange(10)) for seed in (0, 1))
    assert (first != second).all()


@pytest.mark.parametrize("batch_size", [4, 500])
def test_logits_from_a_prefix_are_those_of_the_whole_network_also_for_other_variables(batch_size):
    indices, changes = (
        np.arange(10)[::-1],
        {"params/Dense_0/kernel": jnp.ones((32, 3)), "params/Dense_0/bias": jnp.ones(3)},
    )
    other = model().replace(variables=edited(model().variables, changes))
    prefix = compute_prefix(model(), SPLIT, indices, changes, batch_size)
    for each in (model(), other):
        whole = predict_logits(each, SPLIT, indices, batch_size)
        np.testing.assert_allclose(logits_from(prefix, each.variables), whole, rtol=1e-5, atol=1e-6)
