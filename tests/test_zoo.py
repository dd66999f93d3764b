"""The networks for the tests of gates and adapters work as networks."""

import jax
import numpy as np
import pytest
from flax import nnx

from tests.zoo import CLASSES, LINEN, ZOO, images, linen, nnx_module


@pytest.fixture(scope="module", params=ZOO)
def entry(request):
    apply, variables = ZOO[request.param]()
    return apply, variables, images(request.param)


def test_logits_are_finite_and_differ_between_images_and_classes(entry):
    apply, variables, batch = entry
    logits = np.asarray(jax.jit(apply)(variables, batch))
    assert (logits.shape, logits.dtype) == ((len(batch), CLASSES), np.float32)
    assert np.isfinite(logits).all()
    assert 0.1 < logits.std() < 100
    assert logits.std(0).min() > 1e-3 * logits.std()
    assert logits.std(1).min() > 1e-3 * logits.std()


def test_an_image_s_logits_depend_on_no_other_image_and_on_no_random_number(entry):
    apply, variables, batch = entry
    together, alone = jax.jit(apply)(variables, batch), jax.jit(apply)(variables, batch[:1])
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-4)


def test_networks_are_small_and_every_leaf_is_a_random_float(entry):
    _, variables, _ = entry
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(variables)]
    assert 1_000 < sum(leaf.size for leaf in leaves) < 20_000
    assert {leaf.dtype for leaf in leaves} == {np.dtype("float32")}
    assert all(len(np.unique(leaf)) > 0.99 * leaf.size for leaf in leaves)


@pytest.mark.parametrize("name", LINEN)
def test_a_linen_module_and_its_variables_give_the_entry_s_logits(name):
    (module, variables), (apply, same), batch = linen(name), ZOO[name](), images(name, 2)
    assert same is variables
    given = LINEN[name][1]
    np.testing.assert_allclose(
        jax.jit(lambda v: module.apply(v, batch, **given))(variables), jax.jit(apply)(variables, batch), rtol=1e-6
    )


@pytest.mark.parametrize("name", ["nnx_cnn", "nnx_vit"])
def test_an_nnx_module_in_eval_mode_gives_the_entry_s_logits(name):
    module, (apply, variables), batch = nnx_module(name), ZOO[name](), images(name, 2)
    module.eval()
    np.testing.assert_allclose(
        nnx.jit(lambda module: module(batch))(module), jax.jit(apply)(variables, batch), rtol=1e-5, atol=1e-5
    )
