"""Networks of any kind can be trained further, and only where allowed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.data.augment import Preparation
from osp_jax.interop.function import from_function
from osp_jax.interop.linen import from_linen
from osp_jax.interop.nnx import from_nnx
from osp_jax.methods.parts.retain_loss import retain_loss
from osp_jax.training.descent import Optimiser, descend, in_eval_mode, in_train_mode, split_variables
from osp_jax.trees import changed_paths, leaves_by_path
from tests.zoo import CLASSES, ZOO, linen, nnx_module

GIVEN = {"mean": (0.5,) * 3, "std": (0.3,) * 3, "class_names": [str(c) for c in range(CLASSES)]}
PREPARATION = Preparation(GIVEN["mean"], GIVEN["std"])


def plain(name):
    apply, variables = ZOO[name]()
    return from_function(apply, variables, **GIVEN, train_apply=lambda tree, images, rng: (apply(tree, images), tree))


MODELS = {
    "linen without a mode": lambda: from_linen(*linen("tutorial_cnn"), **GIVEN),
    "nnx with batch norm and dropout": lambda: from_nnx(nnx_module("nnx_cnn"), **GIVEN),
    "a dataclass of layers": lambda: plain("equinox_cnn"),
    "a list of pairs": lambda: plain("plain_mlp"),
}


@pytest.mark.parametrize("name", MODELS)
def test_training_lowers_the_loss_of_any_network(name, key):
    model = MODELS[name]()
    images = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(10, dtype=np.int32) % CLASSES
    batch = np.arange(10, dtype=np.int32)
    new = descend(
        retain_loss(in_train_mode(model), PREPARATION),
        model,
        {"indices": np.tile(batch, (20, 1))},
        np.full(20, 3e-3),
        key,
        optimiser=Optimiser("adam"),
        arguments=(jnp.asarray(images), jnp.asarray(labels)),
    )

    def loss(variables):
        cost = retain_loss(in_eval_mode(model), PREPARATION)
        state = split_variables(model.replace(variables=variables))
        return float(cost(*state, {"indices": batch}, key, images, labels)[0])

    assert loss(new) < loss(model.variables)
    assert jax.tree.map(np.shape, new) == jax.tree.map(np.shape, model.variables)
    moved = changed_paths(model.variables, new)
    assert set(filter(model.is_parameter, leaves_by_path(new))) <= set(moved)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new))
