"""A step with PyTorch's gradient equals the step of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import default
from osp_jax.data.augment import Preparation
from osp_jax.networks import create_model, init_variables
from osp_jax.networks.cifarnet import CifarNet
from osp_jax.networks.resnet import Bottleneck, ResNet
from osp_jax.runtime.errors import InputError
from osp_jax.training.loop import train
from osp_jax.training.recipe import make_recipe
from osp_jax.training.state import create_optimiser, create_state
from osp_jax.training.step import make_batch_step
from osp_jax.training.torch_gradient import make_torch_step

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

NETWORKS = {
    "resnet20": ResNet((3, 3, 3), 10, width=8),
    "strided": ResNet((1, 1), 10, width=8, stem="strided"),
    "bottlenecks": ResNet((1, 1), 10, width=4, stem="imagenet", block=Bottleneck),
    "cifarnet": CifarNet(10, width=8),
}


@pytest.fixture(scope="module", params=NETWORKS)
def both(request):
    """(state before, state and metrics after a step of JAX, the same of PyTorch by precision)."""
    module = NETWORKS[request.param]
    variables = init_variables(module, (16, 16, 3), jax.random.key(0))
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 256, (64, 16, 16, 3)).astype(np.uint8), np.arange(64) % 10
    optimiser = create_optimiser(optax.constant_schedule(0.1), 0.9, 5e-4, 2.0)
    options = {
        "preparation": Preparation((0.5,) * 3, (0.25,) * 3, pad=2, flip=True),
        "penalty": lambda params: jnp.sum(params["stem_conv"]["kernel"] ** 2),
        "label_smoothing": 0.1,
    }

    def start():
        return create_state(jax.tree.map(jnp.copy, variables), optimiser)

    given = batch, jax.random.key(1), jnp.float32(0.3)
    expected = jax.jit(make_batch_step(module, optimiser, **options))(start(), *given)
    found = {name: make_torch_step(module, optimiser, bfloat16=name == "bfloat16", **options)(start(), *given)
             for name in ("float32", "bfloat16")}  # fmt: skip
    return start(), expected, found


def flat(before, after):
    changes = jax.tree.map(lambda new, old: np.ravel(new - old), after.variables, before.variables)
    return np.concatenate(jax.tree.leaves(changes))


def test_one_step_changes_parameters_and_statistics_as_jax_does(both):
    before, (expected, metrics), found = both
    after, others = found["float32"]
    wanted, change = flat(before, expected), flat(before, after)
    # Rounding decides now and then which of two equal places a max-pool takes, and batch norms amplify it.
    assert np.linalg.norm(change - wanted) < 2e-2 * np.linalg.norm(wanted)
    assert after.step == expected.step == 1
    for name in metrics:
        np.testing.assert_allclose(others[name], metrics[name], rtol=1e-4)


def test_bfloat16_points_the_same_way(both):
    before, (expected, _), found = both
    wanted, change = flat(before, expected), flat(before, found["bfloat16"][0])
    assert wanted @ change > 0.9 * np.linalg.norm(wanted) * np.linalg.norm(change)


def small_config(gradient):
    config = default.get_config()
    config.model.width = 4
    config.training.epochs = 1
    config.training.gradient = gradient
    return config


def test_a_training_gives_the_network_that_jax_gives(dataset, tmp_path):
    expected, found = (train(small_config(name), dataset, tmp_path / name) for name in ("jax", "torch"))
    difference = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), expected, found)
    assert max(jax.tree.leaves(difference)) < 1e-2


def test_other_networks_are_refused():
    config = small_config("torch")
    with pytest.raises(InputError, match="ResNets and CifarNet, not VGG"):
        make_recipe(config, create_model("vgg11", 10, (8, 8, 1)), (8, 8, 1), Preparation((0.5,), (0.5,)), 1)


def test_penalties_on_features_are_refused():
    config = small_config("torch")
    config.features.penalty = "class-means"
    with pytest.raises(InputError, match="or the penalty out"):
        make_recipe(config, create_model("resnet8", 10, (8, 8, 1)), (8, 8, 1), Preparation((0.5,), (0.5,)), 1)
