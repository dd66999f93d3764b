"""The methods on networks from outside the library: through an adapter, with statistics of a few random images."""

import re
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.default import get_config
from osp_jax.data.augment import Preparation
from osp_jax.data.sources import Split
from osp_jax.interop.function import from_function
from osp_jax.interop.linen import from_linen
from osp_jax.interop.nnx import from_nnx
from osp_jax.masks import gains_between
from osp_jax.methods import METHODS, get_method, unlearn_classes
from osp_jax.methods.parts.data import RequestData, request_data
from osp_jax.methods.parts.head import feature_channels, head_changes, head_of
from osp_jax.model import Model
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import Statistics, collect_statistics
from osp_jax.trees import changed_paths, edited
from tests.methods.test_contract import CHEAP
from tests.small_networks import slow_where
from tests.zoo import CLASSES, LARGE, LINEN, ZOO, image_shape, linen, nnx_module

FORGET, EACH = (1,), 4
PREPARATION = Preparation((0.5,) * 3, (0.3,) * 3)
ABOUT = {"mean": PREPARATION.mean, "std": PREPARATION.std, "class_names": tuple("abcdefgh"[:CLASSES])}
MASKS = ("osp", "osp-fit", "logit-mask")
NETWORKS = slow_where(ZOO, LARGE)


class Network(NamedTuple):
    """A network of the zoo as a model, and what belongs to it."""

    model: Model
    split: Split
    statistics: Statistics

    def data(self) -> RequestData:
        recipe = get_config()
        recipe.training.epochs, recipe.training.batch_size = 1, 8
        everything = np.arange(len(self.split.labels), dtype=np.int32)
        return request_data(self.split, everything, FORGET, PREPARATION, recipe)

    def forget(self, method: str, **options) -> Model:
        given = {"data": self.data(), "statistics": self.statistics, "rng": jax.random.key(0)}
        return unlearn_classes(get_method(method)(**options), self.model, FORGET, **given)

    def logits(self, model: Model) -> np.ndarray:
        images = PREPARATION.plain(self.split.images[:8])
        return np.asarray(compiled(model.apply)(model.variables, images))


@lru_cache
def compiled(apply):
    return jax.jit(apply)


@lru_cache
def network(name: str) -> Network:
    if name in LINEN:
        model = from_linen(*linen(name), **ABOUT)
    elif name.startswith("nnx"):
        model = from_nnx(nnx_module(name), **ABOUT)
    else:
        model = from_function(*ZOO[name](), **ABOUT)
    labels = (np.arange(CLASSES * EACH) % CLASSES).astype(np.int32)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), *image_shape(name)), np.uint8)
    split = Split(images, labels)
    return Network(model, split, collect_statistics(model, [(images, labels)], keep_features=len(labels)))


def with_a_feature_set_a_class(given: Network) -> Network:
    """With a made-up head whose class c reads every fifth feature from c on, and features along these."""
    gates, rng = given.statistics.gates, np.random.default_rng(1)
    kernel, bias = head_of(given.model.variables, gates.head)
    own = (np.arange(kernel.shape[0])[:, None] % CLASSES == np.arange(CLASSES)).astype(np.float32)
    variables = edited(given.model.variables, head_changes(given.model.variables, gates.head, own, 0.0 * bias))
    labels = np.tile(np.arange(CLASSES, dtype=np.int32), EACH)
    features = (own.T[labels] * rng.uniform(2, 4, (len(labels), len(own)))).astype(np.float32)
    statistics = given.statistics.replace(features=jnp.asarray(features), labels=jnp.asarray(labels))
    return given._replace(model=given.model.replace(variables=variables), statistics=statistics)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", MASKS)
def test_a_mask_touches_what_the_gates_name_and_leaves_finite_logits(name, method):
    given = network(name)
    model, gates = given.forget(method), given.statistics.gates
    named = {gates.head.bias} if method == "logit-mask" else {factor.path for factor in gates.last.factors}
    also = {gates.head.bias} if method == "osp-fit" else set()  # where gains alone do not suffice
    assert named <= set(changed_paths(given.model.variables, model.variables)) <= named | also
    assert model.forgotten == FORGET
    assert jax.tree.structure(model.variables) == jax.tree.structure(given.model.variables)
    before, after = given.logits(given.model), given.logits(model)
    assert np.isfinite(after).all()
    assert not np.array_equal(before, after)
    if method == "logit-mask":
        assert not np.isin(after.argmax(1), FORGET).any()
        kept = np.setdiff1d(np.arange(CLASSES), FORGET)
        np.testing.assert_allclose(after[:, kept], before[:, kept], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_fitted_gains_forget_a_class_whose_features_are_distinguished(name):
    given = with_a_feature_set_a_class(network(name))
    gates, features, labels = given.statistics.gates, given.statistics.features, np.asarray(given.statistics.labels)
    gains = gains_between(given.model.variables, given.forget("osp-fit").variables, gates.last)
    kernel, bias = head_of(given.model.variables, gates.head)
    before, after = (np.asarray(f @ kernel + bias) for f in (features, features * gains[feature_channels(gates)]))
    assert (before.argmax(1) == labels).all()
    forgotten = np.isin(labels, FORGET)
    assert not np.isin(after[forgotten].argmax(1), FORGET).any()
    assert (after[~forgotten].argmax(1) == labels[~forgotten]).all()


def attempt(name: str, method: str) -> None:
    """A request works, or is refused in one line that names a remedy."""
    given = network(name)
    options = {key: value for key, value in CHEAP.items() if key in get_method(method).__dataclass_fields__}
    refusal, model = "", None
    try:
        model = given.forget(method, **options)
    except InputError as error:
        refusal = str(error)
    if model is None:
        assert "\n" not in refusal
        assert re.search(r"(take another method|; (use|give|collect|raise) .*)$", refusal)
    else:
        assert model.forgotten == FORGET
        assert np.isfinite(given.logits(model)).all()


@pytest.mark.parametrize("method", sorted(METHODS.keys() - MASKS))
def test_every_method_works_on_a_plain_function_or_says_in_one_line_what_it_lacks(method):
    attempt("plain_mlp", method)


@pytest.mark.parametrize("method", ["finetune", "fisher", "concept-erasure", "cfk", "esc", "retrain"])
def test_every_kind_of_method_works_on_a_network_in_nnx_or_says_in_one_line_what_it_lacks(method):
    attempt("nnx_cnn", method)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "nnx_cnn", "equinox_cnn"])
@pytest.mark.parametrize("method", sorted(METHODS.keys() - MASKS))
def test_every_method_works_or_says_in_one_line_what_it_lacks(name, method):
    attempt(name, method)
