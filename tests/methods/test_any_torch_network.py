"""The methods on PyTorch networks: verified gates, default masks; every method works or gives a reason."""

from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import osp_jax
from configs.default import get_config
from osp_jax.masks import gains_between
from osp_jax.methods import METHODS, get_method
from osp_jax.model import Model
from osp_jax.program.candidates import module_of
from osp_jax.program.gates import capture
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import Statistics
from osp_jax.trees import changed_paths
from tests.methods.test_contract import CHEAP

torch = pytest.importorskip("torch")
from tests.torch_networks import (  # noqa: E402
    NETWORKS,
    SmallCNN,
    filled,
)

pytestmark = pytest.mark.torch

CLASSES, EACH, SIDE = 10, 4, 16
NAMES = tuple("abcdefghij")
FORGET = [1]


class Network(NamedTuple):
    """A model, and images of noise."""

    model: Model
    images: np.ndarray
    labels: np.ndarray
    statistics: Statistics

    @property
    def gates(self):
        return self.statistics.gates

    def forget(self, method, forget=FORGET, **options):
        given = {"data": (self.images, self.labels), "statistics": self.statistics, "accept": True}
        return osp_jax.unlearn(self.model, forget, get_method(method)(**options), **given).model

    def logits(self, model: Model) -> np.ndarray:
        return np.asarray(compiled(model.apply)(model.variables, self.inputs()))

    def inputs(self) -> jax.Array:
        return jnp.asarray((self.images[:8] / 255 - 0.5) / 0.25, jnp.float32)


@lru_cache
def compiled(apply):
    return jax.jit(apply)


@lru_cache(maxsize=2)  # the tests of a network follow one another
def network(name: str) -> Network:
    module = filled((NETWORKS | {"SmallCNN": SmallCNN})[name]())
    given = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "class_names": NAMES}
    model = osp_jax.from_torch(module, torch.zeros(1, 3, SIDE, SIDE), **given)
    labels = (np.arange(CLASSES * EACH) % CLASSES).astype(np.int32)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), SIDE, SIDE, 3), np.uint8)
    return Network(model, images, labels, osp_jax.collect_statistics(model, images, labels))


@pytest.mark.parametrize("name", NETWORKS)
def test_gates_are_named_after_modules_and_masked_variables_give_scaled_values(name):
    given = network(name)
    modules = {module_of(key) for key in given.model.variables}
    names = {gate.name.removesuffix("/input") for gate in (*given.gates.groups, *given.gates.filters)}
    assert all(name in modules or name.rpartition("_")[0] in modules for name in names)  # a second one has a number
    assert given.gates.last.readers
    assert given.gates.head.bias in given.model.variables

    masked = given.forget("osp")
    gains = gains_between(given.model.variables, masked.variables, given.gates.last)
    _, values, read = capture(given.model.apply, given.gates, given.model.variables, given.inputs())
    _, scaled, read_after = capture(masked.apply, given.gates, masked.variables, given.inputs())
    assert 0 < (gains < 1).sum() < len(gains)
    if given.gates.last.writers:
        expected = np.asarray(values[given.gates.features]) * gains
        np.testing.assert_allclose(
            scaled[given.gates.features], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
        )
    else:  # it stands in the head
        np.testing.assert_array_equal(read_after, read)
        assert set(changed_paths(given.model.variables, masked.variables)) == {given.gates.head.kernel}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", ["osp", "osp-fit", "logit-mask"])
def test_masks_run_with_default_settings_and_touch_what_the_gates_name(name, method):
    given = network(name)
    model = given.forget(method)
    changed, gated = set(changed_paths(given.model.variables, model.variables)), given.gates.last.factors
    named = set() if method == "logit-mask" else {factor.path for factor in gated}
    bias = set() if method == "osp" else {given.gates.head.bias}  # osp-fit lowers it where gains alone do harm
    assert named <= changed <= named | bias
    assert changed
    assert model.forgotten == (1,)
    before, after = given.logits(given.model), given.logits(model)
    assert np.isfinite(after).all()
    if method == "logit-mask":
        assert (after.argmax(1) != 1).all()
        kept = np.arange(CLASSES) != 1
        np.testing.assert_allclose(after[:, kept], before[:, kept], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_works_or_says_in_one_line_what_it_lacks(method):
    given = network("SmallCNN")
    options = {key: value for key, value in CHEAP.items() if key in get_method(method).__dataclass_fields__}
    recipe = get_config()
    recipe.training.epochs, recipe.training.batch_size = 1, 8
    request = {"statistics": given.statistics, "recipe": recipe, "accept": True, "data": (given.images, given.labels)}
    if get_method(method).starts_over:
        with pytest.raises(InputError, match=r"^\w+ needs fresh variables and the model has no init; give it, or .*$"):
            osp_jax.unlearn(given.model, FORGET, get_method(method)(**options), **request)
        return
    if get_method(method).only_for:
        with pytest.raises(InputError, match=r"^[^\n]+, or take another method$"):
            osp_jax.unlearn(given.model, FORGET, get_method(method)(**options), **request)
        return
    model = osp_jax.unlearn(given.model, FORGET, get_method(method)(**options), **request).model
    assert model.forgotten == (1,)
    assert model.variables.keys() == given.model.variables.keys()
    assert np.isfinite(given.logits(model)).all()
    assert len(changed_paths(given.model.variables, model.variables)) > 0
    assert all(tensor.isfinite().all() for tensor in osp_jax.to_torch(model).values())


def test_a_second_request_keeps_the_first_class_away():
    given = network("SmallCNN")
    first = given.forget("osp-fit")
    both = given._replace(model=first).forget("finetune", [3], epochs=1, batch_size=8)
    assert both.forgotten == (1, 3)
    assert (given.logits(both).argmax(1) != 1).all()


def test_an_audit_runs_on_both_models():
    given = network("SmallCNN")
    data = (np.tile(given.images, (3, 1, 1, 1)), np.tile(given.labels, 3)) * 2
    audit = osp_jax.audit(given.model, given.forget("osp"), data, level="quick")
    found = audit.report["unlearned"]["measures"]
    assert {"weight_distance_conv1", "weight_distance_head"} <= found["representation"].keys()
    assert found["representation"]["weight_distance_conv1"]["value"] == 0
    assert found["recovery"]["int8_forget_accuracy"]["value"] is not None
