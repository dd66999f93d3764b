"""Adapters find the call of each network of the zoo, in both modes."""

import jax
import numpy as np
import pytest

from osp_jax.interop.linen import from_linen
from osp_jax.interop.nnx import from_nnx
from tests.zoo import CLASSES, LINEN, ZOO, images, linen, nnx_module

ABOUT = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "class_names": tuple("abcdefgh"[:CLASSES])}


@pytest.mark.parametrize("name", [*LINEN, "nnx_cnn", "nnx_vit"])
def test_a_model_gives_the_network_s_logits_and_trains_where_the_network_has_a_train_mode(name):
    model = from_linen(*linen(name), **ABOUT) if name in LINEN else from_nnx(nnx_module(name), **ABOUT)
    (apply, variables), batch = ZOO[name](), images(name)

    @jax.jit
    def run(adapted, own, key):
        return model.apply(adapted, batch), apply(own, batch), *model.train_apply(adapted, batch, key)

    logits, expected, trained, updated = run(model.variables, variables, jax.random.key(0))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert jax.tree.structure(updated) == jax.tree.structure(model.variables)
    one_mode = name in ("tutorial_cnn", "mlp_mixer")
    assert (np.abs(trained - logits).max() < 1e-4) == one_mode
